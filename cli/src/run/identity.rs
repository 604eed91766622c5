//! What a guest that was elsewhere has to be told, by its agent if it has one.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agent::AgentError;
use agent::protocol::Request;
use jail::Kind;
use machine::snapshot::changed_cards;
use machine::{Machine, Snapshot};
use rustix::rand::{GetRandomFlags, getrandom};
use server::Status;

/// How long an agent has to greet again.
const PATIENCE: Duration = Duration::from_secs(20);

/// Gives it random numbers that nobody else has, and tells it what time it is, its name if that is a host's, and which of its cards
/// have other addresses. Kernels with a driver for the VM Generation ID have taken such numbers themselves.
pub fn renew(machine: &Arc<Machine>, snapshot: &Snapshot, status: &Status) {
    let plain = |name: &String| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let name = status.name.clone().filter(plain);
    let cards = changed_cards(&snapshot.spec(), machine.spec());
    let agent = machine.agent().clone();
    let tell = move || {
        let mut seed = [0; 32];
        let seeded = getrandom(&mut seed, GetRandomFlags::empty()).map(|_| Request::Random(seed));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let time = Request::Time(now.as_nanos() as u64);
        let name = name.map(|name| Request::Hostname(name.into_bytes()));
        // The name comes first: with their addresses, cards ask for others by it.
        let cards = cards.into_iter().map(|(old, new)| Request::Card(old.0, new.0));
        for request in seeded.into_iter().chain([time]).chain(name).chain(cards) {
            match agent.request(&request, PATIENCE) {
                Ok(()) => {}
                // An older agent may not know of it.
                Err(AgentError::Refused(why)) => {
                    tracing::info!("the guest does not want to know who it is: {why}")
                }
                Err(e) => return tracing::info!("the guest is not told who it is: {e}"),
            }
        }
    };
    if let Err(e) = jail::spawn(Kind::Client, "identity", tell) {
        tracing::warn!("the host refuses a thread: {e}");
    }
}

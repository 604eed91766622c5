//! What a guest that was elsewhere has to be told, by its agent if it has one.

use std::sync::{Arc, Weak};
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use agent::AgentError;
use agent::protocol::Request;
use jail::Kind;
use machine::Machine;
use rustix::rand::{GetRandomFlags, getrandom};
use server::Status;

/// How long an agent may take; then it is asked again, since the guest may be busy or paused, or have just begun.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// Gives it random numbers that nobody else has, and tells it what time it is, its name if that is a host's, and which of its cards
/// have other addresses, as soon as its agent hears it. Kernels with a driver for the VM Generation ID have taken such numbers
/// themselves.
pub fn renew(machine: &Arc<Machine>, status: &Status) {
    let plain = |name: &String| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let name = status.name.clone().filter(plain);
    // The name comes before the cards, which ask for other addresses by it.
    let name = name.map(|name| Request::Hostname(name.into_bytes()));
    let cards = machine.mistaken_cards();
    let machine = Arc::downgrade(machine);
    let tell = move || {
        tell(&machine, |_| seed());
        tell(&machine, |_| time());
        tell(&machine, |_| name.clone());
        for (known, now) in cards {
            // A driver that has begun anew knows.
            let is_mistaken = |machine: &Machine| machine.mistaken_cards().contains(&(known, now));
            tell(&machine, |machine| is_mistaken(machine).then_some(Request::Card(known.0, now.0)));
        }
    };
    if let Err(e) = jail::spawn(Kind::Client, "identity", tell) {
        tracing::warn!("the host refuses a thread: {e}");
    }
}

fn seed() -> Option<Request> {
    let mut seed = [0; 32];
    getrandom(&mut seed, GetRandomFlags::empty()).ok().map(|_| Request::Random(seed))
}

fn time() -> Option<Request> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Some(Request::Time(now.as_nanos() as u64))
}

/// Until it was heard, there is nothing to be told, or the machine has ended. A guest may hear it twice.
fn tell(machine: &Weak<Machine>, request: impl Fn(&Machine) -> Option<Request>) {
    let ask = || machine.upgrade().and_then(|machine| Some((machine.agent().clone(), request(&machine)?)));
    while let Some((agent, request)) = ask() {
        match agent.request(&request, PATIENCE) {
            Ok(()) => return,
            // An older agent may not know of it.
            Err(AgentError::Refused(why)) if matches!(request, Request::Card(..)) => {
                return tracing::warn!(
                    "the guest has the network address of the machine that this is a copy of: {why}"
                );
            }
            Err(why @ (AgentError::Refused(_) | AgentError::Version(_))) => {
                return tracing::info!("the guest does not want to know who it is: {why}");
            }
            Err(e) => tracing::info!("the guest is not told who it is yet: {e}"),
        }
        sleep(PAUSE);
    }
}

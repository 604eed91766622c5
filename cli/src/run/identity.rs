//! What a guest that was elsewhere has to be told, by its agent if it has one.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agent::protocol::Request;
use jail::Kind;
use machine::Machine;
use server::Status;

/// How long an agent has to greet again.
const PATIENCE: Duration = Duration::from_secs(20);

/// Tells it what time it is, and its name if that is a host's.
pub fn renew(machine: &Arc<Machine>, status: &Status) {
    let plain = |name: &String| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let name = status.name.clone().filter(plain);
    let agent = machine.agent().clone();
    let tell = move || {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let time = Request::Time(now.as_nanos() as u64);
        let told = agent.request(&time, PATIENCE).and_then(|()| match name {
            Some(name) => agent.request(&Request::Hostname(name.into_bytes()), PATIENCE),
            None => Ok(()),
        });
        if let Err(e) = told {
            tracing::info!("the guest is not told who it is: {e}");
        }
    };
    if let Err(e) = jail::spawn(Kind::Client, "identity", tell) {
        tracing::warn!("the host refuses a thread: {e}");
    }
}

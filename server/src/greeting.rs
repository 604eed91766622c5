//! What a guest's agent is told without anybody's asking for it: the machine's name when it first answers, and the time after
//! the guest has stood still.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use agent::protocol::{Request, Start, stream};
use agent::{AgentError, Event, Host};
use machine::Machine;
use tokio::task::spawn_blocking;

use crate::Vm;

/// How long an agent may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a client waits for it whose wish is fulfilled already.
const SHORT: Duration = Duration::from_secs(1);
/// Names of systems that nobody has given one; the last is that of our own guests.
const NO_NAMES: [&[u8]; 5] = [b"", b"(none)", b"localhost", b"localhost.localdomain", b"guesthouse"];

/// Tells the guest the machine's name whenever its agent answers, until the machine ends.
pub async fn serve(vm: Arc<Vm>) {
    // As host names are (RFC 1123, 2.1).
    let plain = |name: &String| {
        let letters = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        letters && !name.ends_with('-') && name.len() <= 63
    };
    let Some(name) = vm.status().name.filter(plain) else { return };
    loop {
        vm.answered().await;
        let Some(machine) = vm.machine() else { continue };
        let (host, name) = (machine.agent().clone(), name.clone());
        drop(machine);
        if let Ok(Err(e)) = spawn_blocking(move || introduce(&host, &name)).await {
            tracing::debug!("the guest is not told its name: {e}");
        }
    }
}

fn introduce(host: &Arc<Host>, name: &str) -> Result<(), AgentError> {
    let argv = ["cat", "/proc/sys/kernel/hostname"].map(|word| word.as_bytes().to_vec()).to_vec();
    let session = host.start(&Start { argv, ..Start::default() }, PATIENCE)?;
    let deadline = Instant::now() + PATIENCE;
    let mut own = Vec::new();
    loop {
        match session.next(Some(deadline)) {
            // It cannot be more than a window's worth.
            Some(Event::Data(stream::OUTPUT, data)) => own.extend(data),
            Some(Event::Exit(_)) => break,
            Some(Event::Lost) => return Err(AgentError::Gone),
            Some(_) => {}
            None => return Err(AgentError::Late),
        }
    }
    if is_no_name(&own) { host.request(&Request::Hostname(name.into()), PATIENCE) } else { Ok(()) }
}

fn is_no_name(said: &[u8]) -> bool {
    NO_NAMES.contains(&said.trim_ascii())
}

/// The guest's clock stood still for a while: it is set to the host's.
pub fn set_time(machine: &Machine) {
    let agent = machine.agent();
    if !agent.is_up() {
        return;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let time = Request::Time(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX));
    if let Err(e) = agent.request(&time, SHORT) {
        tracing::debug!("the guest is not told the time: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_with_a_name_of_its_own_keeps_it() {
        assert!(is_no_name(b"(none)\n") && is_no_name(b"guesthouse\n") && is_no_name(b""));
        assert!(!is_no_name(b"mail\n") && !is_no_name(b"guesthouse.example\n"));
    }
}

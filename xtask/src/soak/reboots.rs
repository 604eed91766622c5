//! A machine whose system starts again and again.

use std::fmt;

use anyhow::{Context, Result, ensure};

use super::check::Memory;
use super::{Soak, Time};
use crate::system::{Shell, System};

const MIB: u64 = 512;

/// What was done.
#[derive(Default)]
pub struct Done {
    reboots: u32,
    pub memory: Memory,
}

/// Reboots until the time is over, at least once.
pub fn run(soak: &Soak, system: &System, time: &Time) -> Result<Done> {
    let mut machine = system.machine(2, MIB);
    machine.reboots = true;
    let (mut shell, _) = Shell::boot(&machine, &soak.peer())?;
    let mut done = Done::default();
    loop {
        shell.log_in().with_context(|| format!("after {} reboots", done.reboots))?;
        // All of its RAM is in use, its network works and its disk is written.
        let work = "dd if=/dev/vda of=/dev/null bs=1M count=700 2>/dev/null; date >/var/tmp/now; sync; \
                    for i in 1 2 3 4 5 6 7 8 9 10; do ping -c 1 -W 1 10.0.2.2 >/dev/null 2>&1 && break; sleep 0.5; done; \
                    ip -4 addr show scope global | grep -q 10.0.2.15";
        shell.run(work, 60).with_context(|| format!("after {} reboots", done.reboots))?;
        done.memory.sample(shell.console.pid(), MIB)?;
        if done.reboots > 0 && time.is_over() {
            break;
        }
        shell.reboot().with_context(|| format!("reboot {}", done.reboots + 1))?;
        done.reboots += 1;
    }
    let status = shell.power_off()?;
    ensure!(status.success(), "the machine ended with {status}");
    Ok(done)
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} reboots: {}", self.reboots, self.memory.text())
    }
}

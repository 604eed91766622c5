//! Machines that are started and ended again and again, at any moment of their lives, some of them by force: nothing of them may
//! be left.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Soak;
use crate::machines::Machines;

/// How long a machine that was killed may be listed as one that runs: as long as it takes the kernel to end it.
const PATIENCE: Duration = Duration::from_secs(20);

/// So many times.
pub fn run(soak: &Soak, cycles: u32, seed: u64) -> Result<()> {
    let machines = Machines::within(soak.program.clone(), &soak.folder)?;
    let mut random = seed | 1;
    for cycle in 0..cycles {
        // Marsaglia's xorshift.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        machines.call(&[
            "run",
            "-d",
            "--rm",
            "--name",
            "cycle",
            "--memory",
            "128M",
            "--engine",
            &soak.engine,
        ])?;
        sleep(Duration::from_millis(random % 50));
        match random % 3 {
            0 => machines.call(&["kill", "cycle"]).map(drop)?,
            1 => machines.call(&["stop", "--timeout", "0", "cycle"]).map(drop)?,
            _ => {
                let pid = machines.pids()?.first().context("the machine is not listed")?.to_string();
                super::tool("kill", &["-KILL"], Path::new(&pid))?;
                let killed = Instant::now();
                while machines.call(&["ps", "-aq"])?.contains(|c: char| c.is_ascii_hexdigit()) {
                    ensure!(killed.elapsed() < PATIENCE, "cycle {cycle}: it was killed, and is listed");
                    sleep(Duration::from_millis(1));
                }
            }
        }
        machines.ensure_gone().with_context(|| format!("after cycle {cycle}"))?;
    }
    Ok(())
}

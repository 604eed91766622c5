//! Machines that are started and ended again and again, at any moment of their lives, some of them by force: nothing of them may
//! be left.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::Soak;

#[derive(Deserialize)]
struct Status {
    pid: u32,
}

/// So many times.
pub fn run(soak: &Soak, cycles: u32, seed: u64) -> Result<()> {
    let runtime = soak.path("runtime");
    fs::create_dir(&runtime).with_context(|| format!("{} cannot be made", runtime.display()))?;
    let guesthouse = |arguments: &[&str]| call(&soak.program, &runtime, arguments);
    let mut random = seed | 1;
    for cycle in 0..cycles {
        // Marsaglia's xorshift.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        guesthouse(&["run", "-d", "--rm", "--name", "cycle", "--memory", "128M", "--engine", &soak.engine])?;
        sleep(Duration::from_millis(random % 50));
        match random % 3 {
            0 => guesthouse(&["kill", "cycle"])?,
            1 => guesthouse(&["stop", "--timeout", "0", "cycle"])?,
            _ => {
                let list: Vec<Status> = serde_json::from_str(&guesthouse(&["ps", "--json"])?)?;
                let pid = list.first().context("the machine is not listed")?.pid.to_string();
                super::tool("kill", &["-KILL"], Path::new(&pid))?;
                while guesthouse(&["ps", "-aq"])?.contains(|c: char| c.is_ascii_hexdigit()) {
                    sleep(Duration::from_millis(1));
                }
                String::new()
            }
        };
        for folder in ["vms", "names"] {
            let left = fs::read_dir(runtime.join("guesthouse").join(folder))?.count();
            ensure!(left == 0, "{left} things are left in {folder} after cycle {cycle}");
        }
    }
    Ok(())
}

fn call(program: &Path, runtime: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .env("XDG_RUNTIME_DIR", runtime)
        .stdin(Stdio::null())
        .output()
        .context("guesthouse does not start")?;
    if !output.status.success() {
        bail!("guesthouse {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

//! Machines in the background, in a folder of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

/// How long guests have to boot, all of them together.
const PATIENCE: Duration = Duration::from_secs(300);

/// A user with nothing but these machines.
pub struct Machines {
    program: PathBuf,
    runtime: PathBuf,
    ids: Vec<String>,
}

#[derive(Deserialize)]
struct Status {
    pid: u32,
}

impl Machines {
    pub fn new(program: PathBuf) -> Result<Self> {
        Self::within(program, &std::env::temp_dir())
    }

    /// The same, with their folder in another one.
    pub fn within(program: PathBuf, folder: &Path) -> Result<Self> {
        let runtime = folder.join(format!("guesthouse-xtask-{}", std::process::id()));
        fs::create_dir(&runtime).with_context(|| format!("{} cannot be made", runtime.display()))?;
        Ok(Self { program, runtime, ids: Vec::new() })
    }

    /// A default guest with so many MiB.
    pub fn start(&mut self, memory: u64) -> Result<()> {
        self.start_with(&["--memory", &format!("{memory}M")]).map(drop)
    }

    /// A default guest with these options; its id.
    pub fn start_with(&mut self, options: &[&str]) -> Result<String> {
        let id = self.call(&[&["run", "-d"], options].concat())?.trim().to_owned();
        self.ids.push(id.clone());
        Ok(id)
    }

    /// A place for what machines leave, which goes with them.
    pub fn path(&self, name: &str) -> PathBuf {
        self.runtime.join(name)
    }

    /// The process of a machine.
    pub fn pid(&self, id: &str) -> Result<u32> {
        let status: Status = serde_json::from_str(&self.call(&["inspect", id])?)?;
        Ok(status.pid)
    }

    /// Runs a script in a guest, as soon as that is up; what it prints.
    pub fn script(&self, id: &str, script: &str) -> Result<String> {
        self.call(&["exec", "--wait", "120", id, "sh", "-c", script])
    }

    /// What a command prints.
    pub fn call(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(&self.program)
            .args(arguments)
            .env("XDG_RUNTIME_DIR", &self.runtime)
            .stdin(Stdio::null())
            .output()
            .context("guesthouse does not start")?;
        if !output.status.success() {
            bail!("guesthouse {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The same, and how long it took.
    pub fn timed(&self, arguments: &[&str]) -> Result<(String, Duration)> {
        let start = Instant::now();
        let said = self.call(arguments)?;
        Ok((said, start.elapsed()))
    }

    /// Waits until every guest is at its shell.
    pub fn await_shells(&self) -> Result<()> {
        let start = Instant::now();
        for id in &self.ids {
            while !self.call(&["logs", id])?.contains("# ") {
                ensure!(start.elapsed() < PATIENCE, "{id} does not come to its shell");
                std::thread::sleep(Duration::from_millis(200));
            }
        }
        Ok(())
    }

    /// Where a machine is talked to.
    pub fn socket(&self, index: usize) -> Result<PathBuf> {
        let id = self.ids.get(index).context("there are not so many machines")?;
        Ok(self.runtime.join("guesthouse/vms").join(id).join("api.sock"))
    }

    /// Processes of all that run.
    pub fn pids(&self) -> Result<Vec<u32>> {
        let list: Vec<Status> = serde_json::from_str(&self.call(&["ps", "--json"])?)?;
        Ok(list.into_iter().map(|status| status.pid).collect())
    }

    /// Ends all that were started here; nothing may be left.
    pub fn end(&mut self) -> Result<()> {
        for id in std::mem::take(&mut self.ids) {
            self.call(&["rm", "-f", &id])?;
        }
        self.ensure_gone()
    }

    /// Says what is left, after the last one's end.
    pub fn ensure_gone(&self) -> Result<()> {
        for folder in ["vms", "names"] {
            let left = fs::read_dir(self.runtime.join("guesthouse").join(folder))?.count();
            ensure!(left == 0, "{left} things are left in {folder}");
        }
        Ok(())
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        // Also those that came by other commands.
        for id in self.call(&["ps", "-aq"]).unwrap_or_default().lines() {
            let _ = self.call(&["rm", "-f", id]);
        }
        let _ = fs::remove_dir_all(&self.runtime);
    }
}

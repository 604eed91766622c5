//! A program whose console is watched and typed on, as a user would.

use std::io::{Read, Write};
use std::process::{ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::peer::{Machine, Peer};
use super::process;
use crate::process::Ended;

/// The longest that anything may take unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(180);
/// How the default guest's shell asks for input: the folder is between.
const PROMPT: [&str; 2] = ["root@guesthouse:", "# "];

/// A running program; ended when dropped.
pub struct Console {
    child: Ended,
    input: ChildStdin,
    output: ChildStdout,
    text: Vec<u8>,
    /// Where in `text` to look next.
    at: usize,
    /// The longest that anything may take.
    patience: Duration,
}

impl Console {
    /// Boots a machine to its shell.
    pub fn boot(peer: &Peer, machine: &Machine) -> Result<Self> {
        let mut console = Self::start(peer.command(machine))?;
        console.prompt()?;
        Ok(console)
    }

    /// Waits until the guest's shell asks for a line.
    pub fn prompt(&mut self) -> Result<()> {
        PROMPT.into_iter().try_for_each(|part| self.wait_for(part).map(drop))
    }

    pub fn start(mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} does not start", command.get_program().display()))?;
        let (input, output) = child.stdin.take().zip(child.stdout.take()).context("a child without pipes")?;
        Ok(Self { child: Ended(child), input, output, text: Vec::new(), at: 0, patience: PATIENCE })
    }

    /// From now on nothing may take longer than this.
    pub fn within(&mut self, patience: Duration) {
        self.patience = patience;
    }

    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// CPU time of the program so far, in seconds.
    pub fn cpu_seconds(&self) -> Result<f64> {
        process::cpu_seconds(self.pid())
    }

    /// Types a line.
    pub fn enter(&mut self, line: &str) -> Result<()> {
        self.input.write_all(format!("{line}\n").as_bytes()).context("the program takes no input")
    }

    /// Waits until `wanted` comes, and goes on behind it; what came before it.
    pub fn wait_for(&mut self, wanted: &str) -> Result<String> {
        let deadline = Instant::now() + self.patience;
        loop {
            let new = self.text.get(self.at..).unwrap_or_default();
            if let Some(found) = new.windows(wanted.len()).position(|w| w == wanted.as_bytes()) {
                let before = String::from_utf8_lossy(new.get(..found).unwrap_or_default()).into_owned();
                self.at += found + wanted.len();
                return Ok(before);
            }
            if !self.read_until(deadline)? {
                let text = String::from_utf8_lossy(&self.text);
                let last: Vec<_> = text.lines().rev().take(5).collect();
                let last: Vec<_> = last.into_iter().rev().collect();
                let (wanted, patience) = (wanted.trim(), self.patience);
                bail!("no '{wanted}' came in {patience:?}; the last lines: {}", last.join(" | "));
            }
        }
    }

    /// The rest of a line that begins with `start`.
    pub fn line(&mut self, start: &str) -> Result<String> {
        self.wait_for(start)?;
        Ok(self.wait_for("\n")?.trim_end().to_owned())
    }

    /// Takes what the program says next; false at the deadline and at the end of its output.
    fn read_until(&mut self, deadline: Instant) -> Result<bool> {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        let mut waiting = [PollFd::new(&self.output, PollFlags::IN)];
        if poll(&mut waiting, Some(&timeout))? == 0 {
            return Ok(false);
        }
        let mut buffer = [0; 4096];
        let len = self.output.read(&mut buffer)?;
        self.text.extend_from_slice(buffer.get(..len).unwrap_or_default());
        Ok(len != 0)
    }

    /// Kills the program; all that it has ever written.
    pub fn kill(mut self) -> Result<String> {
        self.child.0.kill()?;
        let deadline = Instant::now() + self.patience;
        while self.read_until(deadline)? {}
        Ok(String::from_utf8_lossy(&self.text).into_owned())
    }

    /// Waits for the program's end.
    pub fn end(mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + self.patience;
        while self.read_until(deadline)? {}
        if Instant::now() >= deadline {
            bail!("it did not end in {:?}", self.patience);
        }
        self.child.0.wait().context("the program's end")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation() {
        let mut command = Command::new("sh");
        command.args(["-c", "printf 'who? '; read -r name; echo \"@hello $name\"; echo @end"]);
        let mut console = Console::start(command).unwrap();
        assert_eq!(console.wait_for("? ").unwrap(), "who");
        console.enter("me and you").unwrap();
        assert_eq!(console.line("@hello ").unwrap(), "me and you");
        assert!(console.cpu_seconds().unwrap() < 10.0);
        let error = console.wait_for("never").unwrap_err().to_string();
        assert!(error.contains("@end"), "{error}");
    }
}

//! A shell that takes command lines and says how they ended.

use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Machine;
use crate::bench::console::Console;
use crate::bench::peer::Peer;

/// The longest that a boot may take.
const BOOT: Duration = Duration::from_secs(300);
/// What a command may take beside the time that it is known to need.
const PATIENCE: Duration = Duration::from_secs(60);

/// A machine at its shell, or on the way there.
pub struct Shell {
    pub console: Console,
}

impl Shell {
    /// Starts the machine and waits until it asks who logs in; the seconds that it took.
    pub fn boot(machine: &Machine, peer: &Peer) -> Result<(Self, f64)> {
        let start = Instant::now();
        let mut shell = Self { console: Console::start(machine.command(peer))? };
        shell.booted()?;
        Ok((shell, start.elapsed().as_secs_f64()))
    }

    /// Waits until the system asks who logs in.
    pub fn booted(&mut self) -> Result<()> {
        self.console.within(BOOT);
        self.console.wait_for("guesthouse login: ").context("the system does not boot")?;
        Ok(())
    }

    /// Logs in; then the line carries what commands print and nothing else.
    pub fn log_in(&mut self) -> Result<()> {
        self.console.within(PATIENCE);
        self.console.enter("root")?;
        self.console.wait_for("root@guesthouse:~# ").context("the shell does not come")?;
        // In two pieces, so that what was typed is not taken for the answer.
        self.console.enter("exec env PS1= PS2= sh -c 'stty -echo; dmesg -n 1; echo @re''ady; exec sh'")?;
        self.console.wait_for("@ready").context("the second shell does not come")?;
        Ok(())
    }

    /// Runs commands that need so many seconds; what they print. They have to succeed.
    pub fn run(&mut self, commands: &str, seconds: u64) -> Result<String> {
        self.console.within(PATIENCE + Duration::from_secs(seconds));
        // A line of a terminal has 4096 characters at most.
        for line in commands.trim().lines() {
            ensure!(line.len() < 4000, "a line that is too long for a terminal: {line}");
        }
        self.console.enter(&format!("( {commands} ); echo @end $?"))?;
        let output = self.console.wait_for("@end ").with_context(|| format!("in: {commands}"))?;
        let status = self.console.wait_for("\n")?;
        ensure!(status.trim() == "0", "status {} of: {commands}: {}", status.trim(), output.trim());
        Ok(output.replace('\r', ""))
    }

    /// Asks the system to start anew, which a machine that `reboots` does.
    pub fn reboot(&mut self) -> Result<()> {
        self.console.enter("systemctl reboot")?;
        self.booted()
    }

    /// Switches the machine off.
    pub fn power_off(mut self) -> Result<ExitStatus> {
        self.console.within(BOOT);
        self.console.enter("systemctl poweroff")?;
        self.console.end()
    }
}

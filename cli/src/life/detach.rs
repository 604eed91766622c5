//! `run --detach`: the program starts itself once more, in a session of its own, and waits for a word from it. Until then
//! the child says what is wrong to the caller's stderr, and its exit status is the caller's.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use anyhow::Context;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Pid, Signal, kill_process};
use rustix::stdio::{dup2_stderr, dup2_stdout, stdout};

use crate::exit;
use crate::signals::Signals;

/// Longest word.
const MAX_WORD: u64 = 256;

/// The caller's side; the exit status.
pub fn start(signals: &Signals) -> anyhow::Result<u8> {
    let mut child = Command::new("/proc/self/exe")
        .arg("--background")
        .args(std::env::args_os().skip(1))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("the host refuses a process: raise its limit of tasks")?;
    let pid = Pid::from_child(&child);
    signals.on_signal(move || {
        let _ = kill_process(pid, Signal::TERM);
    });
    let mut word = String::new();
    let pipe = child.stdout.take().context("the child has no pipe")?;
    BufReader::new(pipe.take(MAX_WORD)).read_line(&mut word)?;
    if word.ends_with('\n') {
        io::stdout().write_all(word.as_bytes())?;
        return Ok(0);
    }
    let status = child.wait()?;
    exit::after_signal(signals, Ok(status.code().map_or(exit::HOST, |code| code as u8)))
}

/// The way to the caller, who waits for a word on what was the machine's stdout.
pub struct Caller(OwnedFd);

impl Caller {
    /// Takes stdout away from everybody else: what a guest says is no word.
    pub fn take() -> io::Result<Self> {
        let pipe = fcntl_dupfd_cloexec(stdout(), 3)?;
        dup2_stdout(&null()?)?;
        Ok(Self(pipe))
    }

    /// The machine answers from now on, and has nothing more to do with the caller.
    pub fn report(self, id: &str) -> anyhow::Result<()> {
        File::from(self.0).write_all(format!("{id}\n").as_bytes()).context("the caller is gone")?;
        dup2_stderr(&null()?)?;
        Ok(())
    }
}

fn null() -> io::Result<OwnedFd> {
    Ok(open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
}

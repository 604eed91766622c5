//! The host CPU as an oracle: a child process that executes cases and reports how each ended.
//!
//! A case runs as ordinary user code. Its code page is full of INT3, so that every instruction ends with an exception;
//! the kernel turns that into a signal whose frame holds the whole register state, vector, error code and CR2.
//! The handler writes it down, puts the next case into the frame and returns: two kernel crossings per case, and no
//! permission to trace anything is needed.
// UNSAFETY: forks a process and shares memory with it.
#![allow(unsafe_code)]

mod child;
mod frame;
mod shared;

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::input::{Input, Outcome};
use shared::Shared;

pub use shared::BATCH;

/// How long a batch may take; one takes a few milliseconds.
const PATIENCE: Duration = Duration::from_secs(8);

/// The host cannot serve as an oracle, or a case has broken it.
#[derive(Debug, Error)]
pub enum OracleError {
    /// A system call failed.
    #[error("{call} failed: {source}: the host cpu is compared in a child process that needs it")]
    System {
        /// Which call.
        call: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The child could not set itself up.
    #[error("the child process cannot {0}")]
    Setup(&'static str),
    /// The child died of a case.
    #[error("the host child died on case {index} of the batch: {how}")]
    Died {
        /// Index in the batch.
        index: usize,
        /// Wait status in words.
        how: String,
    },
}

impl OracleError {
    fn system(call: &'static str) -> Self {
        Self::System { call, source: std::io::Error::last_os_error() }
    }
}

/// A child process that executes cases. It ends with the thread that made it.
pub struct Oracle {
    shared: Shared,
    pid: libc::pid_t,
    command: OwnedFd,
    done: OwnedFd,
    /// Cases in flight.
    running: usize,
}

impl Oracle {
    /// Starts the child.
    pub fn new() -> Result<Self, OracleError> {
        let shared = Shared::new()?;
        let (command_read, command) = pipe()?;
        let (done, done_write) = pipe()?;
        // SAFETY: the child calls nothing but `child::main`, which only makes system calls and touches memory
        // of its own or `shared`: nothing that another thread's lock at the time of the fork could block.
        let pid = unsafe { libc::fork() };
        match pid {
            -1 => Err(OracleError::system("fork")),
            0 => child::main(shared.pointer(), command_read.as_raw_fd(), done_write.as_raw_fd()),
            _ => {
                drop((command_read, done_write));
                let mut oracle = Self { shared, pid, command, done, running: 0 };
                oracle.await_byte()?;
                match oracle.shared.setup_error() {
                    Some(what) => Err(OracleError::Setup(what)),
                    None => Ok(oracle),
                }
            }
        }
    }

    /// Starts a batch of at most [`BATCH`] cases; what is beyond is not run.
    pub fn start(&mut self, inputs: &[Input]) -> Result<(), OracleError> {
        self.running = inputs.len().min(BATCH);
        self.shared.put(&inputs[..self.running]);
        // SAFETY: one byte from a live local into a pipe that is owned.
        let written = unsafe { libc::write(self.command.as_raw_fd(), [1u8].as_ptr().cast(), 1) };
        if written == 1 { Ok(()) } else { Err(OracleError::system("write to the child")) }
    }

    /// Waits for the batch to end.
    pub fn finish(&mut self) -> Result<&[Outcome], OracleError> {
        self.await_byte()?;
        Ok(self.shared.outcomes(self.running))
    }

    fn await_byte(&mut self) -> Result<(), OracleError> {
        let start = Instant::now();
        loop {
            let mut poll = libc::pollfd { fd: self.done.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one pollfd that lives across the call.
            let ready = unsafe { libc::poll(&mut poll, 1, 1000) };
            if ready > 0 && poll.revents & libc::POLLIN != 0 {
                let mut byte = [0u8];
                // SAFETY: reads one byte into a live local.
                let read = unsafe { libc::read(self.done.as_raw_fd(), byte.as_mut_ptr().cast(), 1) };
                if read == 1 {
                    return Ok(());
                }
            }
            let hung = start.elapsed() > PATIENCE;
            if hung || ready > 0 {
                return Err(self.died(hung));
            }
        }
    }

    fn died(&mut self, hung: bool) -> OracleError {
        let mut status = 0;
        // SAFETY: `pid` is our child and was not waited for yet; `status` lives across the call.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, &mut status, 0);
        }
        self.pid = 0;
        let how = if hung {
            "it does not end".to_owned()
        } else if libc::WIFSIGNALED(status) {
            format!("signal {}", libc::WTERMSIG(status))
        } else {
            format!("exit status {}", libc::WEXITSTATUS(status))
        };
        OracleError::Died { index: self.shared.current(), how }
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        if self.pid > 0 {
            // SAFETY: `pid` is our child and was not waited for.
            unsafe {
                libc::kill(self.pid, libc::SIGKILL);
                libc::waitpid(self.pid, std::ptr::null_mut(), 0);
            }
        }
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd), OracleError> {
    let mut fds = [0; 2];
    // SAFETY: an array of two descriptors, as pipe2 wants.
    if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(OracleError::system("pipe2"));
    }
    // SAFETY: both were just opened and belong to nobody else.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

#[cfg(test)]
mod tests;

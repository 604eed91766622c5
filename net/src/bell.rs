//! What wakes a backend's thread: descriptors by epoll, and a bell that any thread may ring.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::time::Timespec;

/// Most events that are looked at together.
const BATCH: usize = 64;

/// A bell.
pub struct Bell {
    fd: OwnedFd,
    rung: AtomicBool,
}

impl Bell {
    pub fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { fd, rung: AtomicBool::new(false) })
    }

    /// Wakes the thread, once for all that ring until it has woken.
    pub fn ring(&self) {
        if !self.rung.swap(true, Ordering::SeqCst) {
            // It fails only if the counter is at its end, which wakes too.
            let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
        }
    }

    /// The thread has woken, and looks at everything afterwards.
    pub fn heard(&self) {
        let _ = rustix::io::read(&self.fd, &mut [0; 8]);
        self.rung.store(false, Ordering::SeqCst);
    }
}

/// Waits for descriptors, each of which has a number.
pub struct Poller {
    epoll: OwnedFd,
}

/// What a descriptor is ready for.
#[derive(Debug, Clone, Copy)]
pub struct Ready {
    /// Its number.
    pub token: u64,
    /// It can be read, or has failed.
    pub readable: bool,
    /// It can be written, or has failed.
    pub writable: bool,
}

impl Poller {
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)? })
    }

    /// Reports `fd` whenever it can be read.
    pub fn watch(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        self.add(fd, token, epoll::EventFlags::IN)
    }

    /// Reports `fd` whenever it becomes readable or writable.
    pub fn watch_edges(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        use epoll::EventFlags as E;
        self.add(fd, token, E::IN | E::OUT | E::RDHUP | E::ET)
    }

    pub fn watch_bell(&self, bell: &Bell, token: u64) -> io::Result<()> {
        self.watch(&bell.fd, token)
    }

    /// Reports a descriptor no more.
    pub fn forget(&self, fd: impl AsFd) {
        // It fails only if it was not watched.
        let _ = epoll::delete(&self.epoll, fd);
    }

    fn add(&self, fd: impl AsFd, token: u64, flags: epoll::EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), flags)?)
    }

    /// Waits, for ever without a timeout, and says what is ready.
    pub fn wait(&self, timeout: Option<Duration>, ready: &mut Vec<Ready>) {
        ready.clear();
        let timeout = timeout.and_then(|t| Timespec::try_from(t).ok());
        let mut events = [const { MaybeUninit::uninit() }; BATCH];
        let Ok((events, _)) = epoll::wait(&self.epoll, &mut events, timeout.as_ref()) else {
            return; // interrupted
        };
        use epoll::EventFlags as E;
        let failed = E::ERR | E::HUP;
        for event in events {
            let flags = event.flags;
            ready.push(Ready {
                token: event.data.u64(),
                readable: flags.intersects(failed | E::IN | E::RDHUP),
                writable: flags.intersects(failed | E::OUT),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bell_wakes_once_until_it_is_heard() {
        let (bell, poller, mut ready) = (Bell::new().unwrap(), Poller::new().unwrap(), Vec::new());
        poller.watch_bell(&bell, 7).unwrap();
        for _ in 0..2 {
            bell.ring();
            bell.ring();
            poller.wait(None, &mut ready);
            assert_eq!(ready.iter().map(|r| (r.token, r.readable)).collect::<Vec<_>>(), [(7, true)]);
            bell.heard();
            poller.wait(Some(Duration::ZERO), &mut ready);
            assert!(ready.is_empty());
        }
    }
}

//! What wakes the device: its driver, clients, streams.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;

/// Numbers that are no connection's.
pub const KICK: u64 = 0;
pub const LISTENER: u64 = 1;
/// Events that are looked at together.
const EVENTS: usize = 64;

/// An epoll descriptor and a way to ring it.
pub struct Poller {
    epoll: OwnedFd,
    kick: OwnedFd,
    kicked: AtomicBool,
}

impl Poller {
    pub fn new() -> Result<Self, Errno> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let kick = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &kick, EventData::new_u64(KICK), EventFlags::IN)?;
        Ok(Self { epoll, kick, kicked: AtomicBool::new(false) })
    }

    /// Wakes who waits.
    pub fn kick(&self) {
        if !self.kicked.swap(true, Ordering::SeqCst) {
            let _ = rustix::io::write(&self.kick, &1u64.to_ne_bytes());
        }
    }

    /// To be called before looking at what the kick was for.
    fn unkick(&self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.kick, &mut count);
        self.kicked.store(false, Ordering::SeqCst);
    }

    /// Listens until somebody comes, once.
    pub fn listen(&self, listener: impl AsFd, first: bool) -> Result<(), Errno> {
        let (data, flags) = (EventData::new_u64(LISTENER), EventFlags::IN | EventFlags::ONESHOT);
        if first {
            epoll::add(&self.epoll, listener, data, flags)
        } else {
            epoll::modify(&self.epoll, listener, data, flags)
        }
    }

    /// Tells of a stream's changes from now on, until it is closed.
    pub fn add(&self, stream: &OwnedFd, id: u64) -> Result<(), Errno> {
        let edges = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, stream, EventData::new_u64(id), edges)
    }

    /// Waits until something happens, or until then.
    pub fn wait(&self, until: Option<Instant>) -> Vec<Event> {
        let timeout = until.map(|until| {
            // Rounded up, or the end of the wait would be too early again and again.
            let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
        });
        let mut events = [const { MaybeUninit::<Event>::uninit() }; EVENTS];
        match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
            Ok((events, _)) => {
                let events = events.to_vec();
                if events.iter().any(|event| event.data.u64() == KICK) {
                    self.unkick();
                }
                events
            }
            Err(_) => Vec::new(), // interrupted
        }
    }
}

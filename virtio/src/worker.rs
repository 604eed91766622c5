//! The thread that serves a device's queues: notifications ring a bell, vCPUs go on.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use device::Spin;
use jail::Kind;
use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::event::{EventfdFlags, eventfd};

use crate::{Chain, Queue, Session};

/// Serves a queue; true if it is to be called again for what is left.
type Serve = dyn Fn(&Arc<Session>, u16, &InFlight) -> bool + Send + Sync;

/// A device's thread, the session it works on, and what is under way elsewhere on its behalf.
pub struct Worker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    bell: Arc<Bell>,
    /// Locked while queues are served, so that `stop` waits for it.
    session: Mutex<Option<Arc<Session>>>,
    in_flight: InFlight,
    serve: Box<Serve>,
}

impl Worker {
    /// A thread called `name`, of this kind.
    ///
    /// # Errors
    /// The host gives none.
    pub fn new(
        kind: Kind,
        name: &str,
        serve: impl Fn(&Arc<Session>, u16, &InFlight) -> bool + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            bell: Arc::default(),
            session: Mutex::default(),
            in_flight: InFlight::default(),
            serve: Box::new(serve),
        });
        let theirs = shared.clone();
        let thread = jail::spawn(kind, name, move || theirs.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Begins with a session, and looks at all its queues.
    pub fn start(&self, session: Arc<Session>) {
        *self.shared.session.lock() = Some(session);
        self.shared.bell.ring(!Bell::END);
    }

    /// Lets go of the session: nothing of it is touched any more.
    pub fn stop(&self) {
        let session = self.shared.session.lock().take();
        self.shared.in_flight.wait();
        drop(session);
    }

    /// What wakes the thread, for those who have no queue but know of one.
    pub fn bell(&self) -> Arc<Bell> {
        self.shared.bell.clone()
    }

    /// A queue's bit of the bell; queues from 62 on share one.
    pub fn bit(queue: u16) -> u64 {
        1 << queue.min(62)
    }

    /// See [`VirtioDevice::event`](crate::VirtioDevice::event).
    pub fn event(&self) -> Option<BorrowedFd<'_>> {
        self.shared.bell.event()
    }

    /// Something is in this queue.
    pub fn notify(&self, queue: u16) {
        self.shared.bell.ring(Self::bit(queue));
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.bell.ring(Bell::END);
        if let Some(thread) = self.thread.take() {
            // A panic was reported where it happened.
            let _ = thread.join();
        }
        self.stop();
    }
}

impl Shared {
    fn run(&self) {
        loop {
            let rung = self.bell.wait();
            if rung & Bell::END != 0 {
                return;
            }
            let session = self.session.lock();
            let Some(current) = session.as_ref() else { continue };
            for index in 0..current.queues.len() as u16 {
                if rung & Worker::bit(index) != 0 && (self.serve)(current, index, &self.in_flight) {
                    self.bell.ring(Worker::bit(index));
                }
            }
            // Whoever waits for the lock is next, however much there is to do.
            MutexGuard::unlock_fair(session);
        }
    }
}

/// Bits that wake a thread.
#[derive(Default)]
pub struct Bell {
    rung: AtomicU64,
    asleep: Mutex<bool>,
    wake: Condvar,
    spin: Spin,
    /// What the thread sleeps at once there is one.
    event: OnceLock<OwnedFd>,
    sleeps_at_event: AtomicBool,
}

impl Bell {
    const END: u64 = 1 << 63;

    /// Rings all of it when it becomes readable. None if the host gives none.
    fn event(&self) -> Option<BorrowedFd<'_>> {
        if self.event.get().is_none() {
            let event = eventfd(0, EventfdFlags::CLOEXEC).ok()?;
            let _ = self.event.set(event);
            // Who sleeps elsewhere comes here.
            let _asleep = self.asleep.lock();
            self.wake.notify_one();
        }
        self.event.get().map(AsFd::as_fd)
    }

    pub fn ring(&self, bits: u64) {
        if self.rung.fetch_or(bits, Ordering::SeqCst) & bits != bits {
            if let Some(event) = self.event.get()
                && self.sleeps_at_event.load(Ordering::SeqCst)
            {
                // It counts further than anybody rings.
                let _ = rustix::io::write(event, &1u64.to_ne_bytes());
            }
            let asleep = self.asleep.lock();
            if *asleep {
                self.wake.notify_one();
            }
        }
    }

    fn wait(&self) -> u64 {
        loop {
            let rung = self.rung.swap(0, Ordering::SeqCst);
            if rung != 0 {
                return rung;
            }
            let ready = || self.rung.load(Ordering::SeqCst) != 0;
            if let Some(event) = self.event.get() {
                self.sleep_at(event, ready);
                continue;
            }
            let ready = || ready() || self.event.get().is_some();
            self.spin.wait(None, ready, || {
                let mut asleep = self.asleep.lock();
                *asleep = true;
                if !ready() {
                    self.wake.wait(&mut asleep);
                }
                *asleep = false;
            });
        }
    }
}

impl Bell {
    /// Who rings there leaves no bits.
    fn sleep_at(&self, event: &OwnedFd, ready: impl Fn() -> bool) {
        self.sleeps_at_event.store(true, Ordering::SeqCst);
        if !ready() && rustix::io::read(event, &mut [0; 8]).is_ok() {
            self.rung.fetch_or(!Self::END, Ordering::SeqCst);
        }
        self.sleeps_at_event.store(false, Ordering::SeqCst);
    }
}

/// Requests that others carry out and that will touch the session's memory.
#[derive(Clone, Default)]
pub struct InFlight(Arc<Count>);

#[derive(Default)]
struct Count {
    requests: Mutex<usize>,
    none: Condvar,
}

/// One request in flight, to its drop.
pub struct Ticket(Arc<Count>);

impl InFlight {
    /// Counts one more.
    pub fn ticket(&self) -> Ticket {
        *self.0.requests.lock() += 1;
        Ticket(self.0.clone())
    }

    fn wait(&self) {
        let mut requests = self.0.requests.lock();
        while *requests != 0 {
            self.0.none.wait(&mut requests);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut requests = self.0.requests.lock();
        *requests -= 1;
        if *requests == 0 {
            self.0.none.notify_all();
        }
    }
}

/// Hands the chains of a queue over, at most as many as it has entries; true if there may be more.
pub fn each_chain(queue: &Queue, handle: impl FnMut(Chain)) -> bool {
    each_chain_while(queue, || true, handle)
}

/// The same, as long as one more may be. What is left then is somebody else's to remember.
pub fn each_chain_while(queue: &Queue, may: impl Fn() -> bool, mut handle: impl FnMut(Chain)) -> bool {
    let mut left = queue.size();
    loop {
        queue.mute();
        while left > 0 {
            if !may() {
                return false;
            }
            match queue.pop() {
                Some(chain) => handle(chain),
                None => break,
            }
            left -= 1;
        }
        if left == 0 {
            return true;
        }
        if !queue.listen() {
            return false;
        }
    }
}

//! The thread that serves a device's queues: notifications ring a bell, vCPUs go on.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use device::Spin;
use jail::Kind;
use parking_lot::{Condvar, Mutex, MutexGuard};

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
}

impl Bell {
    const END: u64 = 1 << 63;

    pub fn ring(&self, bits: u64) {
        if self.rung.fetch_or(bits, Ordering::SeqCst) & bits != bits {
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

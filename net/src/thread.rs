//! The thread of a network.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use jail::Kind;
use parking_lot::Mutex;

use crate::bell::Bell;
use crate::{GuestPort, NetBackend};

/// A network as its thread works on it.
pub trait Network: Send + 'static {
    /// The thread's name.
    const NAME: &'static str;
    /// What it may do.
    const KIND: Kind;

    /// What wakes it.
    fn bell(&self) -> Arc<Bell>;

    /// Plugs the guest in.
    fn plug(&mut self, port: Arc<dyn GuestPort>);

    /// Waits for something to do, and does it.
    fn turn(&mut self);

    /// The guest knows of nothing any more.
    fn clear(&mut self);
}

/// A network and its thread.
pub struct Threaded<N> {
    shared: Arc<Shared>,
    /// Until a guest is there.
    network: Mutex<Option<N>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    bell: Arc<Bell>,
    reset: AtomicBool,
    end: AtomicBool,
}

impl<N: Network> Threaded<N> {
    /// A network without a guest.
    pub(crate) fn of(network: N) -> Self {
        let bell = network.bell();
        let shared = Shared { bell, reset: AtomicBool::new(false), end: AtomicBool::new(false) };
        Self { shared: Arc::new(shared), network: Mutex::new(Some(network)), thread: Mutex::default() }
    }
}

impl<N: Network> NetBackend for Threaded<N> {
    fn connect(&self, port: Arc<dyn GuestPort>) -> io::Result<()> {
        let Some(mut network) = self.network.lock().take() else {
            return Err(io::ErrorKind::AlreadyExists.into());
        };
        network.plug(port);
        let shared = self.shared.clone();
        let body = move || {
            while !shared.end.load(Ordering::SeqCst) {
                if shared.reset.swap(false, Ordering::SeqCst) {
                    network.clear();
                }
                network.turn();
            }
            network.clear();
        };
        *self.thread.lock() = Some(jail::spawn(N::KIND, N::NAME, body)?);
        Ok(())
    }

    fn wake(&self) {
        self.shared.bell.ring();
    }

    fn reset(&self) {
        self.shared.reset.store(true, Ordering::SeqCst);
        self.shared.bell.ring();
    }
}

impl<N> Drop for Threaded<N> {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::SeqCst);
        self.shared.bell.ring();
        if let Some(thread) = self.thread.lock().take() {
            // A panic was reported where it happened.
            let _ = thread.join();
        }
    }
}

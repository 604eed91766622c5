//! The thread of a user-mode network.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

use parking_lot::Mutex;

use super::{Nat, UserConfig};
use crate::bell::Bell;
use crate::{GuestPort, Mac, NetBackend, NetError};

/// A user-mode network.
pub struct UserNet {
    shared: Arc<Shared>,
    mac: Mac,
    /// Until a guest is there.
    nat: Mutex<Option<Nat>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    bell: Arc<Bell>,
    reset: AtomicBool,
    end: AtomicBool,
}

impl UserNet {
    /// Makes the network; forwarded ports are taken from now on. `mac` is the guest's card.
    ///
    /// # Errors
    /// A port or a file that the host refuses.
    pub fn new(config: &UserConfig, mac: Mac) -> Result<Self, NetError> {
        let nat = Nat::new(config)?;
        let shared = Shared { bell: nat.bell(), reset: AtomicBool::new(false), end: AtomicBool::new(false) };
        Ok(Self { shared: Arc::new(shared), mac, nat: Mutex::new(Some(nat)), thread: Mutex::default() })
    }
}

impl NetBackend for UserNet {
    fn connect(&self, port: Arc<dyn GuestPort>) -> io::Result<()> {
        let Some(mut nat) = self.nat.lock().take() else { return Err(io::ErrorKind::AlreadyExists.into()) };
        nat.plug(port, self.mac);
        let shared = self.shared.clone();
        let body = move || {
            while !shared.end.load(Ordering::SeqCst) {
                nat.wait(None);
                if shared.reset.swap(false, Ordering::SeqCst) {
                    nat.clear();
                }
                nat.work(Instant::now());
            }
            nat.clear();
        };
        *self.thread.lock() = Some(Builder::new().name("net-user".to_owned()).spawn(body)?);
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

impl Drop for UserNet {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::SeqCst);
        self.shared.bell.ring();
        if let Some(thread) = self.thread.lock().take() {
            // A panic was reported where it happened.
            let _ = thread.join();
        }
    }
}

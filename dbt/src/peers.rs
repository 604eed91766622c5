//! What the vCPUs of a machine have to tell each other.
//!
//! Stores of translated code look at nothing: a page that holds code has no entry for stores in any first-level TLB. So a
//! vCPU that makes code of a page has all others drop their entries first, and waits until each has done so or is outside
//! translated code, which it does not enter without having looked. And whoever has overwritten code asks the others to look
//! at what they have translated, before it goes on.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cpu::Signals;
use parking_lot::{Mutex, RwLock};

/// A vCPU as the others see it.
pub struct Peer {
    signals: Arc<Signals>,
    /// It runs translated code.
    inside: AtomicBool,
    /// Host addresses of pages that it has to protect.
    requests: Mutex<Vec<usize>>,
    requested: AtomicBool,
}

/// All vCPUs of a machine.
#[derive(Default)]
pub struct Peers {
    list: RwLock<Vec<Arc<Peer>>>,
}

impl Peers {
    /// Adds a vCPU.
    pub fn join(&self, signals: Arc<Signals>) -> Arc<Peer> {
        let peer = Arc::new(Peer {
            signals,
            inside: AtomicBool::new(false),
            requests: Mutex::default(),
            requested: AtomicBool::new(false),
        });
        let mut list = self.list.write();
        // vCPUs that were replaced are gone.
        list.retain(|peer| Arc::strong_count(peer) > 1);
        list.push(peer.clone());
        peer
    }

    /// Has every vCPU protect a page from stores, and waits for all but `own`, which runs this.
    pub fn protect(&self, own: &Arc<Peer>, host: NonNull<u8>) {
        let list = self.list.read();
        for peer in &*list {
            peer.requests.lock().push(host.as_ptr() as usize);
            peer.requested.store(true, Ordering::SeqCst);
            if peer.inside.load(Ordering::SeqCst) {
                peer.signals.set(Signals::SYNC);
            }
        }
        for peer in list.iter().filter(|peer| !Arc::ptr_eq(peer, own)) {
            let mut spins = 0u32;
            while peer.inside.load(Ordering::SeqCst) && peer.requested.load(Ordering::SeqCst) {
                spins += 1;
                // Translated code polls in every loop: this takes microseconds unless the host has taken the CPU away.
                if spins < 1000 { std::hint::spin_loop() } else { std::thread::yield_now() }
            }
        }
    }

    /// Has every other vCPU look at its translations.
    pub fn code_changed(&self, own: &Arc<Peer>) {
        for peer in self.list.read().iter().filter(|peer| !Arc::ptr_eq(peer, own)) {
            peer.signals.set(Signals::SYNC);
        }
    }
}

impl Peer {
    /// Enters translated code; false if there are requests to be seen to first.
    #[inline]
    pub fn enter(&self) -> bool {
        self.inside.store(true, Ordering::SeqCst);
        if self.requested.load(Ordering::SeqCst) {
            self.leave();
            return false;
        }
        true
    }

    /// Translated code was left.
    #[inline]
    pub fn leave(&self) {
        self.inside.store(false, Ordering::Release);
    }

    /// The pages to protect.
    pub fn take_requests(&self) -> Vec<usize> {
        let mut requests = self.requests.lock();
        self.requested.store(false, Ordering::SeqCst);
        std::mem::take(&mut requests)
    }
}

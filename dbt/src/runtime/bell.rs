//! Two words beside the code that say whether the vCPU has signals: emitted code polls them by one instruction.
// UNSAFETY: the words lie in the arena and are reached through raw pointers.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use cpu::Signals;

use super::context::JUMP_MASK;

/// Bytes that the words take.
pub const BYTES: usize = 64;

#[repr(C)]
struct Words {
    /// The bits of a target that choose its entry in the jump table; zero, for the first entry, which asks the engine, if
    /// there are signals.
    mask: AtomicU64,
    /// There are signals.
    rung: AtomicU32,
}

/// The words of a vCPU, rung by its signals.
pub struct Bell {
    words: *const Words,
    signals: Arc<Signals>,
    hung: cpu::Bell,
}

// SAFETY: the words are atomics that live as long as this value.
unsafe impl Send for Bell {}

/// The pointer, for the closure.
struct Pointer(*const Words);

// SAFETY: it leads to atomics; whoever holds it is stopped before they go.
unsafe impl Send for Pointer {}
// SAFETY: as above.
unsafe impl Sync for Pointer {}

impl Pointer {
    fn set(&self, rung: bool) {
        // SAFETY: `Bell::new`'s caller vouches for the memory, and `Bell` takes the closure back when it is dropped.
        let words = unsafe { &*self.0 };
        words.mask.store(if rung { 0 } else { u64::from(JUMP_MASK) }, Ordering::SeqCst);
        words.rung.store(u32::from(rung), Ordering::SeqCst);
    }
}

impl Bell {
    /// Hangs a bell whose words are at `place`. It interrupts the process `running`, too, if that is not 0.
    ///
    /// # Safety
    /// [`BYTES`] bytes there are mapped and nobody else's while this value lives, and aligned to 8.
    pub unsafe fn new(place: *mut u8, signals: Arc<Signals>, running: Arc<AtomicI32>) -> Self {
        let words = place.cast_const().cast();
        let pointer = Pointer(words);
        pointer.set(true);
        let hung: cpu::Bell = Arc::new(move || {
            pointer.set(true);
            let process = running.load(Ordering::SeqCst);
            if process != 0 {
                // SAFETY: no addresses. By default the signal does nothing, whoever has the number by then.
                unsafe { libc::kill(process, libc::SIGURG) };
            }
        });
        signals.hang(hung.clone());
        Self { words, signals, hung }
    }

    /// It has been rung since it was reset.
    #[inline]
    pub fn is_rung(&self) -> bool {
        // SAFETY: `Bell::new`'s caller vouches for the memory.
        unsafe { &*self.words }.rung.load(Ordering::Relaxed) != 0
    }

    /// Looks at the signals anew: those of `attention` ring.
    #[inline]
    pub fn reset(&self, attention: u32) {
        // In this order: what is set from here on rings again.
        Pointer(self.words).set(false);
        if self.signals.load() & attention != 0 {
            Pointer(self.words).set(true);
        }
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.signals.unhang(&self.hung);
    }
}

/// Address of the word that is not zero if there are signals, for words at `place`.
pub fn rung(place: u64) -> u64 {
    place + std::mem::offset_of!(Words, rung) as u64
}

/// Address of the mask.
pub fn mask(place: u64) -> u64 {
    place + std::mem::offset_of!(Words, mask) as u64
}

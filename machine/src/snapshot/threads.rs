//! Work that is shared out among threads, and results that keep their order.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{Builder, available_parallelism};

use parking_lot::{Condvar, Mutex};

/// Most threads: each has buffers.
const MOST: usize = 16;

/// Does `work` on every number below `count`, by as many threads as the host has CPUs, this one among them, but none for fewer
/// than `least` numbers. Each begins with a buffer of its own. The first error ends it.
///
/// # Errors
/// That of `work`.
pub fn share_out<B, E: Send>(
    count: usize,
    least: usize,
    name: &str,
    buffer: impl Fn() -> B + Sync,
    work: impl Fn(&mut B, usize) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let (next, ended, error) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(None));
    let worker = || {
        let mut buffer = buffer();
        while !ended.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return;
            }
            if let Err(e) = work(&mut buffer, index) {
                error.lock().get_or_insert(e);
                ended.store(true, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = available_parallelism().map_or(1, usize::from).min(MOST).min(count / least);
        for number in 1..threads {
            // Without another thread it takes longer, that is all.
            let _ = Builder::new().name(format!("{name}{number}")).spawn_scoped(scope, worker);
        }
        worker();
    });
    error.into_inner().map_or(Ok(()), Err)
}

/// Those who have taken numbers of [`share_out`]'s pass one behind the other.
pub struct Line {
    /// Whose turn it is; nobody's any more if one did not come.
    next: Mutex<Option<usize>>,
    moved: Condvar,
}

/// A place in the line. Whoever gives it up ends the line.
pub struct Place<'a> {
    line: &'a Line,
    index: usize,
    passed: bool,
}

impl Line {
    /// One for number 0 and those behind it.
    pub fn new() -> Self {
        Self { next: Mutex::new(Some(0)), moved: Condvar::new() }
    }

    /// The place with this number.
    pub fn place(&self, index: usize) -> Place<'_> {
        Place { line: self, index, passed: false }
    }
}

impl Place<'_> {
    /// Does it when all before have passed. Not if one of them did not: he has an error.
    pub fn pass<E>(mut self, act: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let mut next = self.line.next.lock();
        while next.is_some_and(|next| next != self.index) {
            self.line.moved.wait(&mut next);
        }
        if next.is_some() {
            act()?;
            *next = Some(self.index + 1);
        }
        self.passed = true;
        self.line.moved.notify_all();
        Ok(())
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.passed {
            *self.line.next.lock() = None;
            self.line.moved.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_done_once_and_passes_in_order() {
        let (line, done) = (Line::new(), Mutex::new(Vec::new()));
        let work = |_: &mut (), index: usize| -> Result<(), ()> {
            let place = line.place(index);
            std::thread::sleep(std::time::Duration::from_micros((index as u64 * 7919) % 300));
            place.pass(|| {
                done.lock().push(index);
                Ok(())
            })
        };
        share_out(500, 1, "test", || (), work).unwrap();
        assert_eq!(done.into_inner(), (0..500).collect::<Vec<_>>());
    }

    #[test]
    fn the_first_error_ends_it_for_all() {
        for early in [true, false] {
            let line = Line::new();
            let work = |_: &mut (), index: usize| {
                let place = line.place(index);
                if index == 20 && early {
                    return Err(index);
                }
                place.pass(|| if index == 20 { Err(index) } else { Ok(()) })
            };
            assert_eq!(share_out(1_000_000, 1, "test", || (), work), Err(20));
        }
    }
}

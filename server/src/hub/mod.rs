//! Between one console and any number of clients: each reads what the guest has said at its own pace out of one bounded
//! memory, so that a slow one misses something and nobody waits.

mod log;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use log::Log;
pub use log::LogFiles;

/// How much of what was said is remembered.
const HISTORY: usize = 64 << 10;

/// Takes bytes for the guest and says how many.
type Input = Arc<dyn Fn(&[u8]) -> usize + Send + Sync>;

/// Tells the guest that its terminal has so many lines and characters in a line.
type Resize = Arc<dyn Fn(u16, u16) + Send + Sync>;

/// A machine's console, as clients see it.
pub struct Hub {
    said: Mutex<Said>,
    /// Where the console's end is; the sender's going tells of the machine's.
    end: watch::Sender<u64>,
    input: Mutex<Option<Input>>,
    resize: Mutex<Option<Resize>>,
    room: watch::Sender<()>,
}

#[derive(Default)]
struct Said {
    recent: VecDeque<u8>,
    /// Bytes so far.
    end: u64,
    log: Option<Log>,
}

/// Some of what was said.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// Bytes between the position that was asked for and this, which are forgotten.
    pub missed: u64,
    /// What follows them.
    pub data: Vec<u8>,
    /// The position behind it.
    pub next: u64,
}

impl Default for Hub {
    fn default() -> Self {
        let (end, room) = (watch::Sender::new(0), watch::Sender::new(()));
        Self { said: Mutex::default(), end, input: Mutex::default(), resize: Mutex::default(), room }
    }
}

impl Hub {
    /// A console whose words are also kept in files of this folder.
    #[must_use]
    pub fn logged(folder: &Path) -> Self {
        let hub = Self::default();
        hub.said.lock().log = Some(Log::new(folder));
        hub
    }

    /// The guest says this. Waits for nobody.
    pub fn push(&self, data: &[u8]) {
        let mut said = self.said.lock();
        if let Some(log) = &mut said.log {
            log.write(data);
        }
        let kept = data.get(data.len().saturating_sub(HISTORY)..).unwrap_or_default();
        let excess = (said.recent.len() + kept.len()).saturating_sub(HISTORY);
        said.recent.drain(..excess);
        said.recent.extend(kept);
        said.end += data.len() as u64;
        self.end.send_replace(said.end);
    }

    /// Where input for the guest goes from now on; without, nobody takes any.
    pub fn set_input(&self, input: Option<Input>) {
        *self.input.lock() = input;
        self.has_room();
    }

    /// Who tells the guest of a client's size from now on; without, the line cannot.
    pub fn set_resize(&self, resize: Option<Resize>) {
        *self.resize.lock() = resize;
    }

    /// A client's terminal has this size; false if the guest cannot be told.
    pub(crate) fn resize(&self, rows: u16, columns: u16) -> bool {
        let resize = self.resize.lock().clone();
        resize.is_some_and(|resize| {
            resize(rows, columns);
            true
        })
    }

    /// The guest has room for input again.
    pub fn has_room(&self) {
        self.room.send_replace(());
    }

    /// The oldest position that is remembered, and a watch on the newest.
    pub(crate) fn listen(&self) -> (u64, watch::Receiver<u64>) {
        let said = self.said.lock();
        (said.end - said.recent.len() as u64, self.end.subscribe())
    }

    /// The files with what was said until now, the position they end at, and a watch on the newest.
    pub(crate) fn listen_from_log(&self) -> (LogFiles, u64, watch::Receiver<u64>) {
        let said = self.said.lock();
        let files = said.log.as_ref().map(Log::files).unwrap_or_default();
        (files, said.end, self.end.subscribe())
    }

    /// At most `most` bytes from this position on.
    pub(crate) fn read(&self, position: u64, most: usize) -> Piece {
        let said = self.said.lock();
        let oldest = said.end - said.recent.len() as u64;
        let start = position.clamp(oldest, said.end);
        let data: Vec<u8> = said.recent.iter().skip((start - oldest) as usize).take(most).copied().collect();
        let next = start + data.len() as u64;
        Piece { missed: start.saturating_sub(position), data, next }
    }

    /// Offers input to the guest; how much was taken, or nothing if nobody takes any.
    pub(crate) fn offer(&self, data: &[u8]) -> Option<usize> {
        let input = self.input.lock().clone()?;
        Some(input(data).min(data.len()))
    }

    /// Changes when the guest may have room.
    pub(crate) fn room(&self) -> watch::Receiver<()> {
        self.room.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_slow_misses_the_oldest() {
        let hub = Hub::default();
        hub.push(b"hello");
        let (start, end) = hub.listen();
        assert_eq!((start, *end.borrow()), (0, 5));
        assert_eq!(hub.read(0, 3), Piece { missed: 0, data: b"hel".into(), next: 3 });
        hub.push(&vec![b'x'; HISTORY - 1]);
        hub.push(b"y");
        let piece = hub.read(3, usize::MAX);
        assert_eq!((piece.missed, piece.data.len(), piece.next), (2, HISTORY, 5 + HISTORY as u64));
        assert_eq!(piece.data.last(), Some(&b'y'));
        // More at once than is remembered, and a position that nobody can have.
        hub.push(&vec![b'z'; 3 * HISTORY]);
        assert_eq!(
            hub.read(piece.next, 1),
            Piece {
                missed: 2 * HISTORY as u64,
                data: b"z".into(),
                next: piece.next + 2 * HISTORY as u64 + 1
            }
        );
        assert_eq!(hub.read(u64::MAX, 1).data, b"");
    }

    #[test]
    fn input_goes_to_the_machine_of_the_moment() {
        let hub = Hub::default();
        assert_eq!(hub.offer(b"x"), None);
        let mut room = hub.room();
        room.mark_unchanged();
        hub.set_input(Some(Arc::new(|data| data.len() + 7)));
        assert!(room.has_changed().unwrap());
        assert_eq!(hub.offer(b"abc"), Some(3), "not more than there is");
        hub.set_input(None);
        assert_eq!(hub.offer(b"x"), None);
    }
}

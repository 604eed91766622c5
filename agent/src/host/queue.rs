//! Bytes for the guest. How many there can be is the windows' business.

use std::collections::VecDeque;

/// Bytes below which what comes is put behind what is there.
const SMALL: usize = 4096;

#[derive(Default)]
pub struct Queue {
    pieces: VecDeque<Vec<u8>>,
    /// What of the first is gone.
    taken: usize,
}

impl Queue {
    pub fn put(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        match self.pieces.back_mut() {
            Some(last) if last.len() < SMALL => write(last),
            _ => {
                let mut piece = Vec::new();
                write(&mut piece);
                self.pieces.push_back(piece);
            }
        }
    }

    pub fn take(&mut self, data: &mut [u8]) -> usize {
        let mut count = 0;
        while let Some(piece) = self.pieces.front() {
            let (from, to) =
                (piece.get(self.taken..).unwrap_or_default(), data.get_mut(count..).unwrap_or_default());
            let some = from.len().min(to.len());
            if let (Some(from), Some(to)) = (from.get(..some), to.get_mut(..some)) {
                to.copy_from_slice(from);
            }
            count += some;
            self.taken += some;
            if self.taken < piece.len() {
                break;
            }
            self.pieces.pop_front();
            self.taken = 0;
        }
        count
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }
}

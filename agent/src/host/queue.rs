//! Bytes for the guest. How many there can be is the windows' business.

use std::collections::VecDeque;

/// Bytes below which what comes is put behind what is there.
const SMALL: usize = 4096;

#[derive(Default)]
pub struct Queue {
    pieces: VecDeque<Vec<u8>>,
    /// What of the first is gone.
    taken: usize,
    /// What is left of each frame or greeting. None is in two pieces.
    left: VecDeque<usize>,
    /// Something of the first one is gone.
    begun: bool,
}

impl Queue {
    /// Puts one frame or greeting behind the others.
    pub fn put(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        match self.pieces.back_mut() {
            Some(last) if last.len() < SMALL => {
                let before = last.len();
                write(last);
                self.left.push_back(last.len() - before);
            }
            _ => {
                let mut piece = Vec::new();
                write(&mut piece);
                self.left.push_back(piece.len());
                self.pieces.push_back(piece);
            }
        }
    }

    /// Has nothing but the rest of one.
    pub fn begin_with(&mut self, rest: &[u8]) {
        *self = Self::default();
        if !rest.is_empty() {
            self.put(|bytes| bytes.extend_from_slice(rest));
            self.begun = true;
        }
    }

    /// The rest of what was taken in part.
    pub fn unfinished(&self) -> &[u8] {
        let end = self.left.front().filter(|_| self.begun).map_or(self.taken, |left| self.taken + left);
        self.pieces.front().and_then(|piece| piece.get(self.taken..end)).unwrap_or_default()
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
        self.count_off(count);
        count
    }

    fn count_off(&mut self, mut taken: usize) {
        while let Some(left) = self.left.front_mut().filter(|_| taken > 0) {
            let some = taken.min(*left);
            taken -= some;
            *left -= some;
            self.begun = *left > 0;
            if !self.begun {
                self.left.pop_front();
            }
        }
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }
}

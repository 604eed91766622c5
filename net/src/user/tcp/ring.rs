//! Bytes on their way: a ring that grows to its limit.

/// A first-in first-out buffer that can be read without taking from it.
#[derive(Default)]
pub struct Ring {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

/// Least size, once there is anything.
const LEAST: usize = 1 << 16;

impl Ring {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where to write, in one piece, growing up to `limit` bytes. Empty when the ring is full.
    pub fn spare(&mut self, limit: usize) -> &mut [u8] {
        if self.len == self.bytes.len() && self.len < limit {
            self.grow((2 * self.len).clamp(LEAST.min(limit), limit));
        }
        if self.is_empty() {
            self.start = 0;
        }
        let capacity = self.bytes.len();
        let end = self.start + self.len;
        let range = if end < capacity { end..capacity } else { end - capacity..self.start };
        self.bytes.get_mut(range).unwrap_or_default()
    }

    fn grow(&mut self, size: usize) {
        let mut bytes = vec![0; size];
        let [a, b] = self.slices(0, self.len);
        let whole = [a, b].concat();
        if let Some(front) = bytes.get_mut(..whole.len()) {
            front.copy_from_slice(&whole);
        }
        (self.bytes, self.start) = (bytes, 0);
    }

    /// So many bytes were written to what [`spare`](Self::spare) gave.
    pub fn commit(&mut self, count: usize) {
        self.len = (self.len + count).min(self.bytes.len());
    }

    /// Appends a copy, as far as `limit` allows; the number of bytes.
    pub fn push(&mut self, mut data: &[u8], limit: usize) -> usize {
        let mut pushed = 0;
        while !data.is_empty() {
            let spare = self.spare(limit);
            let count = spare.len().min(data.len());
            let (now, later) = data.split_at(count);
            match spare.get_mut(..count) {
                Some(to) if count > 0 => to.copy_from_slice(now),
                _ => break,
            }
            self.commit(count);
            pushed += count;
            data = later;
        }
        pushed
    }

    /// Bytes `from` to `from + len`, which has to be there, in up to two pieces.
    pub fn slices(&self, from: usize, len: usize) -> [&[u8]; 2] {
        let capacity = self.bytes.len();
        let len = len.min(self.len.saturating_sub(from));
        let start = self.start + from;
        let start = if start >= capacity { start - capacity } else { start };
        let first = len.min(capacity - start);
        [
            self.bytes.get(start..start + first).unwrap_or_default(),
            self.bytes.get(..len - first).unwrap_or_default(),
        ]
    }

    /// Drops bytes from the front.
    pub fn consume(&mut self, count: usize) {
        let count = count.min(self.len);
        self.len -= count;
        self.start += count;
        if self.start >= self.bytes.len() {
            self.start -= self.bytes.len();
        }
    }

    /// Gives memory back that nothing is in.
    pub fn shrink(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// It does what a queue does.
        #[test]
        fn it_is_a_queue(steps in proptest::collection::vec((0..3u8, 0..90_000usize), 1..60), limit in 1..300_000usize) {
            let (mut ring, mut model, mut next) = (Ring::default(), VecDeque::<u8>::new(), 0u8);
            for (what, count) in steps {
                match what {
                    0 => {
                        let data: Vec<u8> = (0..count).map(|_| { next = next.wrapping_mul(5).wrapping_add(1); next }).collect();
                        let pushed = ring.push(&data, limit);
                        prop_assert_eq!(pushed, count.min(limit - model.len()));
                        model.extend(&data[..pushed]);
                    }
                    1 => {
                        ring.consume(count);
                        model.drain(..count.min(model.len()));
                    }
                    _ => {
                        let from = count.min(model.len());
                        let [a, b] = ring.slices(from, 70_000);
                        let all = [a, b].concat();
                        prop_assert!(all.iter().eq(model.iter().skip(from).take(70_000)));
                        ring.shrink();
                    }
                }
                prop_assert_eq!(ring.len(), model.len());
            }
        }
    }
}

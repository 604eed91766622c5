//! What the driver says about its memory (5.5.6.3): a buffer of the driver's lies here until somebody asks; giving it back
//! is the question, and the next one is the answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

use crate::queue::{read_at, total};
use crate::{Chain, Queue};

/// Bytes of a statistic: tag and value. More tags than these are not looked at.
const ENTRY: usize = 10;
const MOST_ENTRIES: u64 = 64;

/// How a guest uses its memory, as it says. What it does not say is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BalloonStatistics {
    /// Bytes read back from swap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_in: Option<u64>,
    /// Bytes written to swap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_out: Option<u64>,
    /// Page faults that waited for a disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub major_faults: Option<u64>,
    /// All others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minor_faults: Option<u64>,
    /// Bytes that nothing uses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free: Option<u64>,
    /// Bytes that the guest's kernel manages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// Bytes that programs could get without swapping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available: Option<u64>,
    /// Bytes of files that are cached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caches: Option<u64>,
    /// Huge pages: allocations that were served, and that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub huge_pages: Option<u64>,
    /// See `huge_pages`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub huge_page_failures: Option<u64>,
}

impl BalloonStatistics {
    fn decode(data: &[u8]) -> Self {
        let mut all = Self::default();
        for entry in data.chunks_exact(ENTRY) {
            let (tag, value) = entry.split_at(2);
            let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |n: u64, &b| n << 8 | u64::from(b));
            let field = match number(tag) {
                0 => &mut all.swap_in,
                1 => &mut all.swap_out,
                2 => &mut all.major_faults,
                3 => &mut all.minor_faults,
                4 => &mut all.free,
                5 => &mut all.total,
                6 => &mut all.available,
                7 => &mut all.caches,
                8 => &mut all.huge_pages,
                9 => &mut all.huge_page_failures,
                _ => continue,
            };
            *field = Some(number(value));
        }
        all
    }
}

/// Where questions and answers meet.
#[derive(Default)]
pub struct Desk {
    state: Mutex<State>,
    answered: Condvar,
}

#[derive(Default)]
struct State {
    /// The driver's buffer.
    held: Option<(Arc<Queue>, Chain)>,
    asked: bool,
    answers: u64,
    last: Option<BalloonStatistics>,
}

impl Desk {
    /// Works on the queue.
    pub fn serve(&self, queue: &Arc<Queue>) -> bool {
        let mut state = self.state.lock();
        for _ in 0..queue.size() {
            if state.asked
                && let Some((queue, chain)) = state.held.take()
            {
                queue.push(chain.head, 0);
                state.asked = false;
            }
            queue.mute();
            let Some(chain) = queue.pop() else {
                if queue.listen() {
                    continue;
                }
                return false;
            };
            let len = total(chain.readable()).min(MOST_ENTRIES * ENTRY as u64);
            let mut data = vec![0; len as usize];
            read_at(queue.ram(), chain.readable(), 0, &mut data);
            // The first buffer is empty with some drivers.
            state.last = Some(BalloonStatistics::decode(&data));
            state.answers = state.answers.wrapping_add(1);
            self.answered.notify_all();
            if let Some((queue, old)) = state.held.replace((queue.clone(), chain)) {
                // There should be one only.
                queue.push(old.head, 0);
            }
        }
        true
    }

    /// Asks, by calling `ring` so that the queue is served, and waits.
    pub fn ask(&self, ring: impl FnOnce(), patience: Duration) -> Option<BalloonStatistics> {
        let end = Instant::now() + patience;
        let mut state = self.state.lock();
        let before = state.answers;
        state.asked = true;
        if state.held.is_some() {
            drop(state);
            ring();
            state = self.state.lock();
            while state.answers == before && !self.answered.wait_until(&mut state, end).timed_out() {}
        }
        state.last
    }

    /// The buffer is the driver's again, as if it had not been taken.
    pub fn put_back(&self) {
        if let Some((queue, _)) = self.state.lock().held.take() {
            queue.untake(1);
        }
    }

    /// Nobody has said anything.
    pub fn clear(&self) {
        *self.state.lock() = State::default();
    }
}

//! The control queue (5.1.6.5): how many pairs of queues are in use.

use crate::queue::{read_at, write_at};
use crate::{Chain, Queue};

/// Class and command.
const MQ: u8 = 4;
const PAIRS_SET: u8 = 0;
/// Answers.
const OK: u8 = 0;
const ERROR: u8 = 1;

/// Carries a command out: the number of pairs that it asks for, if it is one that may be. Any other command is
/// answered with an error.
pub fn command(queue: &Queue, chain: &Chain, most: u16) -> Option<u16> {
    let ram = queue.ram();
    let mut command = [0; 4];
    let whole = read_at(ram, chain.readable(), 0, &mut command);
    let [class, what, low, high] = command;
    let pairs = u16::from_le_bytes([low, high]);
    let known = whole && (class, what) == (MQ, PAIRS_SET) && (1..=most).contains(&pairs);
    let written = write_at(ram, chain.writable(), 0, &[if known { OK } else { ERROR }]);
    queue.push(chain.head, written as u32);
    known.then_some(pairs)
}

//! Split virtqueues (2.7), the device's side. NOT modelled: packed queues, reset of a single queue.

mod chain;
mod ring;

pub use chain::{Chain, Segment};
pub(crate) use chain::{Writer, read_at, slice, total, write_at};
pub use ring::{Queue, QueueLayout, QueuePosition};

use thiserror::Error;

/// What a driver can do wrong with a queue. After it, the device needs a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[allow(missing_docs)] // the messages say what it is
pub enum QueueError {
    #[error("its size is {0}, which is no power of two up to the device's")]
    Size(u16),
    #[error("its {part} at {addr:#x} is not aligned or not RAM")]
    Ring { part: &'static str, addr: u64 },
    #[error("available index {index} is more than the queue's size beyond {seen}")]
    Available { index: u16, seen: u16 },
    #[error("more buffers are in use than the queue has")]
    InUse,
    #[error("descriptor {0} is beyond its table")]
    Index(u16),
    #[error("a chain is longer than the queue, or loops")]
    Long,
    #[error(
        "a table of descriptors at {addr:#x} with {len} bytes is not allowed there, not RAM or of a wrong length"
    )]
    Indirect { addr: u64, len: u32 },
    #[error("a buffer at {addr:#x} with {len} bytes is not RAM")]
    Buffer { addr: u64, len: u32 },
    #[error("a buffer to read follows one to write")]
    Order,
    #[error("a request lacks {0}")]
    Short(&'static str),
    #[error("it was made before the state was saved")]
    Saved,
}

#[cfg(test)]
mod tests;

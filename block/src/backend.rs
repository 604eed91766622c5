//! The contract between a virtual disk and its image.

use std::fmt;
use std::io;
use std::sync::mpsc::channel;

use crate::{Buffers, Patient};

/// Bytes of a sector: the unit of a disk's size.
pub const SECTOR: u64 = 512;

/// Called once with the result, from any thread, maybe before `submit` returns.
pub type Completion = Box<dyn FnOnce(io::Result<()>) + Send>;

/// A disk image in use. Requests may be carried out in any order; a flush covers those that were answered before
/// it was submitted.
pub trait BlockBackend: Send + Sync {
    /// Size in bytes, a multiple of [`SECTOR`].
    fn len(&self) -> u64;

    /// True if the disk has no sector.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Nothing can be written.
    fn is_read_only(&self) -> bool;

    /// Takes a request and returns soon; it may begin only with [`commit`](Self::commit). Whoever submits has
    /// checked that it is within the disk.
    fn submit(&self, request: Request);

    /// Lets all begin that was submitted.
    fn commit(&self) {}

    /// Does it and waits for it.
    ///
    /// # Errors
    /// The request's; the disk is gone.
    fn carry_out(&self, operation: Operation) -> io::Result<()> {
        let (sender, answer) = channel();
        let done = Box::new(move |result| {
            let _ = sender.send(result);
        });
        self.submit(Request { operation, done });
        self.commit();
        answer.recv().map_err(io::Error::other)?
    }

    /// The part whose writes wait, if it has one.
    fn patient(&self) -> Option<&Patient> {
        None
    }
}

/// What to do.
#[derive(Debug, Clone)]
pub enum Operation {
    /// Fills the buffers from `offset`.
    Read {
        /// First byte.
        offset: u64,
        /// Where to.
        to: Buffers,
    },
    /// Writes the buffers to `offset`.
    Write {
        /// First byte.
        offset: u64,
        /// Where from.
        from: Buffers,
        /// It is answered when the data will survive a loss of power.
        durable: bool,
    },
    /// Answered when all writes that were answered before will survive a loss of power.
    Flush,
    /// The content is no longer needed; it may read as anything afterwards.
    Discard {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// Reads as zeroes afterwards.
    WriteZeroes {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// The image need not keep room for it.
        unmap: bool,
    },
}

/// An operation and who wants to know its result.
pub struct Request {
    /// What to do.
    pub operation: Operation,
    /// Called at its end.
    pub done: Completion,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.operation.fmt(f)
    }
}

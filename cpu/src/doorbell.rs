//! Writes of a guest's that wake a thread and do nothing else.

use std::os::fd::BorrowedFd;

/// An address whose writes an engine can carry out without leaving guest code for long: it makes a descriptor readable.
#[derive(Debug, Clone, Copy)]
pub struct Doorbell<'a> {
    /// Guest-physical address.
    pub addr: u64,
    /// Only writes of these 32 bits; else all that begin there.
    pub data: Option<u32>,
    /// An eventfd.
    pub event: BorrowedFd<'a>,
}

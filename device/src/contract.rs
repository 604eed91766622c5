//! The device contract: a device says what it is, and is handed what it may touch at construction.
//!
//! # Locks
//! A device locks inside, so all methods take `&self`. Locks are taken in this order and never the other
//! way round: part (UART, timer, ...) -> who has the controllers (`ApicBus`) -> 8259 pair -> I/O APIC ->
//! one local APIC -> `cpu::Signals`. A part may hold its own lock while it moves its [`IrqLine`](crate::IrqLine),
//! which keeps the level in step with its registers; backends are called with no lock held. No lock is ever held
//! across two local APICs.

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::Action;

/// A part of a machine.
pub trait Device: Send + Sync {
    /// The part's name, for logs.
    fn name(&self) -> &'static str;
    /// Back to the state after power-on. Interrupt lines fall.
    fn reset(&self);
}

/// Facet: registers that a bus maps, into ports or memory alike.
///
/// `offset` counts from the start of the part's register space; where that is reachable is the bus's affair.
/// Data is little-endian, 1, 2, 4 or 8 bytes. Offset, size and value come from the guest: any of them must be
/// harmless.
pub trait Registers: Device {
    /// Load. All of `data` is overwritten.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// Store.
    fn write(&self, offset: u64, data: &[u8]) -> Action;
}

/// Facet: something happens at a time. See [`Timers`](crate::Timers).
pub trait Pollable: Send + Sync {
    /// When [`poll`](Self::poll) is next wanted, in ticks of the machine clock (`cpu::Clock::tsc`).
    fn next_deadline(&self) -> Option<u64>;
    /// Does what is due at `now` (same ticks).
    fn poll(&self, now: u64);
}

/// A part whose state can be written to a snapshot and read back.
///
/// The saved type is separate from the runtime one and versioned; times in it are ticks of the machine clock,
/// which a restore sets before the devices. Interrupt controllers are restored last (8259, I/O APIC, local
/// APICs): what other parts' lines did meanwhile is then overwritten.
pub trait SaveRestore {
    /// What is saved.
    type State: Serialize + DeserializeOwned;
    /// Section name, unique among parts, never changed.
    const KIND: &'static str;
    /// Version of `State`, counted up when its meaning changes.
    const VERSION: u32;

    /// The state now.
    fn save(&self) -> Self::State;
    /// Replaces the state. The file is not trusted: what no part can be in is refused and leaves the part as it was.
    fn restore(&self, state: &Self::State) -> Result<(), RestoreError>;
}

/// A saved state that no part can be in.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("saved state of {kind} is not valid ({reason}): the snapshot is damaged or not for this machine")]
pub struct RestoreError {
    /// [`SaveRestore::KIND`].
    pub kind: &'static str,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// Where a character device's output goes.
pub trait CharBackend: Send + Sync {
    /// Takes all bytes. Called from a vCPU thread with no lock held: it should not block for long.
    fn write(&self, bytes: &[u8]);
    /// The guest has made room for input (`Uart16550::room` is above zero again).
    fn room(&self) {}
}

/// A backend that drops everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct NullBackend;

impl CharBackend for NullBackend {
    fn write(&self, _bytes: &[u8]) {}
}

//! Notifications of virtio queues on engines whose guests can ring without leaving the kernel: where drivers ring follows
//! from where guests put base address registers, and is told to the engine whenever they move.

use std::sync::{Arc, Weak};

use cpu::{Doorbell, Vm};

use crate::machine::Shared;
use crate::pc::{Notification, Pc};

/// What the engine was told.
#[derive(Default)]
pub struct Doorbells(Vec<Notification>);

impl Doorbells {
    /// All of them.
    #[cfg(test)]
    pub fn list(&self) -> &[Notification] {
        &self.0
    }

    /// Tells a machine's engine what has changed.
    fn follow(&mut self, pc: &Pc, vm: &dyn Vm) {
        if !vm.has_doorbells() {
            return self.0.clear();
        }
        let wanted = pc.notifications();
        let ring = |n: &Notification, on| {
            let event = pc.event(n.transport);
            event.is_some_and(|event| vm.doorbell(&Doorbell { addr: n.addr, data: n.data, event }, on))
        };
        self.0.retain(|old| wanted.contains(old) || !ring(old, false));
        for new in wanted {
            // Without, the write is an exit as any other.
            if !self.0.contains(&new) && ring(&new, true) {
                self.0.push(new);
            }
        }
    }
}

impl Shared {
    /// From now on doorbells are where the guest has them.
    pub fn watch_doorbells(self: &Arc<Self>) {
        let machine: Weak<Self> = Arc::downgrade(self);
        self.pc.watch_registers(Box::new(move || {
            if let Some(machine) = machine.upgrade() {
                machine.follow_doorbells();
            }
        }));
        self.follow_doorbells();
    }

    fn follow_doorbells(&self) {
        let mut doorbells = self.doorbells.lock();
        let engine = self.engine.lock();
        doorbells.follow(&self.pc, engine.vm.as_ref());
    }

    /// Another engine has taken over, and knows of none.
    pub fn doorbells_anew(&self) {
        *self.doorbells.lock() = Doorbells::default();
        self.follow_doorbells();
    }
}

//! What every part of the network works with.

use std::net::IpAddr;
use std::time::Instant;

use smoltcp::wire::IpProtocol;

use super::lan::Lan;
use super::outlet::{Envelope, Outlet};
use crate::bell::Poller;

/// The way to the guest, the network's addresses, and the time.
pub struct Context {
    pub out: Outlet,
    pub lan: Lan,
    pub poller: Poller,
    /// The time as this turn sees it.
    pub now: Instant,
    /// When somebody wants to be looked at.
    alarm: Option<Instant>,
}

impl Context {
    pub fn new(out: Outlet, lan: Lan, poller: Poller, now: Instant) -> Self {
        Self { out, lan, poller, now, alarm: None }
    }

    /// Asks for a look at all deadlines at `when` at the latest.
    pub fn wake_at(&mut self, when: Instant) {
        self.alarm = Some(self.alarm.map_or(when, |alarm| alarm.min(when)));
    }

    pub fn alarm(&self) -> Option<Instant> {
        self.alarm
    }

    /// The alarm has gone off; those who have a deadline ask again.
    pub fn take_alarm(&mut self) -> bool {
        let due = self.alarm.is_some_and(|alarm| alarm <= self.now);
        if due {
            self.alarm = None;
        }
        due
    }

    /// An envelope to the guest.
    pub fn envelope(&self, queue: u16, from: IpAddr, to: IpAddr, protocol: IpProtocol) -> Envelope {
        Envelope { mac: self.lan.guest_mac, queue, from, to, protocol }
    }
}

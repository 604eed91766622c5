//! Those who connect and say what they want.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::buffer::spare_capacity;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::super::hello::{Answer, Join, MOST_ASKED, Request, make_room};
use super::super::report::{PortReport, Report, VlanReport};
use super::port::Port;
use super::{MOST_WATCHERS, Switch, token};
use crate::Capture;

/// A connection that has not said yet what it wants.
pub struct Pending {
    pub socket: OwnedFd,
    pub until: Instant,
}

/// Who sees all frames.
pub struct Watcher {
    socket: OwnedFd,
    lost: u64,
}

impl Watcher {
    /// Shows a frame; false if nobody is there any more. Who reads too slowly does not see all.
    pub fn see(&mut self, bytes: &[u8]) -> bool {
        match send(&self.socket, &Capture::record(bytes), SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(_) => true,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::NOBUFS) => {
                self.lost += 1;
                true
            }
            Err(_) => {
                tracing::info!("a capture has ended; it has missed {} frames", self.lost);
                false
            }
        }
    }
}

impl Switch {
    /// A connection says what it wants, or has gone.
    pub(super) fn asked(&mut self, number: u32, now: Instant) {
        let Some(pending) = self.pending.remove(&number) else { return };
        let mut message = Vec::with_capacity(MOST_ASKED);
        match recv(&pending.socket, spare_capacity(&mut message), RecvFlags::DONTWAIT) {
            Ok((1.., _)) => {}
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {
                self.pending.insert(number, pending);
                return;
            }
            _ => return,
        }
        self.poller.forget(&pending.socket);
        let answer = match Request::decode(&message) {
            Ok(Request::Join(join)) => return self.join(pending.socket, &join, now),
            Ok(Request::Inspect) => Answer::Report(self.report(now)),
            Ok(Request::Capture) => return self.watch(pending.socket),
            Ok(Request::Stop { force }) if !force && !self.ports.is_empty() => Answer::Refused(format!(
                "{} machines use it: stop them first, or give --force",
                self.ports.len()
            )),
            Ok(Request::Stop { .. }) => {
                self.ended = true;
                Answer::Done
            }
            Err(why) => Answer::Refused(why),
        };
        let _ = reply(&pending.socket, &answer);
    }

    fn join(&mut self, socket: OwnedFd, join: &Join, now: Instant) {
        let (id, addresses) = match self.fabric.join(join, now) {
            Ok(joined) => joined,
            Err(why) => {
                let _ = reply(&socket, &Answer::Refused(why));
                return;
            }
        };
        let port = Port::new(socket, join.rate, now);
        let watched = self.poller.watch_edges(port.socket(), token::of(token::PORT, id.into()));
        let told = watched.and_then(|()| reply(port.socket(), &Answer::Joined(addresses.clone())));
        if told.is_err() {
            return self.fabric.leave(id);
        }
        tracing::info!("member {id} has joined: {join:?}, {addresses:?}");
        self.ports.insert(id, port);
    }

    fn watch(&mut self, socket: OwnedFd) {
        if self.watchers.len() >= MOST_WATCHERS {
            let why = format!("{MOST_WATCHERS} captures run already: end one");
            let _ = reply(&socket, &Answer::Refused(why));
            return;
        }
        make_room(&socket);
        let begun = reply(&socket, &Answer::Done);
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        if begun.is_ok() && send(&socket, &Capture::header(), flags).is_ok() {
            self.watchers.push(Watcher { socket, lost: 0 });
        }
    }

    fn report(&self, now: Instant) -> Report {
        let vlans = self.spec.vlans.iter().map(|vlan| VlanReport {
            id: vlan.id,
            subnet: vlan.subnet,
            gateway: vlan.subnet.map(|range| range.gateway()),
            uplink: vlan.subnet.is_some() && !self.spec.no_uplink,
        });
        let ports = self.ports.iter().filter_map(|(&id, port)| {
            let member = self.fabric.member(id)?;
            Some(PortReport {
                port: id,
                name: member.name.clone(),
                pid: port.pid,
                mac: member.mac,
                vlan: member.membership.untagged,
                trunk: member.membership.tagged.clone(),
                addresses: self.fabric.addresses_of(id),
                cards: self.fabric.cards_of(id, now),
                rate: port.rate,
                spoof: member.spoof,
                counters: port.counters,
            })
        });
        Report { pid: std::process::id(), vlans: vlans.collect(), ports: ports.collect() }
    }
}

/// Tells somebody who is to read it at once.
fn reply(socket: &OwnedFd, answer: &Answer) -> io::Result<()> {
    send(socket, &answer.encode()?, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
    Ok(())
}

//! A member's socket, and what waits for it.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send, sendmsg};

use super::super::bucket::Bucket;
use super::super::frame::Parcel;
use super::super::report::Counters;
use super::super::vlan::{TAG_AT, tagged};
use super::super::{Vlan, hello};
use crate::Offload;

/// Most that waits for a member who reads slowly: bytes, and frames.
const MOST_BYTES: usize = 4 << 20;
const MOST_FRAMES: usize = 2048;
/// A rate's burst: this part of a second, and several large frames at least.
const BURST_PART: u64 = 20;
const LEAST_BURST: u64 = 128 << 10;

/// What reading has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// A frame.
    Frame,
    /// Nothing now.
    Nothing,
    /// Nothing any more.
    End,
}

/// A member's port.
pub struct Port {
    socket: OwnedFd,
    pub pid: Option<u32>,
    pub rate: Option<u64>,
    pub counters: Counters,
    readable: bool,
    writable: bool,
    ended: bool,
    queue: VecDeque<Vec<u8>>,
    queued: usize,
    /// What it may send and receive yet.
    sends: Option<Bucket>,
    receives: Option<Bucket>,
}

impl Port {
    pub fn new(socket: OwnedFd, rate: Option<u64>, now: Instant) -> Self {
        hello::make_room(&socket);
        let pid = rustix::net::sockopt::socket_peercred(&socket).ok().map(|peer| peer.pid);
        let pid = pid.and_then(|pid| u32::try_from(pid.as_raw_nonzero().get()).ok());
        let bucket = || rate.map(|rate| Bucket::new(rate, (rate / BURST_PART).max(LEAST_BURST), now));
        Self {
            socket,
            pid,
            rate,
            counters: Counters::default(),
            readable: true,
            writable: true,
            ended: false,
            queue: VecDeque::new(),
            queued: 0,
            sends: bucket(),
            receives: bucket(),
        }
    }

    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    pub fn is_ready(&mut self, readable: bool, writable: bool) {
        self.readable |= readable;
        self.writable |= writable;
    }

    /// When something that waits for its rate may go on.
    pub fn alarm(&mut self, now: Instant) -> Option<Instant> {
        let sends = self.sends.as_mut().filter(|_| self.readable).and_then(|bucket| bucket.opens(now));
        let waits = !self.queue.is_empty() && self.writable;
        let receives = self.receives.as_mut().filter(|_| waits).and_then(|bucket| bucket.opens(now));
        sends.into_iter().chain(receives).min()
    }

    /// The next frame from the member. What is beyond its rate stays with it.
    pub fn read(&mut self, parcel: &mut Parcel, now: Instant) -> Read {
        loop {
            if !self.readable || self.sends.as_mut().is_some_and(|bucket| bucket.opens(now).is_some()) {
                return Read::Nothing;
            }
            match recv(&self.socket, spare_capacity(parcel.room()), RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Read::End,
                Ok((len, _)) => {
                    self.counters.sent += 1;
                    self.counters.sent_bytes += len.saturating_sub(Offload::LEN) as u64;
                    if let Some(bucket) = &mut self.sends {
                        bucket.take(len as u64, now);
                    }
                    if parcel.arrived() {
                        return Read::Frame;
                    }
                    self.counters.lost_vlan += 1;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.readable = false,
                Err(_) => return Read::End,
            }
        }
    }

    /// Sends a frame, now or as soon as the member reads; one for which there is no room is lost.
    pub fn send(&mut self, vlan: Option<Vlan>, bytes: &[u8], offload: &Offload, now: Instant) {
        let (addresses, rest) = bytes.split_at_checked(TAG_AT).unwrap_or((bytes, &[]));
        let (offload, tag) = match vlan.map(|vlan| tagged(offload, vlan)) {
            None => (*offload, None),
            Some(Some((offload, tag))) => (offload, Some(tag)),
            Some(None) => return,
        };
        // One buffer: who fills it says how many.
        let header = offload.encode(1);
        let tag = tag.as_ref().map_or(&[][..], |tag| &tag[..]);
        let parts = [&header[..], addresses, tag, rest];
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if self.queue.is_empty() && self.is_open(now) {
            let slices = parts.map(IoSlice::new);
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match sendmsg(&self.socket, &slices, &mut SendAncillaryBuffer::default(), flags) {
                Ok(_) => return self.sent(len, now),
                Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS | Errno::NOMEM) => self.writable = false,
                Err(_) => self.ended = true,
            }
        }
        if self.queue.len() < MOST_FRAMES && self.queued + len <= MOST_BYTES && !self.ended {
            self.queued += len;
            self.queue.push_back(parts.concat());
        } else {
            self.counters.lost_full += 1;
        }
    }

    /// Sends what waits; true if the member is not there any more.
    pub fn flush(&mut self, now: Instant) -> bool {
        while self.is_open(now)
            && let Some(message) = self.queue.front()
        {
            match send(&self.socket, message, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(_) => {
                    let len = message.len();
                    self.queue.pop_front();
                    self.queued = self.queued.saturating_sub(len);
                    self.sent(len, now);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => self.writable = false,
                Err(_) => self.ended = true,
            }
        }
        self.ended
    }

    fn is_open(&mut self, now: Instant) -> bool {
        let within = self.receives.as_mut().is_none_or(|bucket| bucket.opens(now).is_none());
        self.writable && !self.ended && within
    }

    fn sent(&mut self, len: usize, now: Instant) {
        self.counters.received += 1;
        self.counters.received_bytes += len.saturating_sub(Offload::LEN) as u64;
        if let Some(bucket) = &mut self.receives {
            bucket.take(len as u64, now);
        }
    }
}

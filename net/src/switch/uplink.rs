//! The way out of a VLAN: address translation, with the VLAN's members in the place of its one guest.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::spec::Range;
use crate::bell::Bell;
use crate::user::{ROUTER_MAC, Subnet};
use crate::{Abilities, Frame, GuestPort, Mac, NetBackend, NetError, Offload, Put, UserConfig, UserNet};

/// Most frames that wait in either direction.
const ROOM: usize = 128;

/// The switch's end.
pub struct Uplink {
    net: UserNet,
    cable: Arc<Cable>,
}

/// What is between the two threads.
struct Cable {
    out: Mutex<VecDeque<Frame>>,
    back: Mutex<VecDeque<(Offload, Vec<u8>)>>,
    /// There was no room on the way back.
    full: AtomicBool,
    bell: Arc<Bell>,
}

impl Uplink {
    /// The way out for a subnet; `bell` tells of frames that come back.
    ///
    /// # Errors
    /// The host refuses descriptors or a thread.
    pub fn new(range: Range, config: &UserConfig, bell: Arc<Bell>) -> Result<Self, NetError> {
        let gateway = range.gateway();
        // Nothing comes in by itself, so that nobody needs to be the guest.
        let subnet = Subnet {
            router: gateway,
            names: gateway,
            guest: Ipv4Addr::UNSPECIFIED,
            prefix_len: range.prefix_len(),
        };
        let net = UserNet::for_subnet(config, ROUTER_MAC, subnet)?;
        let (out, back) = (Mutex::default(), Mutex::default());
        let cable = Arc::new(Cable { out, back, full: AtomicBool::new(false), bell });
        net.connect(cable.clone())?;
        Ok(Self { net, cable })
    }

    /// Sends a frame out; one that finds no room is lost.
    pub fn send(&self, bytes: &[u8], offload: Offload) -> bool {
        let mut out = self.cable.out.lock();
        let has_room = out.len() < ROOM;
        if has_room {
            out.push_back(Frame { bytes: bytes.to_vec(), offload, queue: 0 });
        }
        drop(out);
        self.net.wake();
        has_room
    }

    /// The next frame that came back.
    pub fn take(&self) -> Option<(Offload, Vec<u8>)> {
        let frame = self.cable.back.lock().pop_front();
        if self.cable.full.swap(false, Ordering::SeqCst) {
            self.net.wake();
        }
        frame
    }
}

impl GuestPort for Cable {
    fn abilities(&self) -> Abilities {
        // What a member cannot take is completed at its end.
        Abilities { checksum: true, tcp4: true, tcp6: true }
    }

    fn take(&self, frame: &mut Frame) -> bool {
        match self.out.lock().pop_front() {
            Some(next) => {
                *frame = next;
                true
            }
            None => false,
        }
    }

    fn put(&self, _queue: u16, offload: &Offload, parts: &[&[u8]]) -> Put {
        let mut back = self.back.lock();
        if back.len() >= ROOM {
            self.full.store(true, Ordering::SeqCst);
            return Put::Full;
        }
        back.push_back((*offload, parts.concat()));
        Put::Done
    }

    fn finish(&self) {
        if !self.back.lock().is_empty() {
            self.bell.ring();
        }
    }
}

/// The address that a frame with an IPv4 packet goes to. The router knows one guest; whose the address is, the switch
/// knows.
pub fn target(bytes: &[u8]) -> Option<IpAddr> {
    let to: [u8; 4] = bytes.get(30..34)?.try_into().ok()?;
    (bytes.get(12..14)? == [8, 0]).then(|| Ipv4Addr::from(to).into())
}

/// Writes whom a frame is for.
pub fn readdress(bytes: &mut [u8], mac: Mac) {
    if let Some(to) = bytes.first_chunk_mut::<6>() {
        *to = mac.0;
    }
}

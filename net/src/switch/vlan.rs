//! VLANs (IEEE 802.1Q): which one a frame belongs to, and the tag that says so.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::frame::Parcel;
use crate::Offload;

/// Where a tag is, and its length.
const AT: usize = 12;
const LEN: usize = 4;
/// Ethernet types of tags: of customers, of providers, and an old one of the latter.
const TAGS: [[u8; 2]; 3] = [[0x81, 0x00], [0x88, 0xa8], [0x91, 0x00]];

/// A VLAN's number, 1 to 4094.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Vlan(u16);

impl Vlan {
    /// The one that members are in unless they say otherwise.
    pub const DEFAULT: Self = Self(1);

    /// Its number.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for Vlan {
    type Error = String;

    fn try_from(id: u16) -> Result<Self, String> {
        if (1..=4094).contains(&id) { Ok(Self(id)) } else { Err(format!("{id} is no VLAN: give 1 to 4094")) }
    }
}

impl From<Vlan> for u16 {
    fn from(vlan: Vlan) -> u16 {
        vlan.0
    }
}

impl FromStr for Vlan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let id: u16 = text.parse().map_err(|_| format!("{text:?} is no VLAN: give 1 to 4094"))?;
        id.try_into()
    }
}

impl fmt::Display for Vlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which VLANs a port is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The VLAN of frames without a tag.
    pub untagged: Option<Vlan>,
    /// Those whose frames have a tag.
    pub tagged: Vec<Vlan>,
}

impl Membership {
    /// An access port has `untagged` alone; with `trunk` that is the trunk's native VLAN.
    pub fn new(untagged: Option<Vlan>, trunk: &[Vlan]) -> Self {
        match (untagged, trunk) {
            (None, []) => Self { untagged: Some(Vlan::DEFAULT), tagged: Vec::new() },
            _ => Self { untagged, tagged: trunk.to_vec() },
        }
    }

    /// All of them, the untagged one first.
    pub fn all(&self) -> impl Iterator<Item = Vlan> {
        self.untagged.into_iter().chain(self.tagged.iter().copied())
    }

    /// How frames of a VLAN leave by this port: with a tag or not; None for not at all.
    pub fn egress(&self, vlan: Vlan) -> Option<bool> {
        if self.untagged == Some(vlan) { Some(false) } else { self.tagged.contains(&vlan).then_some(true) }
    }

    /// The VLAN of a frame that came by this port, which has no tag afterwards. None for frames that may not be: with
    /// a tag on an access port, with two anywhere, of a VLAN that the port is not in.
    pub fn ingress(&self, frame: &mut Parcel) -> Option<Vlan> {
        if !is_tagged(frame.bytes()) {
            return self.untagged;
        }
        let info = frame.bytes().get(AT + 2..AT + LEN)?;
        let id = u16::from_be_bytes([*info.first()?, *info.get(1)?]) & 0xfff;
        let vlan = Vlan::try_from(id).ok().filter(|vlan| self.tagged.contains(vlan))?;
        frame.untag(AT, LEN);
        frame.offload = shifted(frame.offload, |at| at.checked_sub(LEN as u16))?;
        (!is_tagged(frame.bytes())).then_some(vlan)
    }
}

fn is_tagged(bytes: &[u8]) -> bool {
    bytes.get(AT..AT + 2).is_some_and(|kind| TAGS.iter().any(|tag| tag == kind))
}

/// The same work where headers begin elsewhere.
fn shifted(offload: Offload, shift: impl Fn(u16) -> Option<u16>) -> Option<Offload> {
    let checksum = match offload.checksum {
        Some((start, offset)) => Some((shift(start)?, offset)),
        None => None,
    };
    // A hint, which may be nothing.
    Some(Offload { checksum, headers: shift(offload.headers).unwrap_or(0), ..offload })
}

/// What goes in front of and into a frame that leaves with a tag: the offload, and the tag's bytes behind the
/// addresses.
pub fn tagged(offload: &Offload, vlan: Vlan) -> Option<(Offload, [u8; LEN])> {
    let [high, low] = vlan.0.to_be_bytes();
    let shift = |at: u16| at.checked_add(LEN as u16);
    Some((shifted(*offload, shift)?, [0x81, 0x00, high, low]))
}

/// Where the tag goes.
pub const TAG_AT: usize = AT;

#[cfg(test)]
mod tests {
    use super::*;

    fn vlan(id: u16) -> Vlan {
        Vlan::try_from(id).unwrap()
    }

    fn frame(tags: &[u8]) -> Parcel {
        let bytes = [&[2; 6][..], &[4; 6], tags, &[8, 0, 0x45]].concat();
        let offload = Offload { checksum: Some((38, 16)), segments: None, headers: 58 };
        Parcel::of(bytes, offload)
    }

    #[test]
    fn an_access_port_has_no_tags() {
        let port = Membership::new(Some(vlan(10)), &[]);
        let mut plain = frame(&[]);
        assert_eq!(port.ingress(&mut plain), Some(vlan(10)));
        // Its own VLAN, another one, none, and the hop: two tags of which the first would be taken off.
        for tags in
            [&[0x81, 0, 0, 10][..], &[0x81, 0, 0, 20], &[0x81, 0, 0, 0], &[0x88, 0xa8, 0, 10, 0x81, 0, 0, 20]]
        {
            assert_eq!(port.ingress(&mut frame(tags)), None, "{tags:?}");
        }
        assert_eq!((port.egress(vlan(10)), port.egress(vlan(20))), (Some(false), None));
        assert_eq!(Membership::new(None, &[]).untagged, Some(Vlan::DEFAULT));
    }

    #[test]
    fn a_trunk_has_tags_and_may_have_a_native_vlan() {
        let port = Membership::new(None, &[vlan(10), vlan(20)]);
        let mut one = frame(&[0x81, 0, 0x60, 20]);
        assert_eq!(port.ingress(&mut one), Some(vlan(20)));
        assert_eq!((one.bytes().len(), one.offload.checksum, one.offload.headers), (15, Some((34, 16)), 54));
        assert_eq!(port.ingress(&mut frame(&[])), None);
        assert_eq!(port.ingress(&mut frame(&[0x81, 0, 0, 30])), None);
        assert_eq!(port.ingress(&mut frame(&[0x81, 0, 0, 10, 0x81, 0, 0, 20])), None, "two tags");
        assert_eq!(port.egress(vlan(10)), Some(true));
        let native = Membership::new(Some(vlan(1)), &[vlan(10)]);
        assert_eq!(native.ingress(&mut frame(&[])), Some(vlan(1)));
        assert_eq!(native.ingress(&mut frame(&[0x81, 0, 0, 1])), None, "the native VLAN has no tags");
        assert_eq!(native.all().collect::<Vec<_>>(), [vlan(1), vlan(10)]);
    }

    #[test]
    fn a_tag_moves_what_is_left_to_do() {
        let (offload, tag) = tagged(&frame(&[]).offload, vlan(0x123)).unwrap();
        assert_eq!((offload.checksum, offload.headers, tag), (Some((42, 16)), 62, [0x81, 0, 1, 0x23]));
        let mut far = frame(&[0x81, 0, 0, 10]);
        far.offload.checksum = Some((3, 0));
        assert_eq!(
            Membership::new(None, &[vlan(10)]).ingress(&mut far),
            None,
            "a checksum in front of the frame"
        );
    }

    #[test]
    fn numbers_are_checked() {
        assert!(["0", "4095", "x", "-1", "70000"].iter().all(|text| text.parse::<Vlan>().is_err()));
        assert_eq!("4094".parse::<Vlan>(), Ok(vlan(4094)));
    }
}

//! Packets that come in pieces (RFC 791, 3.2; RFC 8200, 4.5; RFC 5722 for those that overlap).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::packet::Packet;

/// Packets that are put together at the same time, and pieces of each.
const MOST_PACKETS: usize = 8;
const MOST_PIECES: usize = 128;
const LONGEST: usize = 65_535;
/// How long a packet may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Where a fragment belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    pub id: u32,
    /// Bytes in front of it.
    pub offset: u16,
    pub more: bool,
}

impl Piece {
    /// It is not the whole packet.
    pub fn is_part(self) -> bool {
        self.more || self.offset != 0
    }
}

type Key = (IpAddr, IpAddr, u8, u32);

struct Pending {
    key: Key,
    since: Instant,
    pieces: BTreeMap<u16, Vec<u8>>,
    /// Bytes of the whole, once its last piece was seen.
    len: Option<usize>,
}

/// Packets that are not whole yet.
#[derive(Default)]
pub struct Fragments(Vec<Pending>);

impl Fragments {
    /// Adds a piece; all that the packet carries if it was the last one missing.
    pub fn add(&mut self, packet: &Packet<'_>, piece: Piece, now: Instant) -> Option<Vec<u8>> {
        self.0.retain(|p| now.saturating_duration_since(p.since) < PATIENCE);
        let key = (packet.from, packet.to, u8::from(packet.protocol), piece.id);
        let index = match self.0.iter().position(|p| p.key == key) {
            Some(index) => index,
            None => {
                if self.0.len() >= MOST_PACKETS {
                    self.0.remove(0);
                }
                self.0.push(Pending { key, since: now, pieces: BTreeMap::new(), len: None });
                self.0.len() - 1
            }
        };
        match self.0.get_mut(index)?.add(packet.payload, piece) {
            Ok(None) => None,
            Ok(whole) => {
                self.0.remove(index);
                whole
            }
            Err(Nonsense) => {
                self.0.remove(index);
                None
            }
        }
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// Pieces that no packet has.
struct Nonsense;

impl Pending {
    fn add(&mut self, data: &[u8], piece: Piece) -> Result<Option<Vec<u8>>, Nonsense> {
        let (start, end) = (usize::from(piece.offset), usize::from(piece.offset) + data.len());
        let odd = piece.more && !data.len().is_multiple_of(8);
        if data.is_empty() || end > LONGEST || odd || self.pieces.len() >= MOST_PIECES {
            return Err(Nonsense);
        }
        if self.pieces.get(&piece.offset).is_some_and(|p| p == data) {
            return Ok(None); // the same again
        }
        let before = self.pieces.range(..=piece.offset).next_back();
        let after = self.pieces.range(piece.offset..).next();
        if before.is_some_and(|(&at, p)| usize::from(at) + p.len() > start)
            || after.is_some_and(|(&at, _)| usize::from(at) < end)
            || self.len.is_some_and(|len| end > len || !piece.more)
        {
            return Err(Nonsense);
        }
        if !piece.more {
            if self.pieces.last_key_value().is_some_and(|(&at, p)| usize::from(at) + p.len() > start) {
                return Err(Nonsense);
            }
            self.len = Some(end);
        }
        self.pieces.insert(piece.offset, data.to_vec());
        let have: usize = self.pieces.values().map(Vec::len).sum();
        // They neither overlap nor reach beyond the end.
        if self.len == Some(have) {
            return Ok(Some(std::mem::take(&mut self.pieces).into_values().flatten().collect()));
        }
        Ok(None)
    }
}

/// The packet around what was put together.
pub fn whole<'a>(first: &Packet<'a>, payload: &'a [u8]) -> Packet<'a> {
    Packet { payload, checked: false, ..*first }
}

#[cfg(test)]
mod tests {
    use smoltcp::wire::IpProtocol;

    use super::*;
    use proptest::prelude::*;

    fn packet(payload: &[u8]) -> Packet<'_> {
        let ip = IpAddr::from([10, 0, 2, 15]);
        Packet { from: ip, to: ip, protocol: IpProtocol::Udp, payload, whole: &[], checked: false, queue: 0 }
    }

    proptest! {
        /// In any order and with repetitions, the pieces make the whole exactly once.
        #[test]
        fn pieces_in_any_order_make_the_whole(len in 9..5000usize, step in 1..100usize, order in proptest::collection::vec(any::<prop::sample::Index>(), 0..50)) {
            let data: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let step = (step * 8).max(len.div_ceil(100).next_multiple_of(8));
            let mut pieces: Vec<_> = (0..len).step_by(step).map(|at| (at, data[at..len.min(at + step)].to_vec())).collect();
            prop_assume!(pieces.len() > 1);
            for (i, index) in order.iter().enumerate() {
                let other = index.index(pieces.len());
                let i = i % pieces.len();
                pieces.swap(i, other);
            }
            let (mut fragments, now) = (Fragments::default(), Instant::now());
            let mut wholes = Vec::new();
            for (at, bytes) in &pieces {
                let piece = Piece { id: 1, offset: *at as u16, more: at + bytes.len() < len };
                for _ in 0..2 {
                    if wholes.is_empty() {
                        wholes.extend(fragments.add(&packet(bytes), piece, now));
                    }
                }
            }
            prop_assert_eq!(wholes, [data]);
        }

        /// Whatever comes, the memory is bounded.
        #[test]
        fn garbage_is_bounded(all in proptest::collection::vec((any::<u32>(), any::<u16>(), any::<bool>(), 0..2000usize), 0..300)) {
            let (mut fragments, now) = (Fragments::default(), Instant::now());
            for (id, offset, more, len) in all {
                let data = vec![0; len];
                fragments.add(&packet(&data), Piece { id: id % 16, offset: offset & !7, more }, now);
                prop_assert!(fragments.0.len() <= MOST_PACKETS);
                for pending in &fragments.0 {
                    prop_assert!(pending.pieces.values().map(Vec::len).sum::<usize>() <= LONGEST);
                }
            }
        }
    }

    #[test]
    fn pieces_that_overlap_end_the_packet_and_old_ones_are_forgotten() {
        let (mut fragments, now) = (Fragments::default(), Instant::now());
        let mut add = |offset, more, len: usize, at| {
            fragments.add(&packet(&vec![0; len]), Piece { id: 1, offset, more }, at)
        };
        assert_eq!(add(0, true, 16, now), None);
        assert_eq!(add(8, true, 16, now), None, "overlap");
        assert_eq!(add(16, false, 8, now), None, "so the first is gone");
        assert_eq!(add(0, true, 16, now).map(|w| w.len()), Some(24));
        assert_eq!(add(0, true, 16, now), None);
        assert_eq!(add(16, false, 8, now + PATIENCE), None);
    }
}

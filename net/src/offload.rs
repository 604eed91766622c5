//! What a frame leaves to whoever sends it on: the header in front of frames of virtio network devices and of TAP
//! (Virtio 1.2, 5.1.6).

/// Which protocol a large frame is to be cut for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segmentation {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
}

/// Work that was left undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload {
    /// The checksum of what begins at the first offset is to be completed, at the second one counted from there. The
    /// field holds the pseudo header's sum.
    pub checksum: Option<(u16, u16)>,
    /// The frame stands for segments of so many bytes each.
    pub segments: Option<(Segmentation, u16)>,
    /// Bytes of all headers, a hint.
    pub headers: u16,
}

const NEEDS_CHECKSUM: u8 = 1;
const TCP4: u8 = 1;
const TCP6: u8 = 4;
/// The segments carry congestion notification, which makes no difference here.
const ECN: u8 = 0x80;

impl Offload {
    /// Bytes of the header.
    pub const LEN: usize = 12;

    /// The header in front of a frame that takes `buffers` buffers.
    pub fn encode(&self, buffers: u16) -> [u8; Self::LEN] {
        let (flags, (start, offset)) = match self.checksum {
            Some(places) => (NEEDS_CHECKSUM, places),
            None => (0, (0, 0)),
        };
        let (kind, size) = match self.segments {
            Some((Segmentation::Tcp4, size)) => (TCP4, size),
            Some((Segmentation::Tcp6, size)) => (TCP6, size),
            None => (0, 0),
        };
        let mut header = [flags, kind, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for (at, word) in [(2, self.headers), (4, size), (6, start), (8, offset), (10, buffers)] {
            header[at..at + 2].copy_from_slice(&word.to_le_bytes());
        }
        header
    }

    /// What a header says; None if it asks for what is not offered.
    pub fn decode(header: &[u8; Self::LEN]) -> Option<Self> {
        let word = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let checksum = (header[0] & NEEDS_CHECKSUM != 0).then(|| (word(6), word(8)));
        let segments = match header[1] & !ECN {
            0 => None,
            TCP4 => Some((Segmentation::Tcp4, word(4))),
            TCP6 => Some((Segmentation::Tcp6, word(4))),
            _ => return None,
        };
        Some(Self { checksum, segments, headers: word(2) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_say_what_is_left() {
        let whole = Offload::default();
        assert_eq!(whole.encode(1), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        let large =
            Offload { checksum: Some((34, 16)), segments: Some((Segmentation::Tcp6, 1440)), headers: 74 };
        for offload in [whole, large] {
            assert_eq!(Offload::decode(&offload.encode(3)), Some(offload));
        }
        let mut datagrams = large.encode(0);
        datagrams[1] = 3;
        assert_eq!(Offload::decode(&datagrams), None);
    }
}

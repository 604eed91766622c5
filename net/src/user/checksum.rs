//! The Internet checksum (RFC 1071) over pieces.

use std::net::IpAddr;

/// A sum of 16-bit words.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum {
    sum: u64,
    odd: bool,
}

impl Sum {
    /// Adds bytes behind those that were added before.
    pub fn add(&mut self, mut bytes: &[u8]) {
        if self.odd
            && let Some((&first, rest)) = bytes.split_first()
        {
            self.sum += u64::from(first);
            (self.odd, bytes) = (false, rest);
        }
        let (words, rest) = bytes.as_chunks::<4>();
        // No overflow: a packet has 64 KiB.
        self.sum += words.iter().map(|&w| u64::from(u32::from_be_bytes(w))).sum::<u64>();
        let mut last = [0; 4];
        for (to, &from) in last.iter_mut().zip(rest) {
            *to = from;
        }
        self.sum += u64::from(u32::from_be_bytes(last));
        self.odd = rest.len() % 2 == 1;
    }

    /// Adds what a transport's checksum covers beside its own bytes.
    pub fn add_pseudo_header(&mut self, from: IpAddr, to: IpAddr, protocol: u8, len: usize) {
        for ip in [from, to] {
            match ip {
                IpAddr::V4(ip) => self.add(&ip.octets()),
                IpAddr::V6(ip) => self.add(&ip.octets()),
            }
        }
        self.sum += u64::from(protocol) + len as u64;
    }

    /// The sum in 16 bits.
    pub fn folded(self) -> u16 {
        let mut sum = self.sum;
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        sum as u16
    }

    /// The checksum.
    pub fn finish(self) -> u16 {
        !self.folded()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use smoltcp::wire::{IpProtocol, UdpPacket};

    proptest! {
        /// Pieces of any length sum up as the whole does, and as another implementation says.
        #[test]
        fn pieces_sum_up(data in proptest::collection::vec(any::<u8>(), 8..300), cut in 0..300usize, v6: bool) {
            let (from, to): (IpAddr, IpAddr) =
                if v6 { ("fd00::1".parse().unwrap(), "2001:db8::ffff".parse().unwrap()) } else { ([10, 0, 2, 15].into(), [198, 51, 100, 7].into()) };
            let mut data = data;
            let len = (data.len() as u16).to_be_bytes();
            data[4..8].copy_from_slice(&[len[0], len[1], 0, 0]);
            let mut sum = Sum::default();
            sum.add_pseudo_header(from, to, IpProtocol::Udp.into(), data.len());
            let (a, b) = data.split_at(cut.min(data.len()));
            sum.add(a);
            sum.add(b);
            let checksum = sum.finish();
            data[6..8].copy_from_slice(&checksum.to_be_bytes());
            prop_assert!(checksum == 0 || UdpPacket::new_checked(&data[..]).unwrap().verify_checksum(&from.into(), &to.into()));
        }
    }
}

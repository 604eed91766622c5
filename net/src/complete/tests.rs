use proptest::prelude::*;
use smoltcp::wire::{IpAddress, Ipv4Packet, Ipv6Packet, TcpPacket};

use super::*;

/// A large frame whose data tell where they are.
fn large(v6: bool, len: usize, size: u16) -> (Vec<u8>, Offload) {
    let data: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
    let mut frame = [&[2; 6][..], &[4; 6], if v6 { &[0x86, 0xdd] } else { &[8, 0] }].concat();
    let tcp_len = 32 + len;
    if v6 {
        let words = (tcp_len as u16).to_be_bytes();
        frame.extend([0x60, 0, 0, 0, words[0], words[1], 6, 64]);
        frame.extend([0xfd; 32]);
    } else {
        let words = ((20 + tcp_len) as u16).to_be_bytes();
        frame.extend([
            0x45, 0, words[0], words[1], 0xff, 0xff, 0x40, 0, 64, 6, 0, 0, 10, 5, 0, 2, 10, 5, 0, 3,
        ]);
    }
    frame.extend([0, 80, 1, 2, 0xff, 0xff, 0xff, 0, 0, 0, 0, 9, 0x80, 0x99, 1, 0, 0xab, 0xcd, 0, 0]);
    frame.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    frame.extend(data);
    let (kind, start) = if v6 { (Segmentation::Tcp6, 54) } else { (Segmentation::Tcp4, 34) };
    (frame, Offload { checksum: Some((start, 16)), segments: Some((kind, size)), headers: start + 32 })
}

#[test]
fn a_large_frame_is_cut_into_sound_segments() {
    for v6 in [false, true] {
        let (frame, offload) = large(v6, 3000, 1400);
        let segments = cut(&frame, &offload).unwrap();
        let mut all = Vec::new();
        for (i, segment) in segments.iter().enumerate() {
            let (payload, from, to): (_, IpAddress, IpAddress) = if v6 {
                let ip = Ipv6Packet::new_checked(&segment[14..]).unwrap();
                (ip.payload(), ip.src_addr().into(), ip.dst_addr().into())
            } else {
                let ip = Ipv4Packet::new_checked(&segment[14..]).unwrap();
                assert!(ip.verify_checksum());
                assert_eq!(ip.ident(), 0xffff_u16.wrapping_add(i as u16));
                (ip.payload(), ip.src_addr().into(), ip.dst_addr().into())
            };
            let tcp = TcpPacket::new_checked(payload).unwrap();
            assert!(tcp.verify_checksum(&from, &to));
            assert_eq!(tcp.seq_number().0 as u32, 0xffff_ff00_u32.wrapping_add(all.len() as u32));
            assert_eq!((tcp.fin(), tcp.psh(), tcp.cwr()), (i == 2, i == 2, i == 0));
            all.extend(tcp.payload());
        }
        assert_eq!((segments.len(), &all[..]), (3, &frame[frame.len() - 3000..]));
    }
}

#[test]
fn a_checksum_is_filled_in() {
    let (mut frame, offload) = large(false, 100, 1400);
    let mut sum = Sum::default();
    sum.add_pseudo_header([10, 5, 0, 2].into(), [10, 5, 0, 3].into(), 6, 132);
    frame[50..52].copy_from_slice(&sum.folded().to_be_bytes());
    assert!(checksum(&mut frame, &offload));
    let tcp = TcpPacket::new_checked(&frame[34..]).unwrap();
    assert!(tcp.verify_checksum(&IpAddress::v4(10, 5, 0, 2), &IpAddress::v4(10, 5, 0, 3)));
    for places in [(500, 0), (34, 500), (165, 0)] {
        assert!(!checksum(&mut frame, &Offload { checksum: Some(places), ..offload }));
    }
}

#[test]
fn guests_get_what_they_take() {
    let (_, offload) = large(false, 100, 10);
    let takes = |checksum, tcp4| Abilities { checksum, tcp4, tcp6: false };
    assert_eq!(need(&offload, takes(true, true)), Need::Nothing);
    assert_eq!(need(&offload, takes(true, false)), Need::Cut);
    let small = Offload { segments: None, ..offload };
    assert_eq!(
        (need(&small, takes(true, false)), need(&small, takes(false, false))),
        (Need::Nothing, Need::Checksum)
    );
    assert_eq!(need(&Offload::default(), takes(false, false)), Need::Nothing);
}

proptest! {
    /// Whatever a frame is said to be, it is cut or not, and nothing else.
    #[test]
    fn nonsense_is_not_cut(mut frame in proptest::collection::vec(any::<u8>(), 0..200), v6: bool, size: u16, v in any::<u8>()) {
        if frame.len() > 40 {
            frame[14] = if v6 { 0x60 } else { 0x40 | v & 15 };
            frame[if v6 { 20 } else { 23 }] = 6;
        }
        let (_, offload) = large(v6, 1, size);
        let most = frame.len();
        if let Some(segments) = cut(&frame, &offload) {
            prop_assert!(segments.len() <= most && segments.iter().all(|segment| segment.len() <= most));
        }
        checksum(&mut frame, &offload);
    }
}

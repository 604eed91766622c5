use super::*;
use crate::testing::{cpio, lz4};

fn check(data: &[u8]) -> Result<(), String> {
    super::check(Image { name: "i", data }, 1 << 20).map_err(|e| e.to_string())
}

fn archive() -> Vec<u8> {
    cpio(&[("init", b"#!/bin/sh"), ("etc", b"")])
}

#[test]
fn archives_are_taken_plain_packed_and_mixed() {
    let plain = archive();
    let packed = {
        let with_length = lz4(&plain);
        with_length[..with_length.len() - 4].to_vec()
    };
    check(&plain).unwrap();
    check(&packed).unwrap();
    check(&[&plain[..], &[0; 516], &plain, &[0; 8], &packed].concat()).unwrap();
    check(&[&plain[..], &[0; 512]].concat()).unwrap();
}

#[test]
fn file_system_images_are_taken() {
    let mut ext2 = vec![0; 2048];
    ext2[1080..1082].copy_from_slice(&[0x53, 0xef]);
    check(&ext2).unwrap();
    check(b"hsqs").unwrap();
}

#[test]
fn a_truncated_archive_is_refused() {
    let plain = archive();
    let trailer = plain.len() - 124;
    for len in [1, 50, 111, 120, trailer, trailer + 110] {
        assert!(check(&plain[..len]).is_err(), "{len}");
    }
    assert_eq!(
        check(&plain[..120]).unwrap_err(),
        "i is truncated: its archive ends at byte 125, the file at 120: fetch it again"
    );
    let packed = lz4(&plain);
    assert!(check(&packed[..packed.len() - 8]).unwrap_err().starts_with("i is corrupt: it does not unpack"));
}

#[test]
fn a_damaged_archive_is_refused() {
    let mut size = archive();
    size[54..62].copy_from_slice(b"zzzzzzzz");
    assert!(check(&size).unwrap_err().contains("is no number at byte 0"));
    let mut magic = archive();
    magic[128] = b'x';
    assert!(check(&magic).unwrap_err().contains("at byte 128"), "{:?}", check(&magic));
    assert!(check(&[&archive()[..], b"garbage"].concat()).unwrap_err().contains("no archive continues"));
    assert!(check(b"hello").unwrap_err().contains("is no initrd"));
    assert!(check(&[0; 64]).is_err());
}

#[test]
fn an_archive_that_fills_the_guest_is_refused() {
    let big = lz4(&vec![0; 2 << 20]);
    assert!(check(&big[..big.len() - 4]).unwrap_err().contains("MiB of guest memory"));
}

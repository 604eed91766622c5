use super::*;
use crate::testing::{lz4, text};

/// `text()` as the usual tools pack it: xz with the x86 filter and a CRC-32, zstd, lzma, gzip.
const XZ: &str = "fd377a585a0000016922de3602010400210106005c94f755e00ce300235d00339d48cef58c51feb2a27aa75289e9b38515eda7d855e9fdc4fe5d398d6a3d03c4cc0000007208423c00013be419000000b95aad5d3e300d8b020000000001595a";
const ZSTD: &str = "28b52ffd64e40b950000586775657374686f757365200100d6b45fbc8e8f7e89";
const LZMA: &str = "5d00008000ffffffffffffffff00339d48cef58c51feb2a27aa75289e9b38515eda7d855e9fdc4fe5d398d6a3d0c8fe6f9fffcab8000";
const GZIP: &str = "1f8b0800000000000203edc6b10d00200800b057788ee0e600fcef1d26edd4daec39773ba35455555555557fef037208423ce40c0000";

fn hex(text: &str) -> Vec<u8> {
    let digit = |i| u8::from_str_radix(&text[i..i + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}

/// With the length behind it, as in a bzImage.
fn sized(packed: &str) -> Vec<u8> {
    [hex(packed), 3300u32.to_le_bytes().to_vec()].concat()
}

fn all() -> [(Format, Vec<u8>); 5] {
    [
        (Format::Xz, sized(XZ)),
        (Format::Zstd, sized(ZSTD)),
        (Format::Lzma, sized(LZMA)),
        (Format::Gzip, hex(GZIP)),
        (Format::Lz4, lz4(&text())),
    ]
}

#[test]
fn every_format_unpacks() {
    for (format, data) in all() {
        assert_eq!(Format::of(&data), Some(format));
        assert_eq!(payload("k", &data, 1 << 20).unwrap(), text(), "{format:?}");
        check("k", "payload", &data).unwrap();
    }
}

#[test]
fn damage_is_an_error() {
    for (format, data) in all() {
        for len in 0..data.len() {
            assert!(payload("k", &data[..len], 1 << 20).is_err(), "{format:?} cut to {len}");
        }
    }
}

#[test]
fn the_promised_length_binds() {
    for (format, mut data) in all() {
        let at = data.len() - 4;
        for wrong in [3299u32, 3301, 0] {
            data[at..].copy_from_slice(&wrong.to_le_bytes());
            assert!(payload("k", &data, 1 << 20).is_err(), "{format:?} {wrong}");
        }
        data[at..].copy_from_slice(&u32::MAX.to_le_bytes());
        let error = payload("k", &data, 1 << 20).unwrap_err();
        assert!(matches!(error, BootError::MemoryTooSmall { .. }), "{format:?}: {error}");
    }
}

#[test]
fn lz4_files_may_follow_each_other() {
    let one = lz4(&text());
    let packed = &one[..one.len() - 4];
    let two = [packed, packed].concat();
    assert_eq!(drain(Format::Lz4, &two, 1 << 20).unwrap(), Some(6600));
    assert_eq!(drain(Format::Lz4, &two, 4000).unwrap(), Some(4001));
}

//! Tar archives from a stranger, as the source of a disk.

use std::io::Cursor;

use block::archive::{Content, ROOT, Tree};

use super::one_line;
use crate::Target;

/// Bytes of a block, and where a header has its checksum.
const BLOCK: usize = 512;
const SUM: std::ops::Range<usize> = 148..156;

/// An archive's tree. Checksums are put right, or little else would be seen than that they are wrong.
pub const ARCHIVE: Target = Target {
    name: "archive",
    about: "a tar archive as the source of a disk",
    seeds: || vec![member(b'0', "a/b", 3), [member(b'x', "p", 30), member(b'S', "s", 0)].concat(), sparse()],
    words: &[
        "../",
        "ustar\0",
        "ustar  \0",
        "\u{80}\0\0\0",
        "19 GNU.sparse.major=1\n",
        "uid=",
        "777777777777",
    ],
    run: |data| {
        let mut data = data.to_vec();
        for block in data.chunks_exact_mut(BLOCK).filter(|block| block.get(257..262) == Some(b"ustar")) {
            put_sum(block);
        }
        let mut stored = 0;
        let tree = Tree::read(Cursor::new(data), &mut |_, len, pieces, reader| {
            let mut end = 0;
            reader.copy(pieces, &mut |at, bytes| {
                assert!(at >= end && at + bytes.len() as u64 <= len, "bytes outside of the file");
                end = at + bytes.len() as u64;
                stored += bytes.len();
                Ok(())
            })
        });
        let nodes = match &tree {
            Ok(tree) => tree.nodes(),
            Err(error) => return one_line(error),
        };
        for node in nodes {
            let Content::Folder(list) = &node.content else { continue };
            for (name, &child) in list {
                let harmless =
                    !matches!(&name[..], b"" | b"." | b"..") && !name.contains(&b'/') && !name.contains(&0);
                assert!(harmless && child != ROOT && child < nodes.len(), "{name:?}");
            }
        }
    },
};

fn put_sum(block: &mut [u8]) {
    block[SUM].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[SUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn member(kind: u8, path: &str, len: usize) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    block[..path.len()].copy_from_slice(path.as_bytes());
    block[100..124].copy_from_slice(b"0000644\x000000001\x000000002\0");
    block[124..136].copy_from_slice(format!("{len:011o}\0").as_bytes());
    block[136..148].copy_from_slice(b"00000000007\0");
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    put_sum(&mut block);
    let mut data = if kind == b'x' { b"30 SCHILY.xattr.user.name=abc\n".to_vec() } else { vec![b'x'; len] };
    data.resize(len.next_multiple_of(BLOCK), 0);
    [block, data].concat()
}

fn sparse() -> Vec<u8> {
    let records = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n27 GNU.sparse.realsize=99\n";
    let mut head = member(b'x', "p", records.len());
    head[BLOCK..BLOCK + records.len()].copy_from_slice(records);
    let mut body = member(b'0', "s", BLOCK + 2);
    body[BLOCK..2 * BLOCK].fill(0);
    body[BLOCK..BLOCK + 6].copy_from_slice(b"1\n4\n2\n");
    [head, body, vec![0; 2 * BLOCK]].concat()
}

//! Archives by hand, and what is made of them.

use std::io::{Cursor, Read};

use tar::{Builder, EntryType, Header};

use super::*;

fn header(kind: EntryType, path: &str, target: &str, len: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(len);
    header.set_mtime(7);
    header.set_uid(1);
    header.set_gid(2);
    // The library refuses what we want to see refused.
    header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
    header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
    header.set_cksum();
    header
}

fn archive(members: &[(EntryType, &str, &str)]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, path, target) in members {
        let data = if *kind == EntryType::Regular { path.as_bytes() } else { b"" };
        builder.append(&header(*kind, path, target, data.len() as u64), data).unwrap();
    }
    builder.into_inner().unwrap()
}

type Files = Vec<(usize, Vec<u8>)>;

/// The tree, and the bytes of its files by their numbers.
fn read(bytes: &[u8]) -> io::Result<(Tree, Files)> {
    let mut files = Vec::new();
    let tree = Tree::read(Cursor::new(bytes.to_vec()), &mut |node, len, pieces, reader| {
        let mut data = vec![0; len as usize];
        reader.copy(pieces, &mut |at, bytes| {
            data[at as usize..][..bytes.len()].copy_from_slice(bytes);
            Ok(())
        })?;
        files.push((node, data));
        Ok(())
    })?;
    Ok((tree, files))
}

fn child<'a>(tree: &'a Tree, path: &str) -> Option<(usize, &'a Node)> {
    let mut at = ROOT;
    for name in path.split('/') {
        let Content::Folder(list) = &tree.nodes()[at].content else { return None };
        at = *list.get(name.as_bytes())?;
    }
    Some((at, &tree.nodes()[at]))
}

use EntryType::{Directory, Link, Regular, Symlink};

#[test]
fn later_members_replace_earlier_ones() {
    let bytes = archive(&[
        (Directory, "./", ""),
        (Regular, "a/b/c", ""),
        (Directory, "a", ""),
        (Symlink, "l", "a"),
        (Link, "h", "./a/b/c"),
        (Regular, "a/b/c", ""),
        (Regular, "/abs", ""),
    ]);
    let (tree, files) = read(&bytes).unwrap();
    let (now, node) = child(&tree, "a/b/c").unwrap();
    assert_eq!(node.meta, Meta { mode: 0o644, uid: 1, gid: 2, modified: 7, attributes: Vec::new() });
    let (before, _) = child(&tree, "h").unwrap();
    assert!(before < now, "the other name is still the first version's");
    assert!(files.contains(&(now, b"a/b/c".to_vec())) && files.contains(&(before, b"a/b/c".to_vec())));
    assert_eq!(child(&tree, "a").unwrap().1.meta.uid, 1, "told of after it was needed");
    assert_eq!(child(&tree, "a/b").unwrap().1.meta.mode, 0o755, "never told of");
    assert!(child(&tree, "abs").is_some());
}

#[test]
fn nothing_leads_out_of_the_root_or_through_links() {
    for (members, fact) in [
        (&[(Regular, "../x", "")][..], "leads out"),
        (&[(Regular, "a/../../x", "")], "leads out"),
        (&[(Symlink, "a", "/etc"), (Regular, "a/passwd", "")], "no folder"),
        (&[(Link, "a", "../etc/passwd")], "leads out"),
        (&[(Symlink, "a", "/etc"), (Link, "b", "a/passwd")], "not there"),
        (&[(Directory, "a", ""), (Link, "b", "a")], "not there"),
        (&[(Directory, "a", ""), (Regular, "a", "")], "folder before"),
        (&[(EntryType::new(b'Z'), "a", "")], "unknown type"),
    ] {
        let error = read(&archive(members)).unwrap_err().to_string();
        assert!(error.contains(fact) && !error.contains('\n'), "{members:?}: {error}");
    }
}

#[test]
fn every_damage_of_an_archive_is_found_or_harmless() {
    let bytes = archive(&[(Regular, "a/b", ""), (Symlink, "l", "a")]);
    for end in 0..bytes.len() - 1024 {
        assert!(read(&bytes[..end]).is_err(), "{end}");
    }
    for at in 0..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x55;
        let _ = read(&bytes);
    }
}

fn records(list: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    builder.append_pax_extensions(list.iter().copied()).unwrap();
    let data =
        b"1\n4\n2\n".iter().copied().chain(std::iter::repeat(0)).take(512).chain(*b"xy").collect::<Vec<_>>();
    builder.append(&header(Regular, "f", "", data.len() as u64), &data[..]).unwrap();
    builder.into_inner().unwrap()
}

#[test]
fn records_say_what_headers_cannot() {
    let long = "d/".repeat(150) + "file";
    let value = b"\x01\x00\n=\xff";
    let (tree, _) = read(&records(&[
        ("path", long.as_bytes()),
        ("uid", b"3000000"),
        ("gid", b"4000000000"),
        ("mtime", b"1700000000.25"),
        ("SCHILY.xattr.security.capability", value),
        ("SCHILY.xattr.system.x", b"left out"),
    ]))
    .unwrap();
    let meta = &child(&tree, &long).unwrap().1.meta;
    assert_eq!((meta.uid, meta.gid, meta.modified), (3_000_000, 4_000_000_000, 1_700_000_000));
    assert_eq!(meta.attributes, [("security.capability".to_owned(), value.to_vec())]);
    for bad in [("uid", &b"4294967296"[..]), ("size", b"x"), ("GNU.sparse.map", b"0,1"), ("path", b"a/../b")]
    {
        assert!(read(&records(&[bad])).is_err(), "{bad:?}");
    }
}

#[test]
fn sparse_files_have_their_pieces_where_they_belong() {
    let sparse = [("GNU.sparse.major", &b"1"[..]), ("GNU.sparse.minor", b"0"), ("GNU.sparse.name", b"s")];
    let with = |len: &'static [u8]| [&sparse[..], &[("GNU.sparse.realsize", len)]].concat();
    let (_, files) = read(&records(&with(b"8"))).unwrap();
    assert_eq!(files[0].1, b"\0\0\0\0xy\0\0");
    for bad in [&b"5"[..], b"99999999999999999999"] {
        assert!(read(&records(&with(bad))).is_err(), "pieces outside of the file");
    }
}

#[test]
fn packed_archives_are_the_same() {
    let plain = archive(&[(Regular, "a", "")]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    io::Write::write_all(&mut gzip, &plain).unwrap();
    for bytes in [plain.clone(), gzip.finish().unwrap()] {
        let mut seen = Vec::new();
        unpacked(Cursor::new(bytes)).unwrap().read_to_end(&mut seen).unwrap();
        assert_eq!(seen, plain);
    }
}

use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;

use super::*;

/// A stream of these, and its end.
fn stream(entries: &[(&[u8], Node, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (path, node, data) in entries {
        let entry = Entry { path: path.to_vec(), node: node.clone(), mode: 0o6755, modified: UNIX_EPOCH };
        entry.put(&mut bytes);
        bytes.extend_from_slice(data);
        format::pad(&mut bytes, data.len() as u64);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn file(data: &[u8]) -> Node {
    Node::File(data.len() as u64)
}

/// Unpacks into `folder`; what was complained of.
fn into(folder: &Path, bytes: &[u8]) -> io::Result<Vec<String>> {
    let mut complaints = Vec::new();
    let place = Place::below(folder.as_os_str().as_bytes())?;
    unpack(place.folder, None, Rights::Plain, bytes, &mut |text| complaints.push(text))?;
    Ok(complaints)
}

#[test]
fn nothing_leaves_the_destination() {
    let outer = tempfile::tempdir().unwrap();
    let inside = outer.path().join("inside");
    let outside = outer.path().join("outside");
    fs::create_dir(&inside).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("victim"), "mine").unwrap();
    let absolute = outside.as_os_str().as_bytes();
    let victim = [absolute, b"/victim"].concat();
    let bytes = stream(&[
        (b"../outside/a", file(b"x"), b"x"),
        (b"a/../../outside/a", file(b"x"), b"x"),
        // Links that lead out, and what would go over them.
        (b"out", Node::Link(absolute.to_vec()), b""),
        (b"out/a", file(b"x"), b"x"),
        (b"out/b", Node::Folder, b""),
        (b"up", Node::Link(b"..".to_vec()), b""),
        (b"up/outside/victim", file(b"x"), b"x"),
        (b"link", Node::Link(victim.clone()), b""),
        (b"link", file(b"new"), b"new"),
        (b"hard", Node::Hard(victim.clone()), b""),
        (b"hard2", Node::Hard(b"../outside/victim".to_vec()), b""),
        (b"hard3", Node::Hard(b"up/outside/victim".to_vec()), b""),
        (b"out", Node::Folder, b""),
        (b"/absolute", file(b"in"), b"in"),
        (b"fine/./deeper//file", file(b"yes"), b"yes"),
        (b"again", Node::Hard(b"fine/deeper/file".to_vec()), b""),
    ]);
    let complaints = into(&inside, &bytes).unwrap();
    assert_eq!(complaints.len(), 9, "{complaints:#?}");
    assert_eq!(fs::read_to_string(outside.join("victim")).unwrap(), "mine");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(fs::metadata(outside.join("victim")).unwrap().nlink(), 1);
    assert_eq!(fs::read_to_string(inside.join("link")).unwrap(), "new");
    assert!(inside.join("link").symlink_metadata().unwrap().is_file());
    assert_eq!(fs::read_to_string(inside.join("absolute")).unwrap(), "in");
    assert_eq!(fs::read_to_string(inside.join("again")).unwrap(), "yes");
    // Neither does it make programs that run with our rights.
    assert_eq!(fs::metadata(inside.join("link")).unwrap().permissions().mode() & 0o7777, 0o755);
}

#[test]
fn paths_that_no_system_takes_are_complained_of() {
    let folder = tempfile::tempdir().unwrap();
    let deep = b"d/".repeat(300);
    let bytes = stream(&[
        (&[b'n'; 300], file(b"x"), b"x"),
        (&deep, Node::Folder, b""),
        (b"a", Node::Folder, b""),
        (b"a", file(b"x"), b"x"),
        (b"last", file(b"x"), b"x"),
    ]);
    let complaints = into(folder.path(), &bytes).unwrap();
    assert_eq!(complaints.len(), 3, "{complaints:#?}");
    assert!(complaints.iter().all(|text| !text.contains('\n')), "{complaints:#?}");
    assert!(folder.path().join("last").exists());
}

#[test]
fn a_stream_that_ends_early_or_lies_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let whole = stream(&[(b"a", file(&[7; 1000]), &[7; 1000])]);
    for len in [0, 1, 511, 512, 1000, 1536, 1600] {
        let error = into(folder.path(), &whole[..len]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{len}");
    }
    let mut other = whole.clone();
    other[0] = b'b';
    assert!(into(folder.path(), &other).unwrap_err().to_string().contains("checksum"));
    // A size of everything there is, and an addition without end.
    let huge = stream(&[(b"a", Node::File(u64::MAX), b"")]);
    assert_eq!(into(folder.path(), &huge).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    let long = stream(&[(&[b'a'; MAX_PATH + 1], file(b""), b"")]);
    assert!(into(folder.path(), &long).unwrap_err().to_string().contains("too long"));
}

#[test]
fn other_programs_understand_it_and_are_understood() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    let long = "x".repeat(180);
    fs::create_dir_all(tree.join(&long)).unwrap();
    fs::write(tree.join(&long).join("file \n"), vec![3; 700]).unwrap();
    symlink(&long, tree.join("link")).unwrap();
    fs::hard_link(tree.join(&long).join("file \n"), tree.join("same")).unwrap();
    let early = UNIX_EPOCH - Duration::new(7, 250_000_000);
    fs::File::open(tree.join(&long)).unwrap().set_modified(early).unwrap();
    let mut bytes = Vec::new();
    pack(&tree, b"tree", &mut bytes, &mut |text| panic!("{text}")).unwrap();
    let tar = |arguments: &[&str], input: &[u8], at: &Path| {
        use std::io::Write;
        use std::process::{Command, Stdio};
        let mut child = Command::new("tar")
            .args(arguments)
            .current_dir(at)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        output.stdout
    };
    let same = |at: &Path| {
        let inner = at.join("tree").join(&long);
        assert_eq!(fs::read(inner.join("file \n")).unwrap(), vec![3; 700]);
        assert_eq!(fs::read_link(at.join("tree/link")).unwrap(), Path::new(&long));
        assert_eq!(fs::read(at.join("tree/same")).unwrap(), vec![3; 700]);
        inner.metadata().unwrap().modified().unwrap()
    };
    let (theirs, ours) = (folder.path().join("theirs"), folder.path().join("ours"));
    fs::create_dir(&theirs).unwrap();
    tar(&["x"], &bytes, &theirs);
    assert_eq!(same(&theirs), early);
    for format in ["gnu", "pax"] {
        fs::create_dir(&ours).unwrap();
        let packed = tar(&["c", "-H", format, "tree"], &[], folder.path());
        assert_eq!(into(&ours, &packed).unwrap(), Vec::<String>::new(), "{format}");
        same(&ours);
        fs::remove_dir_all(&ours).unwrap();
    }
}

#[test]
fn a_copy_goes_into_what_is_there_or_under_its_new_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = |text: &str| [folder.path().as_os_str().as_bytes(), text.as_bytes()].concat();
    assert_eq!(Place::of(&path("")).unwrap().rename, None);
    assert_eq!(Place::of(&path("/new")).unwrap().rename.unwrap(), b"new");
    assert_eq!(Place::of(&path("/new/")).unwrap().rename.unwrap(), b"new");
    assert!(Place::of(&path("/no/new")).is_err() && Place::of(&path("/no/..")).is_err());
    for (source, name) in [("a/b", "b"), ("a/b/", "b"), ("a/.", "."), (".", "."), ("/", "."), ("..", ".")] {
        assert_eq!(source_name(Path::new(source)), name.as_bytes(), "{source}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read(mut bytes in prop::collection::vec(any::<u8>(), 0..600), fix in any::<bool>()) {
        if fix && bytes.len() >= 512 {
            // With a checksum that is right.
            bytes[148..156].copy_from_slice(b"        ");
            let sum: u32 = bytes[..512].iter().map(|&byte| u32::from(byte)).sum();
            bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        let mut reader = Reader::new(bytes.as_slice());
        while let Ok(Some(_)) = reader.advance() {
            let _ = reader.data(&mut [0; 100]);
        }
    }

    #[test]
    fn entries_are_what_they_were(path in prop::collection::vec(1u8.., 1..300), target in prop::collection::vec(1u8.., 1..300), size in any::<u64>(), seconds in -1i64 << 40..1 << 40, nanoseconds in 0u32..1_000_000_000) {
        let since = Duration::new(seconds.unsigned_abs(), nanoseconds);
        let modified = if seconds < 0 { UNIX_EPOCH - since } else { UNIX_EPOCH + since };
        for node in [Node::File(size), Node::Link(target)] {
            let node = if let (Node::File(_), Some(b'/')) = (&node, path.last()) { Node::Folder } else { node };
            let entry = Entry { path: path.clone(), node, mode: 0o754, modified };
            let mut bytes = Vec::new();
            entry.put(&mut bytes);
            let mut input = bytes.as_slice();
            prop_assert_eq!(Reader::new(input.by_ref()).advance().unwrap(), Some(entry));
            prop_assert!(input.is_empty());
        }
    }
}

//! The tools and qemu-img, on each other's images.

use std::path::Path;
use std::process::Command;

use super::*;
use crate::qcow2::header::OFFSET;
use crate::{Format, ImageOptions};

fn qemu_img(folder: &Path, arguments: &str) -> (i32, String) {
    let output = Command::new("qemu-img").args(arguments.split(' ')).current_dir(folder).output();
    let output = output.unwrap_or_else(|e| panic!("qemu-img: {e}: install qemu-utils"));
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.code().unwrap(), text)
}

fn good(folder: &Path, arguments: &str) -> String {
    let (status, text) = qemu_img(folder, arguments);
    assert_eq!(status, 0, "{arguments}: {text}");
    text
}

fn source(path: &Path) -> ImageOptions {
    ImageOptions { path: path.to_owned(), backing: true, ..ImageOptions::default() }
}

fn ours(path: &Path) -> Check {
    check(path, None, &mut |_, _| true).unwrap()
}

#[test]
fn created_images_are_what_qemu_takes_them_for() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (name, cluster) in [("a.qcow2", 65_536), ("b.qcow2", 512), ("c.qcow2", 2 << 20)] {
        let options =
            CreateOptions { cluster, ..CreateOptions::new(folder.join(name), Format::Qcow2, 3 << 20) };
        assert_eq!(create(&options).unwrap(), 3 << 20);
        good(folder, &format!("check -q {name}"));
        let said: serde_json::Value =
            serde_json::from_str(&good(folder, &format!("info --output=json {name}"))).unwrap();
        let info = serde_json::to_value(info(&options.path, None).unwrap()).unwrap();
        for field in ["virtual-size", "format", "cluster-size", "actual-size", "dirty-flag"] {
            assert_eq!(info[field], said[field], "{name} {field}");
        }
    }
    let base = ("a.qcow2".to_owned(), Format::Qcow2);
    let options = CreateOptions {
        len: None,
        backing: Some(base),
        ..CreateOptions::new(folder.join("d"), Format::Qcow2, 0)
    };
    assert_eq!(create(&options).unwrap(), 3 << 20);
    assert!(good(folder, "info d").contains("backing file: a.qcow2"));
    let about = info(&options.path, None).unwrap();
    assert_eq!(about.backing_filename_format.as_deref(), Some("qcow2"));
    assert_eq!(about.full_backing_filename, Some(folder.join("a.qcow2")));
    let error = create(&options).unwrap_err().to_string();
    assert!(error.contains("already"), "{error}");
    create(&CreateOptions { force: true, ..options.clone() }).unwrap();
    for bad in [
        CreateOptions { format: Format::Raw, ..options.clone() },
        CreateOptions { len: Some(513), ..options.clone() },
        CreateOptions { cluster: 1000, ..options.clone() },
        CreateOptions { backing: None, ..options.clone() },
        CreateOptions { backing: Some(("missing".into(), Format::Raw)), ..options },
    ] {
        let error = create(&CreateOptions { path: folder.join("x"), ..bad }).unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
    }
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 4, "something was left");
}

#[test]
fn converted_images_have_the_same_content() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut content: Vec<u8> = (0..10u32 << 20).map(|i| (i / 700 % 251) as u8).collect();
    content[3 << 20..7 << 20].fill(0);
    std::fs::write(folder.join("a.raw"), &content).unwrap();
    good(folder, "convert -c -f raw -O qcow2 a.raw base.qcow2");
    good(folder, "create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2 12M");
    for (from, format, to) in [
        ("top.qcow2", Format::Raw, "b.raw"),
        ("top.qcow2", Format::Qcow2, "c.qcow2"),
        ("a.raw", Format::Qcow2, "d.qcow2"),
    ] {
        let mut seen = 0;
        let target = CreateOptions::new(folder.join(to), format, 0);
        convert(&source(&folder.join(from)), &target, &mut |done, total| {
            assert!(seen <= done && done <= total);
            seen = done;
            true
        })
        .unwrap();
        assert!(seen > 0);
        let text = good(folder, &format!("compare {from} {to}"));
        assert!(text.contains("identical"), "{text}");
    }
    assert!(info(&folder.join("b.raw"), None).unwrap().actual_size < 8 << 20, "zeroes take room");
    good(folder, "check -q c.qcow2");
    let target = CreateOptions::new(folder.join("e"), Format::Raw, 0);
    let error = convert(&source(&folder.join("a.raw")), &target, &mut |_, _| false).unwrap_err();
    assert!(matches!(error, BlockError::Interrupted { .. }));
    let untrusted = ImageOptions { backing: false, ..source(&folder.join("top.qcow2")) };
    assert!(matches!(convert(&untrusted, &target, &mut |_, _| true), Err(BlockError::Backing { .. })));
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 6, "something was left");
}

#[test]
fn checks_agree_with_qemu() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let content: Vec<u8> = (0..5u32 << 20).map(|i| (i / 512) as u8).collect();
    std::fs::write(folder.join("a.raw"), &content).unwrap();
    good(folder, "convert -f raw -O qcow2 a.raw plain");
    good(folder, "convert -c -f raw -O qcow2 a.raw compressed");
    good(folder, "convert -f raw -O qcow2 -o cluster_size=4k,refcount_bits=1 a.raw small");
    good(folder, "convert -f raw -O qcow2 -o refcount_bits=64,compat=1.1 a.raw wide");
    good(folder, "convert -f raw -O qcow2 -o compat=0.10 a.raw old");
    good(folder, "convert -f raw -O qcow2 a.raw snapshots");
    good(folder, "snapshot -c one snapshots");
    let images = ["plain", "compressed", "small", "wide", "old", "snapshots"];
    let theirs = |name: &str| -> (i32, serde_json::Value) {
        let (status, text) = qemu_img(folder, &format!("check --output=json -f qcow2 {name}"));
        (status, serde_json::from_str(&text).unwrap_or_default())
    };
    for name in images {
        let found = ours(&folder.join(name));
        assert_eq!((found.corruptions, found.leaks), (0, 0), "{name}: {found:?}");
        let (status, said) = theirs(name);
        let found = serde_json::to_value(&found).unwrap();
        assert_eq!(status, 0);
        for field in ["total-clusters", "allocated-clusters", "image-end-offset"] {
            assert_eq!(found[field], said[field], "{name} {field}");
        }
    }
    // The first counts: too high, too low; the first entry of the first L2 table: elsewhere.
    let mut whole = std::fs::read(folder.join("plain")).unwrap();
    let last = whole.len().div_ceil(65_536);
    whole.resize((last + 1) * 65_536, 0);
    let block = 0x20000;
    let l2 = u64::from_be_bytes(whole[0x30000..0x30008].try_into().unwrap()) & OFFSET;
    for (at, value, status) in [
        (block + 2 * 20, &[0u8, 2][..], 2), // and it says it has no other user
        (block + 2 * last, &[0, 1], 3),
        (block + 2 * 6, &[0, 0], 2),
        (l2 as usize, &[0x80, 0, 0, 0, 0x40, 0, 0, 0], 2),
        (l2 as usize, &[0x80, 0, 0, 0, 0, 1, 2, 0], 2),
        (l2 as usize, &[0; 8], 3),
        (0x30000, &[0x80, 0, 0, 0, 0, 3, 0, 0], 2),
    ] {
        let mut image = whole.clone();
        image[at..at + value.len()].copy_from_slice(value);
        std::fs::write(folder.join("broken"), image).unwrap();
        let found = ours(&folder.join("broken"));
        let judged = if found.corruptions > 0 {
            2
        } else if found.leaks > 0 {
            3
        } else {
            0
        };
        assert_eq!((judged, theirs("broken").0), (status, status), "{at:#x} {value:?}: {found:?}");
        assert!(!found.findings.is_empty());
    }
}

#[test]
fn disks_grow_and_shrink() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("a.raw"), vec![7; 2 << 20]).unwrap();
    good(folder, "convert -f raw -O qcow2 a.raw b.qcow2");
    for name in ["a.raw", "b.qcow2"] {
        let path = folder.join(name);
        assert_eq!(resize(&path, None, NewSize::More(1 << 30), false).unwrap(), (1 << 30) + (2 << 20));
        assert_eq!(info(&path, None).unwrap().virtual_size, (1 << 30) + (2 << 20));
        for (size, shrink) in [
            (NewSize::Exactly(512), false),
            (NewSize::Less(u64::MAX), true),
            (NewSize::More(u64::MAX), true),
            (NewSize::Exactly(513), true),
        ] {
            let error = resize(&path, None, size, shrink).unwrap_err().to_string();
            assert!(error.contains(name) && !error.contains('\n'), "{error}");
        }
        assert_eq!(resize(&path, None, NewSize::Exactly(1 << 20), true).unwrap(), 1 << 20);
        // What was cut off does not come back.
        resize(&path, None, NewSize::Exactly(4 << 20), false).unwrap();
        good(folder, &format!("convert -O raw {name} out"));
        let content = std::fs::read(folder.join("out")).unwrap();
        assert!(content[..1 << 20].iter().all(|&b| b == 7) && content[1 << 20..].iter().all(|&b| b == 0));
    }
    good(folder, "check -q b.qcow2");
}

#[test]
fn a_folder_becomes_a_file_system() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    std::fs::create_dir_all(root.join("a/b")).unwrap();
    std::fs::write(root.join("a/b/file"), vec![7; 3 << 20]).unwrap();
    std::os::unix::fs::symlink("a/b/file", root.join("link")).unwrap();
    let disk = folder.path().join("disk");
    let len = create_ext4(&root, &disk, None, false).unwrap();
    assert_eq!(std::fs::metadata(&disk).unwrap().len(), len);
    let tools = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).arg(&disk).env("PATH", &tools).output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    run("e2fsck", &["-fn"]);
    assert_eq!(run("debugfs", &["-R", "cat /a/b/file"]), vec![7; 3 << 20]);
    for (source, len, force) in [
        (root.clone(), None, false),
        (root.clone(), Some(2 << 20), true),
        (root.clone(), Some(513), true),
        (folder.path().join("gone"), None, true),
    ] {
        let error = create_ext4(&source, &disk, len, force).unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
    }
    assert_eq!(std::fs::metadata(&disk).unwrap().len(), len, "a failure left something else");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
}

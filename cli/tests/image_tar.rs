//! `guesthouse image create --from ARCHIVE`: what a tar archive tells of owners, modes and devices is so on the disk, whoever
//! makes it. e2fsprogs are the judge.
#![allow(clippy::unwrap_used)] // how a test fails

use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use tar::{Builder, EntryType, Header};

/// Any user but root.
const SOMEBODY: u32 = 65534;
const GIB: u64 = 1 << 30;

fn header(kind: EntryType, mode: u32, owner: (u64, u64)) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(owner.0);
    header.set_gid(owner.1);
    header.set_mtime(1_600_000_000);
    header.set_size(0);
    header
}

/// A system in small, with what an ordinary user could not make, and names that no shell likes.
fn archive(path: &Path) {
    let mut tar = Builder::new(File::create(path).unwrap());
    let mut add = |mut header: Header, path: &str, data: &[u8]| {
        header.set_size(data.len() as u64);
        tar.append_data(&mut header, path, data).unwrap();
    };
    add(header(EntryType::Directory, 0o1777, (0, 0)), "tmp/", b"");
    add(header(EntryType::Directory, 0o700, (1000, 1001)), "home/a b", b"");
    add(header(EntryType::Regular, 0o4755, (0, 42)), "bin/su", b"set-uid");
    add(header(EntryType::Regular, 0, (100_000, 3_000_000)), "home/a b/new\nline \"<12>\"", b"x");
    let device = |kind, numbers: (u32, u32)| {
        let mut header = header(kind, 0o620, (0, 5));
        header.set_device_major(numbers.0).unwrap();
        header.set_device_minor(numbers.1).unwrap();
        header
    };
    add(device(EntryType::Char, (1, 3)), "dev/null \"<9>\"", b"");
    add(device(EntryType::Block, (259, 300)), "dev/disk", b"");
    add(header(EntryType::Fifo, 0o600, (7, 8)), "dev/fifo", b"");
    let mut link = header(EntryType::Symlink, 0o777, (3, 4));
    tar.append_link(&mut link, "link", "/etc/passwd").unwrap();
    let mut hard = header(EntryType::Link, 0o4755, (0, 42));
    tar.append_link(&mut hard, "bin/also", "bin/su").unwrap();
    tar.append_pax_extensions([(
        "SCHILY.xattr.security.capability",
        &b"\x01\x00\x00\x02\n\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0"[..],
    )])
    .unwrap();
    tar.append_data(&mut header(EntryType::Regular, 0o755, (0, 0)), "bin/ping", &b""[..]).unwrap();
    // A gibibyte of which one piece is there.
    let mut sparse = header(EntryType::GNUSparse, 0o644, (1, 2));
    let piece = [b'y'; 4096];
    let gnu = sparse.as_gnu_mut().unwrap();
    gnu.set_real_size(GIB);
    gnu.sparse[0].set_offset(GIB - 8192);
    gnu.sparse[0].set_length(4096);
    sparse.set_path("sparse").unwrap();
    sparse.set_size(4096);
    sparse.set_cksum();
    tar.append(&sparse, &piece[..]).unwrap();
    tar.finish().unwrap();
}

fn e2fs(program: &str, arguments: &[&str], disk: &Path) -> String {
    let tools = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    let output = Command::new(program).args(arguments).arg(disk).env("PATH", tools).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn an_archive_s_owners_modes_and_devices_are_on_the_disk_whoever_makes_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let [program, tar, home] = ["program", "a.tar", "home"].map(|name| folder.path().join(name));
    std::fs::copy(env!("CARGO_BIN_EXE_guesthouse"), &program).unwrap();
    std::fs::create_dir(&home).unwrap();
    archive(&tar);
    let root = rustix::process::geteuid().is_root();
    for user in if root { &[0, SOMEBODY][..] } else { &[SOMEBODY] } {
        let disk = home.join(format!("disk{user}"));
        let mut command = Command::new(&program);
        if root {
            chown(&home, Some(*user), Some(*user)).unwrap();
            command.uid(*user).gid(*user);
        }
        command.args(["image", "create", "--from"]).args([&tar, &disk]).current_dir("/");
        let output = command.env_remove("XDG_RUNTIME_DIR").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout.is_empty() && output.stderr.is_empty(), "it has nothing to say");
        e2fs("e2fsck", &["-fn"], &disk);
        for (path, facts) in [
            ("/", &["Type: directory    Mode:  0755", "User:     0   Group:     0"][..]),
            ("/tmp", &["Type: directory    Mode:  01777", "mtime: 0x5f5e1000"]),
            ("\"/home/a b\"", &["Mode:  0700", "User:  1000   Group:  1001", "atime: 0x5f5e1000"]),
            ("/bin/su", &["Type: regular    Mode:  04755", "User:     0   Group:    42", "Links: 2"]),
            ("/bin/also", &["Mode:  04755", "Links: 2"]),
            ("/bin/ping", &["security.capability (20)", "Mode:  0755"]),
            (
                "\"/dev/null \"\"<9>\"\"\"",
                &["Type: character special    Mode:  0620", "Group:     5", "01:03"],
            ),
            ("/dev/disk", &["Type: block special", "259:300"]),
            ("/dev/fifo", &["Type: FIFO    Mode:  0600", "User:     7   Group:     8"]),
            ("/link", &["Type: symlink", "\"/etc/passwd\"", "User:     3   Group:     4"]),
            ("/sparse", &["Size: 1073741824", "Blockcount: 8", "User:     1   Group:     2"]),
        ] {
            let said = e2fs("debugfs", &["-R", &format!("stat {path}")], &disk);
            for fact in facts {
                assert!(said.contains(fact), "user {user}, {path}: no {fact:?} in {said}");
            }
        }
        let list = e2fs("debugfs", &["-R", "ls -p \"/home/a b\""], &disk);
        assert!(list.contains("/100000/100000/3000000/") && list.contains("line \"<12>\""), "{list}");
        let allocated = disk.metadata().unwrap().blocks() * 512;
        assert!(allocated < 64 << 20, "{allocated} bytes for what is mostly holes");
    }
    let left = std::fs::read_dir(&home).unwrap().count();
    assert_eq!(left, if root { 2 } else { 1 }, "something was left");
}

#[test]
fn an_archive_that_is_none_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let [tar, disk] = ["a.tar", "disk"].map(|name| folder.path().join(name));
    archive(&tar);
    let whole = std::fs::read(&tar).unwrap();
    for (bytes, size, word) in [
        (&whole[..whole.len() - 8192], "64M", "a.tar"),
        (&b"nothing of this kind"[..], "64M", "a.tar"),
        (&whole[..], "64K", "disk"),
    ] {
        std::fs::write(&tar, bytes).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_guesthouse"));
        command.args(["image", "create", "--from"]).args([&tar, &disk]).arg(size);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{said}");
        assert!(said.contains(word), "{said}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "something was left: {said}");
    }
}

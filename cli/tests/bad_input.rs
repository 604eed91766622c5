//! Wrong usage and wrong files: exit status 2, one line on stderr that names the thing, nothing on stdout.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output, Stdio};

fn guesthouse(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_guesthouse")).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// Runs, checks the form of the refusal, and returns its line.
fn refused(arguments: &[&str]) -> String {
    let output = guesthouse(arguments);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
    assert_eq!(message.lines().count(), 1, "{arguments:?}: {message}");
    assert!(message.starts_with("guesthouse: "), "{arguments:?}: {message}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    message
}

fn file(folder: &Path, name: &str, data: &[u8]) -> String {
    let path = folder.join(name);
    std::fs::write(&path, data).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn wrong_usage() {
    for (arguments, named) in [
        (&["run", "--fast"][..], "--fast"),
        (&["walk"], "walk"),
        (&["run", "--memory", "lots"], "lots"),
        (&["run", "--memory", "99999999999999999999G"], "99999999999999999999G"),
        (&["run", "--cpus", "0"], "0"),
        (&["run", "--cpus", "100000"], "100000"),
        (&["run", "--engine", "warp"], "warp"),
        (&["run", "--boot", "tftp"], "tftp"),
        (&["run", "--net", "bridge"], "bridge"),
        (&["run", "--net", "user,forward=22"], "forward"),
        (&["run", "--guest", "beos"], "beos"),
        (&["run", "--module", "x"], "--kernel"),
        (&["run", "--initrd", "x"], "--kernel"),
        (&["completions", "fishbone"], "fishbone"),
        (&["--log", "=/=", "doctor"], "--log"),
        (&["guests", "--build", "beos"], "beos"),
        (&[], "--help"),
    ] {
        let message = refused(arguments);
        assert!(message.contains(named), "{arguments:?}: {message}");
    }
}

#[test]
fn wrong_kernels() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing").to_str().unwrap().to_owned();
    let empty = file(folder.path(), "empty", b"");
    let text = file(folder.path(), "text", b"hello, I am no kernel, not even a small one\n");
    let mut header = vec![0; 0x400];
    header[0x1f1] = 4;
    header[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    header[0x202..0x206].copy_from_slice(b"HdrS");
    header[0x206..0x208].copy_from_slice(&[0x0f, 0x02]);
    let truncated = file(folder.path(), "truncated", &header);
    // An ELF header for another instruction set (AArch64).
    let mut elf = vec![0; 64];
    elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    elf[16..20].copy_from_slice(&[2, 0, 183, 0]);
    let foreign = file(folder.path(), "foreign", &elf);
    let folder_path = folder.path().to_str().unwrap().to_owned();
    for kernel in [missing, empty, text, truncated, foreign, folder_path] {
        let message = refused(&["run", "--kernel", &kernel]);
        assert!(message.contains(&kernel), "{message}");
        assert!(message.contains(": "), "no remedy: {message}");
    }
}

#[test]
fn impossible_machines() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = file(folder.path(), "k", b"x");
    let message = refused(&["run", "--kernel", &kernel, "--memory", "8192G"]);
    assert!(message.contains("host"), "{message}");
    let message = refused(&["run", "--kernel", &kernel, "--memory", "8192G", "--hugepages"]);
    assert!(message.contains("guest memory takes 4194304") && message.contains("/nr_hugepages"), "{message}");
    let message = refused(&["run", "--kernel", &kernel, "--memory", "3G", "--hugepages=4K"]);
    assert!(message.contains("--hugepages=2M"), "{message}");
    let message = refused(&["run", "--kernel", &kernel, "--cpu-model", "z80"]);
    assert!(message.contains("z80") && message.contains("x86-64-v3"), "{message}");
    refused(&["run", "--memory", "1K", "--", "true"]);
}

#[test]
fn a_cache_that_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let blocked = file(folder.path(), "file", b"");
    let output = Command::new(env!("CARGO_BIN_EXE_guesthouse"))
        .args(["run", "--", "true"])
        .env("XDG_CACHE_HOME", &blocked)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains(&blocked) && message.contains("--kernel FILE"), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
}

#[test]
fn a_host_without_apt() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_guesthouse"))
        .args(["run", "--", "true"])
        .env("XDG_CACHE_HOME", folder.path())
        .env("PATH", "/nonexistent")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("apt") && message.contains("--kernel FILE --initrd FILE"), "{message}");
    // Nothing half-built is left: only the lock.
    let guests: Vec<_> = std::fs::read_dir(folder.path().join("guesthouse/guests")).unwrap().collect();
    assert_eq!(guests.len(), 1, "{guests:?}");
}

//! Hosts that refuse something. A shared mapping that is executable: said before anything is built or booted. A userfaultfd, as
//! containers' profiles do: a live snapshot is refused, and nothing else.
// UNSAFETY: a filter of system calls has no safe wrapper among our dependencies.
#![allow(unsafe_code)]
#![allow(clippy::unwrap_used)] // how a test fails

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Returns EACCES for mmap with PROT_EXEC and MAP_SHARED. Fields of `seccomp_data`: 0 the call's number, 32 and 40 the low
/// halves of its third and fourth argument.
fn no_code() -> Vec<libc::sock_filter> {
    vec![
        load(0),
        test(libc::BPF_JEQ, libc::SYS_mmap as u32, 5),
        load(32),
        test(libc::BPF_JSET, libc::PROT_EXEC as u32, 3),
        load(40),
        test(libc::BPF_JSET, libc::MAP_SHARED as u32, 1),
        give(libc::SECCOMP_RET_ERRNO | libc::EACCES as u32),
        give(libc::SECCOMP_RET_ALLOW),
    ]
}

/// Returns EPERM for userfaultfd.
fn no_faults() -> Vec<libc::sock_filter> {
    vec![
        load(0),
        test(libc::BPF_JEQ, libc::SYS_userfaultfd as u32, 1),
        give(libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        give(libc::SECCOMP_RET_ALLOW),
    ]
}

fn step(code: u32, k: u32, (jt, jf): (u8, u8)) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

fn load(at: u32) -> libc::sock_filter {
    step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at, (0, 0))
}

fn give(what: u32) -> libc::sock_filter {
    step(libc::BPF_RET | libc::BPF_K, what, (0, 0))
}

fn test(how: u32, value: u32, allow: u8) -> libc::sock_filter {
    step(libc::BPF_JMP | how | libc::BPF_K, value, (0, allow))
}

fn guesthouse(mut steps: Vec<libc::sock_filter>, home: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_guesthouse"));
    command.args(arguments).env("XDG_RUNTIME_DIR", home).current_dir(home).stdin(Stdio::null());
    // SAFETY: between fork and exec only system calls are made, on memory that the closure owns.
    unsafe {
        command.pre_exec(move || {
            let program = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
            let set = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0;
            if set { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        });
    }
    command.output().unwrap()
}

#[test]
fn no_engine_is_taken_and_the_reason_is_said() {
    let home = tempfile::tempdir().unwrap();
    for engine in ["auto", "dbt", "interp"] {
        let output = guesthouse(no_code(), home.path(), &["run", "--engine", engine, "--", "true"]);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{engine}: {message}");
        assert_eq!(message.lines().count(), 1, "{engine}: {message}");
        assert!(message.contains("refuses executable memory") && message.contains("allow"), "{message}");
    }
    let output = guesthouse(no_code(), home.path(), &["doctor"]);
    let text = String::from_utf8(output.stdout).unwrap();
    for rung in ["dbt", "interp"] {
        let line = text.lines().find(|line| line.starts_with("engine") && line.contains(rung)).unwrap();
        assert!(line.contains("refuses executable memory"), "{text}");
    }
}

#[test]
fn a_live_snapshot_is_refused_and_another_one_is_not() {
    let home = tempfile::tempdir().unwrap();
    let said = |arguments: &[&str]| {
        let output = guesthouse(no_faults(), home.path(), arguments);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(said(&["run", "-d", "--rm", "--name", "a", "--memory", "96M"]).0, Some(0));
    let (status, message) = said(&["snapshot", "--live", "a", "snap"]);
    let expected = "Operation not permitted (os error 1); it takes Linux 6.7 and userfaultfd): take the snapshot without --live";
    assert!(message.contains(expected) && message.lines().count() == 1, "{message}");
    assert!(status == Some(2) && !home.path().join("snap").exists());
    let plain = said(&["snapshot", "a", "snap"]);
    let gone = said(&["rm", "-f", "a"]);
    assert_eq!([plain, gone].map(|(status, _)| status), [Some(0); 2]);
}

//! Kernels of a few bytes: how a machine ends, and what becomes of the terminal meanwhile.
#![allow(clippy::unwrap_used)]

mod common;

use std::process::{Command, Stdio};

use common::{SLEEP, Terminal, guesthouse, multiboot_kernel, print, run};
use rustix::process::{Signal, kill_process};

fn small(code: &[&[u8]]) -> (tempfile::TempDir, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let kernel = multiboot_kernel(folder.path(), &code.concat());
    let arguments =
        ["run", "--memory", "16M", "--kernel", kernel.to_str().unwrap()].map(str::to_owned).to_vec();
    (folder, arguments)
}

fn strs(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

fn machine(arguments: &[String]) -> Command {
    guesthouse(&strs(arguments))
}

#[test]
fn the_console_goes_to_stdout_and_the_debug_exit_is_the_status() {
    let out_f4 = [0xb0, 42, 0xe6, 0xf4]; // mov al, 42; out 0xf4, al
    let (_folder, arguments) = small(&[&print("hello\n"), &out_f4, &SLEEP]);
    assert_eq!(run(&strs(&arguments)), (42, "hello\n".into(), String::new()));
}

#[test]
fn a_triple_fault_is_reported_and_status_3() {
    // lidt [0x7000] (zeros: limit 0); ud2
    let (_folder, arguments) = small(&[&[0x0f, 0x01, 0x1d, 0x00, 0x70, 0x00, 0x00, 0x0f, 0x0b]]);
    let (status, _, stderr) = run(&strs(&arguments));
    assert_eq!(status, 3, "{stderr}");
    assert!(
        stderr.contains("triple fault") && stderr.contains("rip") && stderr.contains("0f 0b"),
        "{stderr}"
    );
}

#[test]
fn a_reset_ends_the_machine_if_it_is_told_so() {
    let reset = [0xb0, 0xfe, 0xe6, 0x64]; // mov al, 0xfe; out 0x64, al
    let (_folder, mut arguments) = small(&[&print("once "), &reset, &SLEEP]);
    arguments.push("--no-reboot".into());
    assert_eq!(run(&strs(&arguments)), (0, "once ".into(), String::new()));
}

#[test]
fn the_escape_key_ends_the_machine_and_the_terminal_is_given_back() {
    let (_folder, arguments) = small(&[&print("ready"), &SLEEP]);
    let mut terminal = Terminal::start(machine(&arguments));
    terminal.expect("ready");
    assert!(terminal.is_raw());
    terminal.type_keys(b"\x01h");
    terminal.expect("Ctrl-A x ends the machine");
    terminal.type_keys(b"\x01x");
    let (status, screen) = terminal.finish();
    assert_eq!(status.code(), Some(0), "{screen}");
}

#[test]
fn signals_end_the_machine_and_the_terminal_is_given_back() {
    for (signal, status) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129), (Signal::QUIT, 131)]
    {
        let (_folder, arguments) = small(&[&print("ready"), &SLEEP]);
        let mut terminal = Terminal::start(machine(&arguments));
        terminal.expect("ready");
        assert!(terminal.is_raw());
        kill_process(terminal.pid(), signal).unwrap();
        let (ended, screen) = terminal.finish();
        assert_eq!(ended.code(), Some(status), "{screen}");
    }
}

#[test]
fn a_busy_guest_ends_as_well() {
    let spin = [0xeb, 0xfe]; // jmp to itself
    let (_folder, arguments) = small(&[&print("ready"), &spin]);
    let mut terminal = Terminal::start(machine(&arguments));
    terminal.expect("ready");
    terminal.type_keys(b"\x01x");
    assert_eq!(terminal.finish().0.code(), Some(0));
}

#[test]
fn input_reaches_the_guest_with_the_escape_key_taken_out() {
    // Echo: in al, dx (line status); test al, 1; jz back; in al, dx; out dx, al; again.
    let echo = [
        0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xf7, 0x66, 0xba, 0xf8, 0x03, 0xec, 0xee, 0xeb, 0xef,
    ];
    let (_folder, arguments) = small(&[&print("ready"), &echo]);
    let mut terminal = Terminal::start(machine(&arguments));
    terminal.expect("ready");
    terminal.type_keys(b"a\x03\x01\x01b");
    terminal.expect("a\x03\x01b");
    terminal.type_keys(b"\x01x");
    assert_eq!(terminal.finish().0.code(), Some(0));
}

/// What is typed before there is a machine waits for it.
#[test]
fn input_that_is_there_from_the_beginning_is_not_lost() {
    // mov ecx, 6; echo as above; loop; xor al, al; out 0xf4, al
    let echo = [
        0xb9, 6, 0, 0, 0, 0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xf7, 0x66, 0xba, 0xf8, 0x03, 0xec,
        0xee, 0xe2, 0xef, 0x30, 0xc0, 0xe6, 0xf4,
    ];
    let (_folder, arguments) = small(&[&echo, &SLEEP]);
    let output = common::feed(&strs(&arguments), b"hello\n");
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"hello\n"[..]));
}

#[test]
fn a_reader_that_goes_away_ends_the_machine() {
    let mut forever = print("x");
    forever.extend([0xeb, 0xfd]); // jmp to the out instruction
    let (_folder, arguments) = small(&[&forever]);
    let mut child = machine(&arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(141));
}

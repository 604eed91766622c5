//! Memory that guests give back.

#![allow(clippy::unwrap_used)] // how a test fails

mod common;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::time::{Duration, Instant};

use common::guesthouse;

/// A shell in the guest, which answers line by line.
struct Shell {
    child: Child,
    stdin: ChildStdin,
    answers: BufReader<std::process::ChildStdout>,
}

impl Shell {
    fn start(arguments: &[&str]) -> Self {
        let arguments = [&["run"], arguments, &["--", "sh"]].concat();
        let mut child = guesthouse(&arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, stdin, answers: BufReader::new(stdout) }
    }

    /// Runs a command that writes one line.
    fn ask(&mut self, command: &str) -> String {
        writeln!(self.stdin, "{command}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// MiB of the host's memory that the whole process has.
    fn resident(&self) -> i64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<i64>().unwrap() / 1024
    }

    /// Waits until less than so much is resident.
    fn shrinks_to(&self, most: i64, patience: Duration) -> Result<Duration, i64> {
        let start = Instant::now();
        while self.resident() > most {
            if start.elapsed() > patience {
                return Err(self.resident());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(start.elapsed())
    }

    fn end(mut self) {
        drop(self.stdin);
        assert!(self.child.wait().unwrap().success());
    }
}

const SUM: &str = "dd if=/dev/zero bs=1M count=300 2>/dev/null | tr '\\0' x";

/// 300 MiB come and go twice; what is written into pages that were given back is there.
fn what_a_guest_frees_is_the_hosts_again(board: &str) {
    let mut shell = Shell::start(&["--memory", "1G", "--board", board]);
    let expected = shell.ask(&format!("{SUM} | md5sum"));
    for round in 0..2 {
        let sum = shell.ask(&format!("{SUM} >/tmp/file; md5sum </tmp/file"));
        assert_eq!(sum, expected, "round {round}");
        let full = shell.resident();
        assert!(full > 300, "{full} MiB");
        assert_eq!(shell.ask("rm /tmp/file; echo gone"), "gone");
        // Linux reports blocks of 2 MiB: a tenth to a fifth of what was in the file lies in smaller pieces.
        let took = shell.shrinks_to(full - 230, Duration::from_secs(10));
        println!("{board}: {full} MiB, {} MiB after {took:?}", shell.resident());
        assert!(took.is_ok(), "{full} MiB, then {took:?}");
    }
    shell.end();
}

#[test]
fn what_a_guest_frees_is_the_hosts_again_on_a_pc() {
    what_a_guest_frees_is_the_hosts_again("pc");
}

#[test]
fn what_a_guest_frees_is_the_hosts_again_on_a_microvm() {
    what_a_guest_frees_is_the_hosts_again("microvm");
}

#[test]
fn a_balloon_takes_memory_and_bursts_before_programs_do() {
    let mut shell = Shell::start(&["--balloon", "200M"]);
    let free = "awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo";
    let start = Instant::now();
    while shell.ask(free).parse::<i64>().unwrap() > 300 {
        assert!(start.elapsed() < Duration::from_secs(60), "{} MiB available", shell.ask(free));
        std::thread::sleep(Duration::from_millis(200));
    }
    // More than there is beside the balloon.
    let used = shell.ask("mount -o remount,size=400M /tmp; dd if=/dev/zero of=/tmp/file bs=1M count=350 2>/dev/null; wc -c </tmp/file");
    assert_eq!(used, (350 << 20).to_string());
    shell.end();
}

#[test]
fn a_balloon_of_all_memory_is_refused() {
    let output = guesthouse(&["run", "--memory", "128M", "--balloon", "128M"]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("a balloon of 128M leaves nothing"), "{stderr}");
}

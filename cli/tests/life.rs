//! Machines in the background: found, looked at, told what to do, and what is left of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{SLEEP, Terminal, multiboot_kernel, print};
use rustix::process::{Pid, Signal, kill_process};

/// A user with machines of his own.
struct User(tempfile::TempDir);

impl User {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = common::guesthouse(arguments);
        command.env("XDG_RUNTIME_DIR", self.0.path()).stdin(Stdio::null());
        command
    }

    fn call(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = self.command(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    /// What a command prints that has nothing to complain of.
    fn ok(&self, arguments: &[&str]) -> String {
        let (status, out, error) = self.call(arguments);
        assert_eq!((status, error.as_str()), (0, ""), "{arguments:?}");
        out
    }

    /// What a command complains of, in a line.
    fn refused(&self, arguments: &[&str]) -> String {
        let (status, out, error) = self.call(arguments);
        assert_eq!((status, out.as_str(), error.lines().count()), (2, "", 1), "{arguments:?}: {error}");
        error
    }

    /// Starts a small kernel in the background; the id.
    fn start(&self, code: &[&[u8]], options: &[&str]) -> String {
        let kernel = multiboot_kernel(self.0.path(), &code.concat());
        let arguments = ["run", "-d", "--memory", "16M", "--kernel", kernel.to_str().unwrap()];
        let id = self.ok(&[&arguments, options].concat());
        assert_eq!(id.len(), 13, "{id:?}");
        id.trim().to_owned()
    }

    fn vms(&self) -> PathBuf {
        self.0.path().join("guesthouse/vms")
    }

    fn folders(&self) -> usize {
        fs::read_dir(self.vms()).unwrap().count()
    }

    /// Waits until the list has a line with this.
    fn await_line(&self, text: &str) -> String {
        let start = Instant::now();
        loop {
            let list = self.ok(&["ps", "-a"]);
            if let Some(line) = list.lines().find(|line| line.contains(text)) {
                return line.to_owned();
            }
            assert!(start.elapsed() < Duration::from_secs(60), "no {text:?} in {list}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The control socket of a machine.
    fn connect(&self, id: &str) -> UnixStream {
        let stream = UnixStream::connect(self.vms().join(id).join("api.sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }
}

impl Drop for User {
    fn drop(&mut self) {
        for id in self.ok(&["ps", "-q"]).lines() {
            self.ok(&["rm", "-f", id]);
        }
    }
}

/// `mov al, VALUE; out 0xf4, al`.
fn exit_with(value: u8) -> [u8; 4] {
    [0xb0, value, 0xe6, 0xf4]
}

#[test]
fn a_running_machine_changes_its_engine() {
    let user = User::new();
    // Counts at 0x9000, and never halts.
    let count: [u8; 8] = [0xff, 0x05, 0x00, 0x90, 0x00, 0x00, 0xeb, 0xf8];
    user.start(&[&count], &["--name", "web", "--engine", "interp", "--cpus", "2"]);
    user.await_line(" interp ");
    for engine in ["dbt", "dbt", "interp", "auto"] {
        user.ok(&["engine", "web", engine]);
        let known: serde_json::Value = serde_json::from_str(&user.ok(&["inspect", "web"])).unwrap();
        assert!(engine == "auto" || known["engine"] == engine, "{known}");
    }
    user.ok(&["pause", "web"]);
    user.ok(&["engine", "web", "interp"]);
    assert!(user.await_line(" interp ").contains("paused"));
    user.ok(&["resume", "web"]);
    assert!(user.refused(&["engine", "nobody", "dbt"]).contains("nobody"));
    assert!(user.call(&["engine", "web", "qemu"]).2.contains("[possible values: auto, "));
    user.ok(&["kill", "web"]);
    user.refused(&["engine", "web", "dbt"]);
}

#[test]
fn a_machine_in_the_background_is_found_and_ended() {
    let user = User::new();
    assert_eq!(user.ok(&["ps"]).lines().count(), 1);
    let id = user.start(&[&print("hello\n"), &SLEEP], &["--name", "web"]);
    let line = user.await_line("running");
    assert!(line.starts_with(&id) && line.contains(" web ") && line.contains("16M"), "{line}");
    assert_eq!(user.ok(&["ps", "-q"]), format!("{id}\n"));
    for name in ["web", &id, &id[..6]] {
        let known: serde_json::Value = serde_json::from_str(&user.ok(&["inspect", name])).unwrap();
        assert_eq!((&known["name"], &known["state"]), (&"web".into(), &"running".into()), "{known}");
    }
    let start = Instant::now();
    while user.ok(&["logs", "web"]) != "hello\n" {
        assert!(start.elapsed() < Duration::from_secs(60));
    }
    assert_eq!(user.ok(&["logs", "--json", "web"]), "\"hello\"\n");
    assert!(user.refused(&["rm", "web"]).contains("stop it first"));
    assert!(user.refused(&["run", "-d", "--name", "web"]).contains(&id));

    assert_eq!(user.ok(&["pause", "web"]), "");
    user.await_line("paused");
    user.ok(&["pause", "web"]);
    user.ok(&["resume", "web"]);
    user.await_line("running");
    let usage: serde_json::Value =
        serde_json::from_str(&user.ok(&["stats", "--no-stream", "--json", "web"])).unwrap();
    assert_eq!(usage["memory"], 16 << 20);

    user.ok(&["kill", "web"]);
    assert!(user.await_line(&id).contains("exited (137)"));
    assert!(user.refused(&["kill", "web"]).contains("not running"));
    assert_eq!(user.ok(&["logs", "-f", "web"]), "hello\n");
    user.ok(&["rm", "web"]);
    assert_eq!((user.ok(&["ps", "-aq"]).as_str(), user.folders()), ("", 0));
    assert!(user.refused(&["rm", "web"]).contains("\"web\""));
}

#[test]
fn the_definition_of_a_machine_makes_another_one() {
    let user = User::new();
    user.start(&[&print("hi"), &exit_with(9), &SLEEP], &["--name", "one", "--cpus", "2"]);
    let text = user.ok(&["inspect", "--toml", "one"]);
    let file = user.0.path().join("two.toml");
    fs::write(&file, &text).unwrap();
    let file = file.to_str().unwrap();
    assert_eq!(user.call(&["run", file]), (9, "hi".into(), String::new()));
    // What the command line says comes on top.
    user.ok(&["run", "-d", "--name", "two", "--memory", "32M", file]);
    let known: serde_json::Value = serde_json::from_str(&user.ok(&["inspect", "two"])).unwrap();
    assert_eq!((&known["spec"]["memory"], &known["spec"]["cpus"]), (&"32M".into(), &2.into()));
    // Paths are relative to the file.
    fs::write(file, "kernel = \"kernel\"\nmemory = \"16M\"\n").unwrap();
    assert_eq!(user.call(&["run", file]).0, 9);
    for (wrong, said) in [
        ("cpus = 0\nkernel = \"kernel\"", "0 cpus"),
        ("\nkernal = 1", "line 2"),
        ("x", "line 1"),
        ("memory = 3", "line 1"),
    ] {
        fs::write(file, wrong).unwrap();
        assert!(user.refused(&["run", file]).contains(said), "{wrong}");
    }
    assert!(user.refused(&["run", "nowhere.toml"]).contains("nowhere.toml"));
}

#[test]
fn a_definition_may_name_a_guest_and_its_command() {
    let user = User::new();
    let file = user.0.path().join("m.toml");
    fs::write(&file, "memory = \"128M\"\ncommand = [\"sh\", \"-c\", \"echo a b; exit 5\"]\n").unwrap();
    assert_eq!(user.call(&["run", file.to_str().unwrap()]), (5, "a b\n".into(), String::new()));
}

#[test]
fn how_it_ended_is_kept_unless_it_is_to_be_forgotten() {
    let user = User::new();
    user.start(&[&print("bye\n"), &exit_with(42), &SLEEP], &["--name", "kept"]);
    assert!(user.await_line("kept").contains("(42)") || user.await_line("exited").contains("(42)"));
    assert_eq!(user.ok(&["logs", "kept"]), "bye\n");
    user.start(&[&exit_with(0), &SLEEP], &["--rm"]);
    let start = Instant::now();
    while user.folders() != 1 {
        assert!(start.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(5));
    }
    user.ok(&["rm", "kept"]);
}

#[test]
fn a_machine_that_cannot_be_is_the_callers_to_know() {
    let user = User::new();
    assert!(user.refused(&["run", "-d", "--kernel", "/nowhere/kernel"]).contains("/nowhere/kernel"));
    let garbage = user.0.path().join("garbage");
    fs::write(&garbage, [7; 4096]).unwrap();
    assert!(
        user.refused(&["run", "-d", "--name", "x", "--kernel", garbage.to_str().unwrap()])
            .contains("garbage")
    );
    assert_eq!(user.folders(), 0);
    for name in ["", "-x", "a/b", "..", "a b", "a\nb", "\u{e9}", "\x1b[31m"] {
        let error =
            user.refused(&["run", "-d", &format!("--name={name}"), "--kernel", garbage.to_str().unwrap()]);
        assert!(!error.contains('\x1b'), "{error:?}");
        assert_eq!(user.folders(), 0, "{name:?}");
    }
}

#[test]
fn a_failure_is_tried_again_as_often_as_it_may() {
    let user = User::new();
    user.start(&[&print("x"), &exit_with(3), &SLEEP], &["--name", "bad", "--restart", "on-failure:2"]);
    assert!(user.await_line("exited").contains("(3)"));
    let known: serde_json::Value = serde_json::from_str(&user.ok(&["inspect", "bad"])).unwrap();
    assert_eq!((known["restarts"].as_u64(), user.ok(&["logs", "bad"]).as_str()), (Some(2), "xxx"));
    // Also in the pause between two starts it can be ended.
    let id = user.start(&[&exit_with(3), &SLEEP], &["--restart", "on-failure"]);
    user.await_line("starting");
    user.ok(&["stop", &id]);
    assert!(user.await_line(&id).contains("exited"));
}

#[test]
fn a_machine_that_was_killed_from_outside_is_recognised() {
    let user = User::new();
    let id = user.start(&[&SLEEP], &["--name", "victim"]);
    let forgotten = user.start(&[&SLEEP], &["--rm"]);
    let mut attached = user.connect(&id);
    attached.write_all(b"GET /v1/events HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    for id in [&id, &forgotten] {
        let known: serde_json::Value = serde_json::from_str(&user.ok(&["inspect", id])).unwrap();
        let pid = Pid::from_raw(known["pid"].as_i64().unwrap() as i32).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
    }
    let mut seen = Vec::new();
    let _ = attached.read_to_end(&mut seen); // it ends, in whatever way
    assert!(user.await_line("victim").contains("dead"));
    let start = Instant::now();
    while user.folders() != 1 {
        assert!(start.elapsed() < Duration::from_secs(60));
        user.ok(&["ps"]);
    }
    assert!(user.refused(&["console", "victim"]).contains("not running"));
    user.ok(&["rm", "victim"]);
}

#[test]
fn one_in_the_foreground_is_there_too_and_leaves_nothing() {
    let user = User::new();
    let kernel = multiboot_kernel(user.0.path(), &SLEEP);
    let mut command = user.command(&["run", "--name", "front", "--memory", "16M", "--kernel"]);
    let mut child = command.arg(&kernel).stdout(Stdio::null()).spawn().unwrap();
    user.await_line("running");
    assert_eq!(user.ok(&["stop", "--timeout", "0", "front"]), "");
    assert_eq!(child.wait().unwrap().code(), Some(137));
    assert_eq!(user.folders(), 0);
}

#[test]
fn clients_that_misbehave_are_answered_and_harm_nobody() {
    let user = User::new();
    let id = user.start(&[&SLEEP], &["--name", "web"]);
    let answer = |request: &[u8]| {
        let mut stream = user.connect(&id);
        let _ = stream.write_all(request); // it may have heard enough
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    assert!(answer(b"\0\xff\x07 nonsense\r\n\r\n").starts_with("HTTP/1.1 400"));
    assert!(answer(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").contains("{\"error\":\"there is no /"));
    assert!(answer(b"POST /v1/machine HTTP/1.1\r\nhost: x\r\n\r\n").starts_with("HTTP/1.1 405"));
    assert!(answer(b"GET /v1/console HTTP/1.1\r\nhost: x\r\n\r\n").starts_with("HTTP/1.1 426"));
    assert!(answer(b"POST /v1/stop?timeout=-1 HTTP/1.1\r\nhost: x\r\n\r\n").starts_with("HTTP/1.1 400"));
    let long = [b"GET /v1/machine HTTP/1.1\r\nx: ".as_slice(), &[b'a'; 100_000], b"\r\n\r\n"].concat();
    assert!(answer(&long).starts_with("HTTP/1.1 431"));
    // Clients that connect and say nothing, more than there are places.
    let idle: Vec<_> = (0..200).map(|_| user.connect(&id)).collect();
    let mut refused = String::new();
    user.connect(&id).read_to_string(&mut refused).unwrap();
    let (head, body) = refused.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(" 503 ") && head.contains(&format!("content-length: {}", body.len())), "{refused}");
    // They lose their places in time, or leave.
    drop(idle);
    let start = Instant::now();
    while user.call(&["pause", "web"]).0 != 0 {
        assert!(start.elapsed() < Duration::from_secs(60));
    }
    user.ok(&["rm", "-f", "web"]);
}

#[test]
fn several_clients_use_the_console_of_a_shell() {
    let user = User::new();
    let id = user.ok(&["run", "-d", "--memory", "128M"]);
    let id = id.trim();
    let attach = || {
        Terminal::start({
            let mut command = user.command(&["console", id]);
            command.env("TERM", "vt100");
            command
        })
    };
    let mut first = attach();
    first.expect("# ");
    assert!(first.is_raw());
    first.type_keys(b"echo a$((1+1))b\r");
    first.expect("a2b");
    let mut second = attach();
    second.expect("a2b"); // the history
    second.type_keys(b"echo c$((3+4))d\r");
    second.expect("c7d");
    first.expect("c7d");
    first.type_keys(b"\x01d");
    assert_eq!(first.finish().0.code(), Some(0));
    let events = user.command(&["events", "--json", id]).stdout(Stdio::piped()).spawn().unwrap();
    second.type_keys(b"exit\r");
    assert_eq!(second.finish().0.code(), Some(0));
    let events = String::from_utf8(events.wait_with_output().unwrap().stdout).unwrap();
    assert!(events.lines().last().unwrap().contains("\"state\":\"exited\""), "{events}");
    assert!(user.await_line(id).contains("exited (0)"));
    assert!(user.ok(&["logs", id]).contains("c7d"));
}

#[test]
fn a_command_in_the_background_has_its_output_in_the_log() {
    let user = User::new();
    let id = user.ok(&["run", "-d", "--memory", "128M", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    let log = user.ok(&["logs", "-f", id.trim()]);
    assert!(log.contains("out\n") && log.contains("err\n"), "{log}");
    assert!(user.await_line(id.trim()).contains("exited (7)"));
}

//! `guesthouse exec`, `cp` and `stop`, as a user has them.
#![allow(clippy::unwrap_used)] // how a test fails

mod common;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{Terminal, bytes, guesthouse};

/// Machines of a test, which end with it.
struct World(tempfile::TempDir);

impl World {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = guesthouse(arguments);
        command.env("XDG_RUNTIME_DIR", self.0.path()).current_dir(self.0.path());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// What it prints, if its status is this.
    fn expect(&self, status: i32, arguments: &[&str]) -> (String, String) {
        let output = self.run(arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {stdout}{stderr}");
        (stdout, stderr)
    }

    fn feed(&self, arguments: &[&str], data: Vec<u8>) -> Output {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let writer = std::thread::spawn(move || stdin.write_all(&data));
        let output = child.wait_with_output().unwrap();
        let _ = writer.join().unwrap();
        output
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for name in ["web", "bare"] {
            let _ = self.run(&["rm", "-f", name]);
        }
    }
}

#[test]
fn programs_run_in_a_machine_in_the_background() {
    let world = World::new();
    world.expect(0, &["run", "-d", "--name", "web"]);
    let exec =
        |status, words: &[&str]| world.expect(status, &[&["exec", "--wait", "60", "web"], words].concat());
    assert_eq!(exec(7, &["sh", "-c", "echo out; echo err >&2; exit 7"]), ("out\n".into(), "err\n".into()));
    assert_eq!(exec(0, &["--", "echo", "--", "-x"]).0, "-- -x\n");
    assert_eq!(exec(143, &["sh", "-c", "kill $$"]).0, "");
    let (_, stderr) = exec(127, &["none"]);
    assert_eq!(stderr, "guesthouse: web: none: not found in the guest\n");
    let options =
        ["exec", "-u", "7:8", "-w", "/tmp", "-e", "A=b c", "web", "sh", "-c", "id -u; id -g; pwd; echo $A"];
    assert_eq!(world.expect(0, &options).0, "7\n8\n/tmp\nb c\n");
    let data = bytes(3_000_000);
    let output = world.feed(&["exec", "-i", "web", "cat"], data.clone());
    assert!(output.status.success() && output.stdout == data, "{} bytes", output.stdout.len());
    // A program that does not want it all, and one whose reader goes away.
    let output = world.feed(&["exec", "-i", "web", "head", "-c", "3"], data);
    assert!(output.status.success() && output.stdout.len() == 3, "{output:?}");
    let mut child = world.command(&["exec", "web", "yes"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(141));
    // The user's signals are the program's; if the user's command is killed, it is told so.
    for (signal, trap) in [("TERM", "TERM"), ("KILL", "HUP")] {
        let script = format!(
            "trap 'echo {trap} >>/tmp/signals; exit 9' {trap}; echo on; while :; do sleep 0.05; done"
        );
        let mut child =
            world.command(&["exec", "web", "sh", "-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut on = [0; 3];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut on).unwrap();
        assert!(
            Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap().success()
        );
        let status = child.wait().unwrap();
        assert!(signal == "KILL" || status.code() == Some(9), "{signal}: {status}");
    }
    exec(0, &["sh", "-c", "until [ \"$(tr '\\n' ' ' </tmp/signals)\" = 'TERM HUP ' ]; do sleep 0.05; done"]);
    // The agent's way to shut down.
    let start = Instant::now();
    world.expect(0, &["stop", "--timeout", "60", "web"]);
    assert!(start.elapsed() < Duration::from_secs(50), "{:?}", start.elapsed());
    let (_, stderr) = world.expect(2, &["exec", "web", "true"]);
    assert!(stderr.contains("web") && stderr.lines().count() == 1, "{stderr}");
}

#[test]
fn a_guest_is_told_its_name_and_after_a_pause_the_time() {
    let world = World::new();
    world.expect(0, &["run", "-d", "--name", "web"]);
    let script = "until [ $(hostname) = web ]; do sleep 0.1; done; date +%s";
    world.expect(0, &["exec", "--wait", "60", "web", "sh", "-c", script]);
    world.expect(0, &["pause", "web"]);
    std::thread::sleep(Duration::from_secs(4));
    world.expect(0, &["resume", "web"]);
    let guest: u64 = world.expect(0, &["exec", "web", "date", "+%s"]).0.trim().parse().unwrap();
    let host = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(host.abs_diff(guest) <= 1, "the guest is {} s behind", host.saturating_sub(guest));
}

/// What the API of the only machine answers: the head and the body.
fn ask(world: &World, head: &str, body: &[u8]) -> (String, Vec<u8>) {
    let vms = world.path("guesthouse/vms");
    let folder = fs::read_dir(vms).unwrap().next().unwrap().unwrap().path();
    let mut stream = std::os::unix::net::UnixStream::connect(folder.join("api.sock")).unwrap();
    // Without chunks.
    stream
        .write_all(format!("{head} HTTP/1.0\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes())
        .unwrap();
    let mut writer = stream.try_clone().unwrap();
    let body = body.to_vec();
    let sender = std::thread::spawn(move || writer.write_all(&body));
    let mut answer = Vec::new();
    std::io::Read::read_to_end(&mut stream, &mut answer).unwrap();
    let _ = sender.join().unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let rest = answer.split_off(end);
    (String::from_utf8(answer).unwrap(), rest)
}

#[test]
fn trees_go_through_the_api_as_tar_streams() {
    let world = World::new();
    world.expect(0, &["run", "-d", "--name", "web"]);
    world.expect(0, &["exec", "--wait", "60", "web", "mkdir", "-p", "/tmp/there"]);
    let data = bytes(3_000_000);
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(data.len() as u64);
    header.set_mode(0o640);
    tar.append_data(&mut header, "tree/file", &data[..]).unwrap();
    let tar = tar.into_inner().unwrap();
    let (head, rest) = ask(&world, "PUT /v1/files?path=/tmp/there", &tar);
    assert!(head.starts_with("HTTP/1.0 204"), "{head}{}", String::from_utf8_lossy(&rest));
    let (head, back) = ask(&world, "GET /v1/files?path=%2Ftmp%2Fthere/tree", b"");
    assert!(head.starts_with("HTTP/1.0 200") && head.contains("application/x-tar"), "{head}");
    let mut back = tar::Archive::new(&back[..]);
    let files = back.entries().unwrap().map(Result::unwrap).map(|mut entry| {
        let mut data = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut data).unwrap();
        (entry.path().unwrap().into_owned(), entry.header().mode().unwrap(), data)
    });
    let files: Vec<_> = files.collect();
    assert!(
        files
            .iter()
            .any(|(path, mode, bytes)| path.ends_with("tree/file") && *mode == 0o640 && *bytes == data)
    );
    for (request, body, status, fact) in [
        ("GET /v1/files?path=/nowhere", &b""[..], "404", "nowhere"),
        ("PUT /v1/files?path=/nowhere", &tar, "400", "nowhere"),
        ("PUT /v1/files?path=/tmp", &[b'x'; 2048], "400", "no tar stream"),
        ("PUT /v1/files?path=/tmp", &tar[..tar.len() / 2], "400", "/tmp"),
        ("GET /v1/files", b"", "400", "path"),
        ("GET /v1/files?path=", b"", "400", "path"),
    ] {
        let (head, rest) = ask(&world, request, body);
        let said = String::from_utf8_lossy(&rest).into_owned();
        assert!(
            head.starts_with(&format!("HTTP/1.0 {status}")) && said.contains(fact),
            "{request}: {head}{said}"
        );
    }
    // Nothing is left of sessions.
    assert_eq!(world.expect(0, &["exec", "web", "sh", "-c", "ps | grep [u]npack || echo none"]).0, "none\n");
}

#[test]
fn a_terminal_is_passed_on() {
    let world = World::new();
    world.expect(0, &["run", "-d", "--name", "web"]);
    world.expect(0, &["exec", "--wait", "60", "web", "true"]);
    let mut terminal = Terminal::start_sized(world.command(&["exec", "-it", "web", "sh"]), 33, 111);
    terminal.expect("# ");
    terminal.type_keys(b"tty\r");
    terminal.expect("/dev/pts/0\r\n");
    terminal.is_the_guests();
    terminal.type_keys(b"exit 5\r");
    let (status, screen) = terminal.finish();
    assert_eq!(status.code(), Some(5), "{screen}");
}

#[test]
fn trees_are_copied_both_ways() {
    let world = World::new();
    world.expect(0, &["run", "-d", "--name", "web"]);
    let site = world.path("site");
    fs::create_dir_all(site.join("sub dir")).unwrap();
    fs::write(site.join("sub dir/file"), bytes(100_000)).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", site.join("link")).unwrap();
    world.expect(0, &["cp", "--wait", "60", "site/", "web:/tmp"]);
    world.expect(0, &["cp", "site/.", "web:/tmp/other"]);
    assert_eq!(
        world.expect(0, &["exec", "web", "ls", "/tmp/site", "/tmp/other"]).0,
        "/tmp/other:\nlink\nsub dir\n\n/tmp/site:\nlink\nsub dir\n"
    );
    world.expect(0, &["cp", "web:/tmp/site", "back"]);
    assert!(fs::read(world.path("back/sub dir/file")).unwrap() == bytes(100_000));
    assert_eq!(fs::read_link(world.path("back/link")).unwrap(), Path::new("/etc/passwd"));
    // Streams of another program's.
    let tar = world.expect(0, &["exec", "web", "true"]);
    assert_eq!(tar.0, "");
    let output = world.run(&["cp", "web:/tmp/site", "-"]);
    let output = world.feed(&["cp", "-", "web:/mnt"], output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        world.expect(0, &["exec", "web", "wc", "-c", "/mnt/site/sub dir/file"]).0,
        "100000 /mnt/site/sub dir/file\n"
    );
    for (words, fact) in [
        (["cp", "web:/nowhere", "x"], "/nowhere"),
        (["cp", "nowhere", "web:/tmp"], "nowhere cannot be read"),
        (["cp", "site", "web:/no/where"], "/no/where"),
        (["cp", "web:/tmp/site", "no/where"], "no/where cannot be written"),
        (["cp", "site", "other"], "neither site nor other is in a guest"),
        (["cp", "web:/tmp", "web:/mnt"], "both are in guests"),
    ] {
        let output = world.run(&words);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && stderr.contains(fact) && stderr.lines().count() == 1, "{stderr}");
    }
    assert!(!world.path("x").exists());
    let output = world.feed(&["cp", "-", "web:/mnt"], b"no tar".repeat(1000));
    assert!(
        output.status.code() == Some(1) && String::from_utf8_lossy(&output.stderr).contains("no tar stream")
    );
}

#[test]
fn without_an_agent_there_is_one_clear_line() {
    let world = World::new();
    let kernel = common::multiboot_kernel(world.0.path(), &common::SLEEP);
    world
        .expect(0, &["run", "-d", "--name", "bare", "--memory", "16M", "--kernel", kernel.to_str().unwrap()]);
    for words in [&["exec", "--wait", "1", "bare", "true"][..], &["cp", "--wait", "1", "bare:/etc", "x"]] {
        let (stdout, stderr) = world.expect(125, words);
        assert_eq!(stdout, "");
        assert!(
            stderr.starts_with("guesthouse: bare: no agent answers: ") && stderr.lines().count() == 1,
            "{stderr}"
        );
    }
    // The program that is missing can be had.
    world.expect(0, &["agent", "program"]);
    let version = Command::new(world.path("program")).arg("--version").output().unwrap();
    assert!(String::from_utf8_lossy(&version.stdout).starts_with("guesthouse-agent "), "{version:?}");
}

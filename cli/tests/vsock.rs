//! Sockets between a real guest and programs on the host.
#![allow(clippy::unwrap_used)] // how a test fails

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{bytes, guesthouse};
use tempfile::TempDir;

/// The program of `guest/sockets.rs`.
fn program(folder: &Path) -> Vec<u8> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest/sockets.rs");
    let file = folder.join("sockets");
    let options = ["--edition=2024", "-O", "-C", "target-feature=+crt-static", "-C", "strip=symbols"];
    let status = Command::new(rustc).args(options).arg(source).arg("-o").arg(&file).status().unwrap();
    assert!(status.success());
    std::fs::read(file).unwrap()
}

/// A guest that runs this with the program as /tmp/sockets.
struct Guest {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
}

impl Guest {
    fn start(folder: &Path, arguments: &[&str], script: &str) -> Self {
        let program = program(folder);
        let vsock = folder.join("v.sock");
        let script = format!("head -c {} >/tmp/sockets; chmod +x /tmp/sockets; {script}", program.len());
        let arguments =
            [&["run", "--vsock", vsock.to_str().unwrap()], arguments, &["--", "sh", "-c", &script]].concat();
        let mut child = guesthouse(&arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&program).unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Self { child, said }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

/// A client's way to a port of the guest's, if somebody is there.
fn connect(folder: &Path, port: u32) -> Option<UnixStream> {
    let mut stream = UnixStream::connect(folder.join("v.sock")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    writeln!(stream, "CONNECT {port}").unwrap();
    let mut line = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte).is_ok_and(|count| count == 1) {
        line.push(byte[0]);
        if byte == *b"\n" {
            let host_port = String::from_utf8(line).unwrap();
            assert!(
                host_port.starts_with("OK ") && host_port[3..].trim().parse::<u32>().is_ok(),
                "{host_port}"
            );
            return Some(stream);
        }
    }
    None
}

/// Sends bytes while it reads them back.
fn there_and_back(mut stream: UnixStream, data: Vec<u8>) {
    let mut sender = stream.try_clone().unwrap();
    let sent = data.clone();
    let writer = std::thread::spawn(move || {
        sender.write_all(&sent).unwrap();
        sender.shutdown(Shutdown::Write).unwrap();
    });
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    writer.join().unwrap();
    assert!(back == data, "{} of {} bytes", back.len(), data.len());
}

fn programs_on_the_host_call_the_guest(board: &str) {
    let folder = TempDir::new().unwrap();
    let mut guest = Guest::start(folder.path(), &["--cpus", "2", "--board", board], "/tmp/sockets echo 5");
    assert_eq!(guest.line(), "ready");
    assert!(connect(folder.path(), 6).is_none(), "nobody listens there");
    let start = Instant::now();
    there_and_back(connect(folder.path(), 5).unwrap(), bytes(16 << 20));
    println!("{board}: 16 MiB there and back in {:?}", start.elapsed());
    std::thread::scope(|scope| {
        for i in 0..40 {
            let folder = folder.path();
            scope.spawn(move || there_and_back(connect(folder, 5).unwrap(), bytes(10_000 * i)));
        }
    });
    // One that leaves in the middle disturbs nobody.
    let mut rude = connect(folder.path(), 5).unwrap();
    rude.write_all(&bytes(100_000)).unwrap();
    drop(rude);
    there_and_back(connect(folder.path(), 5).unwrap(), bytes(5));
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&guest.child),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    guest.child.wait().unwrap();
    assert!(!folder.path().join("v.sock").exists(), "the socket goes with the machine");
}

#[test]
fn programs_on_the_host_call_the_guest_of_a_pc() {
    programs_on_the_host_call_the_guest("pc");
}

#[test]
fn programs_on_the_host_call_the_guest_of_a_microvm() {
    programs_on_the_host_call_the_guest("microvm");
}

#[test]
fn the_guest_calls_programs_on_the_host() {
    let folder = TempDir::new().unwrap();
    let listener = UnixListener::bind(folder.path().join("v.sock_7")).unwrap();
    let echo = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::copy(&mut stream.try_clone().unwrap(), &mut stream).unwrap();
    });
    let script =
        "/tmp/sockets call 7 8; /tmp/sockets call 8 1; cat /sys/class/misc/vsock/dev >/dev/null && echo end";
    let mut guest = Guest::start(folder.path(), &[], script);
    assert_eq!(guest.line(), "8388608 of 8388608 bytes, as they were sent");
    assert_eq!(guest.line(), "connect: Connection reset by peer (os error 104)");
    assert_eq!(guest.line(), "end");
    assert!(guest.child.wait().unwrap().success());
    echo.join().unwrap();
}

#[test]
fn what_no_guest_can_have_is_refused() {
    for (vsock, named) in
        [("2=v.sock", "3 to 4294967294"), ("", "a path of 1 to"), ("/dev/null", "/dev/null")]
    {
        let output = guesthouse(&["run", "--vsock", vsock]).stdin(Stdio::null()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(named) && stderr.trim_end().lines().count() == 1, "{vsock:?}: {stderr}");
    }
}

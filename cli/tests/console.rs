//! The virtio console, used by a real kernel: the user's terminal, and ports that are sockets on the host.
#![allow(clippy::unwrap_used)] // how a test fails

mod common;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Terminal, bytes, feed, guesthouse, run};

const BOARDS: [&str; 2] = ["pc", "microvm"];

/// Runs a script in the default guest with a port called `echo`.
fn with_port(board: &str, socket: &Path, script: &str) -> Child {
    let port = format!("echo={}", socket.display());
    let arguments = ["run", "--board", board, "--port", &port, "--", "sh", "-c", script];
    let mut command = guesthouse(&arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Connects as soon as the machine listens.
fn connect(socket: &Path) -> UnixStream {
    let start = Instant::now();
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return stream,
            Err(e) => assert!(start.elapsed() < Duration::from_secs(60), "{e}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn megabytes_go_both_ways_through_a_port() {
    const LEN: usize = 12_000_000;
    // It reads as ended until the host's client was told of, which is there before the guest.
    let script = r#"
        exec 3<>/dev/virtio-ports/echo
        until dd bs=1 count=1 <&3 >/tmp/data 2>/dev/null && [ -s /tmp/data ]; do sleep 0.05; done
        { cat /tmp/data; head -c 11999999 <&3; } | tee /tmp/all >&3
        sha256sum </tmp/all
        # The client has left.
        cat <&3 | wc -c
    "#;
    let folder = tempfile::tempdir().unwrap();
    let data = bytes(LEN);
    let file = folder.path().join("data");
    std::fs::write(&file, &data).unwrap();
    let sum = Command::new("sha256sum").stdin(std::fs::File::open(file).unwrap()).output().unwrap();
    for board in BOARDS {
        let socket = folder.path().join(board);
        let child = with_port(board, &socket, script);
        let mut stream = connect(&socket);
        let mut writer = stream.try_clone().unwrap();
        let sent = data.clone();
        let thread = std::thread::spawn(move || writer.write_all(&sent).unwrap());
        let mut got = vec![0; LEN];
        stream.read_exact(&mut got).unwrap();
        thread.join().unwrap();
        drop(stream);
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{board}: {stderr}");
        assert!(got == data, "{board}: it came back as something else");
        let expected = [&sum.stdout[..], b"0\n"].concat();
        assert_eq!(String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&expected), "{board}");
        assert!(!socket.exists(), "{board}: the socket is left behind");
    }
}

#[test]
fn nothing_is_kept_for_who_does_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("port");
    // Neither side reads; then both do.
    let script = r#"
        exec 3<>/dev/virtio-ports/echo
        until dd bs=1 count=1 <&3 >/tmp/go 2>/dev/null && [ -s /tmp/go ]; do sleep 0.05; done
        head -c 8000000 /dev/zero >&3
        head -c 8000000 <&3 | wc -c
    "#;
    let child = with_port("pc", &socket, script);
    let mut stream = connect(&socket);
    let mut writer = stream.try_clone().unwrap();
    let thread = std::thread::spawn(move || writer.write_all(&vec![0; 8_000_001]).unwrap());
    // What is under way is in the sockets and in the guest.
    std::thread::sleep(Duration::from_secs(6));
    assert!(!thread.is_finished(), "8 MB are somewhere");
    stream.read_exact(&mut vec![0; 8_000_000]).unwrap();
    thread.join().unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "8000000\n");
}

#[test]
fn a_command_on_a_virtio_console_has_its_own_streams_and_status() {
    // Among the bytes is Ctrl-O, which a console of the kernel's would take for itself.
    let script = r#"echo "$1" >&2; cat; readlink /proc/$PPID/fd/0 >&2; exit 7"#;
    for board in BOARDS {
        let arguments =
            ["run", "--console", "virtio", "--board", board, "--", "sh", "-c", script, "sh", "a \"b\""];
        let data = bytes(300_000);
        let output = feed(&arguments, &data);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(7), "{board}: {stderr}");
        assert_eq!(stderr, "a \"b\"\n/dev/hvc0\n", "{board}");
        assert!(output.stdout == data, "{board}: {} bytes", output.stdout.len());
    }
}

#[test]
fn a_virtio_console_has_the_terminals_size_and_follows_it() {
    for board in BOARDS {
        let folder = tempfile::tempdir().unwrap();
        let port = format!("agent={}", folder.path().join("agent").display());
        let arguments = ["run", "--console", "virtio", "--board", board, "--port", &port];
        let mut terminal = Terminal::start_sized(guesthouse(&arguments), 33, 111);
        terminal.expect("root@guesthouse:/root# ");
        terminal.type_keys(b"tty; ls /dev/virtio-ports\r");
        terminal.expect("/dev/hvc0\r\nagent\r\n");
        terminal.is_the_guests();
        // What the serial port has to say. It takes its time: what is typed, and the next prompt, must not come in between.
        terminal.type_keys(b"sleep 1; echo from $((6*9)) >/dev/ttyS0; sleep 1\r");
        terminal.expect("from 54\r\n");
        terminal.type_keys(b"exit\r");
        let (status, screen) = terminal.finish();
        assert_eq!(status.code(), Some(0), "{screen}");
    }
}

#[test]
fn whoever_comes_to_a_virtio_console_brings_a_size() {
    let (status, id, stderr) = run(&["run", "-d", "--rm", "--console", "virtio"]);
    assert_eq!(status, 0, "{stderr}");
    let mut terminal = Terminal::start_sized(guesthouse(&["console", id.trim()]), 33, 111);
    terminal.expect("root@guesthouse:/root# ");
    terminal.is_the_guests();
    terminal.type_keys(b"exit\r");
    let (status, screen) = terminal.finish();
    assert_eq!(status.code(), Some(0), "{screen}");
}

#[test]
fn a_socket_in_use_is_refused_and_a_stale_one_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("port");
    let port = format!("a={}", path.display());
    let listener = UnixListener::bind(&path).unwrap();
    let (status, _, stderr) = run(&["run", "--port", &port, "--", "true"]);
    assert_eq!(status, 2, "{stderr}");
    assert!(stderr.contains("is the socket of a running program"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    drop(listener);
    assert!(path.exists());
    let (status, stdout, stderr) = run(&["run", "--port", &port, "--", "ls", "/dev/virtio-ports"]);
    assert_eq!((status, stdout.as_str()), (0, "a\n"), "{stderr}");
    assert!(!path.exists());
    for (wrong, named) in [("a", "NAME=PATH"), ("a/b=c", "\"a/b\"")] {
        let (status, _, stderr) = run(&["run", "--port", wrong, "--", "true"]);
        assert_eq!(status, 2, "{stderr}");
        assert!(stderr.contains(named) && stderr.lines().count() == 1, "{stderr}");
    }
}

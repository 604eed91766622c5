use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Instant;

use super::*;

fn eventually(mut ask: impl FnMut() -> bool) {
    let start = Instant::now();
    while !ask() {
        assert!(start.elapsed() < Duration::from_secs(20), "it does not come");
        sleep(Duration::from_millis(1));
    }
}

fn read(port: &SocketPort) -> Vec<u8> {
    let mut data = [0; 64];
    let count = port.read(&mut data);
    data[..count].to_vec()
}

fn refusal(path: &Path) -> String {
    SocketPort::new(path).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn clients_come_one_after_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("port");
    let port = SocketPort::new(&path).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!((port.peer(), port.write(b"lost"), read(&port)), (Peer::Nobody, 4, vec![]));
    let mut first = UnixStream::connect(&path).unwrap();
    let mut second = UnixStream::connect(&path).unwrap();
    second.write_all(b"second").unwrap();
    eventually(|| port.peer() == Peer::Somebody(1));
    first.write_all(b"first").unwrap();
    assert_eq!(read(&port), b"first");
    assert_eq!(port.write(b"hello"), 5);
    let mut data = [0; 5];
    first.read_exact(&mut data).unwrap();
    assert_eq!(&data, b"hello");
    first.write_all(b"last words").unwrap();
    drop(first);
    // What it cannot take any more is lost, what it has sent is not.
    assert_eq!(port.write(b"x"), 1);
    assert_eq!(read(&port), b"last words");
    assert_eq!(read(&port), b"");
    eventually(|| port.peer() == Peer::Somebody(2));
    assert_eq!(read(&port), b"second");
}

#[test]
fn a_client_that_has_said_all_gets_its_answer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("port");
    let port = SocketPort::new(&path).unwrap();
    let mut client = UnixStream::connect(&path).unwrap();
    eventually(|| port.peer() == Peer::Somebody(1));
    client.write_all(b"question").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!((read(&port), read(&port)), (b"question".to_vec(), vec![]));
    assert_eq!((port.peer(), port.write(b"answer")), (Peer::Somebody(1), 6));
    let mut data = [0; 6];
    client.read_exact(&mut data).unwrap();
    assert_eq!(&data, b"answer");
    drop(client);
    assert_eq!((read(&port), port.peer()), (vec![], Peer::Nobody));
}

#[test]
fn a_client_that_does_not_read_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("port");
    let port = SocketPort::new(&path).unwrap();
    let mut client = UnixStream::connect(&path).unwrap();
    eventually(|| port.peer() == Peer::Somebody(1));
    let mut sent = 0;
    loop {
        let count = port.write(&[7; 4096]);
        sent += count;
        if count == 0 {
            break;
        }
        assert!(sent < 16 << 20, "{sent} bytes are somewhere");
    }
    let mut data = vec![0; sent];
    client.read_exact(&mut data).unwrap();
    assert_eq!(port.write(b"more"), 4);
}

#[test]
fn a_socket_that_nobody_listens_at_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("port");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let port = SocketPort::new(&path).unwrap();
    UnixStream::connect(&path).unwrap();
    drop(port);
    assert!(!path.exists(), "it is removed");
    // Another one's file in its place is left alone.
    let port = SocketPort::new(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    port.close();
    assert!(path.exists() && port.peer() == Peer::Gone);
}

#[test]
fn what_is_in_use_or_no_socket_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("port");
    let port = SocketPort::new(&path).unwrap();
    assert!(refusal(&path).contains("a running program"), "{}", refusal(&path));
    assert_eq!(port.peer(), Peer::Nobody, "the running one did not notice");
    UnixStream::connect(&path).unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(refusal(&file).contains("no socket"), "{}", refusal(&file));
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    assert!(refusal(&folder.path().join("none/port")).contains("cannot be made a socket"));
    assert!(refusal(&folder.path().join("x".repeat(200))).contains("cannot be made a socket"));
}

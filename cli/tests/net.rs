//! A network, used by a real kernel and real programs: everything goes through sockets of this host.
#![allow(clippy::unwrap_used)] // how a test fails

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{guesthouse, run};

/// Runs a script in the default guest; its standard output.
fn guest(arguments: &[&str], script: &str) -> String {
    let (status, stdout, stderr) = run(&[&["run"], arguments, &["--", "sh", "-ec", script]].concat());
    assert_eq!(status, 0, "{arguments:?}: {stdout}{stderr}");
    stdout
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[test]
fn files_go_through_in_both_directions() {
    const LEN: usize = 20_000_000;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let host = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            request.push(byte[0]);
        }
        write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {LEN}\r\n\r\n").unwrap();
        stream.write_all(&pattern(LEN)).unwrap();
        drop(stream);
        let (mut stream, _) = listener.accept().unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(b"that was all\n").unwrap();
        all
    });
    for_both_boards(|board| {
        let script = "ip -4 addr show dev eth0 | grep -c 10.0.2.15/24; cat /etc/resolv.conf; ping -c 1 10.0.2.2 | grep -c ttl=64";
        assert_eq!(guest(&["--board", board, "--net", "user"], script), "1\nnameserver 10.0.2.3\n1\n");
    });
    let script = format!("wget -q -O /tmp/file http://10.0.2.2:{port}/file; nc 10.0.2.2 {port} </tmp/file");
    assert_eq!(guest(&["--cpus", "2", "--net", "user,loopback=yes"], &script), "that was all\n");
    assert!(host.join().unwrap() == pattern(LEN));
}

fn for_both_boards(test: impl Fn(&str)) {
    ["pc", "microvm"].iter().for_each(|board| test(board));
}

#[test]
fn what_is_not_there_is_refused_and_what_is_not_allowed_is_not_there() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let script = |port: u16| {
        format!(
            "nc -w 20 10.0.2.2 {port} 2>&1 </dev/null || true; nc -w 20 10.0.2.77 80 2>&1 </dev/null || true; ping -W 1 -c 1 198.51.100.1 | grep -c ttl || true"
        )
    };
    let folder = tempfile::tempdir().unwrap();
    let capture = folder.path().join("pcap");
    for (net, port) in [
        ("user,outside=no".to_owned(), port),
        (format!("user,outside=no,loopback=yes,capture={}", capture.display()), unused),
    ] {
        let out = guest(&["--net", &net], &script(port));
        let lines: Vec<_> = out.lines().collect();
        assert_eq!(lines.len(), 3, "{out}");
        assert!(lines[0].ends_with("(10.0.2.2): Connection refused"), "{out}");
        assert!(lines[1].ends_with("(10.0.2.77): No route to host"), "{out}");
        assert_eq!(lines[2], "0");
    }
    // The capture has the connection: a SYN to that port, and the reset.
    let data = std::fs::read(&capture).unwrap();
    assert_eq!(data[..4], 0xa1b2_3c4d_u32.to_ne_bytes());
    let [high, low] = unused.to_be_bytes();
    let tcp =
        data.windows(20).filter(|w| w[8] == 0 && [w[0], w[1]] == [10, 0] && [w[10], w[11]] == [high, low]);
    assert!(tcp.count() + data.windows(2).filter(|w| *w == [high, low]).count() >= 2);
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "nobody came");
}

#[test]
fn datagrams_go_there_and_back() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let host = std::thread::spawn(move || {
        let mut query = [0; 512];
        let (len, peer) = server.recv_from(&mut query).unwrap();
        // Answered, without an error: one question, one answer, which is an address for the name in the question.
        let header = [query[0], query[1], 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
        let answer = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 99];
        server.send_to(&[&header, &query[12..len], &answer].concat(), peer).unwrap();
    });
    let script = format!("nslookup -type=a example.org 10.0.2.2:{port}");
    let out = guest(&["--net", "user,loopback=yes"], &script);
    assert!(out.contains("192.0.2.99"), "{out}");
    host.join().unwrap();
}

/// A program that does not outlive its test.
struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn forwarded_ports_lead_into_the_guest() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let net = format!("user,forward={port}:22");
    let mut machine = Ending(
        guesthouse(&["run", "--net", &net, "--", "nc", "-l", "-p", "22", "-e", "tr", "a-z", "A-Z"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let start = Instant::now();
    let text = loop {
        let mut text = String::new();
        // Refused until the machine has the port, and reset while nobody listens in the guest.
        let mut talk = || -> std::io::Result<()> {
            let mut stream = TcpStream::connect(("127.0.0.1", port))?;
            stream.write_all(b"hello\n")?;
            stream.shutdown(Shutdown::Write)?;
            stream.read_to_string(&mut text).map(drop)
        };
        match talk() {
            Ok(()) if !text.is_empty() => break text,
            other => assert!(start.elapsed() < Duration::from_secs(120), "{other:?}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    assert_eq!(text, "HELLO\n");
    assert!(machine.0.wait().unwrap().success());
}

#[test]
fn a_port_that_is_taken_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (status, _, stderr) = run(&["run", "--net", &format!("user,forward={port}:22"), "--", "true"]);
    assert_eq!((status, stderr.lines().count()), (2, 1), "{stderr}");
    assert!(stderr.contains(&format!("tcp port 127.0.0.1:{port} cannot be forwarded")), "{stderr}");
}

/// Runs a script of the host's, for which `$0` is the program under test, in a network where an ordinary user may do
/// everything; its standard output.
fn in_a_network_of_its_own(script: &str) -> String {
    let program = env!("CARGO_BIN_EXE_guesthouse");
    // There are no packages in that network: the guest is built before.
    assert_eq!(run(&["run", "--", "true"]).0, 0);
    let output =
        Command::new("unshare").args(["-rn", "sh", "-ec", script, program]).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|e| panic!("unshare: {e}: install util-linux and iproute2"));
    let [stdout, stderr] = [output.stdout, output.stderr].map(|b| String::from_utf8_lossy(&b).into_owned());
    assert!(output.status.success(), "{stdout}{stderr}");
    stdout
}

#[test]
fn a_tap_device_leads_to_the_host() {
    let script = r#"
        ip tuntap add dev guest0 mode tap
        ip addr add 192.0.2.1/24 dev guest0
        ip link set guest0 up
        exec "$0" run --net tap=guest0,mac=52:55:00:00:00:77 -- sh -ec '
            cat /sys/class/net/eth0/address
            ip addr add 192.0.2.2/24 dev eth0
            ping -c 1 -s 4000 192.0.2.1 | grep -c "4008 bytes from 192.0.2.1"
            nc 192.0.2.1 9 2>&1 </dev/null || true'
    "#;
    let said = "52:55:00:00:00:77\n1\nnc: can't connect to remote host (192.0.2.1): Connection refused\n";
    assert_eq!(in_a_network_of_its_own(script), said);
}

/// Where the host lets users ping, and has a way out by IPv6.
#[test]
fn the_world_is_pinged_by_both_kinds_of_addresses() {
    let script = r#"
        ip link set lo up
        ip addr add 198.51.100.7/32 dev lo
        ip addr add 2001:db8::7/128 dev lo
        ip tuntap add dev out0 mode tap
        ip link set out0 up
        ip -6 route add default dev out0
        echo "0 0" >/proc/sys/net/ipv4/ping_group_range
        exec "$0" run --net user -- sh -ec '
            ping -c 1 -s 4000 198.51.100.7 | grep -c "4008 bytes from 198.51.100.7"
            for i in $(seq 50); do ip -6 route | grep -q ^default && break; sleep 0.1; done
            for i in $(seq 50); do ip -6 addr show scope global | grep -q tentative || break; sleep 0.1; done
            ping -6 -c 1 -s 3000 2001:db8::7 | grep -c "3008 bytes from 2001:db8::7"
            nc 2001:db8::7 9 2>&1 </dev/null || true'
    "#;
    let said = "1\n1\nnc: can't connect to remote host: Connection refused\n";
    assert_eq!(in_a_network_of_its_own(script), said);
}

#[test]
fn a_tap_device_that_cannot_be_is_named() {
    let (status, _, stderr) = run(&["run", "--net", "tap=a-name-that-is-too-long", "--", "true"]);
    assert_eq!((status, stderr.lines().count()), (2, 1), "{stderr}");
    assert!(stderr.contains("tap device a-name-that-is-too-long cannot be used"), "{stderr}");
}

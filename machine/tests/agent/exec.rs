//! Programs.

use std::io::Write;
use std::time::{Duration, Instant};

use agent::AgentError;
use agent::protocol::{Kind, Request, Start, WINDOW, Window, stream};
use machine::BoardKind;

use crate::{Guest, PATIENCE, bytes, finish, sh, words};

#[test]
fn programs_have_streams_and_statuses() {
    let guest = Guest::boot(BoardKind::Pc);
    let done = guest.sh("echo out; echo err >&2; exit 7");
    assert_eq!((done.status, done.text(), done.errors.as_str()), (7, "out\n", "err\n"), "{done:?}");
    assert_eq!(guest.sh("kill -TERM $$").status, 128 + 15);
    let done = guest.run(&words(&["nothing-of-this-name"]));
    assert_eq!((done.status, done.errors.as_str()), (127, "nothing-of-this-name: not found in the guest"));
    let done = guest.run(&words(&["/etc/passwd"]));
    assert_eq!(done.status, 126, "{done:?}");
    let done = guest.run(&Start { cwd: b"/nowhere".to_vec(), ..sh("true") });
    assert!(done.status == 126 && done.errors.starts_with("/nowhere"), "{done:?}");
    // Words stay what they are.
    let done = guest.run(&words(&["printf", "%s|", "a b", "", "*", "\n$x"]));
    assert_eq!(done.text(), "a b||*|\n$x|");
    // Nothing on stdin, the folder, the environment, the user.
    let start = Start {
        env: vec![b"A=b c".to_vec(), b"HOME=/x".to_vec()],
        cwd: b"/tmp".to_vec(),
        ..sh("cat; pwd; echo $A $HOME $USER")
    };
    assert_eq!(guest.run(&start).text(), "/tmp\nb c /x root\n");
    let done = guest.run(&Start { user: b"1234:56".to_vec(), ..sh("id -u; id -g; cat /root/x") });
    assert!(done.text() == "1234\n56\n" && done.errors.contains("ermission"), "{done:?}");
    assert_eq!(guest.run(&Start { user: b"nobody-here".to_vec(), ..sh("true") }).status, 125);
    // What a program leaves in the background keeps nothing open.
    let start = Instant::now();
    assert_eq!(guest.sh("sleep 300 & echo here").text(), "here\n");
    assert!(start.elapsed() < Duration::from_secs(100));
    guest.0.agent().request(&Request::Hostname(b"other".to_vec()), PATIENCE).unwrap();
    guest.0.agent().request(&Request::Time(1_000_000_000 * 1_000_000_000), PATIENCE).unwrap();
    assert_eq!(guest.sh("hostname; date +%Y").text(), "other\n2001\n");
    let unknown = guest.0.agent().request(&Request::Card([2; 6], [4; 6]), PATIENCE).unwrap_err();
    assert!(unknown.to_string().contains("no network card with the address 02:02:02:02:02:02"), "{unknown}");
}

#[test]
fn megabytes_go_both_ways() {
    for board in [BoardKind::Pc, BoardKind::Microvm] {
        let guest = Guest::boot(board);
        let data = bytes(12_000_000);
        let client = guest.start(&Start { input: true, ..words(&["cat"]) });
        let mut input = client.input();
        let sent = data.clone();
        let writer = std::thread::spawn(move || {
            input.write_all(&sent).unwrap();
            input.end().unwrap();
        });
        let done = finish(client);
        writer.join().unwrap();
        assert!(done.status == 0 && done.output == data, "{board}: {} bytes", done.output.len());
    }
}

#[test]
fn fifty_programs_run_at_once() {
    let guest = Guest::boot(BoardKind::Pc);
    // None of them ends before all have begun.
    let script = |i: usize| {
        format!(
            "mkdir -p /tmp/all; : >/tmp/all/{i}; until [ $(ls /tmp/all | wc -l) = 50 ]; do sleep 0.1; done; echo {i}"
        )
    };
    let clients: Vec<_> = (0..50).map(|i| guest.start(&sh(&script(i)))).collect();
    let threads: Vec<_> =
        clients.into_iter().map(|client| std::thread::spawn(move || finish(client))).collect();
    for (i, thread) in threads.into_iter().enumerate() {
        let done = thread.join().unwrap();
        assert_eq!((done.status, done.text()), (0, format!("{i}\n").as_str()), "{done:?}");
    }
}

#[test]
fn a_terminal_has_a_size_keys_and_job_control() {
    let guest = Guest::boot(BoardKind::Pc);
    let tty = Some(Window { rows: 33, columns: 111 });
    let script = "stty size; tty; trap 'echo interrupted' INT; read line; echo \"got $line\"; until [ \"$(stty size)\" = '5 6' ]; do sleep 0.1; done; sleep 300; exit 3";
    let client = guest.start(&Start { tty, input: true, ..sh(script) });
    let mut input = client.input();
    input.write_all(b"text\r").unwrap();
    let mut seen = Vec::new();
    let mut resized = false;
    let exit = client.run(|output| {
        seen.extend_from_slice(output.data);
        if !resized && String::from_utf8_lossy(&seen).contains("got text") {
            resized = true;
            input.resize(Window { rows: 5, columns: 6 })?;
            let mut input = input.clone();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_secs(3));
                input.write_all(b"\x03")
            });
        }
        Ok(())
    });
    let text = String::from_utf8_lossy(&seen).into_owned();
    assert_eq!(exit.unwrap().status(), 3, "{text}");
    assert!(text.contains("33 111\r\n/dev/pts/0\r\n") && text.contains("interrupted\r\n"), "{text:?}");
    // Its echo, and what the program says. That of ^C is no witness: Linux signals before it echoes, and the program may be gone by then.
    assert_eq!(text.matches("text\r\n").count(), 2, "{text:?}");
}

#[test]
fn a_client_that_dies_takes_its_program_along() {
    let guest = Guest::boot(BoardKind::Pc);
    let connection = guest.connect();
    let client = agent::Client::start(
        connection.try_clone().unwrap(),
        &[],
        &sh("trap 'echo gone >/tmp/hup; exit' HUP; echo $$ >/tmp/pid; while :; do sleep 0.1; done"),
    )
    .unwrap();
    assert_eq!(guest.sh("until [ -s /tmp/pid ]; do sleep 0.05; done").status, 0);
    connection.shutdown(std::net::Shutdown::Both).unwrap();
    drop(client);
    let done = guest
        .sh("until [ -s /tmp/hup ]; do sleep 0.05; done; sleep 0.3; kill -0 $(cat /tmp/pid) && echo alive");
    assert_eq!(done.text(), "", "{done:?}");
    // Signals reach a program; one that takes no input holds up nobody.
    let client = guest
        .start(&Start { input: true, ..sh("trap 'exit 5' TERM; echo on; while :; do sleep 0.05; done") });
    let mut input = client.input();
    let mut full = client.input();
    let writer = std::thread::spawn(move || while full.write(&[0; 4096]).is_ok() {});
    let mut signalled = false;
    let exit = client.run(|_| {
        if !signalled {
            signalled = true;
            input.signal(15)?;
        }
        Ok(())
    });
    assert_eq!(exit.unwrap().status(), 5);
    writer.join().unwrap();
    assert!(input.write(b"x").is_err());
}

#[test]
fn a_reboot_ends_sessions_and_the_agent_comes_back() {
    let guest = Guest::boot(BoardKind::Pc);
    let client = guest.start(&sh("echo on; sleep 300"));
    let host = guest.0.agent().clone();
    let mut rebooted = false;
    let exit = client.run(|_| {
        if !rebooted {
            rebooted = true;
            host.request(&Request::Reboot, PATIENCE).unwrap();
        }
        Ok(())
    });
    let exit = format!("{:?}", exit.unwrap());
    // Either it was told to end before the system did, or it was not.
    assert!(exit.contains("the agent went away") || exit.contains("Signal(15)"), "{exit}");
    let start = Instant::now();
    loop {
        let done = guest.sh("cut -d. -f1 /proc/uptime");
        if done.status == 0 {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{done:?}");
    }
    // The host may reset as well, in the middle of anything.
    let client = guest.start(&sh("yes"));
    let machine = guest.0.clone();
    let mut count = 0;
    let exit = client.run(|_| {
        count += 1;
        if count == 10 {
            machine.reset();
        }
        Ok(())
    });
    assert!(format!("{:?}", exit.unwrap()).contains("the agent went away"));
    assert_eq!(guest.sh("echo again").text(), "again\n");
    guest.0.agent().request(&Request::PowerOff, PATIENCE).unwrap();
    assert!(matches!(guest.0.wait(), machine::Outcome::PowerOff));
    assert!(matches!(
        guest.0.agent().request(&Request::Ping, Duration::from_millis(50)),
        Err(AgentError::Silent)
    ));
}

#[test]
fn a_client_that_breaks_the_protocol_is_sent_away() {
    use agent::protocol::Frame;
    let guest = Guest::boot(BoardKind::Pc);
    assert_eq!(guest.sh("true").status, 0);
    let start = Start { input: true, ..sh("sleep 300") }.encode().unwrap();
    let flood = || {
        let mut bytes = Vec::new();
        Frame::new(Kind::Start, 0, &start).put(&mut bytes);
        for _ in 0..=WINDOW >> 16 {
            Frame { kind: Kind::Data, stream: stream::INPUT, session: 0, payload: &[0; 1 << 16] }
                .put(&mut bytes);
        }
        bytes
    };
    let mut other = Vec::new();
    Frame::new(Kind::Start, 0, &start).put(&mut other);
    Frame::new(Kind::Hangup, 0, &[]).put(&mut other);
    for bytes in [flood(), other, b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0; 100]] {
        let mut connection = guest.connect();
        let _ = connection.write_all(&bytes);
        let mut rest = Vec::new();
        // Its end comes, and long before the program's.
        let _ = std::io::Read::read_to_end(&mut connection, &mut rest);
    }
    assert_eq!(guest.sh("echo fine").text(), "fine\n");
}

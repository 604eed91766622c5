//! A whole Debian with systemd on a disk, as users boot it.
#![allow(clippy::unwrap_used)] // how a test fails

mod common;

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::{Terminal, guesthouse, run};

fn program(name: &str, arguments: &[&str], folder: &Path) {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    let output = Command::new(name).args(arguments).current_dir(folder).env("PATH", path).output();
    let output = output.unwrap_or_else(|e| panic!("{name}: {e}: install qemu-utils and e2fsprogs"));
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{name} {arguments:?}: {text}");
}

/// Boots, logs in, runs a line, and switches off.
fn session(arguments: &[&str], line: &str, answer: &str) {
    let mut terminal = Terminal::start(guesthouse(&[&["run"], arguments].concat()));
    terminal.expect("guesthouse login: ");
    terminal.type_keys(b"root\r");
    terminal.expect("root@guesthouse:~# ");
    terminal.type_keys(format!("{line}; systemctl poweroff\r").as_bytes());
    terminal.expect(answer);
    let (status, screen) = terminal.finish();
    assert_eq!(status.code(), Some(0), "{screen}");
}

#[test]
fn it_boots_to_a_login_and_leaves_its_disk_clean() {
    // What is written to the guest itself is gone at its end.
    session(
        &["debian", "--memory", "1G"],
        "echo kept >/kept; systemctl is-system-running --wait",
        "running\r\n",
    );
    let (_, guests, _) = run(&["guests", "--json"]);
    let guests: serde_json::Value = serde_json::from_str(&guests).unwrap();
    let entry = guests.as_array().unwrap().iter().find(|g| g["name"] == "debian").unwrap();
    // A disk of the user's that is based on it stays.
    let folder = tempfile::tempdir().unwrap();
    let mine = folder.path().join("mine.qcow2");
    let mine = mine.to_str().unwrap();
    let (status, _, stderr) =
        run(&["image", "create", "-b", entry["disk"].as_str().unwrap(), "-F", "raw", mine]);
    assert_eq!(status, 0, "{stderr}");
    let disk = format!("{mine},backing=yes");
    let disk = ["--disk", &disk, "--cpus", "2", "--memory", "1G"];
    session(
        &disk,
        "ls /kept || echo it is mine >/mine; cmp /bin/ls /usr/bin/ls && echo $((6*7))",
        "\n42\r\n",
    );
    session(&disk, "cat /mine", "it is mine\r\n");
    program("qemu-img", &["check", "-q", "mine.qcow2"], folder.path());
    program("qemu-img", &["convert", "-O", "raw", "mine.qcow2", "raw"], folder.path());
    program("e2fsck", &["-fn", "raw"], folder.path());
}

/// The ssh server is there as soon as somebody asks for it, with a key of its own.
#[test]
fn its_ssh_server_answers_through_a_forwarded_port() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let net = format!("user,forward=127.0.0.1:{port}:22");
    let mut terminal = Terminal::start(guesthouse(&["run", "debian", "--memory", "1G", "--net", &net]));
    terminal.expect("guesthouse login: ");
    let mut connection = TcpStream::connect(("127.0.0.1", port)).unwrap();
    connection.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    let mut banner = [0; 8];
    connection.read_exact(&mut banner).unwrap();
    assert_eq!(&banner, b"SSH-2.0-");
    terminal.type_keys(b"root\r");
    terminal.expect("root@guesthouse:~# ");
    terminal.type_keys(b"systemctl poweroff\r");
    assert_eq!(terminal.finish().0.code(), Some(0));
}

#[test]
fn it_takes_no_command() {
    let (status, _, stderr) = run(&["run", "debian", "--", "true"]);
    assert_eq!((status, stderr.lines().count()), (2, 1), "{stderr}");
    assert!(stderr.contains("log in"), "{stderr}");
    let (status, _, stderr) = run(&["run", "beos"]);
    assert_eq!(status, 2, "{stderr}");
    assert!(stderr.contains("debian") && stderr.contains("debian-12"), "{stderr}");
}

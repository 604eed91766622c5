//! Switches between machines, used by real kernels and real programs.
#![allow(clippy::unwrap_used)] // how a test fails

mod common;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::guesthouse;
use tempfile::TempDir;

/// Switches of a user who has no others.
struct User(TempDir);

impl User {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = guesthouse(arguments);
        command.env("XDG_RUNTIME_DIR", self.0.path()).stdin(Stdio::null());
        command
    }

    /// Status, stdout and stderr.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = self.command(arguments).output().unwrap();
        let [stdout, stderr] =
            [output.stdout, output.stderr].map(|b| String::from_utf8_lossy(&b).into_owned());
        (output.status.code().unwrap(), stdout, stderr)
    }

    /// The output of what succeeds.
    fn get(&self, arguments: &[&str]) -> String {
        let (status, stdout, stderr) = self.run(arguments);
        assert_eq!(status, 0, "{arguments:?}: {stdout}{stderr}");
        stdout
    }

    /// The line of what does not.
    fn fail(&self, arguments: &[&str]) -> String {
        let (status, stdout, stderr) = self.run(arguments);
        assert_eq!((status, stdout.as_str(), stderr.lines().count()), (2, "", 1), "{arguments:?}: {stderr}");
        stderr
    }

    /// Runs a script in the default guest; its output.
    fn guest(&self, net: &str, script: &str) -> String {
        self.get(&["run", "--net", net, "--", "sh", "-ec", script])
    }

    /// A machine in the background, which has said `ready`.
    fn machine(&self, net: &str, script: &str) -> Machine {
        let script = format!("echo ready; {script}");
        let mut command = self.command(&["run", "--net", net, "--", "sh", "-ec", &script]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut machine = Machine { child, said: Vec::new() };
        machine.expect("ready\n");
        machine
    }

    fn inspect(&self, name: &str) -> serde_json::Value {
        serde_json::from_str(&self.get(&["net", "inspect", name, "--json"])).unwrap()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let all: Vec<serde_json::Value> = serde_json::from_str(&self.get(&["net", "ls", "--json"])).unwrap();
        for switch in all {
            self.run(&["net", "rm", "--force", switch["name"].as_str().unwrap()]);
        }
    }
}

/// A machine that does not outlive its test.
struct Machine {
    child: Child,
    said: Vec<u8>,
}

impl Machine {
    /// Reads until it has said this.
    fn expect(&mut self, text: &str) {
        let mut byte = [0];
        while !self.said.ends_with(text.as_bytes()) {
            let read = self.child.stdout.as_mut().unwrap().read(&mut byte).unwrap();
            assert!(read > 0, "no {text:?} in {:?}", String::from_utf8_lossy(&self.said));
            self.said.push(byte[0]);
        }
    }

    fn tell(&mut self, line: &str) {
        self.child.stdin.as_mut().unwrap().write_all(line.as_bytes()).unwrap();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn eventually(what: &str, mut ask: impl FnMut() -> bool) {
    let start = Instant::now();
    while !ask() {
        assert!(start.elapsed() < Duration::from_secs(60), "not {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn machines_find_each_other_by_name_and_the_host_by_the_way_out() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let host = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        stream.write_all(b"seen\n").unwrap();
        text
    });
    let user = User::new();
    user.get(&["net", "create", "lan", "--loopback"]);
    let serve = "while true; do nc -l -p 80 -e tr a-z A-Z; done";
    let web = user.machine("lan,name=web", serve);
    let script = format!(
        "ping -c 1 web.lan | grep -c '64 bytes'
         echo hello | nc web 80
         nslookup -type=a web | grep -c 'Address: 10.5.0'
         nslookup -type=a nobody | grep -c NXDOMAIN
         head -c 3000000 /dev/zero | nc web 80 | wc -c
         echo to the host | nc 10.5.0.1 {port}"
    );
    assert_eq!(user.guest("lan,name=client,ip=10.5.0.77", &script), "1\nHELLO\n1\n1\n3000000\nseen\n");
    assert_eq!(host.join().unwrap(), "to the host\n");
    let seen = user.inspect("lan");
    let ports = seen["ports"].as_array().unwrap();
    assert_eq!((ports.len(), ports[0]["name"].as_str()), (1, Some("web")), "{seen}");
    assert!(ports[0]["counters"]["received_bytes"].as_u64().unwrap() > 3_000_000, "{seen}");
    // A machine that is killed has left, and its name is free.
    drop(web);
    eventually("left", || user.inspect("lan")["ports"].as_array().unwrap().is_empty());
    assert_eq!(user.guest("lan,name=web", "hostname -i >/dev/null 2>&1; echo $?").lines().count(), 1);
    user.get(&["net", "rm", "lan"]);
    assert_eq!(user.get(&["net", "ls"]), "");
}

#[test]
fn vlans_are_apart() {
    let user = User::new();
    user.get(&[
        "net",
        "create",
        "lab",
        "--subnet",
        "none",
        "--no-uplink",
        "--vlan",
        "10",
        "--vlan",
        "20=10.20.0.0/24",
    ]);
    let _ten = user.machine("lab,vlan=10", "ip addr add 192.0.2.1/24 dev eth0; sleep 1000");
    let _twenty = user.machine("lab,vlan=20,name=twenty", "sleep 1000");
    let reach = "ping -c 1 -W 2 192.0.2.1 | grep -c '64 bytes' || true";
    let script = format!("ip addr add 192.0.2.2/24 dev eth0; for i in 1 2 3; do {reach}; done");
    assert!(user.guest("lab,vlan=10", &script).ends_with("1\n"));
    let script = format!("ip addr add 192.0.2.2/24 dev eth0; {reach}; ping -c 1 twenty | grep -c '64 bytes'");
    assert_eq!(user.guest("lab,vlan=20", &script), "0\n1\n");
    let script = format!("ip addr add 192.0.2.2/24 dev eth0; {reach}");
    assert_eq!(user.guest("lab", &script), "0\n");
    let error = user.fail(&["run", "--net", "lab,vlan=30", "--", "true"]);
    assert!(error.contains("switch lab: there is no VLAN 30: it has 1, 10, 20"), "{error}");
}

#[test]
fn nobody_uses_another_s_address() {
    let user = User::new();
    user.get(&["net", "create", "lan", "--no-uplink"]);
    let mut victim = user.machine("lan,name=victim,ip=10.5.0.50", "cat >/dev/null; arp -n; echo end");
    let script = "
        ping -c 1 victim | grep -c '64 bytes'
        ip addr flush dev eth0
        ip addr add 10.5.0.1/24 dev eth0
        arping -c 1 -w 1 -A -I eth0 10.5.0.1 >/dev/null || true
        ping -c 1 -W 1 10.5.0.50 | grep -c '64 bytes' || true
        ip addr flush dev eth0
        ip addr add 10.5.0.60/24 dev eth0
        ping -c 1 -W 1 10.5.0.50 | grep -c '64 bytes' || true
        ip link set eth0 down
        ip link set eth0 address 52:55:00:00:00:99
        ip link set eth0 up
        ping -c 1 -W 1 10.5.0.50 | grep -c '64 bytes' || true
        read line";
    let mut attacker = user.machine("lan,ip=10.5.0.66,mac=52:55:00:00:00:66", script);
    attacker.expect("1\n0\n0\n0\n");
    let seen = user.inspect("lan");
    assert!(seen["ports"][1]["counters"]["lost_spoofed"].as_u64().unwrap() >= 3, "{seen}");
    let table = user.get(&["net", "inspect", "lan"]);
    assert!(table.contains("victim") && table.contains("10.5.0.66") && table.contains(" spoofed"), "{table}");
    drop(victim.child.stdin.take());
    victim.expect("end\n");
    let said = String::from_utf8_lossy(&victim.said).into_owned();
    assert!(!said.contains("10.5.0.60") && !said.contains(":99"), "{said}");
}

#[test]
fn a_machine_outlives_the_switch_and_joins_the_next() {
    let user = User::new();
    user.get(&["net", "create", "lan"]);
    let carrier =
        |value: u8| format!("while [ $(cat /sys/class/net/eth0/carrier) != {value} ]; do sleep 0.1; done");
    let script = format!(
        "{}; echo down; {}; echo up; for i in 1 2 3 4 5; do ping -c 1 -W 2 10.5.0.1 | grep -q ttl && echo there && break; done; sleep 1000",
        carrier(0),
        carrier(1)
    );
    let mut machine = user.machine("lan,name=web", &script);
    let error = user.fail(&["net", "rm", "lan"]);
    assert!(error.contains("switch lan: 1 machines use it: stop them first, or give --force"), "{error}");
    user.get(&["net", "rm", "--force", "lan"]);
    machine.expect("down\n");
    user.get(&["net", "create", "lan"]);
    machine.expect("up\n");
    machine.expect("there\n");
    assert_eq!(user.inspect("lan")["ports"][0]["name"], "web");
    machine.tell("");
}

#[test]
fn a_switch_that_was_killed_is_made_again() {
    let user = User::new();
    user.get(&["net", "create", "lan"]);
    let pid = user.inspect("lan")["pid"].as_u64().unwrap();
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    eventually("gone", || user.run(&["net", "inspect", "lan"]).0 == 2);
    assert!(user.fail(&["net", "inspect", "lan"]).contains("there is no switch lan"));
    assert_eq!(user.get(&["net", "ls", "--json"]).trim(), "[]");
    user.get(&["net", "create", "lan"]);
    assert_eq!(
        user.get(&["net", "ls"]),
        "NAME  VLANS          UPLINK  PORTS\nlan   1=10.5.0.0/24  yes     0\n"
    );
}

#[test]
fn captures_see_what_goes_through() {
    let user = User::new();
    let (whole, live) = (user.0.path().join("whole.pcap"), user.0.path().join("live.pcap"));
    user.get(&["net", "create", "lan", "--capture", whole.to_str().unwrap()]);
    let mut capture = user.command(&["net", "capture", "lan", live.to_str().unwrap()]).spawn().unwrap();
    eventually("begun", || std::fs::read(&live).is_ok_and(|data| data.len() >= 24));
    user.guest("lan,name=pinger", "ping -c 1 10.5.0.1 | grep -c ttl");
    user.get(&["net", "rm", "lan"]);
    assert!(capture.wait().unwrap().success(), "it ends with the switch");
    for path in [whole, live] {
        let data = std::fs::read(&path).unwrap();
        assert_eq!(data[..4], 0xa1b2_3c4d_u32.to_ne_bytes());
        assert!(data.windows(6).any(|bytes| bytes == b"pinger"), "the name in the answer to DHCP");
    }
}

#[test]
fn what_is_wrong_is_named() {
    let user = User::new();
    for (arguments, why) in [
        (
            &["run", "--net", "lan", "--", "true"][..],
            "there is no switch lan: make it with guesthouse net create lan",
        ),
        (&["net", "inspect", "lan"], "there is no switch lan"),
        (&["net", "rm", "lan"], "there is no switch lan"),
        (&["net", "capture", "lan", "-"], "there is no switch lan"),
        (&["net", "create", "../lan"], "is no name of a switch"),
        (&["net", "create", "user"], "is a kind of network"),
        (&["net", "create", "lan", "--subnet", "10.5.0.1/24"], "is no subnet"),
        (&["net", "create", "lan", "--vlan", "1"], "VLAN 1 is named twice"),
        (&["net", "create", "lan", "--vlan", "2=10.5.0.0/16"], "overlap"),
        (
            &["net", "create", "lan", "--capture", "/nowhere/file"],
            "capture file /nowhere/file cannot be written",
        ),
    ] {
        let error = user.fail(arguments);
        assert!(error.contains(why), "{arguments:?}: {error}");
    }
    user.get(&["net", "create", "lan"]);
    assert!(user.fail(&["net", "create", "lan"]).contains("switch lan is there already"));
    user.get(&["net", "create", "other"]);
    let all = user.get(&["net", "ls"]);
    assert!(all.contains("lan    1=10.5.0.0/24") && all.contains("other  1=10.5.1.0/24"), "{all}");
}

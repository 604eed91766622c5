//! The jail of a machine's process, seen from outside: what the kernel says of each of its threads while everything that a
//! machine can do is being done. All other tests run in it as well; what it forbids is tried in crate `jail`.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::chown;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{SLEEP, guesthouse, multiboot_kernel, print};

/// What the kernel says of a thread: its name, and some numbers by their names.
struct Thread {
    name: String,
    status: String,
    /// What it is in: `ipc`, `uts`, `net`, `user`.
    namespaces: [PathBuf; 4],
}

impl Thread {
    fn all(pid: u32) -> Vec<Self> {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let read = |file: &Path| fs::read_to_string(file).unwrap_or_default();
        let thread = |task: fs::DirEntry| Self {
            name: read(&task.path().join("comm")).trim().to_owned(),
            status: read(&task.path().join("status")),
            namespaces: namespaces(&task.path()),
        };
        // One may end meanwhile.
        tasks.flatten().map(thread).filter(|thread| !thread.status.is_empty()).collect()
    }

    fn field(&self, key: &str) -> &str {
        let line = self.status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {key} in {}", self.status)).trim()
    }

    fn number(&self, key: &str) -> u32 {
        self.field(key).parse().unwrap()
    }
}

fn namespaces(process: &Path) -> [PathBuf; 4] {
    ["ipc", "uts", "net", "user"].map(|kind| fs::read_link(process.join("ns").join(kind)).unwrap_or_default())
}

/// Programs that every thread of the process is under; its kind has one more.
const OF_PROCESS: u32 = 1;

#[test]
fn every_thread_is_limited_while_a_machine_does_all_it_can() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let user = |arguments: &[&str]| {
        let mut command = guesthouse(arguments);
        command.env("XDG_RUNTIME_DIR", folder.path()).stdin(Stdio::null());
        command
    };
    let ok = |arguments: &[&str]| {
        let output = user(arguments).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), error.as_str()), (Some(0), ""), "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    for (name, size) in [("a.qcow2", "64M"), ("b.raw", "16M"), ("c.raw", "16M")] {
        ok(&["image", "create", &path(name), size]);
    }
    fs::create_dir(path("share")).unwrap();
    ok(&["net", "create", "lan"]);
    let (share, port) = (format!("{}:s", path("share")), format!("p={}", path("p.sock")));
    let capture = format!("user,capture={}", path("frames"));
    let (qcow2, snapshot) = (path("a.qcow2"), format!("{},snapshot", path("c.raw")));
    let devices =
        ["--disk", &qcow2, "--disk", &path("b.raw"), "--disk", &snapshot, "--share", &share, "--port", &port];
    let more = [
        "--net",
        &capture,
        "--net",
        "lan,name=m",
        "--vsock",
        &path("v.sock"),
        "--cpus",
        "2",
        "--cpu-cap",
        "1.5",
    ];
    let run = ["run", "-d", "--name", "m", "--memory", "256M", "--cpu-weight", "90"];
    ok(&[&run[..], &devices, &more].concat());
    // Everybody has something to do.
    let script = "for i in $(seq 100); do test -e /dev/virtio-ports/p && test -d /mnt/s && ip route | grep -q default && break; \
                  sleep 0.1; done; cd /mnt/s && echo x >a && ln a b && rm a; \
                  for d in a b c; do dd if=/dev/urandom of=/dev/vd$d bs=64k count=8 2>/dev/null; done; sync; \
                  ping -c1 10.0.2.2 >/dev/null; nslookup example.com >/dev/null 2>&1; echo p >/dev/virtio-ports/p; echo done";
    // Who writes to a port waits for somebody who reads it.
    let mut client = UnixStream::connect(path("p.sock")).unwrap();
    assert_eq!(ok(&["exec", "m", "--", "sh", "-c", script]), "done\n");
    let mut said = [0; 2];
    client.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"p\n");
    ok(&["limit", "m", "disk0,iops=5000", "--cpu-weight", "80"]);
    for command in ["pause", "resume", "stats", "inspect"] {
        let arguments: &[&str] =
            if command == "stats" { &["stats", "--no-stream", "m"] } else { &[command, "m"] };
        ok(arguments);
    }

    let status = fs::read_to_string(folder.path().join("guesthouse/names/m/status.json")).unwrap();
    let pid = status.split("\"pid\": ").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
    let threads = Thread::all(pid);
    let names: Vec<_> = threads.iter().map(|thread| thread.name.as_str()).collect();
    let machine =
        ["signals", "vcpu0", "vcpu1", "timers", "governor", "api", "console-out", "virtio-blk", "virtio-fs"];
    let devices = [
        "net-user",
        "net-switch",
        "virtio-vsock",
        "console-port",
        "virtio-console",
        "virtio-rng",
        "virtio-limit",
    ];
    for name in machine.into_iter().chain(devices) {
        assert!(names.contains(&name), "no {name} in {names:?}");
    }
    for thread in &threads {
        let (name, filters) = (&thread.name, thread.number("Seccomp_filters"));
        assert_eq!((thread.number("Seccomp"), thread.number("NoNewPrivs")), (2, 1), "{name}");
        let is_main = thread.field("Pid") == thread.field("Tgid");
        assert_eq!(filters > OF_PROCESS, !is_main, "{name}: {filters} programs");
    }
    let switch: serde_json::Value = serde_json::from_str(&ok(&["net", "inspect", "lan", "--json"])).unwrap();
    let threads = Thread::all(switch["pid"].as_u64().unwrap() as u32);
    assert!(threads.iter().any(|thread| thread.name == "net-user"), "{}", threads.len());
    for thread in &threads {
        let numbers = ["Seccomp", "NoNewPrivs", "Seccomp_filters"].map(|key| thread.number(key));
        assert_eq!(numbers, [2, 1, OF_PROCESS + 1], "the switch's {}", thread.name);
    }
    ok(&["rm", "--force", "m"]);
    ok(&["net", "rm", "lan"]);
    assert!(!folder.path().join("guesthouse/nets/lan").exists());
    assert!(!folder.path().join("guesthouse/names/m").exists());
}

#[test]
fn who_wants_no_jail_is_told_what_that_means() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = multiboot_kernel(folder.path(), &[&print("up")[..], &SLEEP].concat());
    let arguments = ["run", "--memory", "16M", "--no-jail", "--kernel", kernel.to_str().unwrap()];
    let mut child = guesthouse(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut up = [0; 2];
    child.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
    for thread in Thread::all(child.id()) {
        assert_eq!((thread.number("Seccomp"), thread.number("NoNewPrivs")), (0, 0), "{}", thread.name);
    }
    child.kill().unwrap();
    let error = String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap();
    assert!(error.contains("--no-jail: ") && error.lines().count() == 1, "{error}");
}

#[test]
fn a_switch_without_a_jail_says_so_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = guesthouse(arguments);
        command.env("XDG_RUNTIME_DIR", folder.path()).stdin(Stdio::null()).output().unwrap()
    };
    let output = run(&["net", "create", "lan", "--no-jail"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() && error.contains("--no-jail: ") && error.lines().count() == 1,
        "{error}"
    );
    let switch: serde_json::Value =
        serde_json::from_slice(&run(&["net", "inspect", "lan", "--json"]).stdout).unwrap();
    for thread in Thread::all(switch["pid"].as_u64().unwrap() as u32) {
        assert_eq!((thread.number("Seccomp"), thread.number("NoNewPrivs")), (0, 0), "{}", thread.name);
    }
    assert!(run(&["net", "rm", "lan"]).status.success());
}

/// The guest resets itself after a key. Meanwhile its kernel's name has become a link to another file.
#[test]
fn a_path_that_leads_elsewhere_by_now_leads_nowhere() {
    // mov dx, 0x3fd; wait: in al, dx; test al, 1; jz wait; mov dl, 0xf8; in al, dx; mov al, 0xfe; out 0x64, al
    let key =
        [0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xfb, 0xb2, 0xf8, 0xec, 0xb0, 0xfe, 0xe6, 0x64];
    for jail in [true, false] {
        let [first, second] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let kernel = multiboot_kernel(first.path(), &[&print("1")[..], &key, &SLEEP].concat());
        // It ends by the debug-exit port: mov al, 9; out 0xf4, al.
        let other = multiboot_kernel(second.path(), &[&print("2")[..], &[0xb0, 9, 0xe6, 0xf4]].concat());
        let mut arguments = vec!["run", "--memory", "16M", "--kernel", kernel.to_str().unwrap()];
        arguments.extend((!jail).then_some("--no-jail"));
        let mut child = piped(&arguments).spawn().unwrap();
        let mut said = [0];
        child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
        fs::remove_file(&kernel).unwrap();
        std::os::unix::fs::symlink(other, &kernel).unwrap();
        child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        let output = child.wait_with_output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        if !jail || !has_landlock() {
            assert_eq!((output.status.code(), &output.stdout[..]), (Some(9), &b"2"[..]), "{error}");
        } else {
            assert_eq!((output.status.code(), &output.stdout[..]), (Some(1), &b""[..]), "{error}");
            assert!(error.contains("cannot be read (Permission denied"), "{error}");
        }
    }
}

/// Which of its namespaces a machine or a switch has for itself, in each thread.
fn own_namespaces(pid: u32) -> [bool; 4] {
    let ours = namespaces(Path::new("/proc/self"));
    let of = |thread: &Thread| [0, 1, 2, 3].map(|i| thread.namespaces[i] != ours[i]);
    let threads = Thread::all(pid);
    let own = of(&threads[0]);
    for thread in &threads {
        assert_eq!(of(thread), own, "{}", thread.name);
    }
    own
}

#[test]
fn the_host_s_network_is_there_for_those_who_need_it() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = multiboot_kernel(folder.path(), &[&print("up")[..], &SLEEP].concat());
    let net = |arguments: &[&str]| {
        let mut command = guesthouse(&[&["net"], arguments].concat());
        let output = command.env("XDG_RUNTIME_DIR", folder.path()).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let (user, allowed) = (!rustix::process::geteuid().is_root(), says("\"namespaces_missing\": null"));
    for (switch, options, own) in
        [("bare", &["--subnet", "none"][..], true), ("alone", &["--no-uplink"], true), ("out", &[], false)]
    {
        net(&[&["create", switch], options].concat());
        let about: serde_json::Value = serde_json::from_slice(&net(&["inspect", switch, "--json"])).unwrap();
        let namespaces = own_namespaces(about["pid"].as_u64().unwrap() as u32);
        assert_eq!(namespaces, [true, true, own, user].map(|own| own && allowed), "switch {switch}");
    }
    let cards = [(None, true), (Some("out"), true), (Some("user,outside=no"), true), (Some("user"), false)];
    for (card, own) in cards {
        let mut arguments = vec!["run", "--engine", "interp", "--memory", "16M", "--kernel"];
        arguments.push(kernel.to_str().unwrap());
        arguments.extend(card.into_iter().flat_map(|card| ["--net", card]));
        let mut child = piped(&arguments).env("XDG_RUNTIME_DIR", folder.path()).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 2]).unwrap();
        let namespaces = own_namespaces(child.id());
        assert_eq!(namespaces, [true, true, own, user].map(|own| own && allowed), "card {card:?}");
        child.kill().unwrap();
        child.wait().unwrap();
    }
    for switch in ["bare", "alone", "out"] {
        net(&["rm", switch]);
    }
}

/// He has a user namespace around them, in which his machine is his as before.
#[test]
fn an_ordinary_user_has_them_too() {
    const USER: u32 = 4242;
    let folder = tempfile::tempdir().unwrap();
    let kernel = multiboot_kernel(folder.path(), &[&print("up")[..], &SLEEP].concat());
    let run = folder.path().join("run");
    fs::create_dir(&run).unwrap();
    let root = rustix::process::geteuid().is_root();
    if root {
        chown(folder.path(), Some(USER), Some(USER)).unwrap();
        chown(&run, Some(USER), Some(USER)).unwrap();
    }
    let user = |arguments: &[&str]| {
        let mut command = piped(arguments);
        if root {
            command.uid(USER).gid(USER);
        }
        command.env("XDG_RUNTIME_DIR", &run).current_dir("/");
        command
    };
    let kernel = kernel.to_str().unwrap();
    let arguments = ["run", "--engine", "interp", "--memory", "16M", "--name", "m", "--kernel", kernel];
    let mut child = user(&arguments).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 2]).unwrap();
    let doctor = user(&["doctor"]).output().unwrap();
    let allowed = String::from_utf8(doctor.stdout).unwrap().contains("namespaces: yes");
    assert_eq!(own_namespaces(child.id()), [allowed; 4]);
    for thread in Thread::all(child.id()) {
        let powers = ["CapPrm", "CapEff", "CapInh"].map(|set| thread.field(set).to_owned());
        assert_eq!(powers, ["0000000000000000"; 3], "{}", thread.name);
    }
    // Whoever asks by the machine's socket is told, and signals come through.
    let output = user(&["kill", "m"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    child.wait().unwrap();
}

fn piped(arguments: &[&str]) -> Command {
    let mut command = guesthouse(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn has_landlock() -> bool {
    says("\"landlock_missing\": null")
}

/// `guesthouse doctor` does.
fn says(text: &str) -> bool {
    let output = guesthouse(&["doctor", "--json"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().contains(text)
}

//! `guesthouse snapshot` and `restore`, as a user has them.
#![allow(clippy::unwrap_used)] // how a test fails

mod cards;
#[path = "../common/mod.rs"]
mod common;
mod live;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{SLEEP, guesthouse, multiboot_kernel};
use rustix::process::{Pid, Signal, kill_process};

/// Machines of a test, which end with it.
struct World(tempfile::TempDir);

impl World {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = guesthouse(arguments);
        command.env("XDG_RUNTIME_DIR", self.0.path()).current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// What it prints, which works.
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let [out, error] = [output.stdout, output.stderr].map(|b| String::from_utf8_lossy(&b).into_owned());
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {out}{error}");
        out
    }

    /// What it complains of, in a line.
    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), error.lines().count()), (Some(2), 1), "{arguments:?}: {error}");
        error
    }

    fn exec(&self, name: &str, script: &str) -> String {
        self.ok(&["exec", "--wait", "60", name, "--", "sh", "-ec", script])
    }

    /// The machine `a` is killed while it writes `snap`, which is whole then, or not there.
    fn dies_meanwhile(&self, snapshot: &[&str]) {
        let asks = self.command(snapshot).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        self.ok(&["kill", "a"]);
        let output = asks.wait_with_output().unwrap();
        let whole = output.status.success();
        assert_eq!(whole, self.path("snap").exists(), "{}", String::from_utf8_lossy(&output.stderr));
        if whole {
            self.ok(&["restore", "-d", "--check", "snap"]);
        }
    }

    /// What `ps` says that a machine runs.
    fn guest(&self, name: &str) -> String {
        let listed: serde_json::Value = serde_json::from_str(&self.ok(&["ps", "-a", "--json"])).unwrap();
        let machine = listed.as_array().unwrap().iter().find(|machine| machine["name"] == name).unwrap();
        machine["guest"].as_str().unwrap().to_owned()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Nothing but these is there.
    fn holds(&self, names: &[&str]) {
        let mut found: Vec<_> = fs::read_dir(self.0.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "guesthouse")
            .collect();
        found.sort();
        assert_eq!(found, names);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for id in self.ok(&["ps", "-aq"]).lines() {
            let _ = self.run(&["rm", "-f", id]);
        }
    }
}

/// A sum over a long pipeline, by two processes at once, written when all is done.
const WORK: &str = r#"
work() { seq $1 3 9000 | awk '{ x = (x * 69069 + $1) % 65536; print x, $1 }' | sort -n | gzip -c | gunzip -c | sha256sum; }
(work 1 >/tmp/a & work 2 >/tmp/b; wait; cat /tmp/a /tmp/b | sha256sum >/tmp/sum.new; mv /tmp/sum.new /tmp/sum) >/dev/null 2>&1 </dev/null &
"#;
const SUM: &str = "while ! test -e /tmp/sum; do sleep 0.05; done; cat /tmp/sum";

fn disk(path: &Path) -> String {
    fs::File::create(path).unwrap().set_len(32 << 20).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_guest_at_work_goes_on_elsewhere_and_where_it_was() {
    let world = World::new();
    let (kept, own) = (disk(&world.path("kept.raw")), disk(&world.path("own.raw")));
    let (kept, own) = (format!("{kept},snapshot,format=raw"), format!("{own},format=raw"));
    let run = ["run", "-d", "--name", "a", "--cpus", "2", "--memory", "128M", "--net", "user,loopback=yes"];
    world.ok(&[&run[..], &["--disk", &kept, "--disk", &own]].concat());
    world.exec("a", "echo one | dd of=/dev/vda conv=fsync 2>/dev/null");
    world.exec("a", WORK);
    world.ok(&["snapshot", "a", "first"]);
    let mode = |name: &str| fs::metadata(world.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(
        ["first", "first/state", "first/memory", "first/disk0.qcow2"].map(mode),
        [0o700, 0o400, 0o400, 0o400]
    );
    assert!(world.refused(&["snapshot", "a", "first"]).contains("not there yet"));
    world.ok(&["snapshot", "--compress", "a", "small"]);
    let takes = |folder: &str| fs::metadata(world.path(folder).join("memory")).unwrap().blocks();
    assert!(takes("small") * 2 < takes("first"), "{} {}", takes("small"), takes("first"));
    // The other disk is in use by the first machine.
    let error = world.refused(&["restore", "-d", "first"]);
    assert!(error.contains("own.raw is in use"), "{error}");
    world.exec("a", "echo two | dd of=/dev/vda conv=fsync 2>/dev/null");
    let sum = world.exec("a", SUM);
    world.ok(&["snapshot", "--stop", "a", "last"]);
    let start = Instant::now();
    while !world.ok(&["ps", "-q"]).is_empty() {
        assert!(start.elapsed() < Duration::from_secs(30));
    }
    assert!(world.ok(&["ps", "-a"]).contains("exited (0)"));
    for (name, engine, folder) in [("b", "interp", "first"), ("c", "dbt", "small")] {
        world.ok(&["restore", "-d", "--rm", "--check", "--name", name, "--engine", engine, folder]);
        assert_eq!(world.exec(name, SUM), sum, "{engine}");
        assert_eq!(world.guest(name), world.guest("a"));
        assert_eq!(world.exec(name, "head -c 3 /dev/vda"), "one");
        world.exec(name, "ping -c 1 -W 10 10.0.2.2 && test $(nproc) = 2");
        world.ok(&["kill", name]);
    }
    // What was written to the other disk is not what the first snapshot's guest knows.
    world.ok(&["restore", "-d", "--name", "d", "last"]);
    world.exec("d", "test $(head -c 3 /dev/vda) = two; echo three | dd of=/dev/vdb conv=fsync 2>/dev/null");
    world.ok(&["kill", "d"]);
    let error = world.refused(&["restore", "-d", "last"]);
    assert!(error.contains("own.raw was written after the snapshot"), "{error}");
    world.holds(&["first", "kept.raw", "last", "own.raw", "small"]);
}

/// What the agent has the beginning of comes to its end, or it would take the greeting for the rest.
#[test]
fn a_guest_in_the_midst_of_a_transfer_understands_who_comes_next() {
    let world = World::new();
    world.ok(&["run", "-d", "--name", "a", "--cpus", "2", "--memory", "128M"]);
    world.exec("a", "true");
    let mut transfer = world.command(&["exec", "-i", "a", "--", "sh", "-c", "cat >/dev/null"]);
    let mut transfer = transfer.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut input = transfer.stdin.take().unwrap();
    let writer = std::thread::spawn(move || while input.write_all(&[7; 1 << 16]).is_ok() {});
    for round in 0..6 {
        let folder = format!("round{round}");
        let engine = if round % 3 == 0 { "interp" } else { "dbt" };
        world.ok(&["snapshot", "a", &folder]);
        world.ok(&["restore", "-d", "--rm", "--name", "b", "--engine", engine, &folder]);
        assert_eq!(world.exec("b", "echo here"), "here\n", "round {round}");
        world.ok(&["kill", "b"]);
    }
    transfer.kill().unwrap();
    transfer.wait().unwrap();
    writer.join().unwrap();
    assert_eq!(world.exec("a", "echo here"), "here\n");
}

#[test]
fn a_snapshot_that_cannot_be_leaves_nothing_and_the_machine_goes_on() {
    let world = World::new();
    fs::create_dir(world.path("shared")).unwrap();
    world.ok(&["run", "-d", "--name", "a", "--memory", "128M", "--share", "shared:s"]);
    fs::write(world.path("shared/file"), "text").unwrap();
    world.exec("a", "cat /mnt/s/file");
    assert!(world.refused(&["snapshot", "a", "snap"]).contains("uses a shared folder"));
    world.exec("a", "umount /mnt/s");
    assert!(world.refused(&["snapshot", "a", "nowhere/snap"]).contains("nowhere/snap cannot be made"));
    world.holds(&["shared"]);
    assert_eq!(world.exec("a", "echo here"), "here\n");
}

#[test]
fn an_image_that_is_written_to_the_end_is_what_the_snapshot_says() {
    let world = World::new();
    for (name, how) in [("still", &["--stop"][..]), ("live", &["--stop", "--live"])] {
        let disk = format!("{name}.qcow2");
        world.ok(&["image", "create", &disk, "2G"]);
        world.ok(&["run", "-d", "--name", name, "--memory", "128M", "--disk", &disk]);
        let load = "dd if=/dev/zero of=/dev/vda bs=64k seek=$((i*7)) count=4 conv=notrunc 2>/dev/null";
        let load =
            format!("(i=0; while :; do i=$((i+1)); {load}; done) </dev/null >/dev/null 2>&1 & sleep 1");
        world.exec(name, &load);
        world.ok(&[&["snapshot", name, "snap"], how].concat());
        world.ok(&["restore", "-d", "--rm", "--name", "b", "snap"]);
        assert_eq!(world.exec("b", "echo here"), "here\n");
        world.ok(&["kill", "b"]);
        fs::remove_dir_all(world.path("snap")).unwrap();
    }
}

#[test]
fn what_was_restored_is_called_by_what_it_boots() {
    let world = World::new();
    let kernel = multiboot_kernel(&world.path(""), &SLEEP);
    world.ok(&["run", "-d", "--name", "a", "--memory", "16M", "--kernel", kernel.to_str().unwrap()]);
    world.ok(&["snapshot", "a", "snap"]);
    world.ok(&["restore", "-d", "--rm", "--name", "b", "snap"]);
    assert_eq!(world.guest("b"), world.guest("a"));
}

#[test]
fn who_dies_in_the_midst_of_a_snapshot_leaves_none() {
    let world = World::new();
    world.ok(&["run", "-d", "--name", "a", "--memory", "256M"]);
    world.exec("a", "head -c 100000000 /dev/urandom >/tmp/data");
    for delay in [0, 2, 10, 30, 70] {
        // The one who asks: the machine goes on.
        let mut asks = world.command(&["snapshot", "a", "snap"]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        asks.kill().unwrap();
        asks.wait().unwrap();
        if !world.path("snap").exists() {
            assert_eq!(world.exec("a", "echo here"), "here\n");
        }
        let _ = fs::remove_dir_all(world.path("snap"));
    }
    world.dies_meanwhile(&["snapshot", "a", "snap"]);
}

#[test]
fn a_machine_that_is_to_end_goes_on_if_there_is_no_snapshot() {
    let world = World::new();
    world.ok(&["run", "-d", "--name", "a", "--memory", "256M"]);
    world.exec("a", "head -c 100000000 /dev/urandom >/tmp/data");
    let begin = || {
        let mut command = world.command(&["snapshot", "--stop", "a", "snap"]);
        let asks = command.stderr(Stdio::piped()).spawn().unwrap();
        let grows = |entry: fs::DirEntry| entry.file_name().to_str().unwrap().starts_with(".snap.");
        while !fs::read_dir(world.0.path()).unwrap().any(|entry| grows(entry.unwrap())) {}
        asks
    };
    // All is written, and then its place is taken.
    let asks = begin();
    fs::create_dir(world.path("snap")).unwrap();
    fs::write(world.path("snap/file"), "text").unwrap();
    let output = asks.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), error.lines().count()), (Some(2), 1), "{error}");
    world.holds(&["snap"]);
    assert_eq!(world.exec("a", "echo here"), "here\n");
    // Whoever asked does not want it any more.
    fs::remove_dir_all(world.path("snap")).unwrap();
    let mut asks = begin();
    kill_process(Pid::from_child(&asks), Signal::TERM).unwrap();
    assert_eq!(asks.wait().unwrap().code(), Some(143));
    world.holds(&[]);
    assert_eq!(world.exec("a", "echo here"), "here\n");
}

#[test]
fn copies_of_a_guest_at_work_are_others_and_it_is_unharmed() {
    let world = World::new();
    let kept = format!("{},snapshot,format=raw", disk(&world.path("kept.raw")));
    let run = ["run", "-d", "--name", "a", "--cpus", "2", "--memory", "128M"];
    world.ok(&[&run[..], &["--disk", &kept, "--net", "user"]].concat());
    world.exec("a", "echo one | dd of=/dev/vda conv=fsync 2>/dev/null");
    // It is told its name about now.
    world.exec("a", "until test $(hostname) = a; do sleep 0.1; done; hostname first");
    world.exec("a", WORK);
    let ids = world.ok(&["clone", "a", "--count", "2", "--name", "copy", "--rm"]);
    assert_eq!(ids.lines().count(), 2, "{ids}");
    world.exec("a", "echo two | dd of=/dev/vda conv=fsync 2>/dev/null");
    let sum = world.exec("a", SUM);
    for name in ["copy-1", "copy-2"] {
        assert_eq!(world.exec(name, SUM), sum);
        assert_eq!(world.guest(name), world.guest("a"));
        assert_eq!(world.exec(name, "head -c 3 /dev/vda"), "one");
        world.exec(name, &format!("echo {name} | dd of=/dev/vda conv=fsync 2>/dev/null"));
        // The agent is told while the guest works.
        world.exec(
            name,
            &format!("for i in $(seq 100); do test $(hostname) = {name} && exit; sleep 0.1; done; exit 1"),
        );
    }
    assert_eq!(world.exec("a", "head -c 3 /dev/vda; hostname"), "twofirst\n");
    // What cannot be copied.
    for command in [&["snapshot", "copy-1", "snap"][..], &["clone", "copy-1"]] {
        assert!(world.refused(command).contains("the machine is a copy"));
    }
    let own = format!("{},format=raw", disk(&world.path("own.raw")));
    world.ok(&["run", "-d", "--name", "b", "--memory", "96M", "--disk", &own]);
    assert!(world.refused(&["clone", "b"]).contains("own.raw, which a copy cannot share"));
    world.holds(&["kept.raw", "own.raw"]);
}

/// Its kernel does not know of VM Generation IDs, and takes other numbers by itself in half of the time since its start.
#[test]
fn no_copy_has_the_random_numbers_of_another() {
    let world = World::new();
    world.ok(&["run", "-d", "--name", "a", "--memory", "96M"]);
    let age = "until test $(cut -d. -f1 /proc/uptime) -ge 10; do head -c 16 /dev/urandom >/dev/null; sleep 0.1; done";
    world.exec("a", age);
    world.ok(&["clone", "a", "--count", "2", "--name", "copy", "--rm"]);
    // Who has its name has had numbers of its own before.
    let script = "until test $(hostname) = $0; do sleep 0.01; done; dd if=/dev/urandom bs=16 count=1000 2>/dev/null | od -v -tx1 -w16 -An";
    let numbers = ["copy-1", "copy-2"]
        .map(|name| world.ok(&["exec", "--wait", "60", name, "--", "sh", "-ec", script, name]));
    let mut numbers: Vec<_> = numbers.iter().flat_map(|numbers| numbers.lines()).collect();
    let count = numbers.len();
    numbers.sort();
    numbers.dedup();
    assert_eq!((count, numbers.len()), (2000, 2000));
}

#[test]
fn files_that_were_named_from_a_folder_are_found_from_any_other() {
    let world = World::new();
    fs::write(disk(&world.path("fixed.raw")), [b"fixed", &[0; 507][..]].concat()).unwrap();
    disk(&world.path("kept.raw"));
    let run = ["run", "-d", "--name", "a", "--memory", "96M", "--disk", "fixed.raw,readonly,format=raw"];
    world.ok(&[&run[..], &["--disk", "kept.raw,snapshot,format=raw"]].concat());
    world.exec("a", "echo kept | dd of=/dev/vdb conv=fsync 2>/dev/null");
    world.ok(&["snapshot", "a", "snap"]);
    let elsewhere = |arguments: &[&str]| {
        let output = world.command(arguments).current_dir("/").output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    };
    elsewhere(&["restore", "-d", "--name", "b", world.path("snap").to_str().unwrap()]);
    elsewhere(&["clone", "a", "--name", "c"]);
    for name in ["b", "c"] {
        assert_eq!(world.exec(name, "head -c 5 /dev/vda; head -c 4 /dev/vdb"), "fixedkept", "{name}");
    }
}

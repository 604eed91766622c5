//! What machines may use of the host, and what they use then.
#![allow(clippy::unwrap_used)] // how a test fails

mod common;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{guesthouse, run};
use tempfile::TempDir;

/// A guest that does nothing but compute, and has begun.
struct Busy(Child);

impl Busy {
    fn start(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut busy = Self(child);
        let mut begun = [0; 6];
        busy.0.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
        busy
    }

    fn cpu_time(&self) -> f64 {
        cpu_time(self.0.id())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const LOOP: [&str; 4] = ["--", "sh", "-c", "echo begun; while :; do :; done"];

/// Not the first one, where kernels have work of their own to do.
fn last_cpu() -> String {
    (std::thread::available_parallelism().unwrap().get() - 1).to_string()
}

/// CPU time of a process in seconds, with that of those in which programs of the guest run.
fn cpu_time(pid: u32) -> f64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let all: String = lists.collect();
    let children = all.split_whitespace().map(|child| own_cpu_time(child.parse().unwrap()));
    own_cpu_time(pid) + children.sum::<f64>()
}

fn own_cpu_time(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // USER_HZ of x86.
    ticks as f64 / 100.0
}

/// CPUs' worth of time that a process uses.
fn usage(cpu_time: impl Fn() -> f64, seconds: u64) -> f64 {
    let (start, before) = (Instant::now(), cpu_time());
    std::thread::sleep(Duration::from_secs(seconds));
    (cpu_time() - before) / start.elapsed().as_secs_f64()
}

#[test]
fn a_cap_holds() {
    for cpus in ["1", "3"] {
        let arguments = [&["run", "--cpu-cap", "0.2", "--cpus", cpus], &LOOP[..]].concat();
        let busy = Busy::start(&mut guesthouse(&arguments));
        std::thread::sleep(Duration::from_millis(500));
        let used = usage(|| busy.cpu_time(), 5);
        println!("a cap of 0.2 with {cpus} cpus: {used:.3}");
        assert!((0.17..0.23).contains(&used), "{used}");
    }
}

/// Of the ticks in /proc/stat of a guest with a CPU that computes and one that sleeps: user, system, steal, fields 2, 4 and
/// 9; and the ticks that passed, which are hundredths of a second.
#[test]
fn a_guest_sees_what_its_cap_takes() {
    let script = "read -r begin; read -r _ u0 _ s0 _ _ _ _ t0 _ </proc/stat; read -r b _ </proc/uptime; e=$b
                  while [ ${e%.*} -lt $((${b%.*} + 6)) ]; do
                      i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; read -r e _ </proc/uptime
                  done
                  read -r _ u _ s _ _ _ _ t _ </proc/stat
                  echo $((u-u0)) $((s-s0)) $((t-t0)) $((${e%.*}${e#*.}-${b%.*}${b#*.}))";
    let folder = TempDir::new().unwrap();
    let user = |arguments: &[&str]| {
        let mut command = guesthouse(arguments);
        command.env("XDG_RUNTIME_DIR", folder.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        command
    };
    let mut child =
        user(&["run", "--name", "capped", "--cpus", "2", "--", "sh", "-c", script]).spawn().unwrap();
    // It has begun by the time it answers; a boot within the cap would take its time.
    let begun = || user(&["exec", "capped", "--", "true"]).output().unwrap().status.success();
    let start = Instant::now();
    while !begun() {
        assert!(start.elapsed() < Duration::from_secs(120), "the guest does not begin");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(user(&["limit", "capped", "--cpu-cap", "0.2"]).status().unwrap().success());
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let ticks: Vec<f64> = stdout.split_whitespace().map(|word| word.parse().unwrap()).collect();
    let [user, system, steal, passed] = ticks[..] else { panic!("{stdout}") };
    let wanted = user + system + steal;
    let (share, cpus) = (steal / wanted, wanted / passed);
    println!("user, system, steal: {ticks:?}: {share:.3} of what {cpus:.3} CPUs wanted");
    // A host that is busy takes more.
    assert!((0.7..0.98).contains(&share), "{ticks:?}");
    // Who sleeps loses nothing.
    assert!((0.9..1.5).contains(&cpus), "{ticks:?}");
}

#[test]
fn weights_share_a_cpu() {
    // Both below the normal weight, which needs no privileges.
    let start = |weight| {
        let arguments = [&["run", "--cpu-weight", weight], &LOOP[..]].concat();
        let program = guesthouse(&[]).get_program().to_owned();
        let mut pinned = Command::new("taskset");
        pinned.args(["-c", &last_cpu()]).arg(program).args(arguments);
        Busy::start(&mut pinned)
    };
    let (light, heavy) = (start("33"), start("100"));
    let before = [light.cpu_time(), heavy.cpu_time()];
    std::thread::sleep(Duration::from_secs(8));
    let ratio = (heavy.cpu_time() - before[1]) / (light.cpu_time() - before[0]);
    println!("weights of 33 and 100 on one CPU: 1 to {ratio:.2}");
    assert!((2.5..3.6).contains(&ratio), "{ratio}");
}

#[test]
fn a_disk_is_as_slow_as_it_is_told() {
    let folder = TempDir::new().unwrap();
    let disk = folder.path().join("disk.raw");
    std::fs::write(&disk, vec![1; 16 << 20]).unwrap();
    let disk = disk.to_str().unwrap();
    // The second disk is not limited.
    let other = folder.path().join("other.raw");
    std::fs::write(&other, vec![1; 16 << 20]).unwrap();
    let script = "time dd if=/dev/vda of=/dev/null bs=64k count=64 iflag=direct; dd if=/dev/vda of=/dev/null bs=64k iflag=direct & time dd if=/dev/vdb of=/dev/null bs=64k iflag=direct; kill %1";
    for limit in ["disk0,bps=2M", "disk0,iops=32"] {
        let arguments = [
            "run",
            "--disk",
            disk,
            "--disk",
            other.to_str().unwrap(),
            "--limit",
            limit,
            "--",
            "sh",
            "-c",
            script,
        ];
        let (status, stdout, stderr) = run(&arguments);
        let times: Vec<f64> = stderr.lines().chain(stdout.lines()).filter_map(real).collect();
        println!("{limit}: 4 MiB in {times:?} s");
        assert_eq!(times.len(), 2, "{status}: {stdout}{stderr}");
        assert!((1.6..3.0).contains(&times[0]) && times[1] < times[0], "{limit}: {times:?}");
    }
}

/// Seconds of a line of `time`'s.
fn real(line: &str) -> Option<f64> {
    let (minutes, seconds) = line.strip_prefix("real")?.trim().split_once('m')?;
    Some(
        minutes.trim().parse::<f64>().ok()? * 60.0
            + seconds.trim().trim_end_matches('s').trim().parse::<f64>().ok()?,
    )
}

#[test]
fn a_card_is_as_slow_as_it_is_told_in_each_direction() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&vec![7; 4 << 20]).unwrap();
        drop(stream);
        let (mut stream, _) = listener.accept().unwrap();
        let mut data = Vec::new();
        stream.read_to_end(&mut data).unwrap();
        data.len()
    });
    let script = format!(
        "time nc 10.0.2.2 {port} </dev/null | wc -c; time sh -c 'head -c 4194304 /dev/zero | nc 10.0.2.2 {port}'"
    );
    let arguments = [
        "run",
        "--net",
        "user,loopback=yes",
        "--limit",
        "net0.rx,bps=2M",
        "--limit",
        "net0.tx,bps=4M",
        "--",
        "sh",
        "-c",
        &script,
    ];
    let (status, stdout, stderr) = run(&arguments);
    let times: Vec<f64> = stderr.lines().chain(stdout.lines()).filter_map(real).collect();
    println!("4 MiB at 2M and 4M a second: {times:?} s");
    assert_eq!(
        (times.len(), stdout.contains("4194304"), server.join().unwrap()),
        (2, true, 4 << 20),
        "{status}: {stdout}{stderr}"
    );
    assert!((1.6..3.0).contains(&times[0]) && (0.7..2.0).contains(&times[1]), "{times:?}");
}

/// The machine in the background ends with the test, however that ends.
struct Background<'a>(&'a dyn Fn(&[&str]) -> (bool, String));

impl Drop for Background<'_> {
    fn drop(&mut self) {
        (self.0)(&["kill", "busy"]);
    }
}

#[test]
fn limits_and_balloon_change_while_the_machine_runs() {
    let folder = TempDir::new().unwrap();
    let ask = |arguments: &[&str]| {
        let output = guesthouse(arguments).env("XDG_RUNTIME_DIR", folder.path()).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    };
    let (fine, id) = ask(&[&["run", "-d", "--name", "busy", "--rm"], &LOOP[..]].concat());
    assert!(fine, "{id}");
    let json = |text: &str| -> serde_json::Value { serde_json::from_str(text).unwrap() };
    let _end = Background(&ask);
    let pid = json(&ask(&["inspect", "busy"]).1)["pid"].as_u64().unwrap() as u32;
    assert_eq!(ask(&["limit", "busy"]), (true, "{}\n".to_owned()));
    assert_eq!(ask(&["limit", "busy", "--cpu-cap", "0.2"]), (true, String::new()));
    std::thread::sleep(Duration::from_millis(500));
    let used = usage(|| cpu_time(pid), 3);
    assert!((0.15..0.25).contains(&used), "{used}");
    assert_eq!(json(&ask(&["limit", "busy"]).1)["cpus"], 0.2);
    let (fine, said) = ask(&["limit", "busy", "disk0,iops=5"]);
    assert!(!fine && said.contains("no disk0") && said.lines().count() == 1, "{said}");
    assert!(ask(&["limit", "busy", "--cpu-cap", "much"]).1.contains("\"much\""));
    assert_eq!(ask(&["limit", "busy", "--cpu-cap", "none"]), (true, String::new()));
    assert_eq!(ask(&["balloon", "busy", "200M"]), (true, String::new()));
    let start = Instant::now();
    while json(&ask(&["balloon", "busy", "--json"]).1)["size"] != 200 << 20 {
        assert!(start.elapsed() < Duration::from_secs(60), "{}", ask(&["balloon", "busy", "--json"]).1);
        std::thread::sleep(Duration::from_millis(100));
    }
    let report = json(&ask(&["balloon", "busy", "--json"]).1);
    assert!(report["guest"]["available"].as_u64().unwrap() < 320 << 20, "{report}");
    assert!(ask(&["balloon", "busy"]).1.contains("given up"));
    assert!(ask(&["balloon", "busy", "512M"]).1.contains("leaves nothing"));
    assert_eq!(ask(&["balloon", "busy", "0"]), (true, String::new()));
}

#[test]
fn a_machine_in_the_background_is_weighed_as_a_session() {
    let folder = TempDir::new().unwrap();
    let ask = |arguments: &[&str]| {
        let output = guesthouse(arguments).env("XDG_RUNTIME_DIR", folder.path()).output().unwrap();
        (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let (fine, id) =
        ask(&[&["run", "-d", "--name", "busy", "--rm", "--cpu-weight", "33"], &LOOP[..]].concat());
    assert!(fine, "{id}");
    let _end = Background(&ask);
    let status: serde_json::Value = serde_json::from_str(&ask(&["inspect", "busy"]).1).unwrap();
    let pid = status["pid"].as_u64().unwrap();
    let group = || std::fs::read_to_string(format!("/proc/{pid}/autogroup")).unwrap();
    if !std::path::Path::new("/proc/self/autogroup").exists() {
        println!("this host's scheduler has no autogroups: there is nothing to be weighed");
        return;
    }
    let start = Instant::now();
    while !group().trim_end().ends_with("nice 5") {
        assert!(start.elapsed() < Duration::from_secs(30), "{}", group());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A control group for a test; a folder that stands in for one where the host lets us make none. It goes with the test.
struct Group {
    folder: std::path::PathBuf,
    _stand_in: Option<TempDir>,
}

impl Group {
    fn new(name: &str) -> Self {
        let name = format!("guesthouse-{name}-{}", std::process::id());
        for parent in ["/sys/fs/cgroup", "/sys/fs/cgroup/cpu"] {
            let folder = std::path::Path::new(parent).join(&name);
            if std::fs::create_dir(&folder).is_ok() {
                let real = ["cpu.weight", "cpu.shares"].iter().any(|file| folder.join(file).exists());
                if real && std::fs::OpenOptions::new().write(true).open(folder.join("cgroup.procs")).is_ok() {
                    return Self { folder, _stand_in: None };
                }
                std::fs::remove_dir_all(&folder).unwrap();
            }
        }
        println!(
            "this host gives no control group: a folder stands in, and only what is written is looked at"
        );
        let folder = TempDir::new().unwrap();
        for file in ["cgroup.procs", "cpu.max", "cpu.weight"] {
            std::fs::write(folder.path().join(file), "").unwrap();
        }
        Self { folder: folder.path().to_owned(), _stand_in: Some(folder) }
    }

    fn is_real(&self) -> bool {
        self._stand_in.is_none()
    }

    fn read(&self, files: [&str; 2]) -> String {
        let text = files.iter().find_map(|file| std::fs::read_to_string(self.folder.join(file)).ok());
        text.unwrap().trim().to_owned()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.is_real() {
            // The last of its processes may be going.
            let gone = (0..100).any(|_| {
                std::thread::sleep(Duration::from_millis(20));
                std::fs::remove_dir(&self.folder).is_ok()
            });
            assert!(gone || std::thread::panicking(), "{} stays", self.folder.display());
        }
    }
}

#[test]
fn a_control_group_has_the_machine_and_its_limits() {
    let (light, heavy) = (Group::new("light"), Group::new("heavy"));
    let start = |group: &Group, limits: &[&str]| {
        let arguments = [&["run", "--cgroup", group.folder.to_str().unwrap()], limits, &LOOP[..]].concat();
        let program = guesthouse(&[]).get_program().to_owned();
        let mut pinned = Command::new("taskset");
        pinned.args(["-c", &last_cpu()]).arg(program).args(arguments);
        Busy::start(&mut pinned)
    };
    // More than others have, which a nice value would need privileges for.
    let (few, many) = (start(&light, &["--cpu-weight", "100"]), start(&heavy, &["--cpu-weight", "300"]));
    assert!(["300", "3072"].contains(&heavy.read(["cpu.weight", "cpu.shares"]).as_str()));
    if light.is_real() {
        let procs = heavy.read(["cgroup.procs"; 2]);
        assert!(procs.lines().any(|pid| pid == many.0.id().to_string()), "{procs}");
        let before = [few.cpu_time(), many.cpu_time()];
        std::thread::sleep(Duration::from_secs(4));
        let ratio = (many.cpu_time() - before[1]) / (few.cpu_time() - before[0]);
        println!("groups of weights 100 and 300 on one CPU: 1 to {ratio:.2}");
        assert!((2.5..3.6).contains(&ratio), "{ratio}");
    }
    drop((few, many));
    let capped = start(&light, &["--cpu-cap", "0.2"]);
    assert!(["20000 100000", "20000"].contains(&light.read(["cpu.max", "cpu.cfs_quota_us"]).as_str()));
    drop(capped);
    let (status, _, stderr) = run(&["run", "--cgroup", "/nowhere", "--", "true"]);
    assert_eq!((status, stderr.lines().count()), (2, 1), "{stderr}");
    assert!(stderr.contains("/nowhere") && stderr.contains("mkdir"), "{stderr}");
}

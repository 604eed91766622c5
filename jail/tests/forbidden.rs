//! From inside every kind of thread of a process in its jail: what is forbidden is tried. Each case is a process of its own,
//! this program once more.
// UNSAFETY: most of what is forbidden has no safe wrapper.
#![allow(unsafe_code, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::{ExitStatusExt, parent_id};
use std::path::PathBuf;
use std::process::{self, Command, Output, Stdio};
use std::sync::mpsc::channel;

use jail::{Access, Enforced, Host, Jail, Kind, REFUSED_STATUS};
use libtest_mimic::{Arguments, Failed, Trial};
use rustix::process::{DumpableBehavior, Gid, Uid, geteuid, set_dumpable_behavior};
use rustix::thread::{self, CapabilitySet, CapabilitySets};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

/// What is tried, and who may.
struct Attempt {
    name: &'static str,
    what: What,
    allowed: &'static [Kind],
}

enum What {
    /// A system call by its number, with these arguments; a null pointer is as good as any to be refused.
    Call(i64, [i64; 4]),
    /// Something else.
    Do(fn()),
}

impl What {
    fn happen(&self) {
        match *self {
            // SAFETY: no pointer is passed, and a mapping is a new one.
            What::Call(number, [a, b, c, d]) => drop(unsafe { libc::syscall(number, a, b, c, d, -1, 0) }),
            What::Do(body) => body(),
        }
    }
}

const fn call(name: &'static str, number: i64, arguments: [i64; 4]) -> Attempt {
    Attempt { name, what: What::Call(number, arguments), allowed: &[] }
}

const fn socket(name: &'static str, family: i32, allowed: &'static [Kind]) -> Attempt {
    let arguments = [family as i64, libc::SOCK_DGRAM as i64, 0, 0];
    Attempt { name, what: What::Call(libc::SYS_socket, arguments), allowed }
}

const EXEC: i64 = libc::PROT_EXEC as i64;
const ANONYMOUS: i64 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as i64;
const SPAWNERS: &[Kind] =
    &[Kind::Main, Kind::KvmVcpu, Kind::Board, Kind::Disk, Kind::Api, Kind::Client, Kind::Signals];

const ATTEMPTS: &[Attempt] = &[
    call("execve", libc::SYS_execve, [0; 4]),
    call("execveat", libc::SYS_execveat, [0; 4]),
    call("fork", libc::SYS_clone, [libc::SIGCHLD as i64, 0, 0, 0]),
    call("vfork", libc::SYS_vfork, [0; 4]),
    call("ptrace", libc::SYS_ptrace, [libc::PTRACE_ATTACH as i64, 1, 0, 0]),
    call("seize", libc::SYS_ptrace, [0x4206, 1, 0, 0]),
    call("read-others-memory", libc::SYS_process_vm_readv, [1, 0, 0, 0]),
    call("kill", libc::SYS_kill, [1, 0, 0, 0]),
    call("tgkill", libc::SYS_tgkill, [1, 1, 0, 0]),
    call("mount", libc::SYS_mount, [0; 4]),
    call("unshare", libc::SYS_unshare, [libc::CLONE_NEWUSER as i64, 0, 0, 0]),
    call("setns", libc::SYS_setns, [0; 4]),
    call("setuid", libc::SYS_setuid, [0; 4]),
    call("capset", libc::SYS_capset, [0; 4]),
    call("chroot", libc::SYS_chroot, [0; 4]),
    call("bpf", libc::SYS_bpf, [0; 4]),
    call("keyctl", libc::SYS_keyctl, [0; 4]),
    call("perf", libc::SYS_perf_event_open, [0; 4]),
    call("module", libc::SYS_finit_module, [0; 4]),
    Attempt {
        name: "new-ring",
        what: What::Call(libc::SYS_io_uring_setup, [1, 0, 0, 0]),
        allowed: &[Kind::Main],
    },
    call("type-at-the-terminal", libc::SYS_ioctl, [0, libc::TIOCSTI as i64, 0, 0]),
    socket("packets", libc::AF_PACKET, &[]),
    socket("netlink", libc::AF_NETLINK, &[]),
    socket("vsock", libc::AF_VSOCK, &[]),
    socket("internet", libc::AF_INET, &[Kind::Net]),
    socket("internet6", libc::AF_INET6, &[Kind::Net]),
    socket("unix", libc::AF_UNIX, &[Kind::Main, Kind::Link, Kind::Socket]),
    Attempt {
        name: "map-code",
        what: What::Call(libc::SYS_mmap, [0, 4096, libc::PROT_READ as i64 | EXEC, ANONYMOUS]),
        allowed: &[Kind::Main, Kind::KvmVcpu, Kind::Api],
    },
    Attempt {
        name: "make-code",
        what: What::Call(libc::SYS_mprotect, [0, 4096, EXEC, 0]),
        allowed: &[Kind::Main, Kind::KvmVcpu, Kind::Api],
    },
    Attempt {
        name: "thread",
        what: What::Do(|| std::thread::spawn(|| ()).join().unwrap()),
        allowed: SPAWNERS,
    },
    Attempt { name: "other-architecture", what: What::Do(other_architecture), allowed: &[] },
];

/// What ends the process without a line: 32-bit calls (where the kernel has none, by another signal), and threads, since
/// the C library blocks all signals while it makes one.
const KILLED: [&str; 2] = ["other-architecture", "thread"];

/// 32-bit Linux: getpid's number there.
fn other_architecture() {
    // SAFETY: the call takes no memory, and only RAX changes.
    unsafe { std::arch::asm!("int 0x80", inlateout("rax") 20i64 => _) };
}

/// Kinds that may open files by name; the others are told that they may not, and go on.
const OPENERS: &[Kind] =
    &[Kind::Main, Kind::Board, Kind::Share, Kind::Net, Kind::Link, Kind::Console, Kind::Api];

/// What is seen from inside, by name, and with which status the process ends.
const SCENES: &[(&str, u8, fn())] = &[
    ("paths", 0, paths),
    ("links-and-renames", 0, links_and_renames),
    ("no-network", REFUSED_STATUS, no_network),
    ("no-ports", 0, no_ports),
    ("threads-before", REFUSED_STATUS, threads_before),
    ("threads-of-threads", REFUSED_STATUS, threads_of_threads),
    ("panic", 0, panic_with_backtrace),
    ("powers", 0, powers),
    ("namespaces", 0, namespaces),
    ("host-network", 0, host_network),
    ("ordinary-user", 0, ordinary_user),
    ("no-namespaces-beside-a-thread", 0, no_namespaces_beside_a_thread),
    ("no-namespaces-where-they-are-refused", 0, no_namespaces_where_they_are_refused),
    ("no-namespaces-for-nobody", 0, no_namespaces_for_nobody),
    ("no-namespaces-in-which-root-is-nobody", 0, no_namespaces_in_which_root_is_nobody),
    ("children-that-nobody-waits-for", 0, children_that_nobody_waits_for),
    ("no-namespaces-for-some-powers", 0, no_namespaces_for_some_powers),
    ("report", REFUSED_STATUS, report),
    ("outside", 0, outside),
];

fn main() {
    if let Ok(case) = std::env::var("FORBIDDEN") {
        if let Some((.., scene)) = SCENES.iter().find(|(name, ..)| *name == case) {
            return scene();
        }
        let (kind, attempt) = case.split_once(' ').unwrap();
        return inside(*Kind::ALL.iter().find(|k| format!("{k:?}") == kind).unwrap(), attempt);
    }
    let kinds = Kind::ALL.map(|kind| Trial::test(format!("{kind:?}"), move || tried(kind)));
    let scenes = SCENES.iter().map(|(name, status, _)| Trial::test(*name, || seen(name, *status)));
    libtest_mimic::run(&Arguments::from_args(), scenes.chain(kinds).collect()).exit();
}

/// Another process of this program, for a case.
fn run(case: &str) -> Output {
    let program = std::env::current_exe().unwrap();
    Command::new(program).env("FORBIDDEN", case).stdin(Stdio::null()).output().unwrap()
}

fn seen(scene: &str, status: u8) -> Result<(), Failed> {
    let output = run(scene);
    assert_eq!(output.status.code(), Some(status.into()), "{}", String::from_utf8_lossy(&output.stderr));
    if scene == "report" {
        let path = report_file(process::id());
        assert_eq!(fs::read(&path)?, output.stderr);
        fs::remove_file(path)?;
    }
    Ok(())
}

fn tried(kind: Kind) -> Result<(), Failed> {
    for Attempt { name, allowed, .. } in ATTEMPTS {
        let output = run(&format!("{kind:?} {name}"));
        let (said, error) = (output.stdout, String::from_utf8(output.stderr)?);
        let (status, signal) = (output.status.code(), output.status.signal());
        if allowed.contains(&kind) {
            assert_eq!((status, &said[..]), (Some(0), &b"went on\n"[..]), "{kind:?} {name}: {error}");
        } else if KILLED.contains(name) {
            assert!(
                matches!(signal, Some(libc::SIGSYS | libc::SIGSEGV)),
                "{kind:?} {name}: {signal:?} {error}"
            );
        } else {
            assert_eq!(status, Some(REFUSED_STATUS.into()), "{kind:?} {name}: {signal:?} {error}");
            assert!(error.contains("refuses system call") && error.contains("to thread tries:"), "{error}");
        }
    }
    let output = run(&format!("{kind:?} open"));
    assert_eq!(output.status.code(), Some(0), "{kind:?}: {}", String::from_utf8(output.stderr)?);
    Ok(())
}

/// A jail with room for threads of all kinds.
fn jail() -> Jail {
    let mut jail = Jail::default();
    for kind in Kind::ALL {
        jail.kind(kind);
    }
    jail
}

fn enter(jail: &Jail) -> Enforced {
    let host = Host::probe();
    let enforced = jail.enter().unwrap();
    assert_eq!((&enforced.seccomp, &enforced.no_new_privs), (&Ok(()), &Ok(())));
    // What the host has is used.
    assert_eq!(enforced.landlock.is_ok(), host.landlock.is_some(), "{enforced}");
    enforced
}

/// Becomes what it is to be, and tries.
fn inside(kind: Kind, attempt: &str) {
    let enforced = enter(&jail());
    let opens = OPENERS.contains(&kind) && enforced.landlock.is_err();
    let what = ATTEMPTS.iter().find(|a| a.name == attempt).map(|a| &a.what);
    let body = move || match what {
        Some(what) => what.happen(),
        None => assert_eq!(is_denied(File::open("/etc/passwd")), !opens),
    };
    jail::spawn(kind, "tries", body).unwrap().join().unwrap();
    println!("went on");
}

fn is_denied<T>(result: io::Result<T>) -> bool {
    result.is_err_and(|e| e.kind() == io::ErrorKind::PermissionDenied)
}

fn paths() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["read", "write", "not-named", "folder/inner"] {
        fs::create_dir_all(path(name).parent().unwrap()).unwrap();
        fs::write(path(name), "x").unwrap();
    }
    fs::create_dir(path("sockets")).unwrap();
    let mut jail = jail();
    jail.allow(path("read"), Access::Read)
        .allow(path("write"), Access::Write)
        .allow(path("folder"), Access::All);
    jail.allow(path("sockets"), Access::Sockets).allow(path("not-there"), Access::All);
    let held = File::open(path("not-named")).unwrap();
    if enter(&jail).landlock.is_err() {
        return;
    }
    assert_eq!(fs::read(path("read")).unwrap(), b"x");
    assert!(is_denied(fs::write(path("read"), "y")));
    fs::write(path("write"), "y").unwrap();
    assert!(is_denied(fs::remove_file(path("write"))));
    assert!(is_denied(fs::read(path("not-named"))) && is_denied(fs::read_dir(folder.path())));
    assert_eq!(io::read_to_string(&held).unwrap(), "x", "what is open stays open");
    fs::write(path("folder/new"), "y").unwrap();
    fs::rename(path("folder/new"), path("folder/inner")).unwrap();
    fs::remove_dir_all(path("folder")).unwrap_err();
    assert!(!path("folder/inner").exists() && path("folder").exists());
    drop(UnixListener::bind(path("sockets/s")).unwrap());
    assert!(is_denied(fs::write(path("sockets/f"), "y")) && is_denied(fs::write(path("not-there"), "y")));
    fs::remove_file(path("sockets/s")).unwrap();
}

fn links_and_renames() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("ours")).unwrap();
    fs::write(path("theirs"), "x").unwrap();
    symlink("../theirs", path("ours/link")).unwrap();
    let mut jail = jail();
    jail.allow(path("ours"), Access::All);
    if enter(&jail).landlock.is_err() {
        return;
    }
    assert!(is_denied(fs::read(path("ours/link"))) && is_denied(fs::read(path("ours/../theirs"))));
    assert!(fs::hard_link(path("theirs"), path("ours/hard")).is_err());
    assert!(fs::rename(path("theirs"), path("ours/moved")).is_err());
}

/// A machine without a network has none of the host's.
fn no_network() {
    let mut jail = Jail::default();
    jail.kind(Kind::Vcpu);
    enter(&jail);
    drop(UdpSocket::bind("127.0.0.1:0"));
}

fn no_ports() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let denied = enter(&jail()).landlock.is_ok_and(|version| version >= 4);
    assert_eq!(is_denied(TcpStream::connect(address)), denied);
    assert_eq!(is_denied(TcpListener::bind("127.0.0.1:0")), denied);
}

/// A thread that is there before has the process's list.
fn threads_before() {
    let (go, wait) = channel();
    let before = std::thread::spawn(move || {
        wait.recv().unwrap();
        assert!(lines("/proc/thread-self/status", "Seccomp:").ends_with('2'));
        What::Call(libc::SYS_execve, [0; 4]).happen();
    });
    enter(&jail());
    go.send(()).unwrap();
    before.join().unwrap();
}

/// A thread can make others that may less, and none that may more.
fn threads_of_threads() {
    enter(&jail());
    let inner =
        || jail::spawn(Kind::Net, "inner", || drop(UdpSocket::bind("127.0.0.1:0"))).unwrap().join().unwrap();
    jail::spawn(Kind::Disk, "outer", inner).unwrap().join().unwrap();
}

/// Files are told to be closed to a thread that looks for its own source.
fn panic_with_backtrace() {
    // SAFETY: no other thread runs.
    unsafe { std::env::set_var("RUST_BACKTRACE", "1") };
    enter(&jail());
    assert!(jail::spawn(Kind::Vcpu, "panics", || panic!("on purpose")).unwrap().join().is_err());
}

fn lines(path: &str, key: &str) -> String {
    let text = fs::read_to_string(path).unwrap();
    text.lines().filter(|line| line.starts_with(key)).collect::<Vec<_>>().join(";")
}

fn powers() {
    let mut jail = jail();
    jail.allow("/proc/self", Access::Read);
    enter(&jail);
    let powers = lines("/proc/self/status", "CapEff:");
    let powers = u64::from_str_radix(powers.split_whitespace().nth(1).unwrap(), 16).unwrap();
    for lost in [
        CapabilitySet::SYS_ADMIN,
        CapabilitySet::SYS_PTRACE,
        CapabilitySet::SYS_MODULE,
        CapabilitySet::SETUID,
    ] {
        assert_eq!(powers & lost.bits(), 0, "{powers:x}");
    }
    assert!(lines("/proc/self/status", "NoNewPrivs:").ends_with('1'));
}

/// The namespaces that the calling thread is in.
fn spaces() -> [PathBuf; 4] {
    ["ipc", "uts", "net", "user"].map(|kind| fs::read_link(format!("/proc/thread-self/ns/{kind}")).unwrap())
}

/// Enters a jail; whether each of these namespaces is another one then. The host may have none.
fn moved(jail: &Jail) -> Option<[bool; 4]> {
    let (missing, before) = (Host::probe().namespaces_missing, spaces());
    assert_eq!(before, spaces(), "looking changes nothing");
    let enforced = enter(jail);
    let after = spaces();
    let moved = [0, 1, 2, 3].map(|i| before[i] != after[i]);
    let count = moved.iter().filter(|moved| **moved).count() as u32;
    assert_eq!(enforced.namespaces, missing.map_or(Ok(count), Err));
    (count > 0).then_some(moved)
}

/// A socket that is there before is the host's: its name means nothing inside, whatever Landlock says. Paths are not networks'.
fn namespaces() {
    let name = SocketAddr::from_abstract_name(format!("guesthouse-{}", process::id())).unwrap();
    let _host = UnixListener::bind_addr(&name).unwrap();
    UnixStream::connect_addr(&name).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let _named = UnixListener::bind(&path).unwrap();
    if let Some(moved) = moved(&jail()) {
        assert_eq!(moved, [true, true, true, !geteuid().is_root()]);
        let error = UnixStream::connect_addr(&name).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
    UnixStream::connect(&path).unwrap();
}

fn host_network() {
    let mut jail = jail();
    jail.share_network();
    if let Some(moved) = moved(&jail) {
        assert_eq!(moved, [true, true, false, !geteuid().is_root()]);
    }
}

/// Becomes somebody else, if it is root.
fn become_user(id: u32) {
    if geteuid().is_root() {
        thread::set_thread_groups(&[]).unwrap();
        thread::set_thread_gid(Gid::from_raw(id)).unwrap();
        thread::set_thread_uid(Uid::from_raw(id)).unwrap();
        // As a program is that he starts.
        set_dumpable_behavior(DumpableBehavior::Dumpable).unwrap();
    }
}

/// He is who he was, and no more than that.
fn ordinary_user() {
    become_user(4242);
    let user = geteuid();
    let mut jail = jail();
    jail.allow("/proc/self", Access::Read);
    if let Some(moved) = moved(&jail) {
        assert_eq!((moved, geteuid()), ([true; 4], user));
    }
    for powers in ["CapPrm:", "CapEff:", "CapInh:"] {
        assert!(lines("/proc/self/status", powers).ends_with("\t0000000000000000"), "{powers}");
    }
    assert_eq!(fs::metadata("/proc/self").unwrap().uid(), user.as_raw());
}

/// The rest of the jail is there.
fn none(why: &str) {
    let before = spaces();
    let error = enter(&jail()).namespaces.unwrap_err();
    assert!(error.contains(why) && before == spaces(), "{error}");
}

fn no_namespaces_beside_a_thread() {
    become_user(4242);
    let missing = Host::probe().namespaces_missing;
    let _parked = std::thread::spawn(std::thread::park);
    none(&missing.unwrap_or("the process has another thread".to_owned()));
}

/// By a container's list of calls: looking and entering say the same.
fn no_namespaces_where_they_are_refused() {
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    let rules = BTreeMap::from([(libc::SYS_unshare, Vec::new())]);
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch).unwrap();
    apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
    none(&Host::probe().namespaces_missing.unwrap());
}

fn no_namespaces_for_nobody() {
    become_user(65534);
    none("65534 is everybody else");
}

/// Root in a container without powers may make a user namespace, and may not be root there.
fn no_namespaces_in_which_root_is_nobody() {
    if geteuid().is_root() {
        let nothing = CapabilitySet::empty();
        let nothing = CapabilitySets { effective: nothing, permitted: nothing, inheritable: nothing };
        thread::set_capabilities(None, nothing).unwrap();
        let missing = Host::probe().namespaces_missing.unwrap();
        none(&missing);
        assert!(geteuid().is_root());
    }
}

/// What is found out by a child does not depend on who waits for it.
fn children_that_nobody_waits_for() {
    let missing = Host::probe().namespaces_missing;
    // SAFETY: children are let go of by the kernel from now on.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    assert_eq!(Host::probe().namespaces_missing, missing);
}

/// They are for something, and would count for nothing in a user namespace.
fn no_namespaces_for_some_powers() {
    let mut sets = thread::capabilities(None).unwrap();
    if sets.effective.contains(CapabilitySet::SYS_ADMIN) {
        sets.permitted &= !CapabilitySet::SYS_ADMIN;
        sets.effective = sets.permitted;
        thread::set_capabilities(None, sets).unwrap();
        none("add CAP_SYS_ADMIN");
    }
}

/// What is said of a refused call is in a file as well; the parent looks at it.
fn report() {
    jail::report_to(File::create(report_file(parent_id())).unwrap());
    enter(&jail());
    What::Call(libc::SYS_execve, [0; 4]).happen();
}

fn report_file(of: u32) -> PathBuf {
    std::env::temp_dir().join(format!("guesthouse-report-{of}"))
}

/// Without a jail, threads are ordinary ones.
fn outside() {
    let seccomp = || lines("/proc/thread-self/status", "Seccomp:");
    let before = seccomp();
    assert_eq!(jail::spawn(Kind::Vcpu, "free", seccomp).unwrap().join().unwrap(), before);
}

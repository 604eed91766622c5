//! What the standard library has no calls for.
// UNSAFETY: the program has no library but the standard one, whose C library has the calls. The file runs inside the
// guest, in a process of its own.
#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_int, c_long, c_uint, c_ulong, c_void};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;

use crate::protocol::Window;
use crate::user::Rights;

/// Room for a set of signals, as the C library has it.
type SignalSet = [u64; 16];

#[repr(C)]
pub struct PollFd {
    pub fd: c_int,
    pub events: i16,
    pub revents: i16,
}

#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: c_long,
}

#[repr(C)]
struct WindowSize {
    rows: u16,
    columns: u16,
    pixels: [u16; 2],
}

/// ifreq of linux/if.h.
#[repr(C)]
struct LinkRequest {
    name: [u8; 16],
    /// Flags in the first two bytes, or an address of the family in the first two.
    content: [u8; 24],
}

/// rand_pool_info of linux/random.h.
#[repr(C)]
struct Entropy {
    bits: c_int,
    len: c_int,
    seed: [u8; 32],
}

// SAFETY: as the C library's headers declare them on 64-bit Linux.
unsafe extern "C" {
    fn poll(fds: *mut PollFd, count: c_ulong, timeout: c_int) -> c_int;
    fn pipe2(fds: *mut c_int, flags: c_int) -> c_int;
    fn fcntl(fd: c_int, command: c_int, ...) -> c_int;
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
    fn sigemptyset(set: *mut SignalSet) -> c_int;
    fn sigfillset(set: *mut SignalSet) -> c_int;
    fn sigaddset(set: *mut SignalSet, signal: c_int) -> c_int;
    fn sigprocmask(how: c_int, set: *const SignalSet, old: *mut SignalSet) -> c_int;
    fn signalfd(fd: c_int, set: *const SignalSet, flags: c_int) -> c_int;
    fn signal(signal: c_int, handler: usize) -> usize;
    fn waitpid(process: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn kill(process: c_int, signal: c_int) -> c_int;
    fn clone(
        run: extern "C" fn(*mut c_void) -> c_int,
        stack: *mut c_void,
        flags: c_int,
        argument: *mut c_void,
        ...
    ) -> c_int;
    fn setsid() -> c_int;
    fn dup2(from: c_int, to: c_int) -> c_int;
    fn chdir(path: *const c_char) -> c_int;
    fn execve(path: *const c_char, argv: *const *const c_char, environment: *const *const c_char) -> c_int;
    fn _exit(status: c_int) -> !;
    fn syscall(number: c_long, ...) -> c_long;
    fn geteuid() -> c_uint;
    fn sethostname(name: *const c_char, len: usize) -> c_int;
    fn clock_settime(clock: c_int, time: *const Timespec) -> c_int;
}

pub const POLLIN: i16 = 1;
pub const POLLOUT: i16 = 4;
pub const SIGHUP: i32 = 1;
pub const SIGKILL: i32 = 9;
pub const SIGCONT: i32 = 18;
const SIGINT: c_int = 2;
const SIGQUIT: c_int = 3;
const SIGPIPE: c_int = 13;
const SIGCHLD: c_int = 17;
const SIG_BLOCK: c_int = 0;
const SIG_SETMASK: c_int = 2;
const O_NOCTTY: c_int = 0o400;
const O_NONBLOCK: c_int = 0o4000;
const O_CLOEXEC: c_int = 0o2000000;
const F_SETFL: c_int = 4;
const F_GETFL: c_int = 3;
const F_SETPIPE_SZ: c_int = 1031;
const WNOHANG: c_int = 1;
const CLONE_VM: c_int = 0x100;
const CLONE_VFORK: c_int = 0x4000;
const RNDADDENTROPY: c_ulong = 0x4008_5203;
const RNDRESEEDCRNG: c_ulong = 0x5207;
const SIOCGIFFLAGS: c_ulong = 0x8913;
const SIOCSIFFLAGS: c_ulong = 0x8914;
const SIOCSIFHWADDR: c_ulong = 0x8924;
const SIOCETHTOOL: c_ulong = 0x8946;
const ETHTOOL_GPERMADDR: u32 = 0x20;
/// The family of Ethernet's addresses.
const ARPHRD_ETHER: u16 = 1;
/// A device is in use.
pub const IFF_UP: u16 = 1;
const TIOCSCTTY: c_ulong = 0x540e;
const TIOCSWINSZ: c_ulong = 0x5414;
const TIOCGPTN: c_ulong = 0x8004_5430;
const TIOCSPTLCK: c_ulong = 0x4004_5431;
/// System calls that act on this thread alone; the C library's functions would do more.
const SYS_SETUID: c_long = 105;
const SYS_SETGID: c_long = 106;
const SYS_SETGROUPS: c_long = 116;

fn result(value: impl Into<i64>) -> io::Result<()> {
    if value.into() < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn owned(fd: c_int) -> io::Result<OwnedFd> {
    result(fd)?;
    // SAFETY: a call has just given it, to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Waits for one of them, or for so many milliseconds if it is not negative.
pub fn wait(fds: &mut [PollFd], milliseconds: i32) -> io::Result<()> {
    // SAFETY: the pointer and the count are those of a slice.
    match result(unsafe { poll(fds.as_mut_ptr(), fds.len() as c_ulong, milliseconds) }) {
        Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(()),
        other => other,
    }
}

/// A pipe: the end to read from, the end to write to.
fn raw_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: there is room for two.
    result(unsafe { pipe2(fds.as_mut_ptr(), O_CLOEXEC) })?;
    Ok((owned(fds[0])?, owned(fds[1])?))
}

/// A pipe, which may be larger than others.
pub fn pipe(size: Option<i32>) -> io::Result<(OwnedFd, OwnedFd)> {
    let (output, input) = raw_pipe()?;
    if let Some(size) = size {
        // SAFETY: the argument is a number. Without the right to it the pipe has its usual size.
        unsafe { fcntl(input.as_raw_fd(), F_SETPIPE_SZ, size) };
    }
    Ok((output, input))
}

/// Reads and writes do not wait from now on.
pub fn set_nonblocking(file: &File) -> io::Result<()> {
    // SAFETY: the arguments are numbers.
    unsafe {
        let flags = fcntl(file.as_raw_fd(), F_GETFL);
        result(fcntl(file.as_raw_fd(), F_SETFL, flags | O_NONBLOCK))
    }
}

/// A terminal of this size: the program's end and ours.
pub fn open_terminal(window: Window) -> io::Result<(OwnedFd, OwnedFd)> {
    let open = |path: &str| File::options().read(true).write(true).custom_flags(O_NOCTTY).open(path);
    let ours = open("/dev/ptmx")?;
    let (mut number, unlocked): (c_uint, c_int) = (0, 0);
    // SAFETY: both calls get a number of the size they ask for.
    unsafe {
        result(ioctl(ours.as_raw_fd(), TIOCSPTLCK, &raw const unlocked))?;
        result(ioctl(ours.as_raw_fd(), TIOCGPTN, &raw mut number))?;
    }
    let theirs = open(&format!("/dev/pts/{number}"))?;
    resize(&ours, window)?;
    Ok((theirs.into(), ours.into()))
}

/// Tells a terminal its size.
pub fn resize(terminal: &File, window: Window) -> io::Result<()> {
    let size = WindowSize { rows: window.rows, columns: window.columns, pixels: [0; 2] };
    // SAFETY: it is what the call asks for.
    result(unsafe { ioctl(terminal.as_raw_fd(), TIOCSWINSZ, &raw const size) })
}

/// What can be read from when a child has ended.
pub fn children() -> io::Result<File> {
    let mut set: SignalSet = [0; 16];
    // SAFETY: the set is large enough for all calls; old masks are not asked for.
    unsafe {
        sigemptyset(&raw mut set);
        sigaddset(&raw mut set, SIGCHLD);
        result(sigprocmask(SIG_BLOCK, &raw const set, std::ptr::null_mut()))?;
        owned(signalfd(-1, &raw const set, O_CLOEXEC | O_NONBLOCK)).map(File::from)
    }
}

/// A child that has ended, and its status: a signal's number in the lower bits, otherwise an exit status above them.
pub fn reap() -> Option<(i32, i32)> {
    let mut status = 0;
    // SAFETY: there is room for a status.
    let process = unsafe { waitpid(-1, &raw mut status, WNOHANG) };
    (process > 0).then_some((process, status))
}

/// Sends a signal to a process and its group.
pub fn send_signal(group: i32, number: i32) {
    // SAFETY: numbers only. A group that is gone is none of our business.
    unsafe { kill(-group, number) };
}

pub fn user_id() -> u32 {
    // SAFETY: it does nothing but answer.
    unsafe { geteuid() }
}

pub fn set_hostname(name: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length are those of a slice.
    result(unsafe { sethostname(name.as_ptr().cast(), name.len()) })
}

/// Nanoseconds since 1970.
pub fn set_time(time: u64) -> io::Result<()> {
    let second = 1_000_000_000;
    let time = Timespec { seconds: (time / second) as i64, nanoseconds: (time % second) as c_long };
    // SAFETY: the time lives until the call returns.
    result(unsafe { clock_settime(0, &raw const time) })
}

/// The kernel's random numbers come from these as well, from now on.
pub fn add_random(seed: [u8; 32]) -> io::Result<()> {
    let entropy = Entropy { bits: 8 * seed.len() as c_int, len: seed.len() as c_int, seed };
    let device = File::open("/dev/urandom")?;
    // SAFETY: the first is what the call asks for, the second takes nothing.
    unsafe {
        result(ioctl(device.as_raw_fd(), RNDADDENTROPY, &raw const entropy))?;
        result(ioctl(device.as_raw_fd(), RNDRESEEDCRNG))
    }
}

/// A network device, as calls on a socket name it.
pub struct Link<'a> {
    socket: &'a UnixDatagram,
    name: [u8; 16],
}

impl<'a> Link<'a> {
    pub fn new(socket: &'a UnixDatagram, name: &str) -> io::Result<Self> {
        let mut bytes = [0; 16];
        // A zero is behind it.
        let place = bytes.get_mut(..name.len()).filter(|place| place.len() < 16);
        place.ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(name.as_bytes());
        Ok(Self { socket, name: bytes })
    }

    pub fn flags(&self) -> io::Result<u16> {
        let [low, high, ..] = self.call(SIOCGIFFLAGS, [0; 24])?;
        Ok(u16::from_le_bytes([low, high]))
    }

    pub fn set_flags(&self, flags: u16) -> io::Result<()> {
        let mut content = [0; 24];
        content[..2].copy_from_slice(&flags.to_le_bytes());
        self.call(SIOCSIFFLAGS, content).map(drop)
    }

    pub fn set_address(&self, address: [u8; 6]) -> io::Result<()> {
        let mut content = [0; 24];
        content[..2].copy_from_slice(&ARPHRD_ETHER.to_le_bytes());
        content[2..8].copy_from_slice(&address);
        self.call(SIOCSIFHWADDR, content).map(drop)
    }

    /// The one that its driver found.
    pub fn permanent_address(&self) -> io::Result<[u8; 6]> {
        // Command and room, then the address (ethtool_perm_addr of linux/ethtool.h).
        let mut asked = [0u8; 16];
        asked[..4].copy_from_slice(&ETHTOOL_GPERMADDR.to_le_bytes());
        asked[4..8].copy_from_slice(&8u32.to_le_bytes());
        let mut content = [0; 24];
        content[..8].copy_from_slice(&(asked.as_mut_ptr() as u64).to_le_bytes());
        self.call(SIOCETHTOOL, content)?;
        let [.., 6, 0, 0, 0, a, b, c, d, e, f, _, _] = asked else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        Ok([a, b, c, d, e, f])
    }

    fn call(&self, request: c_ulong, content: [u8; 24]) -> io::Result<[u8; 24]> {
        let mut all = LinkRequest { name: self.name, content };
        // SAFETY: it is what the calls take, and has room for what they answer; one that has a pointer in it has it to as much room
        // as it says there.
        result(unsafe { ioctl(self.socket.as_raw_fd(), request, &raw mut all) })?;
        Ok(all.content)
    }
}

/// A program to be started.
pub struct Child {
    /// Where it may be: the first that can be executed is taken.
    pub programs: Vec<CString>,
    pub argv: Vec<CString>,
    pub environment: Vec<CString>,
    pub folder: CString,
    pub rights: Option<Rights>,
    pub streams: [OwnedFd; 3],
    /// Its streams are a terminal, which is to be its own.
    pub terminal: bool,
}

/// How far a child came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Start,
    Rights,
    Folder,
    Program,
}

/// What a child knows on its way to its program. It shares our memory until then.
struct Birth {
    programs: Vec<*const c_char>,
    argv: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    folder: *const c_char,
    rights: Option<Rights>,
    streams: [c_int; 3],
    terminal: bool,
    failed: Option<(Stage, i32)>,
}

/// Bytes of a child's stack before its program has one.
const STACK: usize = 64 << 10;

impl Child {
    /// Starts it in a session of its own; its process, or what went wrong.
    pub fn start(self) -> Result<i32, (Stage, io::Error)> {
        let pointers = |list: &[CString]| {
            list.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>()
        };
        let mut birth = Birth {
            programs: self.programs.iter().map(|text| text.as_ptr()).collect(),
            argv: pointers(&self.argv),
            environment: pointers(&self.environment),
            folder: self.folder.as_ptr(),
            rights: self.rights,
            streams: self.streams.each_ref().map(AsRawFd::as_raw_fd),
            terminal: self.terminal,
            failed: None,
        };
        let mut stack = vec![0u128; STACK / 16];
        let (mut all, mut before): (SignalSet, SignalSet) = ([0; 16], [0; 16]);
        // SAFETY: the child runs on a stack of its own, and we stand still until it has its program or has ended, so
        // what it is given lives as long as it needs it. It calls only what changes nothing but itself. No signal
        // comes meanwhile.
        let process = unsafe {
            sigfillset(&raw mut all);
            sigprocmask(SIG_SETMASK, &raw const all, &raw mut before);
            let top = stack.as_mut_ptr().add(stack.len()).cast();
            let process = clone(be_born, top, CLONE_VM | CLONE_VFORK | SIGCHLD, (&raw mut birth).cast());
            sigprocmask(SIG_SETMASK, &raw const before, std::ptr::null_mut());
            process
        };
        if process < 0 {
            return Err((Stage::Start, io::Error::last_os_error()));
        }
        match birth.failed {
            None => Ok(process),
            Some((stage, error)) => Err((stage, io::Error::from_raw_os_error(error))),
        }
    }
}

extern "C" fn be_born(birth: *mut c_void) -> c_int {
    // SAFETY: it is what `start` passes, and `start` waits.
    let birth = unsafe { &mut *birth.cast::<Birth>() };
    let (stage, error) = become_program(birth);
    birth.failed = Some((stage, error.raw_os_error().unwrap_or(0)));
    // SAFETY: ends this process alone.
    unsafe { _exit(127) }
}

fn become_program(birth: &Birth) -> (Stage, io::Error) {
    let prepare = || -> Result<(), (Stage, io::Error)> {
        let at = |stage: Stage| move |e: io::Error| (stage, e);
        // SAFETY: numbers, and pointers to what `start` keeps until this process has its program.
        unsafe {
            setsid();
            for (to, from) in (0..).zip(birth.streams) {
                result(dup2(from, to)).map_err(at(Stage::Start))?;
            }
            if birth.terminal {
                result(ioctl(0, TIOCSCTTY, 0 as c_int)).map_err(at(Stage::Start))?;
            }
            if let Some(Rights { user, group, groups }) = &birth.rights {
                let set = |value: c_long| result(value).map_err(at(Stage::Rights));
                set(syscall(SYS_SETGROUPS, groups.len(), groups.as_ptr()))?;
                set(syscall(SYS_SETGID, *group))?;
                set(syscall(SYS_SETUID, *user))?;
            }
            result(chdir(birth.folder)).map_err(at(Stage::Folder))?;
            for number in [SIGHUP, SIGINT, SIGQUIT, SIGPIPE] {
                signal(number, 0);
            }
            let none: SignalSet = [0; 16];
            sigprocmask(SIG_SETMASK, &raw const none, std::ptr::null_mut());
        }
        Ok(())
    };
    if let Err(failed) = prepare() {
        return failed;
    }
    let mut found = io::Error::from_raw_os_error(2);
    for program in &birth.programs {
        // SAFETY: texts that end in zeros, in lists that end in null pointers.
        unsafe { execve(*program, birth.argv.as_ptr(), birth.environment.as_ptr()) };
        let error = io::Error::last_os_error();
        // One that is there and cannot be executed says more than none.
        if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) {
            found = error;
        }
    }
    (Stage::Program, found)
}

//! The guest's half of `guesthouse run -- COMMAND`: runs a program on the serial line and hands its exit
//! status to the host. Freestanding: no library but `core`, system calls by hand.
//!
//! A program on the agent's own command line gets the serial line as its terminal, and its exit status is the
//! agent's. Otherwise `/etc/guesthouse/command` holds one byte of mode and then NUL-terminated arguments:
//!
//! * `t`, terminal: the program owns the serial line as its controlling terminal;
//! * `s`, stream: the line is raw and carries the program's three standard streams;
//! * `c`, console: as stream, but the end of the program is no exit status for the host.
//!
//! On a raw line the byte DLE (0x10) is the escape, both ways. Guest to host: `DLE o` and `DLE e` say that
//! stdout or stderr follows, `DLE g` grants the host [`WINDOW`] more bytes, since a serial line has no flow
//! control of its own. Host to guest: `DLE .` is the end of input. `DLE DLE` is the byte itself.
//!
//! The exit status (128 + n for signal n) goes out as a byte on port 0xf4, the debug-exit device. Where there
//! is no such device, the agent ends with that status.
// UNSAFETY: no operating system library: everything here is a system call on raw pointers. The file runs
// inside the guest, where the worst it can do is to end the guest.
#![no_std]
#![no_main]

mod sys;

use core::arch::{asm, global_asm};

use sys::*;

const DLE: u8 = 0x10;
/// Bytes, as sent, that the host may have under way: half of what the kernel buffers for a raw terminal.
const WINDOW: usize = 2048;

global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {main}",
    "ud2",
    main = sym start
);

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    exit(125)
}

// --- the program --------------------------------------------------------------------------------------

struct Command {
    mode: u8,
    /// Null-terminated array of NUL-terminated strings.
    argv: *const *const u8,
    envp: *const *const u8,
}

impl Command {
    fn load(path: &[u8], envp: *const *const u8) -> Option<Self> {
        let fd = call(nr::OPEN, path.as_ptr() as usize, O_CLOEXEC, 0);
        if fd < 0 {
            return None;
        }
        let len = call(nr::LSEEK, fd as usize, 0, 2).max(0) as usize;
        call(nr::LSEEK, fd as usize, 0, 0);
        let text = unsafe { core::slice::from_raw_parts_mut(allocate(len), len) };
        let mut got = 0;
        while got < len {
            let n = read(fd as i32, text.get_mut(got..)?);
            if n <= 0 {
                return None;
            }
            got += n as usize;
        }
        close(fd as i32);
        let (&mode, arguments) = text.split_first()?;
        if arguments.last() != Some(&0) {
            return None;
        }
        let count = arguments.iter().filter(|&&b| b == 0).count();
        let argv = allocate((count + 1) * 8).cast::<*const u8>();
        for (i, argument) in arguments.split_inclusive(|&b| b == 0).enumerate() {
            unsafe { argv.add(i).write(argument.as_ptr()) };
        }
        Some(Self { mode, argv, envp })
    }

    /// Becomes the program, found as a shell finds it; returns only what to exit with.
    fn exec(&self) -> usize {
        let name = unsafe { *self.argv };
        let name_bytes = unsafe { c_bytes(name) };
        let mut result = ENOENT;
        if name_bytes.contains(&b'/') {
            result = call(nr::EXECVE, name as usize, self.argv as usize, self.envp as usize);
        } else {
            for folder in [&b"/bin/"[..], b"/sbin/", b"/usr/bin/", b"/usr/sbin/"] {
                let path = allocate(folder.len() + name_bytes.len() + 1);
                unsafe {
                    memcpy(path, folder.as_ptr(), folder.len());
                    memcpy(path.add(folder.len()), name, name_bytes.len());
                }
                let r = call(nr::EXECVE, path as usize, self.argv as usize, self.envp as usize);
                if r != ENOENT {
                    result = r;
                    break;
                }
            }
        }
        write_all(2, b"guesthouse: ");
        write_all(2, name_bytes);
        write_all(
            2,
            if result == ENOENT { b": not found in the guest\n" } else { b": cannot be executed\n" },
        );
        if result == ENOENT { 127 } else { 126 }
    }
}

unsafe fn c_bytes<'a>(text: *const u8) -> &'a [u8] {
    let left: usize;
    // By hand: the compiler would make a call of strlen out of a loop.
    unsafe {
        asm!("repne scasb", inout("rcx") usize::MAX => left, inout("rdi") text => _, in("al") 0u8, options(readonly));
        core::slice::from_raw_parts(text, usize::MAX - left - 1)
    }
}

extern "C" fn start(stack: *const usize) -> ! {
    let argc = unsafe { *stack };
    let envp = unsafe { stack.add(argc + 2) }.cast::<*const u8>();
    let command = if argc > 1 {
        Some(Command { mode: b'l', argv: unsafe { stack.add(2) }.cast(), envp })
    } else {
        Command::load(b"/etc/guesthouse/command\0", envp)
    };
    let Some(command) = command else {
        write_all(2, b"guesthouse: /etc/guesthouse/command is not readable\n");
        exit(125);
    };
    let status = match command.mode {
        b't' | b'l' => run_on_terminal(&command),
        _ => run_on_streams(&command),
    };
    const TCSBRK: usize = 0x5409;
    call(nr::IOCTL, 0, TCSBRK, 1); // drain: the host stops the machine at once
    if matches!(command.mode, b't' | b's') && call(nr::IOPERM, 0xf4, 1, 1) == 0 {
        unsafe { asm!("out dx, al", in("dx") 0xf4u16, in("al") status as u8) };
    }
    exit(status);
}

/// Waits for a child and gives its status as a shell would.
fn wait(child: isize) -> usize {
    let mut status = 0u32;
    while call6(nr::WAIT4, [child as usize, &raw mut status as usize, 0, 0, 0, 0]) == EINTR {}
    match status & 0x7f {
        0 => (status >> 8 & 0xff) as usize,
        signal => 128 + signal as usize,
    }
}

/// What this process ignores, and what a shell makes its background jobs ignore, is not the program's.
fn default_signals() {
    for number in [SIGINT, SIGQUIT, SIGPIPE] {
        signal(number, SIG_DFL);
    }
}

fn run_on_terminal(command: &Command) -> usize {
    const TIOCSCTTY: usize = 0x540e;
    call(nr::SETSID, 0, 0, 0);
    call(nr::IOCTL, 0, TIOCSCTTY, 1);
    for number in [SIGINT, SIGQUIT] {
        signal(number, SIG_IGN); // the keys are the program's
    }
    let child = call(nr::FORK, 0, 0, 0);
    if child == 0 {
        default_signals();
        exit(command.exec());
    }
    wait(child)
}

fn run_on_streams(command: &Command) -> usize {
    make_raw();
    signal(SIGPIPE, SIG_IGN);
    let (stdin, stdout, stderr) = (pipe(), pipe(), pipe());
    let child = call(nr::FORK, 0, 0, 0);
    if child == 0 {
        default_signals();
        for (target, fd) in [(0, stdin[0]), (1, stdout[1]), (2, stderr[1])] {
            call(nr::DUP2, fd as usize, target, 0);
        }
        exit(command.exec());
    }
    for fd in [stdin[0], stdout[1], stderr[1]] {
        close(fd);
    }
    for fd in [stdin[1], stdout[0], stderr[0]] {
        nonblocking(fd);
    }
    Relay {
        to_program: stdin[1],
        pending: [0; WINDOW],
        start: 0,
        end: 0,
        allowed: 0,
        escape: false,
        eof: false,
    }
    .run(child, stdout[0], stderr[0]);
    wait(child)
}

/// Raw line: no echo, no translation, no signals; the speed stays.
fn make_raw() {
    const TCGETS: usize = 0x5401;
    const TCSETS: usize = 0x5402;
    const CS8_CREAD_CLOCAL: u32 = 0o60 | 0o200 | 0o4000;
    const VTIME: usize = 5;
    const VMIN: usize = 6;
    #[repr(C)]
    struct Termios {
        /// Input, output, control and local modes.
        flags: [u32; 4],
        line: u8,
        chars: [u8; 19],
    }
    let mut t = Termios { flags: [0; 4], line: 0, chars: [0; 19] };
    call(nr::IOCTL, 0, TCGETS, &raw mut t as usize);
    t.flags = [0, 0, t.flags[2] | CS8_CREAD_CLOCAL, 0];
    t.chars[VTIME] = 0;
    t.chars[VMIN] = 1;
    call(nr::IOCTL, 0, TCSETS, &raw const t as usize);
}

// --- the relay between the line and the program's pipes -------------------------------------------------

struct Relay {
    /// Write end of the program's stdin, or -1.
    to_program: i32,
    /// Decoded input that the program has not taken yet: `start..end`.
    pending: [u8; WINDOW],
    start: usize,
    end: usize,
    /// Bytes the host may still send.
    allowed: usize,
    /// The last byte was DLE.
    escape: bool,
    /// The host has no more input.
    eof: bool,
}

#[repr(C)]
struct PollFd {
    fd: i32,
    events: i16,
    revents: i16,
}

const POLLIN: i16 = 1;
const POLLOUT: i16 = 4;

impl Relay {
    /// Until the program has ended; what it wrote before is delivered.
    fn run(&mut self, child: isize, stdout: i32, stderr: i32) {
        let pidfd = call(nr::PIDFD_OPEN, child as usize, 0, 0) as i32;
        let (mut stdout, mut stderr) = (stdout, stderr);
        loop {
            let waiting = self.start < self.end;
            if self.allowed == 0 && !waiting && !self.eof && self.to_program >= 0 {
                write_all(1, &[DLE, b'g']);
                self.allowed = WINDOW;
            }
            let mut fds = [
                PollFd { fd: if waiting { -1 } else { 0 }, events: POLLIN, revents: 0 },
                PollFd { fd: if waiting { self.to_program } else { -1 }, events: POLLOUT, revents: 0 },
                PollFd { fd: stdout, events: POLLIN, revents: 0 },
                PollFd { fd: stderr, events: POLLIN, revents: 0 },
                PollFd { fd: pidfd, events: POLLIN, revents: 0 },
            ];
            call(nr::POLL, fds.as_mut_ptr() as usize, fds.len(), usize::MAX);
            let [line, sink, out, err, end] = fds.map(|f| f.revents != 0);
            if line {
                self.take_line();
            }
            if sink {
                self.give();
            }
            if out && !forward(stdout, b'o') {
                close(stdout);
                stdout = -1;
            }
            if err && !forward(stderr, b'e') {
                close(stderr);
                stderr = -1;
            }
            if end {
                // Everything the program wrote is in the pipes by now.
                while forward(stdout, b'o') && readable(stdout) {}
                while forward(stderr, b'e') && readable(stderr) {}
                return;
            }
        }
    }

    /// Bytes from the host: unescaped into `pending`, which is empty now.
    fn take_line(&mut self) {
        let mut raw = [0u8; WINDOW];
        let n = read(0, &mut raw).max(0) as usize;
        self.allowed = self.allowed.saturating_sub(n);
        (self.start, self.end) = (0, 0);
        for &byte in raw.iter().take(n) {
            match (self.escape, byte) {
                (false, DLE) => self.escape = true,
                (true, b'.') => (self.escape, self.eof) = (false, true),
                _ => {
                    self.escape = false;
                    if let Some(slot) = self.pending.get_mut(self.end) {
                        *slot = byte;
                        self.end += 1;
                    }
                }
            }
        }
        self.close_at_end();
    }

    /// Hands pending bytes to the program as far as its pipe takes them.
    fn give(&mut self) {
        let data = self.pending.get(self.start..self.end).unwrap_or(&[]);
        let n = write(self.to_program, data);
        if n > 0 {
            self.start += n as usize;
        } else if n != EAGAIN {
            // The program has closed its input: nothing more is wanted of the host.
            close(self.to_program);
            self.to_program = -1;
            (self.start, self.end) = (0, 0);
        }
        self.close_at_end();
    }

    fn close_at_end(&mut self) {
        if self.eof && self.start >= self.end && self.to_program >= 0 {
            close(self.to_program);
            self.to_program = -1;
        }
    }
}

fn readable(fd: i32) -> bool {
    let mut poll = PollFd { fd, events: POLLIN, revents: 0 };
    call(nr::POLL, &raw mut poll as usize, 1, 0) > 0
}

/// Sends what a pipe holds to the host under its channel's name; false at the end of the pipe.
fn forward(fd: i32, channel: u8) -> bool {
    let mut data = [0u8; 1024];
    let mut line = [0u8; 2 + 2 * 1024];
    let n = read(fd, &mut data);
    if n == EAGAIN {
        return true;
    }
    if n <= 0 {
        return false;
    }
    line[0] = DLE;
    line[1] = channel;
    let mut len = 2;
    for &byte in data.iter().take(n as usize) {
        for b in [Some(byte), (byte == DLE).then_some(DLE)].into_iter().flatten() {
            if let Some(slot) = line.get_mut(len) {
                *slot = b;
                len += 1;
            }
        }
    }
    write_all(1, line.get(..len).unwrap_or(&[]));
    true
}

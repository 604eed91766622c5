//! System calls, and what else a C library would bring.
// UNSAFETY: as in agent.rs.

use core::arch::asm;

/// Named by `core`'s unwind tables; nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

// The compiler calls these for copies.

#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    unsafe { asm!("rep movsb", inout("rcx") len => _, inout("rdi") to => _, inout("rsi") from => _) };
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, len: usize) -> *mut u8 {
    unsafe { asm!("rep stosb", inout("rcx") len => _, inout("rdi") to => _, in("al") value as u8) };
    to
}

/// Numbers of arch/x86/entry/syscalls/syscall_64.tbl.
pub mod nr {
    pub const READ: usize = 0;
    pub const WRITE: usize = 1;
    pub const OPEN: usize = 2;
    pub const CLOSE: usize = 3;
    pub const POLL: usize = 7;
    pub const LSEEK: usize = 8;
    pub const MMAP: usize = 9;
    pub const SIGACTION: usize = 13;
    pub const IOCTL: usize = 16;
    pub const DUP2: usize = 33;
    pub const FORK: usize = 57;
    pub const EXECVE: usize = 59;
    pub const EXIT: usize = 60;
    pub const WAIT4: usize = 61;
    pub const SETSID: usize = 112;
    pub const IOPERM: usize = 173;
    pub const PIPE2: usize = 293;
    pub const PIDFD_OPEN: usize = 434;
}

pub const EINTR: isize = -4;
pub const EAGAIN: isize = -11;
pub const ENOENT: isize = -2;
pub const O_CLOEXEC: usize = 0o2000000;

pub fn call(number: usize, a: usize, b: usize, c: usize) -> isize {
    call6(number, [a, b, c, 0, 0, 0])
}

pub fn call6(number: usize, [a, b, c, d, e, f]: [usize; 6]) -> isize {
    let result;
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c,
             in("r10") d, in("r8") e, in("r9") f, lateout("rcx") _, lateout("r11") _);
    }
    result
}

pub fn exit(status: usize) -> ! {
    loop {
        call(nr::EXIT, status, 0, 0);
    }
}

pub fn read(fd: i32, buffer: &mut [u8]) -> isize {
    loop {
        let n = call(nr::READ, fd as usize, buffer.as_mut_ptr() as usize, buffer.len());
        if n != EINTR {
            return n;
        }
    }
}

pub fn write(fd: i32, data: &[u8]) -> isize {
    loop {
        let n = call(nr::WRITE, fd as usize, data.as_ptr() as usize, data.len());
        if n != EINTR {
            return n;
        }
    }
}

pub fn write_all(fd: i32, mut data: &[u8]) {
    while !data.is_empty() {
        let n = write(fd, data);
        if n <= 0 {
            return;
        }
        data = data.get(n as usize..).unwrap_or(&[]);
    }
}

pub fn close(fd: i32) {
    call(nr::CLOSE, fd as usize, 0, 0);
}

/// Read end and write end, both closed on exec.
pub fn pipe() -> [i32; 2] {
    let mut ends = [-1i32; 2];
    call(nr::PIPE2, ends.as_mut_ptr() as usize, O_CLOEXEC, 0);
    ends
}

pub fn nonblocking(fd: i32) {
    const FIONBIO: usize = 0x5421;
    let on = 1i32;
    call(nr::IOCTL, fd as usize, FIONBIO, &raw const on as usize);
}

/// Zeroed memory that is never given back.
pub fn allocate(len: usize) -> *mut u8 {
    const READ_WRITE: usize = 3;
    const PRIVATE_ANONYMOUS: usize = 0x22;
    let address = call6(nr::MMAP, [0, len.max(1), READ_WRITE, PRIVATE_ANONYMOUS, usize::MAX, 0]);
    if address <= 0 {
        exit(125);
    }
    address as *mut u8
}

pub fn signal(number: usize, handler: usize) {
    let action = [handler, 0, 0, 0];
    call6(nr::SIGACTION, [number, action.as_ptr() as usize, 0, 8, 0, 0]);
}

pub const SIG_DFL: usize = 0;
pub const SIG_IGN: usize = 1;
pub const SIGINT: usize = 2;
pub const SIGQUIT: usize = 3;
pub const SIGPIPE: usize = 13;

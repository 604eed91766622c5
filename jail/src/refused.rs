//! A system call that is on no list: a line on stderr, and the end. Either the list has a hole, or somebody has broken into
//! the process; to go on would be wrong in both cases.
// UNSAFETY: signal handlers have no safe wrapper among our dependencies.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::OnceLock;

/// The exit status of a process whose call was refused: that of SIGSYS in a shell.
pub const REFUSED_STATUS: u8 = 128 + libc::SIGSYS as u8;

static BEFORE: OnceLock<fn()> = OnceLock::new();
static REPORT: OnceLock<File> = OnceLock::new();

/// The line goes into this file, too: stderr may be nobody's.
pub fn report_to(file: File) {
    let _ = REPORT.set(file);
}

/// What is done before the end. It runs in a signal handler: no allocation, no waiting for locks.
pub fn before_refusal(call: fn()) {
    let _ = BEFORE.set(call);
}

/// Has SIGSYS, the kernel's answer to such a call, end the process as said above.
pub fn handle() -> io::Result<()> {
    // SAFETY: all zeros is a valid sigaction; the handler has the type that SA_SIGINFO asks for and lives as long as the
    // process; the old action is not asked for.
    let done = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = refuse as extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGSYS, &action, std::ptr::null_mut())
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

extern "C" fn refuse(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    /// `si_syscall` in the kernel's `siginfo_t` for SIGSYS: behind three words and a pointer.
    const CALL: usize = 24;
    // SAFETY: with SA_SIGINFO the kernel passes a whole siginfo_t, 128 bytes; for SIGSYS the number is at this offset
    // (sigaction(2)). The others read no memory of ours but the buffers below.
    unsafe {
        let call = info.cast::<u8>().add(CALL).cast::<c_int>().read_unaligned();
        let mut name = [0u8; 16];
        libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr());
        let len = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
        let mut digits = [0u8; 10];
        let name = name.get(..len).unwrap_or_default();
        let words: [&[u8]; 5] = [
            b"\rguesthouse: the jail refuses system call ",
            decimal(call.unsigned_abs(), &mut digits),
            b" to thread ",
            name,
            b": report it; --no-jail goes without\n",
        ];
        for fd in [Some(libc::STDERR_FILENO), REPORT.get().map(AsRawFd::as_raw_fd)].into_iter().flatten() {
            words.iter().for_each(|text| say(fd, text));
        }
    }
    if let Some(before) = BEFORE.get() {
        before();
    }
    // SAFETY: ends the process; nothing of it is used any more.
    unsafe { libc::_exit(REFUSED_STATUS.into()) }
}

fn say(fd: i32, text: &[u8]) {
    // SAFETY: the kernel reads `text`, which is as long as it is said to be. If nobody reads it there, so be it.
    unsafe { libc::write(fd, text.as_ptr().cast(), text.len()) };
}

fn decimal(mut number: u32, digits: &mut [u8; 10]) -> &[u8] {
    let mut start = digits.len();
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
        start -= 1;
        if number == 0 {
            break;
        }
    }
    digits.get(start..).unwrap_or_default()
}

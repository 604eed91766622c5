//! A process that this thread traces (ptrace(2)).
// UNSAFETY: makes a process, and system calls whose arguments are addresses.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_long};
use std::io::{Error, ErrorKind, Result};
use std::mem::{offset_of, zeroed};

use libc::{pid_t, siginfo_t, user, user_regs_struct};

/// The program's registers as the kernel names them.
pub type Regs = user_regs_struct;

/// Bytes that the vector state of any CPU fits into.
const VECTORS: usize = 16 << 10;
const NT_X86_XSTATE: usize = 0x202;
const GET_RSEQ: c_int = 0x420f;
const SETSIGMASK: c_int = 0x420b;

/// How it goes on.
#[derive(Debug, Clone, Copy)]
pub enum Resume {
    /// System calls are made.
    Free = libc::PTRACE_CONT as isize,
    /// The same, for one instruction.
    Step = libc::PTRACE_SINGLESTEP as isize,
    /// It stops instead of making any.
    Confined = libc::PTRACE_SYSEMU as isize,
}

/// The vector state in the standard form of XSAVE, of `len` bytes.
pub struct Vectors {
    bytes: Box<[u8; VECTORS]>,
    len: usize,
}

impl Vectors {
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

/// The process. It ends with this value, and with the thread.
pub struct Tracee {
    pub pid: pid_t,
}

fn check(result: c_long) -> Result<c_long> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}

impl Tracee {
    /// A copy of this process with this thread alone, stopped in a system call that it has made.
    ///
    /// Whoever kills this process kills the copy, at any moment: it asks for that first, and then whether its parent is there to
    /// die. Else it would be traced by who inherits it, and stand still for ever with all that this process had open.
    pub fn fork() -> Result<Self> {
        // SAFETY: the child makes system calls and nothing else; it has a copy of all memory.
        unsafe {
            let parent = libc::syscall(libc::SYS_getpid);
            let pid = libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0);
            if pid == 0 {
                if libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) == 0
                    && libc::syscall(libc::SYS_getppid) == parent
                    && libc::syscall(libc::SYS_ptrace, libc::PTRACE_TRACEME, 0, 0, 0) == 0
                {
                    let own = libc::syscall(libc::SYS_getpid);
                    libc::syscall(libc::SYS_kill, own, libc::SIGSTOP);
                }
                loop {
                    libc::syscall(libc::SYS_exit_group, 1);
                }
            }
            let tracee = Self { pid: check(pid)? as pid_t };
            tracee.wait()?;
            let options = libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACESYSGOOD;
            tracee.request(libc::PTRACE_SETOPTIONS as c_int, 0, options as usize)?;
            let none = 0u64;
            tracee.request(SETSIGMASK, size_of::<u64>(), &raw const none as usize)?;
            Ok(tracee)
        }
    }

    /// # Safety
    /// Arguments that are addresses are what the request asks for.
    unsafe fn request(&self, request: c_int, addr: usize, data: usize) -> Result<()> {
        // SAFETY: the caller's word.
        check(unsafe { libc::syscall(libc::SYS_ptrace, c_long::from(request), self.pid, addr, data) })
            .map(drop)
    }

    /// Waits until it stops: by which signal.
    pub fn wait(&self) -> Result<c_int> {
        let mut status = 0;
        loop {
            // SAFETY: a place for the status.
            match check(unsafe { libc::waitpid(self.pid, &raw mut status, libc::__WALL) }.into()) {
                Ok(_) if libc::WIFSTOPPED(status) => return Ok(libc::WSTOPSIG(status)),
                Ok(_) => return Err(Error::other("the process has ended")),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    pub fn resume(&self, how: Resume) -> Result<()> {
        // SAFETY: no addresses.
        unsafe { self.request(how as c_int, 0, 0) }
    }

    pub fn regs(&self) -> Result<Regs> {
        // SAFETY: integers, and a place for all of them.
        unsafe {
            let mut regs: Regs = zeroed();
            self.request(libc::PTRACE_GETREGS as c_int, 0, &raw mut regs as usize)?;
            Ok(regs)
        }
    }

    pub fn set_regs(&self, regs: &Regs) -> Result<()> {
        // SAFETY: all of them are there.
        unsafe { self.request(libc::PTRACE_SETREGS as c_int, 0, &raw const *regs as usize) }
    }

    pub fn vectors(&self) -> Result<Vectors> {
        let mut vectors = Vectors { bytes: Box::new([0; VECTORS]), len: VECTORS };
        self.get_vectors(&mut vectors)?;
        Ok(vectors)
    }

    pub fn get_vectors(&self, vectors: &mut Vectors) -> Result<()> {
        vectors.len = self.exchange(libc::PTRACE_GETREGSET as c_int, vectors)?;
        Ok(())
    }

    pub fn set_vectors(&self, vectors: &mut Vectors) -> Result<()> {
        self.exchange(libc::PTRACE_SETREGSET as c_int, vectors).map(drop)
    }

    fn exchange(&self, request: c_int, vectors: &mut Vectors) -> Result<usize> {
        let mut place = libc::iovec { iov_base: vectors.bytes.as_mut_ptr().cast(), iov_len: vectors.len };
        // SAFETY: the place has as many bytes.
        unsafe { self.request(request, NT_X86_XSTATE, &raw mut place as usize)? };
        Ok(place.iov_len)
    }

    /// What is known of the signal that has stopped it: its code, and the address of a fault or of a call.
    pub fn signal(&self) -> Result<(c_int, u64)> {
        // SAFETY: integers, and a place for all of them; signals without an address have others there.
        unsafe {
            let mut info: siginfo_t = zeroed();
            self.request(libc::PTRACE_GETSIGINFO as c_int, 0, &raw mut info as usize)?;
            Ok((info.si_code, info.si_addr() as u64))
        }
    }

    /// Where the C library has the kernel write down the CPU's number: address, size and signature, if it does.
    pub fn rseq(&self) -> Option<[u64; 3]> {
        let mut found = [0u64; 3];
        // SAFETY: a place of that size.
        let known = unsafe { self.request(GET_RSEQ, size_of_val(&found), found.as_mut_ptr() as usize) };
        (known.is_ok() && found[0] != 0).then(|| [found[0], found[1] & 0xffff_ffff, found[1] >> 32])
    }

    /// Writes a debug register.
    pub fn set_debug(&self, number: usize, value: u64) -> Result<()> {
        let place = offset_of!(user, u_debugreg) + number * size_of::<u64>();
        // SAFETY: no addresses but one of the process.
        unsafe { self.request(libc::PTRACE_POKEUSER as c_int, place, value as usize) }
    }

    /// One of the host's CPUs is its own from now on.
    pub fn keep_on(&self, cpu: usize) {
        // SAFETY: a set that is valid when it is zero.
        unsafe {
            let mut set: libc::cpu_set_t = zeroed();
            libc::CPU_SET(cpu, &mut set);
            libc::sched_setaffinity(self.pid, size_of_val(&set), &raw const set);
        }
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        // It stands still, and goes on with the signal. A thread with a short list of calls may send none by itself.
        // SAFETY: no addresses; a child of ours.
        unsafe {
            let _ = self.request(libc::PTRACE_CONT as c_int, 0, libc::SIGKILL as usize);
            libc::waitpid(self.pid, std::ptr::null_mut(), libc::__WALL);
        }
    }
}

/// The CPU that the calling thread is on.
pub fn current_cpu() -> usize {
    // SAFETY: no addresses.
    usize::try_from(unsafe { libc::sched_getcpu() }).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, pipe};
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::Tracee;

    /// A pipe's end is open for as long as a copy is there, and each kill comes somewhere else.
    #[test]
    fn whoever_kills_the_parent_kills_the_copy() {
        for round in 0..200 {
            let (mut reader, writer) = pipe().unwrap();
            // SAFETY: the child makes processes and ends them until it is killed: system calls, and no locks.
            let parent = unsafe { libc::fork() };
            if parent == 0 {
                loop {
                    drop(Tracee::fork());
                }
            }
            drop(writer);
            thread::sleep(Duration::from_micros(500 + round * 37 % 1000));
            // SAFETY: no addresses; a child of ours.
            unsafe {
                libc::kill(parent, libc::SIGKILL);
                libc::waitpid(parent, std::ptr::null_mut(), 0);
            }
            let (said, gone) = mpsc::channel();
            thread::spawn(move || said.send(reader.read(&mut [0])));
            let end = gone.recv_timeout(Duration::from_secs(20));
            assert!(matches!(end, Ok(Ok(0))), "round {round}: {end:?}, a copy is there");
        }
    }
}

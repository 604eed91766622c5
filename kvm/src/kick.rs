//! How KVM_RUN is left when a signal of the machine is set or a timer is due, and never a moment too late.
//!
//! Both send a signal to the vCPU's thread, whose handler sets `immediate_exit` in the vCPU's shared page: if the thread has
//! not entered the guest yet, KVM does not let it in. The thread says who it is, clears `immediate_exit`, and only then
//! looks at what it should know: what comes later finds the thread, and the flag remains set.
// UNSAFETY: a signal handler, POSIX timers, and the pointer to the page that the handler writes to.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicI32, Ordering, fence};
use std::sync::{Arc, OnceLock};

use cpu::{Bell, Clock, Signals};
use kvm_ioctls::VcpuFd;

thread_local! {
    /// `immediate_exit` of the vCPU that this thread runs.
    static FLAG: Cell<*mut u8> = const { Cell::new(null_mut()) };
    /// This thread's id, once it has run a vCPU.
    static THREAD: Cell<i32> = const { Cell::new(0) };
}

extern "C" fn handle(_: libc::c_int) {
    let flag = FLAG.get();
    if !flag.is_null() {
        // SAFETY: `Inside` keeps the page mapped while the pointer is set, on this very thread.
        unsafe { flag.write_volatile(1) };
    }
}

fn number() -> libc::c_int {
    libc::SIGRTMIN()
}

/// Installs the handler, once per process, and lets this thread have the signal.
fn prepare_thread() -> i32 {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        // SAFETY: an all-zero action is valid; `handle` has the signature of a handler without SA_SIGINFO and does nothing
        // that a handler must not do. Other calls of the thread are restarted; KVM_RUN is not.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handle as *const () as usize;
            action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
            libc::sigaction(number(), &raw const action, null_mut());
        }
    });
    // SAFETY: a set on the stack, written by the first call and read by the last.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, number());
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, null_mut());
    }
    let id = rustix::thread::gettid().as_raw_nonzero().get();
    THREAD.set(id);
    id
}

/// What leads to the thread that runs a vCPU.
pub struct Kick {
    /// Its id while it is in [`Inside`], or 0.
    thread: Arc<AtomicI32>,
    signals: Arc<Signals>,
    hung: Bell,
}

impl Kick {
    /// Hangs a bell on a vCPU's signals.
    pub fn new(signals: Arc<Signals>) -> Self {
        let thread = Arc::new(AtomicI32::new(0));
        let theirs = thread.clone();
        let hung: Bell = Arc::new(move || {
            fence(Ordering::SeqCst);
            let thread = theirs.load(Ordering::SeqCst);
            // The thread itself looks before it enters the guest.
            if thread != 0 && thread != THREAD.get() {
                // SAFETY: sends a signal that has a handler; a thread that has ended meanwhile is not found, and any
                // other that has its number by now takes no harm.
                unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, number()) };
            }
        });
        signals.hang(hung.clone());
        Self { thread, signals, hung }
    }

    /// Hangs the bell again, in place of another engine's.
    pub fn rehang(&self) {
        self.signals.hang(self.hung.clone());
    }

    /// This thread runs the vCPU until the value is dropped.
    pub fn inside(&self, fd: &mut VcpuFd) -> Inside {
        let id = match THREAD.get() {
            0 => prepare_thread(),
            id => id,
        };
        let flag = &raw mut fd.get_kvm_run().immediate_exit;
        FLAG.set(flag);
        self.thread.store(id, Ordering::SeqCst);
        Inside { thread: self.thread.clone(), id, flag }
    }
}

impl Drop for Kick {
    fn drop(&mut self) {
        self.signals.unhang(&self.hung);
    }
}

/// The thread is about to enter the guest, is in it, or looks at why it came out.
pub struct Inside {
    thread: Arc<AtomicI32>,
    /// The thread.
    pub id: i32,
    flag: *mut u8,
}

impl Inside {
    /// From here on, whatever is signalled prevents the next entry. To be called before signals are looked at.
    #[inline]
    pub fn arm(&self) {
        // SAFETY: valid by the contract of `inside`; the handler runs on this thread.
        unsafe { self.flag.write_volatile(0) };
        fence(Ordering::SeqCst);
    }

    /// The next entry completes what the last exit began, and comes back.
    #[inline]
    pub fn only_complete(&self) {
        // SAFETY: as in `arm`.
        unsafe { self.flag.write_volatile(1) };
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.thread.store(0, Ordering::SeqCst);
        FLAG.set(null_mut());
    }
}

/// Nanoseconds that an alarm is ahead at least: a guest whose timer is due all the time has to get on in between.
const SHORTEST: u64 = 50_000;
/// At most: guests may ask for years, and the host's clock cannot count that far.
const LONGEST: u64 = 60_000_000_000;

/// A timer that interrupts the vCPU's thread when its local APIC has a deadline.
pub struct Alarm {
    clock: Arc<Clock>,
    timer: Option<(libc::timer_t, i32)>,
    deadline: Option<u64>,
    /// The timer is set to the deadline and has not gone off, as far as is known.
    is_set: bool,
}

// SAFETY: the timer's handle is a number of the process.
unsafe impl Send for Alarm {}

impl Alarm {
    /// A timer that is off.
    pub fn new(clock: Arc<Clock>) -> Self {
        Self { clock, timer: None, deadline: None, is_set: true }
    }

    /// The deadline has passed.
    #[inline]
    pub fn is_due(&self) -> bool {
        self.deadline.is_some_and(|deadline| self.clock.tsc() >= deadline)
    }

    /// Has `thread` interrupted when the machine's clock reads `deadline`, or a little earlier.
    #[inline]
    pub fn set(&mut self, deadline: Option<u64>, thread: i32) {
        if !self.is_set || self.deadline != deadline || self.timer.is_some_and(|(_, owner)| owner != thread) {
            self.set_slow(deadline, thread);
        }
    }

    /// It may have gone off: set it anew.
    pub fn forget(&mut self) {
        self.is_set = false;
    }

    fn set_slow(&mut self, deadline: Option<u64>, thread: i32) {
        (self.deadline, self.is_set) = (deadline, true);
        let Some(timer) = self.timer_of(thread) else { return };
        let ahead = |deadline: u64| self.clock.ns_until(deadline);
        let wait = deadline.map_or(0, |deadline| ahead(deadline).clamp(SHORTEST, LONGEST));
        // SAFETY: an all-zero interval is valid; the timer is ours until it is deleted.
        unsafe {
            let mut value: libc::itimerspec = std::mem::zeroed();
            value.it_value.tv_sec = (wait / 1_000_000_000) as libc::time_t;
            value.it_value.tv_nsec = (wait % 1_000_000_000) as libc::c_long;
            libc::timer_settime(timer, 0, &raw const value, null_mut());
        }
    }

    fn timer_of(&mut self, thread: i32) -> Option<libc::timer_t> {
        if let Some((timer, owner)) = self.timer {
            if owner == thread {
                return Some(timer);
            }
            self.delete();
        }
        // SAFETY: an all-zero event is valid; the kernel fills the handle.
        let timer = unsafe {
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = number();
            event.sigev_notify_thread_id = thread;
            let mut timer: libc::timer_t = null::<u8>().cast_mut().cast();
            (libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) == 0)
                .then_some(timer)?
        };
        self.timer = Some((timer, thread));
        Some(timer)
    }

    fn delete(&mut self) {
        if let Some((timer, _)) = self.timer.take() {
            // SAFETY: made by `timer_of`, deleted once.
            unsafe { libc::timer_delete(timer) };
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.delete();
    }
}

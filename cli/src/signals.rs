//! Signals that end or stop the process, taken by a thread that waits for them: what they set off is ordinary
//! code, not a signal handler's.
// UNSAFETY: signal masks and sigwait have no safe wrapper among our dependencies.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use jail::Kind;
use parking_lot::Mutex;
use rustix::process::{Signal, getpid, kill_process};

use crate::terminal;

/// How long the rest of the program may take to end of itself after a signal.
const PATIENCE: Duration = Duration::from_secs(3);

type Action = Box<dyn Fn() + Send>;

/// What the process was asked by signals so far.
#[derive(Clone, Default)]
pub struct Signals {
    caught: Arc<AtomicI32>,
    action: Arc<Mutex<Option<Action>>>,
    resized: Arc<Mutex<Option<Action>>>,
    /// The thread that watches is to end.
    rest: Arc<AtomicBool>,
    watcher: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Signals {
    /// Starts to watch. To be called before other threads exist: they inherit the mask.
    pub fn watch() -> std::io::Result<Self> {
        let signals = Self::default();
        let set = signal_set();
        // SAFETY: `set` is initialised; the old mask is not asked for.
        let error = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
        if error != 0 {
            return Err(std::io::Error::from_raw_os_error(error));
        }
        signals.start(set)?;
        Ok(signals)
    }

    fn start(&self, set: libc::sigset_t) -> std::io::Result<()> {
        let watcher = self.clone();
        let thread = jail::spawn(Kind::Signals, "signals", move || watcher.serve(&set))?;
        *self.watcher.lock() = Some(thread);
        Ok(())
    }

    /// What a signal sets off from now on, once for each; at once if one came before.
    pub fn on_signal(&self, action: impl Fn() + Send + 'static) {
        let mut slot = self.action.lock();
        if self.caught().is_some() {
            action();
        }
        *slot = Some(Box::new(action));
    }

    /// What is done from now on when the terminal may have another size.
    pub fn on_resize(&self, action: impl Fn() + Send + 'static) {
        *self.resized.lock() = Some(Box::new(action));
    }

    /// The first signal that asked the process to end.
    pub fn caught(&self) -> Option<i32> {
        Some(self.caught.load(Ordering::SeqCst)).filter(|&s| s != 0)
    }

    /// Has no thread while that is done: signals wait for the next one, which has no more rights than the caller then.
    pub fn alone<T>(&self, body: impl FnOnce() -> T) -> std::io::Result<T> {
        let watcher = self.watcher.lock().take();
        if let Some(watcher) = watcher {
            self.rest.store(true, Ordering::SeqCst);
            // Nobody's size has changed; it wakes up.
            let _ = kill_process(getpid(), Signal::WINCH);
            let _ = watcher.join();
        }
        let value = body();
        self.start(signal_set())?;
        Ok(value)
    }

    fn serve(&self, set: &libc::sigset_t) {
        loop {
            let mut number = 0;
            // SAFETY: both point to initialised memory; the signals of `set` are blocked in every thread.
            if unsafe { libc::sigwait(set, &mut number) } != 0 {
                continue;
            }
            if number == libc::SIGWINCH && self.rest.swap(false, Ordering::SeqCst) {
                return;
            }
            if number == libc::SIGTSTP {
                terminal::restore();
                // SAFETY: no memory is involved. SIGSTOP cannot be blocked: the call returns after SIGCONT.
                unsafe { libc::raise(libc::SIGSTOP) };
                terminal::resume();
            }
            if matches!(number, libc::SIGTSTP | libc::SIGWINCH) {
                if let Some(resized) = self.resized.lock().as_ref() {
                    resized();
                }
                continue;
            }
            let first = self.caught.compare_exchange(0, number, Ordering::SeqCst, Ordering::SeqCst).is_ok();
            if !first {
                leave(number);
            }
            if let Some(action) = self.action.lock().as_ref() {
                action();
            }
            std::thread::spawn(move || {
                std::thread::sleep(PATIENCE);
                leave(number);
            });
        }
    }
}

/// Ends the process without its help.
fn leave(number: i32) -> ! {
    terminal::restore();
    std::process::exit(128 + number)
}

fn signal_set() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set; the numbers added to it are valid; all zeros is a valid
    // sigaction, which the call may overwrite.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        let numbers =
            [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGTSTP, libc::SIGWINCH];
        for number in numbers {
            // What the parent had us ignore (nohup, background jobs) stays ignored.
            let mut action = MaybeUninit::<libc::sigaction>::zeroed();
            let asked = libc::sigaction(number, std::ptr::null(), action.as_mut_ptr());
            // A terminal's size is no signal to ignore; it wakes the thread.
            let wanted = asked != 0 || number == libc::SIGWINCH;
            if wanted || action.assume_init().sa_sigaction != libc::SIG_IGN {
                libc::sigaddset(set.as_mut_ptr(), number);
            }
        }
        set.assume_init()
    }
}

//! A disk whose writes wait while the host cannot take them, so that a full file system of the host's is not an error of
//! the guest's. They are tried again until they succeed or nobody wants them any more.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use jail::Kind;
use parking_lot::{Condvar, Mutex};

use crate::{BlockBackend, Completion, Operation, Request};

/// From one attempt to the next.
const PAUSE: Duration = Duration::from_secs(1);

/// Told, in order and from one thread, when writes begin to wait (true) and when none waits any more.
pub type Watcher = Box<dyn Fn(bool) + Send + Sync>;

/// The disk, until the last handle is dropped.
pub struct Patient {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    disk: Arc<dyn BlockBackend>,
    waiting: Arc<Waiting>,
}

/// What a request under way knows of the others. Not the disk: a request that outlived it would end it on its own thread.
struct Waiting {
    path: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Requests that failed.
    held: Vec<Request>,
    /// Those of them that are under way again.
    retried: usize,
    /// From the first failure until none is left.
    stuck: bool,
    ended: bool,
    watcher: Option<Arc<Watcher>>,
}

impl Patient {
    /// `disk`, whose file is called `path` in messages.
    ///
    /// # Errors
    /// The host gives no threads.
    pub fn new(disk: Arc<dyn BlockBackend>, path: &Path) -> io::Result<Self> {
        let waiting = Waiting { path: path.to_owned(), state: Mutex::default(), changed: Condvar::new() };
        let shared = Arc::new(Shared { disk, waiting: Arc::new(waiting) });
        let patient = Self { shared: shared.clone(), threads: Mutex::default() };
        let watched = shared.waiting.clone();
        let retry = jail::spawn(Kind::Disk, "disk-wait", move || shared.retry())?;
        patient.threads.lock().push(retry);
        let watch = jail::spawn(Kind::Disk, "disk-wait", move || watched.watch())?;
        patient.threads.lock().push(watch);
        Ok(patient)
    }

    /// From now on this one is told.
    pub fn set_watcher(&self, watcher: Watcher) {
        self.shared.waiting.state.lock().watcher = Some(Arc::new(watcher));
    }

    /// Nothing waits any more: what fails has failed.
    pub fn give_up(&self) {
        self.shared.waiting.state.lock().ended = true;
        self.shared.waiting.changed.notify_all();
    }

    /// The same; when it returns, nobody is told of anything any more.
    pub fn end(&self) {
        self.give_up();
        for thread in self.threads.lock().drain(..) {
            // A panic was reported where it happened.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn submit(&self, request: Request, again: bool) {
        let Request { operation, done } = request;
        let copy = match &operation {
            Operation::Read { .. } => return self.disk.submit(Request { operation, done }),
            other => other.clone(),
        };
        let waiting = self.waiting.clone();
        let done: Completion = Box::new(move |result| waiting.answer(copy, done, again, result));
        self.disk.submit(Request { operation, done });
    }

    /// The life of the thread that tries again.
    fn retry(&self) {
        let waiting = &*self.waiting;
        let mut state = waiting.state.lock();
        loop {
            while !state.stuck && !state.ended {
                waiting.changed.wait(&mut state);
            }
            if !state.ended {
                let until = std::time::Instant::now() + PAUSE;
                while !state.ended && !waiting.changed.wait_until(&mut state, until).timed_out() {}
            }
            let held = std::mem::take(&mut state.held);
            if state.ended {
                drop(state);
                for Request { done, .. } in held {
                    done(Err(io::Error::other("the machine is at its end")));
                }
                return;
            }
            state.retried = held.len();
            drop(state);
            held.into_iter().for_each(|request| self.submit(request, true));
            self.disk.commit();
            state = waiting.state.lock();
            while state.retried != 0 {
                waiting.changed.wait(&mut state);
            }
            if state.held.is_empty() {
                state.stuck = false;
                tracing::warn!("disk {} is written again: the guest goes on", waiting.path.display());
                waiting.changed.notify_all();
            }
        }
    }
}

impl Waiting {
    fn answer(&self, operation: Operation, done: Completion, again: bool, result: io::Result<()>) {
        let mut state = self.state.lock();
        match result {
            Err(error) if !state.ended => {
                state.held.push(Request { operation, done });
                if !std::mem::replace(&mut state.stuck, true) {
                    let path = self.path.display();
                    tracing::warn!(
                        "disk {path} cannot be written ({error}): the guest stands still until it can; make room, or end the machine"
                    );
                }
            }
            result => {
                // The guest has its answer before anybody hears that nothing waits.
                drop(state);
                done(result);
                state = self.state.lock();
            }
        }
        state.retried -= usize::from(again);
        self.changed.notify_all();
    }

    /// The life of the thread that tells.
    fn watch(&self) {
        let (mut told, mut state) = (false, self.state.lock());
        loop {
            while state.stuck == told && !state.ended {
                self.changed.wait(&mut state);
            }
            if state.ended {
                return;
            }
            told = state.stuck;
            let watcher = state.watcher.clone();
            drop(state);
            if let Some(watcher) = watcher {
                watcher(told);
            }
            state = self.state.lock();
        }
    }
}

impl BlockBackend for Patient {
    fn len(&self) -> u64 {
        self.shared.disk.len()
    }

    fn is_read_only(&self) -> bool {
        self.shared.disk.is_read_only()
    }

    fn submit(&self, request: Request) {
        self.shared.submit(request, false);
    }

    fn commit(&self) {
        self.shared.disk.commit();
    }

    fn patient(&self) -> Option<&Patient> {
        Some(self)
    }
}

impl Drop for Patient {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{Sender, channel};

    use super::*;
    use crate::Buffers;

    /// Fails so many times.
    struct Full(AtomicUsize);

    impl BlockBackend for Full {
        fn len(&self) -> u64 {
            512
        }

        fn is_read_only(&self) -> bool {
            false
        }

        fn submit(&self, request: Request) {
            let left = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
            (request.done)(left.map_or(Ok(()), |_| Err(io::ErrorKind::StorageFull.into())));
        }
    }

    fn disk(failures: usize) -> Patient {
        Patient::new(Arc::new(Full(AtomicUsize::new(failures))), Path::new("disk")).unwrap()
    }

    #[test]
    fn a_write_waits_until_there_is_room() {
        let disk = disk(4);
        let (events, happened) = channel();
        let told = events.clone();
        disk.set_watcher(Box::new(move |stuck| told.send(if stuck { "stuck" } else { "free" }).unwrap()));
        for _ in 0..2 {
            let done = events.clone();
            let operation = Operation::Write { offset: 0, from: Buffers::owned(&[0; 512]), durable: false };
            let done = Box::new(move |result: io::Result<()>| {
                done.send(if result.is_ok() { "ok" } else { "error" }).unwrap()
            });
            disk.submit(Request { operation, done });
        }
        let seen: Vec<_> = (0..4).map(|_| happened.recv().unwrap()).collect();
        assert_eq!(seen, ["stuck", "ok", "ok", "free"]);
        // Reads have nothing to wait for.
        let disk = self::disk(1);
        let (sender, receiver) = channel();
        let done = Box::new(move |result: io::Result<()>| sender.send(result.is_err()).unwrap());
        disk.submit(Request { operation: Operation::Read { offset: 0, to: Buffers::owned(&[0]) }, done });
        assert!(receiver.recv().unwrap());
    }

    #[test]
    fn what_waits_at_the_end_has_failed() {
        let disk = disk(usize::MAX);
        let (sender, receiver) = channel();
        let submit = |operation| {
            let sender = sender.clone();
            disk.submit(Request {
                operation,
                done: Box::new(move |result| sender.send(result.is_err()).unwrap()),
            });
        };
        submit(Operation::Flush);
        assert!(receiver.try_recv().is_err());
        disk.give_up();
        assert!(receiver.recv().unwrap());
        submit(Operation::Flush);
        assert!(receiver.recv().unwrap());
    }

    /// Hands requests over.
    struct Elsewhere(Sender<Request>);

    impl BlockBackend for Elsewhere {
        fn len(&self) -> u64 {
            512
        }

        fn is_read_only(&self) -> bool {
            false
        }

        fn submit(&self, request: Request) {
            self.0.send(request).unwrap();
        }
    }

    #[test]
    fn a_request_does_not_keep_its_disk() {
        let (sender, requests) = channel();
        let disk = Arc::new(Elsewhere(sender));
        let patient = Patient::new(disk.clone(), Path::new("disk")).unwrap();
        patient.submit(Request { operation: Operation::Flush, done: Box::new(|_| ()) });
        drop(patient);
        let request = requests.recv().unwrap();
        assert_eq!(Arc::strong_count(&disk), 1);
        (request.done)(Ok(()));
    }
}

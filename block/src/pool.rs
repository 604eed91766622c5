//! Requests in flight by threads: each carries out one at a time by ordinary system calls.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use jail::Kind;
use parking_lot::{Condvar, Mutex};

use crate::{BlockBackend, Operation, Request};

/// An image whose operations block.
pub trait Image: Send + Sync + 'static {
    /// Size in bytes.
    fn len(&self) -> u64;
    /// True if there is no byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Nothing can be written.
    fn is_read_only(&self) -> bool;
    /// Carries an operation out.
    ///
    /// # Errors
    /// What the host says; the guest is told that its request failed.
    fn perform(&self, operation: Operation) -> io::Result<()>;
}

/// An image and the threads that work on it. Dropped, it finishes what was submitted. The last of them ends the image, which
/// may have something to write: whoever drops the pool may not be allowed to.
pub struct Pool {
    /// Let go of before they are waited for.
    shared: Arc<Shared>,
    threads: Threads,
}

#[derive(Default)]
struct Threads(Mutex<Vec<JoinHandle<()>>>);

struct Shared {
    image: Box<dyn Image>,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    requests: VecDeque<Request>,
    idle: usize,
    ended: bool,
}

impl Pool {
    /// Most threads: as many requests are in flight at once.
    const MAX: usize = 16;

    /// One thread for `image`; more come when they are needed.
    ///
    /// # Errors
    /// The host gives no thread.
    pub fn new(image: impl Image) -> io::Result<Self> {
        let shared = Shared { image: Box::new(image), state: Mutex::default(), wake: Condvar::new() };
        let pool = Self { shared: Arc::new(shared), threads: Threads::default() };
        pool.grow(&mut pool.threads.0.lock())?;
        Ok(pool)
    }

    fn grow(&self, threads: &mut Vec<JoinHandle<()>>) -> io::Result<()> {
        let shared = self.shared.clone();
        threads.push(jail::spawn(Kind::Disk, format!("disk{}", threads.len()), move || shared.work())?);
        Ok(())
    }
}

impl Shared {
    fn work(&self) {
        let mut state = self.state.lock();
        loop {
            if let Some(Request { operation, done }) = state.requests.pop_front() {
                drop(state);
                done(self.image.perform(operation));
                state = self.state.lock();
            } else if state.ended {
                return;
            } else {
                state.idle += 1;
                self.wake.wait(&mut state);
                state.idle -= 1;
            }
        }
    }
}

impl BlockBackend for Pool {
    fn len(&self) -> u64 {
        self.shared.image.len()
    }

    fn is_read_only(&self) -> bool {
        self.shared.image.is_read_only()
    }

    fn submit(&self, request: Request) {
        let busy = {
            let mut state = self.shared.state.lock();
            state.requests.push_back(request);
            state.idle < state.requests.len()
        };
        self.shared.wake.notify_one();
        if busy {
            let mut threads = self.threads.0.lock();
            // Without another thread it takes longer, that is all.
            if threads.len() < Self::MAX && self.grow(&mut threads).is_err() {
                tracing::debug!("the host gives no more threads for a disk");
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.state.lock().ended = true;
        self.shared.wake.notify_all();
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        for thread in self.0.get_mut().drain(..) {
            // A panic was reported where it happened.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// Flushes end when so many are under way.
    struct Together(Arc<Barrier>);

    impl Image for Together {
        fn len(&self) -> u64 {
            0
        }

        fn is_read_only(&self) -> bool {
            false
        }

        fn perform(&self, _operation: Operation) -> io::Result<()> {
            self.0.wait();
            Ok(())
        }
    }

    #[test]
    fn requests_are_carried_out_side_by_side_and_all_are_answered() {
        let pool = Pool::new(Together(Arc::new(Barrier::new(Pool::MAX)))).unwrap();
        let answers = Arc::new(AtomicUsize::new(0));
        for _ in 0..4 * Pool::MAX {
            let answers = answers.clone();
            let done = Box::new(move |result: io::Result<()>| {
                assert!(result.is_ok());
                answers.fetch_add(1, Ordering::SeqCst);
            });
            pool.submit(Request { operation: Operation::Flush, done });
        }
        assert!(pool.threads.0.lock().len() <= Pool::MAX);
        drop(pool);
        assert_eq!(answers.load(Ordering::SeqCst), 4 * Pool::MAX);
    }

    /// Says on which thread it ended.
    struct Ending(Sender<Option<String>>);

    impl Image for Ending {
        fn len(&self) -> u64 {
            0
        }

        fn is_read_only(&self) -> bool {
            false
        }

        fn perform(&self, _operation: Operation) -> io::Result<()> {
            Ok(())
        }
    }

    impl Drop for Ending {
        fn drop(&mut self) {
            self.0.send(std::thread::current().name().map(str::to_owned)).unwrap();
        }
    }

    #[test]
    fn an_image_ends_on_a_thread_of_its_own_before_the_pool_is_gone() {
        let (sender, ended) = channel();
        drop(Pool::new(Ending(sender)).unwrap());
        assert_eq!(ended.try_recv().unwrap().as_deref(), Some("disk0"));
    }
}

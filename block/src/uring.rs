//! Requests in flight by io_uring (io_uring(7)), without a thread for each. What the host can do at once (its page
//! cache has it) is answered by the thread that commits; one more thread waits for the rest.
// UNSAFETY: the kernel is given pointers that have to stay valid until it answers.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::thread::JoinHandle;

use io_uring::register::Restriction;
use io_uring::{IoUring, opcode, squeue, types};
use jail::Kind;
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};

use crate::{BlockBackend, Completion, Image, Operation, RawImage, Request};

/// Most requests that the kernel has at once. Its queue of answers is twice as long and never overflows.
const DEPTH: u32 = 256;
/// Writes of whole pages up to this size go into the page cache at once: most file systems cannot do that for a
/// ring, which takes a thread of the kernel's for each: ten times as long for a page, twice for a quarter of a mebibyte.
const AT_ONCE: u64 = 1 << 20;
const PAGE: u64 = 4096;

/// A raw image and its ring. Dropped, it waits for what was submitted.
pub struct Uring {
    shared: Arc<Shared>,
    waiter: Option<JoinHandle<()>>,
}

/// All that [`Shared::entry`] makes.
const OPERATIONS: [u8; 4] =
    [opcode::Readv::CODE, opcode::Writev::CODE, opcode::Fsync::CODE, opcode::Fallocate::CODE];

struct Shared {
    ring: IoUring,
    image: RawImage,
    /// Told of answers that did not come at once, and of the end.
    answered: OwnedFd,
    /// Held by whoever has switched that off.
    committing: Mutex<()>,
    ended: AtomicBool,
    state: Mutex<State>,
}

/// Also the lock of both queues.
struct State {
    /// Requests by the number that the kernel knows them by.
    slots: Vec<Option<Pending>>,
    free: Vec<u32>,
    /// More than the kernel takes at once.
    backlog: VecDeque<Request>,
}

struct Pending {
    /// Buffers of reads and writes begin with what is still to do.
    operation: Operation,
    /// Bytes of them that are done.
    progress: u64,
    done: Completion,
}

impl Uring {
    /// A ring for `image`.
    ///
    /// # Errors
    /// The host has no io_uring, or does not let this process use it; the image is given back.
    pub fn new(image: RawImage) -> Result<Self, (RawImage, io::Error)> {
        let make = || -> io::Result<(IoUring, OwnedFd)> {
            let ring = IoUring::builder().setup_r_disabled().build(DEPTH)?;
            let answered = eventfd(0, EventfdFlags::CLOEXEC)?;
            ring.submitter().register_eventfd(answered.as_raw_fd())?;
            // No list of system calls sees what goes through a ring: it takes nothing but what a disk needs.
            ring.submitter().register_restrictions(&mut OPERATIONS.map(Restriction::sqe_op))?;
            ring.submitter().register_enable_rings()?;
            Ok((ring, answered))
        };
        let (ring, answered) = match make() {
            Ok(made) => made,
            Err(error) => return Err((image, error)),
        };
        let state = State {
            slots: (0..DEPTH).map(|_| None).collect(),
            free: (0..DEPTH).collect(),
            backlog: VecDeque::new(),
        };
        let shared = Arc::new(Shared {
            ring,
            image,
            answered,
            committing: Mutex::default(),
            ended: AtomicBool::new(false),
            state: Mutex::new(state),
        });
        let theirs = shared.clone();
        match jail::spawn(Kind::Disk, "disk", move || theirs.wait()) {
            Ok(waiter) => Ok(Self { shared, waiter: Some(waiter) }),
            Err(error) => match Arc::try_unwrap(shared) {
                Ok(shared) => Err((shared.image, error)),
                // The thread's copy went with it.
                Err(shared) => Ok(Self { shared, waiter: None }),
            },
        }
    }
}

impl Shared {
    /// The life of the waiting thread.
    fn wait(&self) {
        loop {
            let mut count = [0; 8];
            // Whatever woke it, it looks at the answers.
            let _ = rustix::io::read(&self.answered, &mut count);
            let ended = self.ended.load(Ordering::SeqCst);
            if ended {
                // What was submitted last: whoever drops the disk may not be allowed to.
                self.enter();
            }
            self.reap();
            let idle = self.state.lock().free.len() == DEPTH as usize;
            if idle && ended {
                return;
            }
        }
    }

    /// Hands requests to the kernel as long as it takes some.
    fn push(&self, state: &mut State) {
        while let (Some(&slot), false) = (state.free.last(), state.backlog.is_empty()) {
            let Some(Request { operation, done }) = state.backlog.pop_front() else { return };
            let pending = Pending { operation, progress: 0, done };
            let entry = self.entry(&pending, slot);
            state.slots[slot as usize] = Some(pending);
            state.free.pop();
            self.push_entry(&entry);
        }
    }

    /// The caller holds the lock of the state.
    fn push_entry(&self, entry: &squeue::Entry) {
        // SAFETY: the lock makes this the only user of the submission queue. The entry's pointers are those of
        // a pending request, which stays in its slot, unchanged, until the kernel has answered.
        while unsafe { self.ring.submission_shared().push(entry) }.is_err() {
            // As many entries as slots: it is full only until the kernel has looked.
            self.enter();
        }
    }

    fn entry(&self, pending: &Pending, slot: u32) -> squeue::Entry {
        let fd = types::Fd(self.image.file().as_raw_fd());
        let at = |offset: u64| offset.wrapping_add(pending.progress);
        let entry = match &pending.operation {
            Operation::Read { offset, to } => {
                opcode::Readv::new(fd, to.pieces().as_ptr(), to.pieces().len() as u32)
                    .offset(at(*offset))
                    .build()
            }
            Operation::Write { offset, from, durable } => {
                let flags = if *durable { libc::RWF_DSYNC } else { 0 };
                opcode::Writev::new(fd, from.pieces().as_ptr(), from.pieces().len() as u32)
                    .offset(at(*offset))
                    .rw_flags(flags)
                    .build()
            }
            Operation::Flush => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
            Operation::Discard { offset, len } => opcode::Fallocate::new(fd, *len)
                .offset(*offset)
                .mode(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE)
                .build(),
            Operation::WriteZeroes { offset, len, unmap } => {
                let mode = if *unmap { libc::FALLOC_FL_PUNCH_HOLE } else { libc::FALLOC_FL_ZERO_RANGE };
                let mode = mode | libc::FALLOC_FL_KEEP_SIZE;
                opcode::Fallocate::new(fd, *len).offset(*offset).mode(mode).build()
            }
        };
        entry.user_data(slot.into())
    }

    /// Tells the kernel to look at the submission queue.
    fn enter(&self) {
        // Short of memory, it asks to come again; anything else would be a mistake of ours.
        while let Err(error) = self.ring.submit() {
            if !matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) {
                tracing::error!("io_uring refuses requests: {error}");
                return;
            }
            std::thread::yield_now();
        }
    }

    /// Hands over what was pushed, and takes what is answered at once without waking the waiting thread.
    fn commit(&self) {
        let _committing = self.committing.lock();
        self.tell(false);
        self.enter();
        self.reap();
        self.tell(true);
        // What came before it was told again.
        self.reap();
    }

    /// Whether the kernel tells the waiting thread of answers.
    fn tell(&self, tell: bool) {
        let _state = self.state.lock();
        // SAFETY: the lock makes this the only user of the completion queue.
        let queue = unsafe { self.ring.completion_shared() };
        if tell {
            queue.enable_eventfd()
        } else {
            queue.disable_eventfd()
        }
        fence(Ordering::SeqCst);
    }

    /// Takes the answers that are there.
    fn reap(&self) {
        loop {
            let mut finished = Vec::new();
            let none = {
                let mut guard = self.state.lock();
                let state = &mut *guard;
                // SAFETY: the lock makes this the only user of the completion queue.
                let answers: Vec<_> = unsafe { self.ring.completion_shared() }
                    .map(|answer| (answer.user_data() as u32, answer.result()))
                    .collect();
                let none = answers.is_empty();
                for (slot, result) in answers {
                    let Some(pending) = state.slots.get_mut(slot as usize).and_then(Option::take) else {
                        continue;
                    };
                    match pending.advance(result) {
                        Ok(finish) => {
                            state.free.push(slot);
                            finished.push(finish);
                        }
                        Err(rest) => {
                            let entry = self.entry(&rest, slot);
                            state.slots[slot as usize] = Some(rest);
                            self.push_entry(&entry);
                        }
                    }
                }
                self.push(state);
                none
            };
            if none {
                return;
            }
            // What follows may be answered at once, too.
            self.enter();
            for (pending, result) in finished {
                let Pending { operation, done, .. } = pending;
                let unsupported = |e: &io::Error| e.raw_os_error() == Some(libc::EOPNOTSUPP);
                done(match result {
                    // By other means, or not at all if it is advice.
                    Err(error) if unsupported(&error) => self.image.perform(operation),
                    result => result,
                });
            }
        }
    }
}

impl Pending {
    /// What an answer means: the result, or there is more to do.
    fn advance(mut self, result: i32) -> Result<(Self, io::Result<()>), Self> {
        let count = match u64::try_from(result) {
            Ok(count) => count,
            Err(_) if matches!(-result, libc::EINTR | libc::EAGAIN) => return Err(self),
            Err(_) => return Ok((self, Err(io::Error::from_raw_os_error(-result)))),
        };
        let (Operation::Read { to: buffers, .. } | Operation::Write { from: buffers, .. }) =
            &mut self.operation
        else {
            return Ok((self, Ok(())));
        };
        buffers.advance(count);
        self.progress += count;
        match (buffers.is_empty(), count) {
            (true, _) => Ok((self, Ok(()))),
            (false, 0) => Ok((self, Err(io::ErrorKind::UnexpectedEof.into()))),
            (false, _) => Err(self),
        }
    }
}

impl BlockBackend for Uring {
    fn len(&self) -> u64 {
        self.shared.image.len()
    }

    fn is_read_only(&self) -> bool {
        self.shared.image.is_read_only()
    }

    fn submit(&self, request: Request) {
        let request = match request {
            Request { operation: Operation::Write { offset, from, durable: false }, done }
                if from.len() <= AT_ONCE && (offset | from.len()).is_multiple_of(PAGE) =>
            {
                let operation = Operation::Write { offset, from, durable: false };
                return done(self.shared.image.perform(operation));
            }
            other => other,
        };
        let mut state = self.shared.state.lock();
        state.backlog.push_back(request);
        self.shared.push(&mut state);
    }

    fn commit(&self) {
        self.shared.commit();
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        let _ = rustix::io::write(&self.shared.answered, &1u64.to_ne_bytes());
        if let Some(waiter) = self.waiter.take() {
            // A panic was reported where it happened.
            let _ = waiter.join();
        }
    }
}

#[cfg(test)]
mod tests;

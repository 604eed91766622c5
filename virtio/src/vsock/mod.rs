//! Socket device (5.10): stream sockets between the guest and programs on the host.
//!
//! On the host they are what a [`VsockHost`] makes of them. A client of its listener says `CONNECT PORT` and a line feed,
//! gets `OK` and a port of the host's when the guest has accepted, and is connected; a guest that calls a port of the host's
//! gets the stream that `connect` gives. Everything is bounded: connections, and the bytes that are kept for a host that
//! does not read, of which the guest knows (credit). What the host sends stays in its sockets until the guest has room.
//!
//! NOT modelled: seqpacket sockets.

mod connection;
mod hub;
mod packet;
mod poller;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jail::Kind;
use parking_lot::{Mutex, MutexGuard};
use rustix::io::Errno;

use crate::device::read_image;
use crate::{DeviceState, Session, VirtioDevice};
use hub::Hub;
use poller::{LISTENER, Poller};

/// Feature bit (5.10.3).
const STREAM: u64 = 1;
/// Entries of a queue.
const QUEUE_SIZE: u16 = 128;
/// How long a host without descriptors or memory is given.
const RESPITE: Duration = Duration::from_millis(100);

/// The host's side. Called by the device's thread; nothing blocks.
pub trait VsockHost: Send + Sync {
    /// What can be read when a client has come.
    fn listener(&self) -> BorrowedFd<'_>;

    /// The next client.
    ///
    /// # Errors
    /// `AGAIN` if there is none.
    fn accept(&self) -> Result<OwnedFd, Errno>;

    /// Who is at a port.
    ///
    /// # Errors
    /// Nobody is.
    fn connect(&self, port: u32) -> Result<OwnedFd, Errno>;
}

/// A socket device.
pub struct Vsock {
    cid: u64,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    poller: Poller,
    host: Arc<dyn VsockHost>,
    /// Locked while there is work, so that `stop` waits for it.
    session: Mutex<Option<Arc<Session>>>,
    hub: Mutex<Hub>,
    end: AtomicBool,
}

impl Vsock {
    /// A device whose guest has the address `cid`, with a thread of its own.
    ///
    /// # Errors
    /// The host gives no descriptor or thread.
    pub fn new(cid: u64, host: Arc<dyn VsockHost>) -> io::Result<Self> {
        let poller = Poller::new()?;
        poller.listen(host.listener(), true)?;
        let hub = Mutex::new(Hub::new(cid, host.clone()));
        let shared =
            Arc::new(Shared { poller, host, session: Mutex::default(), hub, end: AtomicBool::new(false) });
        let theirs = shared.clone();
        let thread = jail::spawn(Kind::Socket, "virtio-vsock", move || theirs.run())?;
        Ok(Self { cid, shared, thread: Some(thread) })
    }
}

impl Drop for Vsock {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::SeqCst);
        self.shared.poller.kick();
        if let Some(thread) = self.thread.take() {
            // A panic was reported where it happened.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self) {
        // When clients are let in again.
        let mut invite: Option<Instant> = None;
        loop {
            let deadline = self.hub.lock().deadline();
            let events = self.poller.wait([deadline, invite].into_iter().flatten().min());
            if self.end.load(Ordering::SeqCst) {
                return;
            }
            let now = Instant::now();
            let session = self.session.lock();
            let mut hub = self.hub.lock();
            if invite.is_some_and(|then| then <= now) {
                invite = None;
                self.invite();
            }
            for event in &events {
                if event.data.u64() != LISTENER {
                    hub.wake(event, now);
                    continue;
                }
                match hub.accept(&self.poller, session.is_some(), now) {
                    Ok(_) => self.invite(),
                    Err(errno) => {
                        tracing::info!("virtio-vsock: clients have to wait ({errno})");
                        invite = now.checked_add(RESPITE);
                    }
                }
            }
            hub.expire(now);
            if let Some(session) = session.as_ref()
                && hub.carry(session, &self.poller)
            {
                self.poller.kick();
            }
            drop(hub);
            // Whoever waits for the lock is next, however much there is to do.
            MutexGuard::unlock_fair(session);
        }
    }

    fn invite(&self) {
        if let Err(errno) = self.poller.listen(self.host.listener(), false) {
            tracing::warn!("virtio-vsock: nobody is let in any more ({errno})");
        }
    }
}

impl VirtioDevice for Vsock {
    fn name(&self) -> &'static str {
        "virtio-vsock"
    }

    fn kind(&self) -> u16 {
        19
    }

    fn pci_class(&self) -> u32 {
        0x07_8000
    }

    fn features(&self) -> u64 {
        STREAM
    }

    fn queues(&self) -> &[u16] {
        &[QUEUE_SIZE; 3]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_image(&self.cid.to_le_bytes(), offset, data);
    }

    fn start(&self, session: Arc<Session>) {
        *self.shared.session.lock() = Some(session);
        self.shared.poller.kick();
    }

    fn stop(&self) {
        let session = self.shared.session.lock().take();
        drop(session);
    }

    fn notify(&self, _queue: u16) {
        self.shared.poller.kick();
    }

    fn reset(&self) {
        self.shared.hub.lock().clear();
    }

    fn restore(&self, _state: &DeviceState) {
        self.shared.hub.lock().lose();
    }
}

#[cfg(test)]
mod tests;

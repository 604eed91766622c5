//! A port as a Unix socket: one client at a time, the next one waits in the socket's queue until the first has left and
//! the guest has read what it sent. A client that only ends its half may still get answers.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

use jail::Kind;
use parking_lot::Mutex;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, SocketFlags, accept_with, send};
use rustix::time::Timespec;
use virtio::{Peer, PortBackend, PortBell};

use crate::MachineError;
use crate::listener::{SocketFile, listen_at};

/// Clients that wait.
const BACKLOG: i32 = 8;
/// How long a host without descriptors or memory is given.
const RESPITE: Duration = Duration::from_millis(100);
/// What descriptors are.
const LISTENER: u64 = 0;
const CLIENT: u64 = 1;
const END: u64 = 2;

/// A port that is a socket. Its file is removed with it.
pub struct SocketPort {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    file: SocketFile,
}

struct Shared {
    listener: OwnedFd,
    epoll: OwnedFd,
    end: OwnedFd,
    bell: OnceLock<PortBell>,
    client: Mutex<Client>,
}

#[derive(Default)]
struct Client {
    stream: Option<OwnedFd>,
    /// How many there were.
    number: u64,
    /// It takes nothing more; what it has sent before is still read.
    deaf: bool,
    /// Nobody can come any more.
    gone: bool,
}

impl SocketPort {
    /// Listens at `path`, where the socket of a program that has ended may lie. Only the user may connect.
    ///
    /// # Errors
    /// Something else is there, or the host refuses it.
    pub fn new(path: &Path) -> Result<Self, MachineError> {
        let (listener, file) = listen_at(path, BACKLOG)?;
        let refused = |source: io::Error| MachineError::PortSocket { path: path.to_owned(), source };
        let made = || -> io::Result<_> {
            let epoll = epoll::create(CreateFlags::CLOEXEC)?;
            let end = eventfd(0, EventfdFlags::CLOEXEC)?;
            epoll::add(&epoll, &end, EventData::new_u64(END), EventFlags::IN)?;
            epoll::add(
                &epoll,
                &listener,
                EventData::new_u64(LISTENER),
                EventFlags::IN | EventFlags::ONESHOT,
            )?;
            let (bell, client) = (OnceLock::new(), Mutex::default());
            Ok(Shared { listener, epoll, end, bell, client })
        };
        let shared = Arc::new(made().map_err(refused)?);
        let port = Self { shared: shared.clone(), thread: Mutex::default(), file };
        let thread = jail::spawn(Kind::Socket, "console-port", move || shared.run());
        *port.thread.lock() = Some(thread.map_err(MachineError::Thread)?);
        Ok(port)
    }

    /// Sends the client away, lets nobody in, and removes the file.
    pub fn close(&self) {
        let _ = rustix::io::write(&self.shared.end, &1u64.to_ne_bytes());
        let Some(thread) = self.thread.lock().take() else { return };
        // A panic was reported where it happened.
        let _ = thread.join();
        *self.shared.client.lock() = Client { gone: true, ..Client::default() };
        self.file.remove();
    }
}

impl Drop for SocketPort {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    /// Lets clients in and tells of what happens to them.
    fn run(&self) {
        loop {
            let mut events = [const { MaybeUninit::<Event>::uninit() }; 4];
            let tokens: Vec<u64> = match epoll::wait(&self.epoll, &mut events, None) {
                Ok((events, _)) => events.iter().map(|event| event.data.u64()).collect(),
                Err(_) => continue, // interrupted
            };
            if tokens.contains(&END) {
                return;
            }
            if tokens.contains(&LISTENER) {
                self.accept();
            }
            self.ring();
        }
    }

    fn accept(&self) {
        let edges = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let accepted = accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK);
        let accepted = accepted.and_then(|stream| {
            epoll::add(&self.epoll, &stream, EventData::new_u64(CLIENT), edges)?;
            Ok(stream)
        });
        match accepted {
            Ok(stream) => {
                let mut client = self.client.lock();
                *client = Client { stream: Some(stream), number: client.number + 1, ..Client::default() };
            }
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => self.invite(),
            Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::NOSPC | Errno::PERM) => {
                sleep(RESPITE);
                self.invite();
            }
            Err(errno) => {
                tracing::warn!("a port lets nobody in any more: {errno}");
                self.client.lock().gone = true;
            }
        }
    }

    /// Waits for the next client.
    fn invite(&self) {
        let flags = EventFlags::IN | EventFlags::ONESHOT;
        if let Err(errno) = epoll::modify(&self.epoll, &self.listener, EventData::new_u64(LISTENER), flags) {
            tracing::warn!("a port lets nobody in any more: {errno}");
        }
    }

    fn ring(&self) {
        if let Some(bell) = self.bell.get() {
            bell.ring();
        }
    }

    /// The client has left.
    fn leave(&self, client: &mut Client) {
        client.stream = None;
        self.invite();
        self.ring();
    }
}

/// Both halves are closed.
fn has_left(stream: &OwnedFd) -> bool {
    let mut asked = [PollFd::new(stream, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut asked, Some(&now)).is_err() || !asked[0].revents().is_empty()
}

impl PortBackend for SocketPort {
    fn connect(&self, bell: PortBell) {
        let _ = self.shared.bell.set(bell);
    }

    fn read(&self, data: &mut [u8]) -> usize {
        let mut client = self.shared.client.lock();
        loop {
            let Some(stream) = &client.stream else { return 0 };
            match rustix::io::read(stream, &mut *data) {
                Ok(count @ 1..) => return count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return 0,
                Ok(0) if !has_left(stream) => return 0,
                Ok(0) | Err(_) => self.shared.leave(&mut client),
            }
        }
    }

    fn write(&self, data: &[u8]) -> usize {
        let mut client = self.shared.client.lock();
        loop {
            let stream = client.stream.as_ref().filter(|_| !client.deaf);
            let Some(stream) = stream else { return data.len() };
            match send(stream.as_fd(), data, SendFlags::NOSIGNAL) {
                Ok(count) => return count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return 0,
                Err(_) => client.deaf = true,
            }
        }
    }

    fn peer(&self) -> Peer {
        let client = self.shared.client.lock();
        match client.stream {
            Some(_) => Peer::Somebody(client.number),
            None if client.gone => Peer::Gone,
            None => Peer::Nobody,
        }
    }
}

#[cfg(test)]
mod tests;

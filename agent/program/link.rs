//! The conversation with the host: waits for its words, for room to answer, and for what programs do.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::thread::sleep;
use std::time::Duration;

use crate::protocol::{
    Decoder, Exit, Frame, Garbage, Item, Kind, MAX_SESSIONS, Request, Start, put_hello,
};
use crate::session::{Outgoing, Session};
use crate::sys::{self, POLLIN, POLLOUT, PollFd};
use crate::{port, request};

/// Bytes for the host that are kept while it takes none: beyond, nothing is asked of it or of programs.
const KEPT: usize = 512 << 10;
/// Reads of the port in a row: each gives a page.
const READS: usize = 64;
/// How long a host that is not there is given.
const RESPITE: Duration = Duration::from_millis(100);

/// Serves the port, as long as there is one.
pub fn serve() -> io::Result<()> {
    let children = sys::children()?;
    let mut ignored = VecDeque::new();
    loop {
        let mut link = Link {
            port: match port::open() {
                // Not a machine of ours: there is nothing to do.
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(eprintln!("{e}")),
                other => other?,
            },
            decoder: Decoder::default(),
            outgoing: Vec::new(),
            sent: 0,
            sessions: BTreeMap::new(),
            ignored: std::mem::take(&mut ignored),
        };
        // There is no host, what it sends is nonsense, or the device is gone: from the beginning.
        let _ = link.run(&children);
        link.hang_up();
        ignored = link.ignored;
        sleep(RESPITE);
    }
}

struct Link {
    port: File,
    decoder: Decoder,
    outgoing: Outgoing,
    /// Bytes of it that are with the host.
    sent: usize,
    sessions: BTreeMap<u32, Session>,
    /// Pipes of programs that nobody listens to.
    ignored: VecDeque<File>,
}

/// Most of them.
const IGNORED: usize = 2 * MAX_SESSIONS;

impl Link {
    fn run(&mut self, mut children: &File) -> io::Result<()> {
        loop {
            self.send()?;
            let room = KEPT.saturating_sub(self.outgoing.len() - self.sent);
            let mut fds = self.descriptors(children, room > 0);
            // Of a program that has ended, all that it has left is taken before the next sleep.
            let ending = room > 0 && self.sessions.values().any(Session::is_ending);
            sys::wait(&mut fds, if ending { 0 } else { -1 })?;
            let ready = |index: usize| fds.get(index).is_some_and(|fd| fd.revents != 0);
            if ready(1) {
                // Which children, `reap` says.
                let _ = children.read(&mut [0; 1024]);
                while let Some((process, status)) = sys::reap() {
                    if let Some(session) = self.sessions.values_mut().find(|s| s.process == process) {
                        session.end(status);
                    }
                }
            }
            if room > 0 && ready(0) {
                self.receive()?;
            }
            self.ignore();
            self.move_streams();
        }
    }

    fn descriptors(&self, children: &File, room: bool) -> Vec<PollFd> {
        let entry = |file: &File, events| PollFd { fd: file.as_raw_fd(), events, revents: 0 };
        let bit = |yes: bool, bit: i16| if yes { bit } else { 0 };
        let port = bit(room, POLLIN) | bit(self.sent < self.outgoing.len(), POLLOUT);
        let mut fds = vec![entry(&self.port, port), entry(children, POLLIN)];
        fds.extend(self.ignored.iter().map(|file| entry(file, POLLIN)));
        for session in self.sessions.values() {
            fds.extend(session.input.iter().filter(|_| session.is_waiting()).map(|f| entry(f, POLLOUT)));
            for output in session.outputs.iter().filter(|output| room && output.credit > 0) {
                fds.extend(output.file.iter().map(|file| entry(file, POLLIN)));
            }
        }
        fds
    }

    /// Brings the host what it takes.
    fn send(&mut self) -> io::Result<()> {
        while let Some(data @ [_, ..]) = self.outgoing.get(self.sent..) {
            match self.port.write(data) {
                Ok(count) => self.sent += count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        if self.sent >= self.outgoing.len() {
            self.outgoing.clear();
            self.sent = 0;
        } else if self.sent >= KEPT {
            self.outgoing.drain(..self.sent);
            self.sent = 0;
        }
        Ok(())
    }

    /// Takes what the host says.
    fn receive(&mut self) -> io::Result<()> {
        for _ in 0..READS {
            match self.port.read(self.decoder.room()) {
                // There was no host a moment ago. Of one that has come since, the greeting may be among what was read and cannot be
                // answered: it sends another one when the port is opened anew.
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.decoder.filled(count),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
            self.obey()?;
        }
        Ok(())
    }

    fn obey(&mut self) -> io::Result<()> {
        loop {
            match self.decoder.advance() {
                Ok(Some(Item::Frame(frame))) => {
                    let id = frame.session;
                    let refuse = |to: &mut Outgoing, why: &str| {
                        Frame::new(Kind::Exit, id, &Exit::Failed(125, why.to_owned()).encode()).put(to);
                    };
                    let full = self.sessions.len() >= MAX_SESSIONS;
                    match (frame.kind, self.sessions.get_mut(&id)) {
                        (Kind::Start, None) if full => {
                            refuse(&mut self.outgoing, "too many sessions");
                        }
                        (Kind::Start, None) => match Start::decode(frame.payload) {
                            Ok(start) => {
                                let session = Session::start(id, &start, &mut self.outgoing);
                                self.sessions.extend(session.map(|session| (id, session)));
                            }
                            Err(_) => refuse(&mut self.outgoing, "it is no command"),
                        },
                        (Kind::Request, None) => match Request::decode(frame.payload) {
                            Ok(what) => {
                                let exit = request::answer(&what);
                                Frame::new(Kind::Exit, id, &exit.encode()).put(&mut self.outgoing);
                            }
                            Err(_) => refuse(&mut self.outgoing, "it is no request"),
                        },
                        (Kind::Hangup, Some(_)) => {
                            self.ignored.extend(self.sessions.remove(&id).into_iter().flat_map(Session::hang_up));
                        }
                        (_, Some(session)) => {
                            if !session.obey(&frame) {
                                return Err(io::ErrorKind::InvalidData.into());
                            }
                        }
                        // It was on its way when the session ended.
                        (_, None) => {}
                    }
                }
                Ok(Some(Item::Hello(hello))) => {
                    let sessions = std::mem::take(&mut self.sessions);
                    self.ignored.extend(sessions.into_values().flat_map(Session::hang_up));
                    (self.outgoing, self.sent) = (Vec::new(), 0);
                    put_hello(&mut self.outgoing, hello.nonce);
                }
                Ok(None) => return Ok(()),
                Err(Garbage) => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }

    /// Moves what programs take and give.
    fn move_streams(&mut self) {
        let (to, sent) = (&mut self.outgoing, self.sent);
        self.sessions.retain(|_, session| {
            session.give(to);
            let room = KEPT.saturating_sub(to.len() - sent);
            !session.take(to, room)
        });
    }

    fn hang_up(&mut self) {
        let sessions = std::mem::take(&mut self.sessions);
        self.ignored.extend(sessions.into_values().flat_map(Session::hang_up));
        (self.outgoing, self.sent) = (Vec::new(), 0);
    }

    /// Takes what nobody wants, and forgets those that say no more.
    fn ignore(&mut self) {
        let excess = self.ignored.len().saturating_sub(IGNORED);
        self.ignored.drain(..excess);
        let mut data = [0; 4096];
        self.ignored.retain_mut(|file| match file.read(&mut data) {
            Ok(count) => count > 0,
            Err(e) => matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
        });
    }
}

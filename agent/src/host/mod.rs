//! The machine's end of the agent's port.
//!
//! Locks: the host's, then a session's. The bell is rung with none of them held.

mod bridge;
mod queue;
mod session;

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::AgentError;
use crate::protocol::{
    Decoder, Exit, Frame, Garbage, Hello, Item, Kind, MAX_SESSIONS, Request, Start, VERSION, put_hello,
};
pub use bridge::serve;
use queue::Queue;
use session::Inbox;
pub use session::{Event, Session};

/// Where the conversation with the guest stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    /// Nobody in the guest has opened the port.
    Closed,
    /// Somebody was greeted by this number.
    Greeted(u64),
    /// He has answered.
    Up,
    /// He has answered in another version.
    Foreign(u32),
}

struct State {
    link: Link,
    decoder: Decoder,
    queue: Queue,
    sessions: HashMap<u32, Arc<Inbox>>,
    last: u32,
}

impl State {
    /// No session goes on.
    fn lose(&mut self) {
        for (_, inbox) in self.sessions.drain() {
            inbox.lose();
        }
    }

    /// Begins anew.
    fn greet(&mut self) {
        self.lose();
        let nonce = RandomState::new().build_hasher().finish();
        self.link = Link::Greeted(nonce);
        self.queue.put(|bytes| put_hello(bytes, nonce));
    }
}

/// The machine's end: bytes on one side ([`read`](Self::read), [`write`](Self::write)), sessions on the other.
pub struct Host {
    state: Mutex<State>,
    changed: Condvar,
    bell: OnceLock<Box<dyn Fn() + Send + Sync>>,
    answered: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Default for Host {
    fn default() -> Self {
        let state = State {
            link: Link::Closed,
            decoder: Decoder::default(),
            queue: Queue::default(),
            sessions: HashMap::new(),
            last: 0,
        };
        let (bell, answered) = (OnceLock::new(), OnceLock::new());
        Self { state: Mutex::new(state), changed: Condvar::new(), bell, answered }
    }
}

impl Host {
    /// What to call from now on when there are bytes for the guest. Once.
    pub fn set_bell(&self, bell: impl Fn() + Send + Sync + 'static) {
        let _ = self.bell.set(Box::new(bell));
    }

    /// What to call when an agent has answered the greeting, which it does anew after each start of the guest. It must not
    /// wait for the agent. Once.
    pub fn on_answer(&self, hook: impl Fn() + Send + Sync + 'static) {
        let _ = self.answered.set(Box::new(hook));
    }

    fn ring(&self) {
        if let Some(bell) = self.bell.get() {
            bell();
        }
    }

    /// Somebody in the guest has opened the port, or has closed it.
    pub fn opened(&self, open: bool) {
        let mut state = self.state.lock();
        state.decoder.reset();
        // What was for somebody else is not for him. The guest's driver drops the rest of it.
        state.queue.clear();
        if open {
            state.greet();
        } else {
            state.lose();
            state.link = Link::Closed;
        }
        drop(state);
        self.changed.notify_all();
        self.ring();
    }

    /// The rest of what the guest was given the beginning of: it would take whatever comes next for that.
    pub fn unfinished(&self) -> Vec<u8> {
        self.state.lock().queue.unfinished().to_vec()
    }

    /// Somebody in the guest has opened the port when another process had this end of it, and got all but this of what he had
    /// begun to get.
    pub fn resumed(&self, unfinished: &[u8]) {
        let mut state = self.state.lock();
        state.decoder.reset();
        state.queue.begin_with(unfinished);
        state.greet();
        drop(state);
        self.changed.notify_all();
        self.ring();
    }

    /// Fills `data` with bytes for the guest; how many.
    pub fn read(&self, data: &mut [u8]) -> usize {
        self.state.lock().queue.take(data)
    }

    /// Takes bytes of the guest, whatever they are.
    pub fn write(&self, mut data: &[u8]) {
        let mut state = self.state.lock();
        let before = (state.link, state.queue.is_empty());
        while !data.is_empty() {
            let room = state.decoder.room();
            let (now, rest) = data.split_at(room.len().min(data.len()));
            if let Some(room) = room.get_mut(..now.len()) {
                room.copy_from_slice(now);
            }
            data = rest;
            state.decoder.filled(now.len());
            state.understand();
        }
        let after = (state.link, state.queue.is_empty());
        drop(state);
        if before.0 != after.0 {
            self.changed.notify_all();
            if let (Link::Up, Some(hook)) = (after.0, self.answered.get()) {
                hook();
            }
        }
        if !after.1 {
            self.ring();
        }
    }

    /// Starts a program in the guest, as soon as there is an agent.
    ///
    /// # Errors
    /// There is none in time, or it cannot be asked for this.
    pub fn start(self: &Arc<Self>, start: &Start, patience: Duration) -> Result<Session, AgentError> {
        let payload = start.encode().ok_or(AgentError::Long)?;
        self.open(Kind::Start, &payload, Instant::now() + patience)
    }

    /// Has the agent do something itself.
    ///
    /// # Errors
    /// There is none, it does not answer in time, or it refuses.
    pub fn request(self: &Arc<Self>, request: &Request, patience: Duration) -> Result<(), AgentError> {
        let deadline = Instant::now() + patience;
        let session = self.open(Kind::Request, &request.encode(), deadline)?;
        loop {
            match session.next(Some(deadline)) {
                Some(Event::Exit(Exit::Code(0))) => return Ok(()),
                Some(Event::Exit(Exit::Failed(_, why))) => return Err(AgentError::Refused(why)),
                Some(Event::Exit(exit)) => {
                    return Err(AgentError::Refused(format!("status {}", exit.status())));
                }
                Some(Event::Lost) => return Err(AgentError::Gone),
                Some(_) => {}
                None => return Err(AgentError::Late),
            }
        }
    }

    /// Whether an agent answers now.
    pub fn is_up(&self) -> bool {
        self.state.lock().link == Link::Up
    }

    fn open(self: &Arc<Self>, kind: Kind, payload: &[u8], deadline: Instant) -> Result<Session, AgentError> {
        let mut state = self.state.lock();
        while state.link != Link::Up {
            if let Link::Foreign(version) = state.link {
                return Err(AgentError::Version(version));
            }
            if self.changed.wait_until(&mut state, deadline).timed_out() && state.link != Link::Up {
                return Err(AgentError::Silent);
            }
        }
        if state.sessions.len() >= MAX_SESSIONS {
            return Err(AgentError::Busy);
        }
        let inbox = Arc::new(Inbox::default());
        let id = loop {
            state.last = state.last.wrapping_add(1);
            if !state.sessions.contains_key(&state.last) {
                break state.last;
            }
        };
        state.sessions.insert(id, inbox.clone());
        state.queue.put(|bytes| Frame::new(kind, id, payload).put(bytes));
        drop(state);
        self.ring();
        Ok(Session::new(self.clone(), id, inbox))
    }

    /// Sends a frame of a session that still is one.
    fn send(&self, frame: &Frame<'_>) {
        let mut state = self.state.lock();
        if state.sessions.contains_key(&frame.session) {
            state.queue.put(|bytes| frame.put(bytes));
            drop(state);
            self.ring();
        }
    }

    /// Nobody is interested in the session any more.
    fn hang_up(&self, id: u32) {
        self.send(&Frame::new(Kind::Hangup, id, &[]));
        self.state.lock().sessions.remove(&id);
    }
}

impl State {
    fn understand(&mut self) {
        loop {
            match self.decoder.advance() {
                Ok(Some(Item::Frame(frame))) => {
                    if self.link != Link::Up {
                        continue;
                    }
                    let Some(inbox) = self.sessions.get(&frame.session) else { continue };
                    if inbox.take(&frame) {
                        self.sessions.remove(&frame.session);
                    }
                }
                Ok(Some(Item::Hello(hello))) => self.answered(hello),
                Ok(None) => return,
                Err(Garbage) if self.link == Link::Up => {
                    tracing::warn!("the guest's agent sends nonsense: it is greeted anew");
                    self.greet();
                }
                Err(Garbage) => {}
            }
        }
    }

    fn answered(&mut self, hello: Hello) {
        match self.link {
            Link::Greeted(nonce) if nonce == hello.nonce => {
                self.link = if hello.version == VERSION { Link::Up } else { Link::Foreign(hello.version) };
            }
            // An answer to somebody before.
            Link::Greeted(_) => {}
            _ => self.greet(),
        }
    }
}

#[cfg(test)]
mod tests;

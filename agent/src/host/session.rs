//! A session, as whoever has started it sees it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::Host;
use crate::AgentError;
use crate::protocol::{Exit, Frame, Kind, WINDOW, stream};

/// What comes of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Bytes of a stream.
    Data(u8, Vec<u8>),
    /// A stream has ended.
    End(u8),
    /// So many bytes more of input may be sent.
    Credit(u32),
    /// It is over.
    Exit(Exit),
    /// It is over, and nobody knows how: the agent is gone, or broke the protocol.
    Lost,
}

/// Where the host puts what comes.
pub(super) struct Inbox {
    state: Mutex<Contents>,
    changed: Condvar,
}

struct Contents {
    events: VecDeque<Event>,
    /// Bytes that the guest may send, by stream; of the first one, bytes that may be sent to it.
    windows: [u32; 3],
    over: bool,
}

impl Default for Inbox {
    fn default() -> Self {
        let state = Contents { events: VecDeque::new(), windows: [WINDOW; 3], over: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }
}

impl Inbox {
    /// Takes what the guest says; true if it was the last.
    pub fn take(&self, frame: &Frame<'_>) -> bool {
        let mut state = self.state.lock();
        let event = state.understand(frame).unwrap_or(Event::Lost);
        state.over = matches!(event, Event::Exit(_) | Event::Lost);
        state.keep(event);
        self.changed.notify_all();
        state.over
    }

    pub fn lose(&self) {
        let mut state = self.state.lock();
        if !state.over {
            state.over = true;
            state.events.push_back(Event::Lost);
            self.changed.notify_all();
        }
    }
}

/// Most bytes that become one event, as long as there are not too many events.
const MERGED: usize = 64 << 10;
const MANY: usize = 256;

impl Contents {
    /// Puts an event behind the others, or to one of its kind: small ones cost no more than what is in them.
    fn keep(&mut self, event: Event) {
        let near = if self.events.len() < MANY { 1 } else { MANY + 8 };
        let small = near > 1;
        for before in self.events.iter_mut().rev().take(near) {
            match (&event, before) {
                (Event::Data(stream, data), Event::Data(same, before))
                    if same == stream && (small || before.len() + data.len() <= MERGED) =>
                {
                    return before.extend_from_slice(data);
                }
                (Event::Credit(more), Event::Credit(before)) => {
                    return *before = before.saturating_add(*more);
                }
                (Event::End(stream), Event::End(same)) if same == stream => return,
                _ => {}
            }
        }
        self.events.push_back(event);
    }

    fn understand(&mut self, frame: &Frame<'_>) -> Option<Event> {
        let len = u32::try_from(frame.payload.len()).ok()?;
        match (frame.kind, frame.stream) {
            (Kind::Data, from @ (stream::OUTPUT | stream::ERROR)) if len > 0 => {
                let window = self.windows.get_mut(usize::from(from))?;
                *window = window.checked_sub(len)?;
                Some(Event::Data(from, frame.payload.to_vec()))
            }
            (Kind::End, from @ (stream::OUTPUT | stream::ERROR)) => Some(Event::End(from)),
            (Kind::Credit, stream::INPUT) => {
                let window = self.windows.first_mut()?;
                let more = frame.number()?.min(WINDOW.saturating_sub(*window));
                *window += more;
                Some(Event::Credit(more))
            }
            (Kind::Exit, _) => Some(Event::Exit(Exit::decode(frame.payload).ok()?)),
            _ => None,
        }
    }
}

/// A program in the guest, or a request. Whoever drops it before its end hangs up.
pub struct Session {
    host: Arc<Host>,
    id: u32,
    inbox: Arc<Inbox>,
}

impl Session {
    pub(super) fn new(host: Arc<Host>, id: u32, inbox: Arc<Inbox>) -> Self {
        Self { host, id, inbox }
    }

    /// The next event; none at the deadline, or when [`close`](Self::close) was called.
    pub fn next(&self, deadline: Option<Instant>) -> Option<Event> {
        let mut state = self.inbox.state.lock();
        loop {
            if let Some(event) = state.events.pop_front() {
                return Some(event);
            }
            match deadline {
                _ if state.over => return None,
                None => self.inbox.changed.wait(&mut state),
                Some(deadline) => {
                    if self.inbox.changed.wait_until(&mut state, deadline).timed_out() {
                        return state.events.pop_front();
                    }
                }
            }
        }
    }

    /// Sends what a client says of the session, its input for the most part. [`Event::Credit`] says how much there may
    /// be of that, beyond [`WINDOW`] bytes.
    ///
    /// # Errors
    /// It is nothing that may be sent now.
    pub fn send(&self, frame: &Frame<'_>) -> Result<(), AgentError> {
        let len = u32::try_from(frame.payload.len()).map_err(|_| AgentError::Protocol)?;
        let mut number = [0; 4];
        let mut frame = Frame { session: self.id, ..*frame };
        {
            let mut state = self.inbox.state.lock();
            match (frame.kind, frame.stream) {
                (Kind::Data, stream::INPUT) => {
                    let window = &mut state.windows[0];
                    *window = window.checked_sub(len).ok_or(AgentError::Protocol)?;
                }
                (Kind::Credit, to @ (stream::OUTPUT | stream::ERROR)) => {
                    let more = frame.number().ok_or(AgentError::Protocol)?;
                    let window = state.windows.get_mut(usize::from(to)).ok_or(AgentError::Protocol)?;
                    let more = more.min(WINDOW.saturating_sub(*window));
                    *window += more;
                    number = more.to_le_bytes();
                }
                (Kind::End, stream::INPUT) | (Kind::Signal | Kind::Resize, _) if len <= 4 => {}
                _ => return Err(AgentError::Protocol),
            }
        }
        if frame.kind == Kind::Credit {
            frame.payload = &number;
        }
        self.host.send(&frame);
        Ok(())
    }

    /// Ends the session: the program gets SIGHUP, and whoever waits for an event gets none.
    pub fn close(&self) {
        let mut state = self.inbox.state.lock();
        state.events.clear();
        let over = std::mem::replace(&mut state.over, true);
        self.inbox.changed.notify_all();
        drop(state);
        if !over {
            self.host.hang_up(self.id);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.close();
    }
}

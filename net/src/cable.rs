//! A cable with the guest at its other end, and a capture of what crosses it.

use std::sync::Arc;

use crate::{Abilities, Capture, Frame, GuestPort, Offload, Put};

/// The cable.
pub struct Cable {
    port: Option<Arc<dyn GuestPort>>,
    capture: Option<Capture>,
}

impl Cable {
    /// One without a guest.
    pub fn new(capture: Option<Capture>) -> Self {
        Self { port: None, capture }
    }

    pub fn plug(&mut self, port: Arc<dyn GuestPort>) {
        self.port = Some(port);
    }

    /// What the guest takes now.
    pub fn abilities(&self) -> Abilities {
        self.port.as_ref().map(|port| port.abilities()).unwrap_or_default()
    }

    /// Takes a frame from the guest.
    pub fn take(&mut self, frame: &mut Frame) -> bool {
        let taken = self.port.as_ref().is_some_and(|port| port.take(frame));
        if taken && let Some(capture) = &mut self.capture {
            capture.add(&[&frame.bytes]);
        }
        taken
    }

    /// Hands a frame over.
    pub fn put(&mut self, queue: u16, offload: &Offload, parts: &[&[u8]]) -> Put {
        let put = self.port.as_ref().map_or(Put::Gone, |port| port.put(queue, offload, parts));
        if put == Put::Done
            && let Some(capture) = &mut self.capture
        {
            capture.add(parts);
        }
        put
    }

    /// The other end is there, or not.
    pub fn link(&self, up: bool) {
        if let Some(port) = &self.port {
            port.link(up);
        }
    }

    /// Everything is with the guest, and in the file.
    pub fn finish(&mut self) {
        if let Some(port) = &self.port {
            port.finish();
        }
        if let Some(capture) = &mut self.capture {
            capture.flush();
        }
    }
}

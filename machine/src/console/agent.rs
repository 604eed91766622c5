//! The agent's port: what the guest writes there is the agent's host's, in this process.

use std::sync::Arc;

use agent::Host;
use agent::protocol::PORT;
use virtio::{Peer, PortBackend, PortBell};

struct AgentPort(Arc<Host>);

/// The port's name and its end.
pub fn port(agent: &Arc<Host>) -> (String, Arc<dyn PortBackend>) {
    (PORT.to_owned(), Arc::new(AgentPort(agent.clone())))
}

impl PortBackend for AgentPort {
    fn connect(&self, bell: PortBell) {
        self.0.set_bell(move || bell.ring());
    }

    fn read(&self, data: &mut [u8]) -> usize {
        self.0.read(data)
    }

    fn write(&self, data: &[u8]) -> usize {
        self.0.write(data);
        data.len()
    }

    fn peer(&self) -> Peer {
        Peer::Somebody(1)
    }

    fn opened(&self, open: bool) {
        self.0.opened(open);
    }

    fn unfinished(&self) -> Vec<u8> {
        self.0.unfinished()
    }

    /// A greeting says it. A driver that is told may have the agent read to the end of what came, the greeting included, in
    /// the moment in which nobody is there, and nobody would greet it again.
    fn resumed(&self, unfinished: &[u8]) -> bool {
        self.0.resumed(unfinished);
        true
    }
}

//! What goes wrong between host and guest.

/// Why the agent did not do something.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Nobody has opened the port, or whoever has says nothing.
    #[error(
        "no agent answers: the guest is still starting, has none, or no driver for virtio consoles; see `guesthouse agent --help` for how to install it"
    )]
    Silent,
    /// It is another version's.
    #[error("the agent speaks version {0} and not {ours}: install that of `guesthouse agent`", ours = crate::protocol::VERSION)]
    Version(u32),
    /// It went away in the middle.
    #[error("the agent went away: the guest restarted or shut down, or the agent ended")]
    Gone,
    /// It did not answer in time.
    #[error("the agent does not answer: the guest may be paused or busy; try again")]
    Late,
    /// It says no.
    #[error("the agent refuses: {0}")]
    Refused(String),
    /// More than a frame holds.
    #[error("the command, its arguments and its environment are longer than 256K: put them into a file")]
    Long,
    /// As many as may be.
    #[error("128 sessions are open already: end one first")]
    Busy,
    /// A client sent what it must not.
    #[error("what was sent is not the protocol of sessions: use a client of the same version")]
    Protocol,
}

//! What a thread is for.

use crate::calls::{self, Call};

/// What a thread is for, and with it what it may ask of the host's kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Makes machines, again after a failure, and clears up: the main thread of a machine's process.
    Main,
    /// Runs guest code.
    Vcpu,
    /// The same, and tells processes what to do that run programs of the guest.
    DirectVcpu,
    /// Runs guest code on KVM, and makes another engine for what KVM refuses.
    KvmVcpu,
    /// Waits for points in time, and for vCPUs that have used up theirs.
    Timer,
    /// The machine itself: the board's timers, and whoever loads the kernel anew at a reset.
    Board,
    /// Copies between queues and memory: console, balloon, random numbers.
    Device,
    /// Reads and writes disk images.
    Disk,
    /// Serves a shared folder.
    Share,
    /// Address translation: sockets of the host's network.
    Net,
    /// A member of a switch, or a TAP device: frames, one descriptor.
    Link,
    /// Passes frames on between the members of a switch.
    Switch,
    /// Lets clients of a port or a socket device in.
    Socket,
    /// Reads and writes the user's terminal, and the log of what the guest says.
    Console,
    /// Answers clients of the control API.
    Api,
    /// Serves one of them: a session with the guest's agent.
    Client,
    /// Waits for signals.
    Signals,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::Main,
        Self::Vcpu,
        Self::DirectVcpu,
        Self::KvmVcpu,
        Self::Timer,
        Self::Board,
        Self::Device,
        Self::Disk,
        Self::Share,
        Self::Net,
        Self::Link,
        Self::Switch,
        Self::Socket,
        Self::Console,
        Self::Api,
        Self::Client,
        Self::Signals,
    ];

    /// The lists of calls that it may make, besides those that every thread may make.
    pub(crate) const fn lists(self) -> &'static [&'static [Call]] {
        match self {
            Self::Main => calls::MAIN,
            Self::Vcpu => calls::VCPU,
            Self::DirectVcpu => calls::DIRECT_VCPU,
            Self::KvmVcpu => calls::KVM_VCPU,
            Self::Timer => &[],
            Self::Board => calls::BOARD,
            Self::Device => calls::DEVICE,
            Self::Disk => calls::DISK,
            Self::Share => calls::SHARE,
            Self::Net => calls::NET,
            Self::Link => calls::LINK,
            Self::Switch => calls::SWITCH,
            Self::Socket => calls::SOCKET,
            Self::Console => calls::CONSOLE,
            Self::Api => calls::API,
            Self::Client => calls::CLIENT,
            Self::Signals => calls::SIGNALS,
        }
    }
}

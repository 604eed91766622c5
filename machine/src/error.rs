//! Why there is no machine.

use std::path::PathBuf;

use block::BlockError;
use boot::BootError;
use cpu::EngineError;
use cpu::x86::ModelError;
use device::BusError;
use device::pci::PciError;
use memory::MemoryError;
use net::NetError;
use thiserror::Error;

use crate::snapshot::SnapshotError;
use crate::spec::MAX_CPUS;
use crate::{BoardKind, Size};

/// Errors of making a machine; each message is one line: fact, object, remedy.
#[derive(Debug, Error)]
pub enum MachineError {
    /// Nothing to boot.
    #[error("no kernel is named: give --kernel")]
    NoKernel,
    /// Nothing to boot on the disks either.
    #[error("no kernel is named, and none is on a disk in an ext4 file system's /boot: give --kernel")]
    NoSystem,
    /// A system on a disk is not whole.
    #[error(transparent)]
    System(#[from] boot::disk::DiskError),
    /// A number of CPUs that no machine has.
    #[error("{0} cpus are not possible: give 1 to {MAX_CPUS}")]
    Cpus(u32),
    /// An engine runs fewer CPUs.
    #[error("engine {engine} runs at most {max} cpus: give fewer")]
    EngineCpus {
        /// Engine name.
        engine: &'static str,
        /// Its limit.
        max: u32,
    },
    /// An engine does not take a guest that was given elsewhere what it lacks.
    #[error(
        "engine {engine} lacks {missing} here, which the guest was given ({source}): take another engine"
    )]
    Lacks {
        /// Engine name.
        engine: &'static str,
        /// Features of the CPU.
        missing: String,
        /// What it has refused.
        source: EngineError,
    },
    /// The controllers of an engine's are more than the board has.
    #[error("a {board} has no 8259, and the kernel's interrupt controllers have: take --irqchip split")]
    Irqchip {
        /// The board.
        board: BoardKind,
    },
    /// A memory size that no machine has.
    #[error("guest memory of {memory} is not possible: give whole MiB, at least {least}")]
    MemorySize {
        /// Asked for.
        memory: Size,
        /// Least size.
        least: Size,
    },
    /// More memory than there is.
    #[error("{memory} of guest memory are more than the host can give ({mib} MiB by {limit}): ask for less")]
    HostMemory {
        /// Asked for.
        memory: Size,
        /// What the host can give.
        mib: u64,
        /// What limits it.
        limit: &'static str,
    },
    /// No size of a huge page.
    #[error("there are no huge pages of {0}: give --hugepages=2M or --hugepages=1G")]
    HugePage(Size),
    /// Memory that is no whole number of them.
    #[error("{memory} of guest memory are no whole number of pages of {page}: give a multiple")]
    HugeMemory {
        /// Guest memory.
        memory: Size,
        /// A page.
        page: Size,
    },
    /// What is not possible with them.
    #[error("{0} is not possible with huge pages, which all stay with their machine: go without --hugepages")]
    HugeStays(&'static str),
    /// A balloon as large as all memory.
    #[error("a balloon of {balloon} leaves nothing of {memory} of guest memory: give less")]
    Balloon {
        /// Asked for.
        balloon: Size,
        /// Guest memory.
        memory: Size,
    },
    /// CPU time that no machine can be given.
    #[error("{0} cpus are no limit of CPU time: give 0.01 to {MAX_CPUS}")]
    CpuLimit(f64),
    /// A weight that no machine can have.
    #[error("{0} is no weight: give 1 to 10000, where 100 is what others have")]
    CpuWeight(u32),
    /// The host does not let a machine have more weight.
    #[error("the host refuses a weight of {weight} ({source}): give at most 100, or run with CAP_SYS_NICE")]
    CpuPriority {
        /// Asked for.
        weight: u32,
        /// What the host said.
        source: std::io::Error,
    },
    /// A control group that the machine cannot be in.
    #[error("control group {}: {fact}", path.display())]
    Cgroup {
        /// Its folder.
        path: PathBuf,
        /// Why not, and what to do.
        fact: String,
    },
    /// A limit of what is not there.
    #[error("the machine has no {0}: limit what it has")]
    NoDevice(crate::DeviceName),
    /// Nothing would ever be served.
    #[error("a rate of nothing is not possible for {0}: give at least 1")]
    NoRate(crate::DeviceName),
    /// A file cannot be read.
    #[error("{} cannot be read ({source}): check the path and its permissions", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: std::io::Error,
    },
    /// Not a file with content.
    #[error("{} is {what}: give a regular file", path.display())]
    NoFile {
        /// The path.
        path: PathBuf,
        /// What it is instead.
        what: &'static str,
    },
    /// Longer than any kernel.
    #[error("{} is larger than {max}: give a kernel or an initrd", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Most that is read.
        max: Size,
    },
    /// The host refuses a thread.
    #[error("the host refuses a thread ({0}): raise its limit of tasks or ask for fewer cpus")]
    Thread(std::io::Error),
    /// More ports than a console has.
    #[error("{0} ports are not possible: give at most {max}", max = virtio::Console::MAX_PORTS)]
    Ports(usize),
    /// A name that no port can have.
    #[error(
        "port name {0:?} is not possible: give up to 64 letters, digits, dots, dashes and underscores, no dot first"
    )]
    PortName(String),
    /// Two ports that are one.
    #[error("ports {name} and {other} have the same name or path: give each its own")]
    SamePort {
        /// The second.
        name: String,
        /// The first.
        other: String,
    },
    /// More shares than there is room for.
    #[error("{count} shares are not possible: give at most {max}")]
    Shares {
        /// Asked for.
        count: usize,
        /// Most.
        max: usize,
    },
    /// A tag that no share can have.
    #[error(
        "share tag {0:?} is not possible: give up to 36 letters, digits, dots, dashes and underscores, no dot or dash first"
    )]
    ShareTag(String),
    /// Two shares that would be one.
    #[error("two shares have the tag {0}: give each its own")]
    SameTag(String),
    /// The socket of somebody else.
    #[error("{} is the socket of a running program: stop that, or give another path", .0.display())]
    PortBusy(PathBuf),
    /// A file that is not ours to replace.
    #[error("{} is there already and no socket: give another path", .0.display())]
    PortFile(PathBuf),
    /// The host refuses a socket.
    #[error("{} cannot be made a socket ({source}): give a path of at most 107 bytes in a folder that you may write", path.display())]
    PortSocket {
        /// The path.
        path: PathBuf,
        /// What the host said.
        source: std::io::Error,
    },
    /// An address that no guest can have.
    #[error("{0} is no guest's socket address: give one from 3 to 4294967294")]
    VsockCid(u32),
    /// A path that is none for the guest's sockets.
    #[error("{} is not possible for the guest's sockets: give a path of 1 to {max} bytes", path.display())]
    VsockPath {
        /// The path.
        path: PathBuf,
        /// Most bytes.
        max: usize,
    },
    /// The call does not fit the machine's state.
    #[error("the machine is {state}: {remedy}")]
    State {
        /// Its state.
        state: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// A snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The kernel cannot be booted.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The CPU model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The board contradicts itself.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// More devices than slots.
    #[error(transparent)]
    Pci(#[from] PciError),
    /// A disk.
    #[error(transparent)]
    Disk(#[from] BlockError),
    /// A network.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A shared folder.
    #[error(transparent)]
    Share(#[from] share::ShareError),
}

//! Which system calls threads may make: data, looked up in `kind.rs`. Numbers and arguments are those of Linux on x86-64;
//! what a call does is in its manual page, section 2. What the lists were taken from: every kind of thread under strace, and
//! its code for what a run does not show.

use libc::{
    SYS_accept4, SYS_arch_prctl, SYS_bind, SYS_brk, SYS_clock_gettime, SYS_clock_nanosleep, SYS_clone,
    SYS_clone3, SYS_close, SYS_close_range, SYS_connect, SYS_copy_file_range, SYS_dup, SYS_dup2, SYS_dup3,
    SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait, SYS_epoll_wait, SYS_eventfd2, SYS_exit,
    SYS_exit_group, SYS_fallocate, SYS_fchdir, SYS_fchmod, SYS_fchmodat, SYS_fchown, SYS_fchownat, SYS_fcntl,
    SYS_fdatasync, SYS_fgetxattr, SYS_flistxattr, SYS_flock, SYS_fremovexattr, SYS_fsetxattr, SYS_fstat,
    SYS_fstatfs, SYS_fsync, SYS_ftruncate, SYS_futex, SYS_futimesat, SYS_getcwd, SYS_getdents64, SYS_getegid,
    SYS_geteuid, SYS_getgid, SYS_getpeername, SYS_getpid, SYS_getppid, SYS_getpriority, SYS_getrandom,
    SYS_getsockname, SYS_getsockopt, SYS_gettid, SYS_gettimeofday, SYS_getuid, SYS_getxattr,
    SYS_io_uring_enter, SYS_io_uring_register, SYS_io_uring_setup, SYS_ioctl, SYS_kill, SYS_lgetxattr,
    SYS_linkat, SYS_listen, SYS_listxattr, SYS_llistxattr, SYS_lremovexattr, SYS_lseek, SYS_lsetxattr,
    SYS_lstat, SYS_madvise, SYS_membarrier, SYS_memfd_create, SYS_mincore, SYS_mkdir, SYS_mkdirat,
    SYS_mknodat, SYS_mmap, SYS_mprotect, SYS_mremap, SYS_msync, SYS_munmap, SYS_nanosleep, SYS_newfstatat,
    SYS_open, SYS_openat, SYS_openat2, SYS_pipe2, SYS_poll, SYS_ppoll, SYS_prctl, SYS_pread64, SYS_preadv,
    SYS_preadv2, SYS_prlimit64, SYS_ptrace, SYS_pwrite64, SYS_pwritev, SYS_pwritev2, SYS_read, SYS_readlink,
    SYS_readlinkat, SYS_readv, SYS_recvfrom, SYS_recvmmsg, SYS_recvmsg, SYS_removexattr, SYS_rename,
    SYS_renameat, SYS_renameat2, SYS_restart_syscall, SYS_rmdir, SYS_rseq, SYS_rt_sigaction,
    SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_rt_sigtimedwait, SYS_sched_getaffinity, SYS_sched_setaffinity,
    SYS_sched_yield, SYS_seccomp, SYS_sendmmsg, SYS_sendmsg, SYS_sendto, SYS_set_robust_list,
    SYS_setpriority, SYS_setsockopt, SYS_setxattr, SYS_shutdown, SYS_sigaltstack, SYS_socket, SYS_socketpair,
    SYS_splice, SYS_stat, SYS_statfs, SYS_statx, SYS_symlinkat, SYS_sync_file_range, SYS_syncfs, SYS_tgkill,
    SYS_timer_create, SYS_timer_delete, SYS_timer_settime, SYS_timerfd_create, SYS_timerfd_settime,
    SYS_unlink, SYS_unlinkat, SYS_userfaultfd, SYS_utimensat, SYS_wait4, SYS_write, SYS_writev,
};

use Call::{Any, Bits, Own, Value};

/// A system call that may be made.
#[derive(Debug, Clone, Copy)]
pub enum Call {
    /// With any arguments.
    Any(i64),
    /// If the argument with this index, counted from 0, has one of these values in its lower half.
    Value(i64, u8, &'static [u64]),
    /// If the argument has this value where the mask has ones.
    Bits(i64, u8, u64, u64),
    /// If argument 0 is this process.
    Own(i64),
}

impl Call {
    /// It is made so often that it is looked at first.
    pub fn is_often(&self) -> bool {
        matches!(self, Bits(number, _, IOCTL_TYPE, KVM) if *number == SYS_ioctl)
    }
}

/// `_IOC_TYPE` of an ioctl's number, and what it is for KVM.
const IOCTL_TYPE: u64 = 0xff00;
const KVM: u64 = 0xae00;
/// Interrupts for a guest whose interrupt controllers are KVM's: what a device's thread may give its guest anyway.
const KVM_SIGNAL_MSI: u64 = 0x4020_aea5;
const KVM_IRQ_LINE: u64 = 0x4008_ae61;
/// TUNSETIFF, TUNSETOFFLOAD, TUNSETVNETHDRSZ.
const TUN: &[u64] = &[0x4004_54ca, 0x4004_54d0, 0x4004_54d8];
/// TCGETS, TCSETS, TCSETSW, TCSETSF, the same with speeds (TCGETS2 ...), TIOCGWINSZ; FIONREAD, FIONBIO. Not TIOCSTI, by which
/// a process types at its user's terminal.
const TERMINAL: &[u64] = &[
    0x5401,
    0x5402,
    0x5403,
    0x5404,
    0x802c_542a,
    0x402c_542b,
    0x402c_542c,
    0x402c_542d,
    0x5413,
    0x541b,
    0x5421,
];
/// UFFD_USER_MODE_ONLY | O_CLOEXEC: faults in the kernel's own accesses are nobody else's business.
const USER_FAULTS: &[u64] = &[libc::O_CLOEXEC as u64 | 1];
/// UFFDIO_API, REGISTER, UNREGISTER, WRITEPROTECT (`memory/src/written.rs`); PAGEMAP_SCAN (`memory/src/pagemap.rs`).
const WRITE_LOG: &[u64] = &[0xc018_aa3f, 0xc020_aa00, 0x8010_aa01, 0xc018_aa06, 0xc060_6610];
const PR_SET_VMA: u64 = 0x5356_4d41;
/// How the process was started; libraries look for the clock there.
const PR_GET_AUXV: u64 = 0x4155_5856;
/// Instead of a process's number.
const THIS_PROCESS: u64 = 0;
const EXEC: u64 = libc::PROT_EXEC as u64;
const THREAD: u64 = (libc::CLONE_VM | libc::CLONE_THREAD) as u64;
const UNIX: u64 = libc::AF_UNIX as u64;

/// Every thread: memory, time, waiting for another thread, open descriptors, the terminal's modes (a panic puts them
/// back), its own end.
pub const EVERY: &[Call] = &[
    Any(SYS_brk),
    Any(SYS_munmap),
    Any(SYS_mremap),
    Any(SYS_madvise),
    Bits(SYS_mmap, 2, EXEC, 0),
    Bits(SYS_mprotect, 2, EXEC, 0),
    Any(SYS_futex),
    Any(SYS_sched_yield),
    Any(SYS_sched_getaffinity),
    Any(SYS_membarrier),
    Any(SYS_clock_gettime),
    Any(SYS_clock_nanosleep),
    Any(SYS_nanosleep),
    Any(SYS_gettimeofday),
    Any(SYS_getrandom),
    Any(SYS_getpid),
    Any(SYS_gettid),
    Any(SYS_read),
    Any(SYS_readv),
    Any(SYS_write),
    Any(SYS_writev),
    Any(SYS_close),
    Any(SYS_fstat),
    Value(SYS_fcntl, 1, &[libc::F_DUPFD_CLOEXEC as u64, libc::F_GETFD as u64, libc::F_GETFL as u64]),
    Any(SYS_poll),
    Any(SYS_ppoll),
    Value(SYS_ioctl, 1, TERMINAL),
    Value(SYS_ioctl, 1, &[KVM_SIGNAL_MSI, KVM_IRQ_LINE]),
    Any(SYS_rt_sigprocmask),
    Any(SYS_rt_sigaction),
    Any(SYS_rt_sigreturn),
    Any(SYS_sigaltstack),
    Any(SYS_restart_syscall),
    Own(SYS_tgkill),
    Any(SYS_rseq),
    Any(SYS_set_robust_list),
    Value(SYS_prctl, 0, &[libc::PR_SET_NAME as u64, libc::PR_GET_NAME as u64, PR_SET_VMA, PR_GET_AUXV]),
    Any(SYS_exit),
    Any(SYS_exit_group),
];

/// Makes threads, and no processes; each takes on a list of its own. Every process in a jail may. clone3 is answered with
/// ENOSYS (see `filter.rs`): its flags are where no filter can look, and C libraries then call clone.
pub const THREADS: &[Call] = &[
    Bits(SYS_clone, 0, THREAD, THREAD),
    Any(SYS_clone3),
    Any(SYS_seccomp),
    Value(SYS_prctl, 0, &[libc::PR_SET_NO_NEW_PRIVS as u64]),
];

/// Requests to descriptors that are open.
const FILE_DATA: &[Call] = &[
    Any(SYS_pread64),
    Any(SYS_pwrite64),
    Any(SYS_preadv),
    Any(SYS_pwritev),
    Any(SYS_preadv2),
    Any(SYS_pwritev2),
    Any(SYS_lseek),
    Any(SYS_fsync),
    Any(SYS_fdatasync),
    Any(SYS_sync_file_range),
    Any(SYS_fallocate),
    Any(SYS_ftruncate),
    Any(SYS_flock),
    Any(SYS_fcntl),
    Any(SYS_statx),
    Any(SYS_fstatfs),
];

/// A ring that was made before, whose operations were chosen then (`block/src/uring.rs`).
const RING: &[Call] = &[Any(SYS_io_uring_enter)];

/// Reads files by name, where Landlock lets it.
const OPEN: &[Call] = &[
    Any(SYS_openat),
    Any(SYS_openat2),
    Any(SYS_open),
    Any(SYS_statx),
    Any(SYS_newfstatat),
    Any(SYS_stat),
    Any(SYS_lstat),
    Any(SYS_readlink),
    Any(SYS_readlinkat),
    Any(SYS_getdents64),
    Any(SYS_getcwd),
];

/// Writes files beside, renames and removes them, where Landlock lets it.
const NAMES: &[Call] = &[
    Any(SYS_rename),
    Any(SYS_renameat),
    Any(SYS_renameat2),
    Any(SYS_unlink),
    Any(SYS_unlinkat),
    Any(SYS_rmdir),
    Any(SYS_mkdir),
    Any(SYS_mkdirat),
    Any(SYS_fchmod),
];

/// What POSIX knows of files and folders, by descriptors of folders.
const FOLDERS: &[Call] = &[
    Any(SYS_linkat),
    Any(SYS_symlinkat),
    Any(SYS_mknodat),
    Any(SYS_fchown),
    Any(SYS_fchownat),
    Any(SYS_fchmodat),
    Any(SYS_utimensat),
    Any(SYS_futimesat),
    Any(SYS_copy_file_range),
    Any(SYS_splice),
    Any(SYS_pipe2),
    Any(SYS_statfs),
    Any(SYS_syncfs),
    Any(SYS_fchdir),
    Any(SYS_getxattr),
    Any(SYS_setxattr),
    Any(SYS_listxattr),
    Any(SYS_removexattr),
    Any(SYS_lgetxattr),
    Any(SYS_lsetxattr),
    Any(SYS_llistxattr),
    Any(SYS_lremovexattr),
    Any(SYS_fgetxattr),
    Any(SYS_fsetxattr),
    Any(SYS_flistxattr),
    Any(SYS_fremovexattr),
];

/// Waits for many descriptors.
const EVENTS: &[Call] = &[
    Any(SYS_epoll_create1),
    Any(SYS_epoll_ctl),
    Any(SYS_epoll_wait),
    Any(SYS_epoll_pwait),
    Any(SYS_eventfd2),
    Any(SYS_timerfd_create),
    Any(SYS_timerfd_settime),
];

/// Data of sockets that are there.
const SOCKET_DATA: &[Call] = &[
    Any(SYS_sendto),
    Any(SYS_sendmsg),
    Any(SYS_sendmmsg),
    Any(SYS_recvfrom),
    Any(SYS_recvmsg),
    Any(SYS_recvmmsg),
    Any(SYS_shutdown),
    Any(SYS_getsockopt),
    Any(SYS_setsockopt),
    Any(SYS_getsockname),
    Any(SYS_getpeername),
    Any(SYS_fcntl),
];

const ACCEPT: &[Call] = &[Any(SYS_accept4)];
/// Calls other programs of this host.
const UNIX_CALLS: &[Call] =
    &[Value(SYS_socket, 0, &[UNIX]), Value(SYS_socketpair, 0, &[UNIX]), Any(SYS_connect)];
/// Sockets of the host's network.
const INTERNET: &[Call] = &[
    Value(SYS_socket, 0, &[libc::AF_INET as u64, libc::AF_INET6 as u64]),
    Any(SYS_connect),
    Any(SYS_bind),
    Any(SYS_listen),
];

/// A virtual machine on KVM; its vCPUs have timers that end a run.
const RUN: &[Call] = &[
    Bits(SYS_ioctl, 1, IOCTL_TYPE, KVM),
    Any(SYS_timer_create),
    Any(SYS_timer_settime),
    Any(SYS_timer_delete),
];
/// Executable memory for an engine: a memfd, mapped twice; with names for perf, memory that becomes executable.
const CODE: &[Call] =
    &[Any(SYS_memfd_create), Any(SYS_ftruncate), Any(SYS_fcntl), Any(SYS_mmap), Any(SYS_mprotect)];
/// A vCPU's thread asks the host how long it has waited for a CPU.
const OWN_NUMBERS: &[Call] = &[Any(SYS_pread64)];
/// How the host's scheduler weighs threads.
const WEIGHTS: &[Call] = &[Any(SYS_getpriority), Any(SYS_setpriority)];

/// Processes that run guest code for a vCPU are told what to do; they are traced since they were made ([`CHILDREN`]). A vCPU's
/// thread can reach no other process so: it can begin to trace none.
const TRACED: &[Call] = &[Value(SYS_ptrace, 0, TRACE), Any(SYS_wait4), Any(SYS_sched_setaffinity)];
/// PTRACE_POKEUSER, CONT, GETREGS, SETREGS, SYSEMU, GETSIGINFO, GETREGSET, SETREGSET.
const TRACE: &[u64] = &[6, 7, 12, 13, 31, 0x4202, 0x4204, 0x4205];
/// Makes such processes: a thread may before it takes on a list of its own, and each takes on one in which there is nothing but
/// mmap and munmap. What those are for it has to be allowed, too.
pub const CHILDREN: &[Call] = &[
    Value(SYS_clone, 0, &[libc::SIGCHLD as u64]),
    Value(SYS_ptrace, 0, MAKE),
    Value(SYS_kill, 1, &[libc::SIGSTOP as u64, libc::SIGKILL as u64]),
    Value(SYS_prctl, 0, &[libc::PR_SET_PDEATHSIG as u64, libc::PR_SET_TSC as u64]),
    Any(SYS_getppid),
    Any(SYS_close_range),
    Any(SYS_dup2),
];
/// Every thread beside a [`DIRECT_VCPU`]: the process that runs for it is called so, as it is itself by a word in memory. To other
/// processes the signal means nothing.
pub const CALL_PROCESSES: &[Call] = &[Value(SYS_kill, 1, &[libc::SIGURG as u64])];
/// PTRACE_TRACEME, SINGLESTEP, SETOPTIONS, SETSIGMASK, GET_RSEQ_CONFIGURATION.
const MAKE: &[u64] = &[0, 9, 0x4200, 0x420b, 0x420f];

/// Guest code runs there, and what it may have broken into has least: memory, and no descriptor that is not open. The
/// translator keeps its own pointer in GS (`arch_prctl`, where the CPU has no instruction for it).
pub const VCPU: &[&[Call]] = &[RUN, OWN_NUMBERS, &[Any(SYS_arch_prctl)]];
/// The same with such processes.
pub const DIRECT_VCPU: &[&[Call]] = &[RUN, OWN_NUMBERS, TRACED, &[Any(SYS_arch_prctl)]];
/// A KVM without a mode of the guest's is helped out by the translator, which is made when it is needed.
pub const KVM_VCPU: &[&[Call]] = &[RUN, OWN_NUMBERS, CODE, THREADS, &[Any(SYS_arch_prctl)]];
/// A port's data goes straight from its queue to the client.
pub const DEVICE: &[&[Call]] = &[SOCKET_DATA, EVENTS];
/// A pool of threads grows.
pub const DISK: &[&[Call]] = &[FILE_DATA, RING, THREADS];
/// It reads kernels, also from disks.
pub const BOARD: &[&[Call]] = &[FILE_DATA, RING, THREADS, OPEN, RUN];
/// Everything below a folder.
pub const SHARE: &[&[Call]] = &[FILE_DATA, OPEN, NAMES, FOLDERS];
/// It looks for the host's resolver, too.
pub const NET: &[&[Call]] = &[INTERNET, ACCEPT, SOCKET_DATA, EVENTS, OPEN];
/// A switch that is gone is called again.
pub const LINK: &[&[Call]] = &[UNIX_CALLS, SOCKET_DATA, EVENTS, OPEN, &[Value(SYS_ioctl, 1, TUN)]];
/// A guest calls programs of the host's through it.
pub const SOCKET: &[&[Call]] = &[UNIX_CALLS, ACCEPT, SOCKET_DATA, EVENTS];
/// It lets members in, and removes its folder in the end. The networks behind it want to know how many files may be open.
pub const SWITCH: &[&[Call]] = &[
    ACCEPT,
    SOCKET_DATA,
    EVENTS,
    &[Any(SYS_unlink), Any(SYS_rmdir), Value(SYS_prlimit64, 0, &[THIS_PROCESS])],
];
/// The log turns over.
pub const CONSOLE: &[&[Call]] = &[FILE_DATA, OPEN, NAMES];
/// It writes what the machine is doing, starts what clients ask for, changes weights, makes another engine's machine, and
/// flushes disks for a snapshot, which may log what the guest writes.
pub const API: &[&[Call]] = &[
    FILE_DATA,
    RING,
    OPEN,
    NAMES,
    ACCEPT,
    SOCKET_DATA,
    EVENTS,
    THREADS,
    RUN,
    CODE,
    WEIGHTS,
    &[Value(SYS_socketpair, 0, &[UNIX]), Any(SYS_mincore), Any(SYS_arch_prctl)],
    &[Value(SYS_userfaultfd, 0, USER_FAULTS), Value(SYS_ioctl, 1, WRITE_LOG)],
];
/// Frames between a client and the guest, by two threads.
pub const CLIENT: &[&[Call]] = &[SOCKET_DATA, THREADS];
/// It stops and ends the process.
pub const SIGNALS: &[&[Call]] = &[THREADS, &[Any(SYS_rt_sigtimedwait)]];
/// What only a machine's main thread does is here, too: new rings, ports, TAP devices.
pub const MAIN: &[&[Call]] = &[
    FILE_DATA,
    OPEN,
    NAMES,
    UNIX_CALLS,
    SOCKET_DATA,
    EVENTS,
    THREADS,
    RUN,
    CODE,
    WEIGHTS,
    &[
        Any(SYS_bind),
        Any(SYS_listen),
        Any(SYS_io_uring_setup),
        Any(SYS_io_uring_register),
        Any(SYS_io_uring_enter),
        Any(SYS_prlimit64),
        Any(SYS_dup),
        Any(SYS_dup2),
        Any(SYS_dup3),
        Any(SYS_geteuid),
        Any(SYS_getegid),
        Any(SYS_getuid),
        Any(SYS_getgid),
        Any(SYS_arch_prctl),
        Any(SYS_msync),
        Value(SYS_ioctl, 1, TUN),
        Own(SYS_kill),
    ],
];

/// Opening by name, for threads that may not: they are told so and go on. C libraries look at files when they please (how
/// many CPUs there are, how memory is overcommitted), and so does a panic that prints where it was. An engine that cannot be
/// made says so.
pub const OPENS: &[i64] = &[
    SYS_openat,
    SYS_open,
    SYS_readlink,
    SYS_readlinkat,
    SYS_stat,
    SYS_lstat,
    SYS_newfstatat,
    SYS_getcwd,
    SYS_memfd_create,
];

//! What a process no longer shares with the rest of the host (namespaces(7)): its network, System V's and POSIX' queues, its name.
//!
//! A network of its own, in which there is nothing, puts abstract Unix sockets out of sight as well; those with a path go on to
//! work. Root makes them as they are. Anybody else makes them in a user namespace, in which he is who he was, others are
//! nobody, and all powers are given up again at once. There is none of processes, whose maker could have no more threads, and
//! none of mounts: paths are Landlock's.
// UNSAFETY: fork and unshare have no safe wrapper among our dependencies.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::time::Duration;
use std::{fs, thread};

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, getegid, geteuid, waitpid};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags, capabilities, set_capabilities};

/// Who has this number in a user namespace is not to be told from those who have none.
const NOBODY: u32 = 65534;
/// A thread that has ended counts as one for a moment longer: how often, and how long, that is waited for.
const LOOKS: usize = 20;
const LOOK: Duration = Duration::from_micros(50);

const ALL: UnshareFlags = UnshareFlags::NEWIPC.union(UnshareFlags::NEWUTS).union(UnshareFlags::NEWNET);

/// Which ones a process is to have.
#[derive(Debug, Clone, Default)]
pub struct Namespaces {
    /// The network stays the host's.
    pub network: bool,
}

/// Why there are none.
pub enum Without {
    /// Nothing has changed.
    Left(String),
    /// The process is in some, and not what it has to be there: it cannot go on.
    Half(String),
}

impl Namespaces {
    /// For the calling thread and those that it will make: how many.
    pub fn enter(&self) -> Result<u32, Without> {
        let kinds = if self.network { ALL & !UnshareFlags::NEWNET } else { ALL };
        let as_user = is_user().map_err(Without::Left)?;
        let steps = Steps::new(kinds, as_user);
        if as_user {
            if may_be_nobody() {
                // That one alone: to make a network takes 0.3 s as long as another one is being taken down.
                tried(&Steps::new(UnshareFlags::NEWUSER, true)).map_err(|error| Without::Left(why(error)))?;
            }
            in_a_user_namespace(&steps)?;
        } else {
            steps.take().map_err(|error| Without::Left(why(error)))?;
        }
        Ok(kinds.bits().count_ones() + u32::from(as_user))
    }
}

/// Why this process could have none; nothing is changed by asking.
pub fn missing() -> Option<String> {
    match is_user() {
        Ok(as_user) => tried(&Steps::new(ALL, as_user)).err().map(why),
        Err(why) => Some(why),
    }
}

/// What it takes: a call, and for a user namespace, files that say who is who in it.
struct Steps {
    kinds: UnshareFlags,
    maps: Vec<(&'static CStr, String)>,
}

/// A step did not go: the call, or a file.
struct Failed {
    at_maps: bool,
    error: Errno,
}

impl Steps {
    fn new(kinds: UnshareFlags, as_user: bool) -> Self {
        if !as_user {
            return Self { kinds, maps: Vec::new() };
        }
        let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
        let maps = vec![
            (c"/proc/self/setgroups", "deny".to_owned()),
            (c"/proc/self/uid_map", format!("{uid} {uid} 1")),
            (c"/proc/self/gid_map", format!("{gid} {gid} 1")),
        ];
        Self { kinds: kinds | UnshareFlags::NEWUSER, maps }
    }

    /// Makes system calls and nothing else.
    fn take(&self) -> Result<(), Failed> {
        // SAFETY: of what the call can take apart, only tables of descriptors are memory to safe code, and FILES is in no
        // set of flags that is passed.
        let unshared = unsafe { rustix::thread::unshare_unsafe(self.kinds) };
        unshared.map_err(|error| Failed { at_maps: false, error })?;
        let maps = self.maps.iter().try_for_each(|(file, text)| write(file, text.as_bytes()));
        maps.map_err(|error| Failed { at_maps: true, error })
    }
}

fn write(file: &CStr, text: &[u8]) -> Result<(), Errno> {
    let last = || Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO);
    // SAFETY: a string that ends, and bytes that are there; the descriptor is used and closed here alone.
    unsafe {
        let fd = libc::open(file.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if fd < 0 {
            return Err(last());
        }
        let wrote = libc::write(fd, text.as_ptr().cast(), text.len());
        let error = last();
        libc::close(fd);
        if wrote == text.len() as isize { Ok(()) } else { Err(error) }
    }
}

/// They need a user namespace; an error if that would cost more than they are worth.
fn is_user() -> Result<bool, String> {
    let CapabilitySets { effective, permitted, .. } =
        capabilities(None).map_err(|error| why(Failed { at_maps: false, error }))?;
    if effective.contains(CapabilitySet::SYS_ADMIN) {
        return Ok(false);
    }
    if !permitted.is_empty() {
        let why = "its capabilities would not count in a user namespace: add CAP_SYS_ADMIN, or drop them";
        return Err(why.to_owned());
    }
    if [geteuid().as_raw(), getegid().as_raw()].contains(&NOBODY) {
        return Err(format!("{NOBODY} is everybody else in a user namespace: take another user and group"));
    }
    Ok(true)
}

/// There are hosts that make a user namespace and let nobody be somebody in it: for root without powers, and by AppArmor. Others are
/// spared a trial, which takes a millisecond.
fn may_be_nobody() -> bool {
    let restricted = fs::read_to_string("/proc/sys/kernel/apparmor_restrict_unprivileged_userns");
    let is_free = match restricted {
        Ok(text) => text.trim() == "0",
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    geteuid().is_root() || !is_free
}

fn in_a_user_namespace(steps: &Steps) -> Result<(), Without> {
    let taken = (0..LOOKS).find_map(|_| match steps.take() {
        Err(Failed { at_maps: false, error: Errno::INVAL }) => {
            thread::sleep(LOOK);
            None
        }
        other => Some(other),
    });
    match taken {
        None => return Err(Without::Left("the process has another thread".to_owned())),
        Some(Err(failed @ Failed { at_maps: false, .. })) => return Err(Without::Left(why(failed))),
        Some(Err(failed)) => return Err(Without::Half(why(failed))),
        Some(Ok(())) => {}
    }
    let none = CapabilitySet::empty();
    let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
    set_capabilities(None, none).map_err(|error| Without::Half(format!("its capabilities stay ({error})")))
}

/// In a process that is made for it: what it could do of them, this one can.
fn tried(steps: &Steps) -> Result<(), Failed> {
    let refused = |error: io::Error| Failed {
        at_maps: false,
        error: Errno::from_io_error(&error).unwrap_or(Errno::IO),
    };
    let (mut answer, sender) = io::pipe().map_err(refused)?;
    // SAFETY: the child makes system calls, which need no memory and no lock that another thread could have had at the time of
    // the fork, and ends without running anything of its parent's.
    let child = unsafe {
        let child = libc::fork();
        if child == 0 {
            let said = match steps.take() {
                Ok(()) => [0, 0],
                Err(Failed { at_maps, error }) => [i32::from(at_maps), error.raw_os_error()],
            };
            libc::write(sender.as_raw_fd(), said.as_ptr().cast(), size_of_val(&said));
            libc::_exit(0);
        }
        child
    };
    let child =
        Pid::from_raw(child).filter(|_| child > 0).ok_or_else(|| refused(io::Error::last_os_error()))?;
    drop(sender);
    let mut said = [0; 8];
    let heard = answer.read_exact(&mut said);
    // Where nobody waits for children, there is nothing to wait for.
    let _ = waitpid(Some(child), WaitOptions::empty());
    let [at_maps, error] = [0, 4].map(|at| i32::from_ne_bytes([0, 1, 2, 3].map(|i| said[at + i])));
    match (heard, error) {
        (Ok(()), 0) => Ok(()),
        (Ok(()), error) => Err(Failed { at_maps: at_maps != 0, error: Errno::from_raw_os_error(error) }),
        // A list of calls that ends processes, not ours.
        (Err(_), _) => Err(Failed { at_maps: false, error: Errno::PERM }),
    }
}

/// In words, with what to do.
fn why(Failed { at_maps, error }: Failed) -> String {
    if at_maps {
        return format!(
            "nobody can be somebody in a user namespace ({error}): set the sysctl kernel.apparmor_restrict_unprivileged_userns=0, or \
             give root without powers CAP_SETFCAP"
        );
    }
    match error {
        Errno::PERM | Errno::ACCESS => {
            "this user may make none: allow unshare in the container's seccomp profile, and user namespaces by the \
             sysctls kernel.apparmor_restrict_unprivileged_userns=0 or kernel.unprivileged_userns_clone=1"
        }
        Errno::NOSPC | Errno::USERS => "there may be no more of them: raise the sysctls user.max_*_namespaces",
        Errno::INVAL => "the kernel lacks a kind of them: it needs CONFIG_USER_NS, NET_NS, IPC_NS and UTS_NS",
        other => return format!("they are refused ({other})"),
    }
    .to_owned()
}

//! What a process no longer shares with the rest of the host (namespaces(7)): its network, System V's and POSIX' queues, its name.
//!
//! A network of its own, in which there is nothing, puts abstract Unix sockets out of sight as well; those with a path go on to
//! work. Root makes them as they are. Anybody else makes them in a user namespace, in which he is who he was, others are
//! nobody, and all powers are given up again at once. There is none of processes, whose maker could have no more threads, and
//! none of mounts: paths are Landlock's.
// UNSAFETY: fork and unshare have no safe wrapper among our dependencies.
#![allow(unsafe_code)]

use std::time::Duration;
use std::{fs, io, thread};

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

impl Namespaces {
    /// For the calling thread and those that it will make: how many, or why there are none.
    pub fn enter(&self) -> Result<u32, String> {
        let kinds = if self.network { ALL & !UnshareFlags::NEWNET } else { ALL };
        let as_user = is_user()?;
        match as_user {
            true => in_a_user_namespace(kinds)?,
            false => unshare(kinds).map_err(why)?,
        }
        Ok(kinds.bits().count_ones() + u32::from(as_user))
    }
}

/// Why this process could have none; nothing is changed by asking.
pub fn missing() -> Option<String> {
    let wanted = match is_user() {
        Ok(true) => ALL | UnshareFlags::NEWUSER,
        Ok(false) => ALL,
        Err(why) => return Some(why),
    };
    tried(wanted).err().map(why)
}

/// They need a user namespace; an error if that would cost more than they are worth.
fn is_user() -> Result<bool, String> {
    let CapabilitySets { effective, permitted, .. } = capabilities(None).map_err(why)?;
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

fn in_a_user_namespace(kinds: UnshareFlags) -> Result<(), String> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let map = |file: &str, text: String| {
        let path = format!("/proc/self/{file}");
        fs::write(&path, text).map_err(|e| format!("{path} cannot be written ({e})"))
    };
    // Where they cannot be written, nothing should have begun.
    let path = "/proc/self/uid_map";
    fs::File::options().write(true).open(path).map_err(|e| format!("{path} cannot be written ({e})"))?;
    let done = (0..LOOKS).find_map(|_| match unshare(kinds | UnshareFlags::NEWUSER) {
        Err(Errno::INVAL) => {
            thread::sleep(LOOK);
            None
        }
        other => Some(other),
    });
    done.ok_or("the process has another thread")?.map_err(why)?;
    let mapped = map("setgroups", "deny".to_owned())
        .and_then(|()| map("uid_map", format!("{uid} {uid} 1")))
        .and_then(|()| map("gid_map", format!("{gid} {gid} 1")));
    let none = CapabilitySet::empty();
    let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
    let powerless = set_capabilities(None, none).map_err(why);
    mapped.and(powerless)
}

fn unshare(kinds: UnshareFlags) -> rustix::io::Result<()> {
    // SAFETY: of what the call can take apart, only tables of descriptors are memory to safe code, and FILES is in no
    // set of flags that is passed.
    unsafe { rustix::thread::unshare_unsafe(kinds) }
}

/// In a process that is made for it.
fn tried(kinds: UnshareFlags) -> rustix::io::Result<()> {
    // SAFETY: the child makes two system calls, which need no memory and no lock that another thread could have had at
    // the time of the fork, and ends without running anything of its parent's.
    let child = unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::_exit(unshare(kinds).map_or_else(Errno::raw_os_error, |()| 0));
        }
        child
    };
    let last = || Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO);
    let child = Pid::from_raw(child).filter(|_| child > 0).ok_or_else(last)?;
    let ended = waitpid(Some(child), WaitOptions::empty())?;
    match ended.and_then(|(_, status)| status.exit_status()) {
        Some(0) => Ok(()),
        Some(error) => Err(Errno::from_raw_os_error(error)),
        // A list of calls that ends processes, not ours.
        None => Err(Errno::PERM),
    }
}

/// In words, with what to do.
fn why(error: Errno) -> String {
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

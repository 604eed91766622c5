//! What a host has for jails.
// UNSAFETY: the query for Landlock's version has no safe wrapper among our dependencies.
#![allow(unsafe_code)]

use std::{fmt, io};

use rustix::io::Errno;
use serde::Serialize;

use crate::namespaces;

/// What a host has for jails; nothing is changed by looking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Host {
    /// Lists of system calls can be installed.
    pub seccomp: bool,
    /// The version of Landlock's interface.
    pub landlock: Option<u32>,
    /// Why there is no Landlock, and what to do.
    pub landlock_missing: Option<&'static str>,
    /// Why there are no namespaces for this user, and what to do.
    pub namespaces_missing: Option<String>,
}

impl Host {
    /// Looks at this one.
    #[must_use]
    pub fn probe() -> Self {
        let landlock = landlock();
        Self {
            seccomp: has_seccomp(),
            landlock: landlock.ok(),
            landlock_missing: landlock.err(),
            namespaces_missing: namespaces::missing(),
        }
    }
}

impl fmt::Display for Host {
    /// One line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.seccomp {
            true => f.write_str("system calls: yes")?,
            false => f.write_str("system calls: no: the kernel has no seccomp filters that trap")?,
        }
        match (self.landlock, self.landlock_missing) {
            (Some(version), _) => write!(f, "; paths: yes (Landlock {version})")?,
            (None, why) => write!(f, "; paths: no: {}", why.unwrap_or_default())?,
        }
        if self.landlock.is_some_and(|version| version < 4) {
            f.write_str("; TCP ports: no: Linux 6.7 has them")?;
        }
        match &self.namespaces_missing {
            None => f.write_str("; namespaces: yes"),
            Some(why) => write!(f, "; namespaces: no: {why}"),
        }
    }
}

fn landlock() -> Result<u32, &'static str> {
    /// LANDLOCK_CREATE_RULESET_VERSION
    const VERSION: u32 = 1;
    // SAFETY: with this flag the call takes no memory and makes nothing (landlock_create_ruleset(2)).
    let answer =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0usize, VERSION) };
    if let Ok(version @ 1..) = u32::try_from(answer) {
        return Ok(version);
    }
    Err(match Errno::from_io_error(&io::Error::last_os_error()) {
        Some(Errno::OPNOTSUPP) => "the kernel was started without it: add landlock to its lsm= parameter",
        Some(Errno::NOSYS) => "the kernel has none: it needs Linux 5.13 with CONFIG_SECURITY_LANDLOCK",
        _ => {
            "it is refused to this process, maybe by a container's seccomp profile: allow landlock_create_ruleset"
        }
    })
}

fn has_seccomp() -> bool {
    const TRAP: u32 = libc::SECCOMP_RET_TRAP;
    // SAFETY: the kernel reads one word (seccomp(2), SECCOMP_GET_ACTION_AVAIL).
    let answer = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, std::ptr::from_ref(&TRAP))
    };
    answer == 0
}

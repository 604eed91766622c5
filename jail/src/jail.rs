//! The jail of a process: what it is to keep, and the way in.

use std::fmt;
use std::io;
use std::path::Path;

use crate::filter::Filter;
use crate::namespaces::{Namespaces, Without};
use crate::paths::{Access, Paths};
use crate::{Kind, capabilities, refused, thread};

/// What a process is to keep.
#[derive(Debug, Clone, Default)]
pub struct Jail {
    kinds: Vec<Kind>,
    paths: Paths,
    namespaces: Namespaces,
}

impl Jail {
    /// Threads of this kind will be there.
    pub fn kind(&mut self, kind: Kind) -> &mut Self {
        self.kinds.push(kind);
        self
    }

    /// This path may be used so, and what is below it, whatever links lead elsewhere. It is looked up at the entry: what is
    /// not there then, or takes its place later, is not meant.
    pub fn allow(&mut self, path: impl AsRef<Path>, access: Access) -> &mut Self {
        self.paths.allow(path.as_ref(), access);
        self
    }

    /// TCP ports of the host may be used.
    pub fn allow_tcp(&mut self) -> &mut Self {
        self.paths.tcp = true;
        self.share_network()
    }

    /// The network that the process sees stays the host's, with its cards.
    pub fn share_network(&mut self) -> &mut Self {
        self.namespaces.network = true;
        self
    }

    /// Enters it, for good: the calling thread and those that it will make, and as far as system calls go, also those that
    /// are there. What this host cannot do is left out, and said. Who is not root gets namespaces only if there is no
    /// other thread.
    ///
    /// # Errors
    /// The process is in a user namespace in which it is nobody: it has to end.
    pub fn enter(&self) -> io::Result<Enforced> {
        let namespaces = match self.namespaces.enter() {
            Ok(count) => Ok(count),
            Err(Without::Left(why)) => Err(why),
            Err(Without::Half(why)) => {
                return Err(io::Error::other(format!(
                    "the jail is half made: {why}, or go without (--no-jail)"
                )));
            }
        };
        let capabilities = capabilities::give_up().map_err(|e| e.to_string());
        let no_new_privs = rustix::thread::set_no_new_privs(true).map_err(|e| e.to_string());
        let landlock = self.paths.enforce();
        let seccomp = self.filter();
        if seccomp.is_ok() {
            thread::narrow_from_now_on(&self.kinds);
        }
        Ok(Enforced { namespaces, capabilities, no_new_privs, landlock, seccomp })
    }

    fn filter(&self) -> Result<(), String> {
        refused::handle().map_err(|e| e.to_string())?;
        Filter::of_process(&self.kinds).and_then(|filter| filter.install_for_all()).map_err(|e| e.to_string())
    }
}

/// What a jail came to be on this host: each part, or why it is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enforced {
    /// How many namespaces the process has for itself.
    pub namespaces: Result<u32, String>,
    /// How many of root's powers were given up.
    pub capabilities: Result<u32, String>,
    /// No program that is started can have more rights than this process.
    pub no_new_privs: Result<(), String>,
    /// Paths are limited, by this version of Landlock's interface.
    pub landlock: Result<u32, String>,
    /// System calls are limited.
    pub seccomp: Result<(), String>,
}

impl Enforced {
    /// Nothing is missing.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.namespaces.is_ok()
            && self.capabilities.is_ok()
            && self.no_new_privs.is_ok()
            && self.landlock.is_ok()
            && self.seccomp.is_ok()
    }
}

impl fmt::Display for Enforced {
    /// One line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn part(f: &mut fmt::Formatter<'_>, name: &str, missing: Option<&String>) -> fmt::Result {
            match missing {
                None => write!(f, "{name}"),
                Some(why) => write!(f, "no {name} ({why})"),
            }
        }
        part(f, "system calls", self.seccomp.as_ref().err())?;
        f.write_str(", ")?;
        part(f, "paths", self.landlock.as_ref().err())?;
        f.write_str(", ")?;
        part(f, "namespaces", self.namespaces.as_ref().err())?;
        f.write_str(", ")?;
        part(f, "capabilities", self.capabilities.as_ref().err())?;
        f.write_str(", ")?;
        part(f, "new privileges", self.no_new_privs.as_ref().err())
    }
}

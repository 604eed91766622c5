//! What can be said of /dev/kvm without running anything on it.
// UNSAFETY: one ioctl without arguments.
#![allow(unsafe_code)]

use std::fmt;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use serde::Serialize;

/// KVM_GET_API_VERSION of linux/kvm.h.
const GET_API_VERSION: libc::c_ulong = 0xae00;

/// The device, as far as it lets itself be asked.
#[derive(Debug, Serialize)]
pub struct Kvm {
    present: bool,
    openable: bool,
    api_version: Option<i32>,
    /// Why it does not open.
    reason: Option<String>,
}

impl Kvm {
    /// Looks, opens and asks.
    pub fn probe(path: &Path) -> Self {
        match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => {
                // SAFETY: the request takes no argument and touches no memory of ours.
                let version = unsafe { libc::ioctl(file.as_raw_fd(), GET_API_VERSION, 0) };
                let api_version = (version >= 0).then_some(version);
                let reason = api_version.is_none().then(|| "it does not answer as KVM does".to_owned());
                Self { present: true, openable: true, api_version, reason }
            }
            Err(e) => {
                let present = e.kind() != io::ErrorKind::NotFound;
                Self { present, openable: false, api_version: None, reason: Some(e.to_string()) }
            }
        }
    }
}

impl fmt::Display for Kvm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.present, self.openable, self.api_version, &self.reason) {
            (false, ..) => f.write_str("not present"),
            (_, true, Some(version), _) => {
                write!(f, "present, opens, API version {version}")
            }
            (_, _, _, reason) => write!(f, "present, but {}", reason.as_deref().unwrap_or("does not open")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_none_is_not_taken_for_kvm() {
        assert_eq!(Kvm::probe(Path::new("/nonexistent")).to_string(), "not present");
        let null = Kvm::probe(Path::new("/dev/null"));
        assert!(null.openable && null.api_version.is_none(), "{null:?}");
    }
}

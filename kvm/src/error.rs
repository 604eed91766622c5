//! What KVM refuses.

use thiserror::Error;

/// A request that KVM did not carry out.
#[derive(Debug, Clone, Copy, Error)]
#[error("kvm refuses {call}: {}", std::io::Error::from_raw_os_error(*.errno))]
pub struct Failure {
    /// The request, by its name in linux/kvm.h.
    pub call: &'static str,
    /// What it said.
    pub errno: i32,
}

/// For `map_err`.
pub fn failed(call: &'static str) -> impl Fn(kvm_ioctls::Error) -> Failure {
    move |error| Failure { call, errno: error.errno() }
}

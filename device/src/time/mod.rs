//! Timers and clocks.

mod i8254;
mod mc146818;

pub use i8254::{ChannelState, I8254, I8254State, Run};
pub use mc146818::{Rtc, RtcState};

/// `value` periods of `from` hertz, in periods of `to` hertz, rounded down; saturating.
pub(crate) fn rescale(value: u64, from: u64, to: u64) -> u64 {
    u64::try_from(u128::from(value) * u128::from(to) / u128::from(from.max(1))).unwrap_or(u64::MAX)
}

/// As [`rescale`], rounded up: the first tick of `to` at which `value` periods are over.
pub(crate) fn rescale_up(value: u64, from: u64, to: u64) -> u64 {
    u64::try_from((u128::from(value) * u128::from(to)).div_ceil(u128::from(from.max(1)))).unwrap_or(u64::MAX)
}

//! KVM's paravirtual clock (Linux, Documentation/virt/kvm/x86/msr.rst): how the guest gets nanoseconds from its TSC.
//!
//! Guest time is the machine's clock and nothing else, so that what a CPU is told is the same at all times and on all CPUs, but
//! for the CPU's own IA32_TSC_ADJUST: nanoseconds since the clock's zero. It is written when the guest asks for it, when
//! IA32_TSC_ADJUST changes, and when a state is loaded, since another host's clock may have another frequency.

use crate::Clock;

/// Bytes of the structure that a guest names in MSR [`KVM_SYSTEM_TIME`](super::msr::KVM_SYSTEM_TIME), its version first.
pub const TIME_LEN: usize = 32;
/// Bytes of the one in [`KVM_WALL_CLOCK`](super::msr::KVM_WALL_CLOCK).
pub const WALL_CLOCK_LEN: usize = 12;
/// All CPUs' clocks are one.
const TSC_STABLE: u8 = 1 << 0;
const NS: u64 = 1_000_000_000;

/// What follows the version: padding, TSC and nanoseconds of an instant, multiplier, shift, flags, padding.
pub fn time(clock: &Clock, tsc_adjust: u64) -> [u8; TIME_LEN - 4] {
    let (multiplier, shift) = scale(clock.tsc_hz());
    let mut out = [0; TIME_LEN - 4];
    out[4..12].copy_from_slice(&tsc_adjust.to_le_bytes());
    out[20..24].copy_from_slice(&multiplier.to_le_bytes());
    out[24] = shift as u8;
    out[25] = TSC_STABLE;
    out
}

/// What follows the version: seconds and nanoseconds since 1970 when guest time was zero. `since_1970` is now.
pub fn wall_clock(clock: &Clock, since_1970: std::time::Duration) -> [u8; WALL_CLOCK_LEN - 4] {
    let began = since_1970.saturating_sub(std::time::Duration::from_nanos(clock.ns()));
    let mut out = [0; WALL_CLOCK_LEN - 4];
    out[..4].copy_from_slice(&(began.as_secs() as u32).to_le_bytes());
    out[4..].copy_from_slice(&began.subsec_nanos().to_le_bytes());
    out
}

/// Nanoseconds are `(ticks << shift) * multiplier >> 32`; a negative shift is one to the right.
fn scale(hz: u64) -> (u32, i8) {
    let mut shift = 0i8;
    let mut ticks = u128::from(hz.max(1));
    while ticks > u128::from(NS) * 2 && shift > -32 {
        ticks >>= 1;
        shift -= 1;
    }
    while ticks <= u128::from(NS) {
        ticks <<= 1;
        shift += 1;
    }
    // Once more with all digits: `ticks` has lost some to the right.
    let (hz, ns) = (u128::from(hz.max(1)), u128::from(NS) << 32);
    let multiplier = if shift < 0 { (ns << -shift) / hz } else { ns / (hz << shift) };
    (u32::try_from(multiplier).unwrap_or(u32::MAX), shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nanoseconds_are_those_of_the_frequency() {
        for hz in
            [1_000_000, 999_999_999, NS, NS + 1, 1_996_249_000, 2_000_000_000, 2_893_201_000, 12_000_000_000]
        {
            let (multiplier, shift) = scale(hz);
            let ticks = u128::from(hz) * 86_400;
            let shifted = if shift < 0 { ticks >> -shift } else { ticks << shift };
            let ns = (shifted * u128::from(multiplier)) >> 32;
            let off = ns.abs_diff(u128::from(NS) * 86_400);
            assert!(off < 50_000, "{hz}: {off} ns in a day, {multiplier:#x} {shift}");
        }
        scale(0);
        scale(u64::MAX);
    }

    #[test]
    fn a_guest_reads_the_machines_clock() {
        let clock = Clock::new();
        let page = time(&clock, 1000);
        let word = |at: usize| u64::from_le_bytes(page[at..at + 8].try_into().unwrap());
        assert_eq!((word(4), word(12), page[25]), (1000, 0, 1));
        let (before, ns) = (clock.tsc(), clock.ns());
        let ticks = (before + 1000).wrapping_sub(word(4));
        let shift = page[24] as i8;
        let shifted = if shift < 0 { ticks >> -shift } else { ticks << shift };
        let seen = ((u128::from(shifted) * u128::from(word(20) as u32)) >> 32) as u64;
        assert!(seen.abs_diff(ns) < 1_000_000, "{seen} {ns}");
        let wall = wall_clock(&clock, std::time::Duration::new(1_000_000_000, 7));
        assert_eq!(wall[..4], 999_999_999u32.to_le_bytes());
    }
}

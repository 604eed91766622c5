//! Hypercalls with any registers, and saved events from anywhere.

use std::sync::Arc;

use ::device::interrupt::InterruptFabric;
use ::device::{Device, SaveRestore};
use ::machine::{ChannelState, Hypercalls, NullBackend};
use cpu::{Clock, Hypercall, Signals};
use memory::GuestRam;

use crate::Target;
use crate::input::Input;

/// Calls.
pub const HYPERCALL: Target = Target {
    name: "hypercall",
    about: "hypercalls of several CPUs with any registers, and their saved state",
    seeds,
    words: &["\0\0HG"],
    run,
};

const CPUS: u32 = 3;

fn run(data: &[u8]) {
    let Ok(ram) = GuestRam::new(2 << 20) else { return };
    let signals = [(); CPUS as usize].map(|()| Arc::new(Signals::new()));
    let fabric = InterruptFabric::new(&Arc::new(Clock::new()), signals);
    let calls = Hypercalls::new(Arc::new(ram), Arc::new(NullBackend), fabric, CPUS as usize);
    let mut input = Input::new(data);
    while !input.is_empty() {
        let what = input.u8();
        match what {
            0xf0 => calls.reset(),
            0xf1 => {
                let state = (0..input.u8() % 5)
                    .map(|_| ChannelState { pending: input.u64(), vector: input.u8() })
                    .collect();
                let before = calls.save();
                match calls.restore(&state) {
                    Ok(()) => assert_eq!(calls.save(), state),
                    Err(error) => {
                        super::one_line(&error);
                        assert_eq!(calls.save(), before);
                    }
                }
            }
            _ => {
                // Mostly numbers that mean something, and small arguments.
                let number = match what & 0x80 {
                    0 => 0x4748_0000 | u64::from(what & 15),
                    _ => input.u64(),
                };
                let mut argument = || if what & 0x40 == 0 { input.u16().into() } else { input.u64() };
                let call = Hypercall { number, arguments: [argument(), argument(), 0, u64::MAX] };
                let (answer, _) = calls.call(u32::from(what >> 4 & 3), &call);
                assert!(answer != Hypercall::NOT_PERMITTED, "{call:?}");
            }
        }
    }
    assert!(calls.save().iter().all(|channel| channel.pending >> 63 == 0));
}

/// Writes, events there and back, and states that are taken and refused.
fn seeds() -> Vec<Vec<u8>> {
    let write = vec![0x01, 0, 16, 5, 0, 0x41, 0, 0, 0x20, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0];
    let events = vec![0x04, 40, 0, 0, 0, 0x15, 0, 0, 5, 0, 0x25, 0, 0, 62, 0, 0x06, 0, 0, 0, 0];
    let mut saved = vec![0xf1, 3];
    saved.extend([[1, 0, 0, 0, 0, 0, 0, 0, 40]; 3].concat());
    saved.extend([0xf1, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0xf0]);
    vec![write, events, saved]
}

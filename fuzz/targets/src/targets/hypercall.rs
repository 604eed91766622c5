//! Hypercalls with any registers, blocks anywhere, and saved events from anywhere.

use std::sync::Arc;

use ::device::interrupt::InterruptFabric;
use ::device::{Action, Device, SaveRestore};
use ::machine::{ChannelState, Hypercalls, NullBackend};
use cpu::{Clock, Hypercall, Signals};
use memory::GuestRam;

use crate::Target;
use crate::input::Input;

/// Calls.
pub const HYPERCALL: Target = Target {
    name: "hypercall",
    about: "hypercalls of several CPUs with any registers or blocks, and their saved state",
    seeds,
    words: &["\0\0HG"],
    run,
};

const CPUS: u32 = 3;

fn run(data: &[u8]) {
    let Ok(ram) = GuestRam::new(2 << 20) else { return };
    let signals = [(); CPUS as usize].map(|()| Arc::new(Signals::new()));
    let fabric = InterruptFabric::new(&Arc::new(Clock::new()), signals);
    let ram = Arc::new(ram);
    let calls = Hypercalls::new(ram.clone(), Arc::new(NullBackend), fabric, CPUS as usize);
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
                    0 => 0x4748_0000 | u64::from(what & 7),
                    _ => input.u64(),
                };
                let mut argument = || if what & 0x40 == 0 { input.u16().into() } else { input.u64() };
                let (first, second, cpu) = (argument(), argument(), u32::from(what >> 4 & 3));
                let answer = if what & 8 == 0 {
                    let call = Hypercall { number, arguments: [first, second, 0, u64::MAX] };
                    calls.call(cpu, &call).0
                } else {
                    by_block(&ram, &calls, cpu, input.u32(), [number, first, second])
                };
                assert!(answer != Hypercall::NOT_PERMITTED, "{number:#x} {first:#x} {second:#x}");
            }
        }
    }
    assert!(calls.save().iter().all(|channel| channel.pending >> 63 == 0));
}

/// The answer, if the block is RAM; if not, that nothing is done.
fn by_block(ram: &GuestRam, calls: &Hypercalls, cpu: u32, block: u32, call: [u64; 3]) -> i64 {
    let at = u64::from(block);
    let words = [call[0], call[1], call[2], Hypercall::NOT_PERMITTED as u64];
    let written = ram.write(at, &words.map(u64::to_le_bytes).concat()).is_ok();
    let before = calls.save();
    let action = calls.call_at(cpu, block);
    if written && at % 8 == 0 {
        return ram.load_u64(at + 24).map_or(Hypercall::NOT_PERMITTED, |answer| answer as i64);
    }
    assert!(action == Action::None && calls.save() == before, "{block:#x}");
    0
}

/// Writes, events there and back, and states that are taken and refused.
fn seeds() -> Vec<Vec<u8>> {
    let write = vec![0x01, 0, 16, 5, 0, 0x41, 0, 0, 0x20, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0];
    let events = vec![0x04, 40, 0, 0, 0, 0x15, 0, 0, 5, 0, 0x25, 0, 0, 62, 0, 0x06, 0, 0, 0, 0];
    let mut saved = vec![0xf1, 3];
    saved.extend([[1, 0, 0, 0, 0, 0, 0, 0, 40]; 3].concat());
    saved.extend([0xf1, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0xf0]);
    let mut blocks = vec![0x0c, 40, 0, 0, 0, 0, 0x10, 0, 0];
    blocks.extend([0x1d, 0, 0, 5, 0, 0xe0, 0xff, 0x1f, 0, 0x0e, 0, 0, 0, 0, 0xe8, 0xff, 0x1f, 0]);
    vec![write, events, saved, blocks]
}

//! A virtio balloon: any bytes in the rings and in lists of pages.

use std::sync::Arc;
use std::time::Duration;

use ::device::IrqLine;
use memory::GuestRam;
use virtio::{Balloon, VirtioMmio};

use super::virtio::{RAM, drive, same};
use crate::Target;
use crate::input::Input;

/// The rings of a balloon.
pub const BALLOON: Target = Target {
    name: "virtio-balloon",
    about: "a virtio balloon behind memory-mapped registers, its rings, and what the host asks of it",
    seeds,
    words: &[],
    run,
};

/// All queues have the same rings: each chain is a list of pages, statistics, and ranges that are free.
const QUEUES: [u16; 5] = [0, 1, 2, 3, 4];

fn run(data: &[u8]) {
    let made = || -> Result<_, Box<dyn std::error::Error>> {
        Ok((Arc::new(GuestRam::new(RAM)?), Arc::new(Balloon::new()?)))
    };
    let (ram, balloon) = match made() {
        Ok(made) => made,
        Err(error) => panic!("{error}"),
    };
    let part = VirtioMmio::new(balloon.clone(), ram.clone(), IrqLine::unconnected());
    let mut input = Input::new(data);
    while !input.is_empty() {
        let what = input.u8();
        match what >> 4 {
            2 => balloon.set_target(u64::from(input.u16()) << 12),
            3 => drop(balloon.statistics(Duration::ZERO)),
            _ => drive(&part, &ram, &QUEUES, what, &mut input),
        }
    }
    same(&part);
    let (inflated, reported) = balloon.returned();
    assert!(inflated.is_multiple_of(4096) && reported <= 1 << 40, "{inflated:#x} {reported:#x}");
}

/// A driver that gives pages up, one that reports ranges, one that is asked for statistics, one that is confused.
fn seeds() -> Vec<Vec<u8>> {
    // Descriptor 0 is read and holds what the guest has put at 0x8000; descriptor 1 is room, page 10 on.
    let up = [0x40, 0x90, 0, 8, 8, 0, 0, 0, 0x91, 0, 0xa, 0, 0x10, 2, 0];
    let give =
        [&up[..], &[0x22, 3, 0, 0xe0, 0, 0x10, 0x20, 0, 0, 0, 0x21, 0, 0, 0, 0xc0, 0x41, 0x50]].concat();
    let report = [&up[..], &[0xc1, 0x49, 0xc1, 0x47, 0x50]].concat();
    let ask = [&up[..], &[0xc0, 0x45, 0x50, 0x30, 0xc0, 0x45, 0x60, 0x30, 0x50, 0x70, 0x30]].concat();
    let rings = vec![0x40, 0xd1, 0xff, 0xff, 0x41, 0x45, 0xc0, 0xc1, 0x49, 0x70, 0x10];
    vec![give, report, ask, rings]
}

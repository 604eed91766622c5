//! Virtio devices behind PCI and memory-mapped registers: any accesses, any bytes in the rings, at any moment.

use std::sync::Arc;

use ::device::acpi::ResetControl;
use ::device::pci::{ConfigPorts, Ecam, HostBridge, MsiSink, PciBus, PciFunction, PciMemory, PciWindows};
use ::device::{Action, Device, IrqLine, Registers, SaveRestore};
use block::{BlockBackend, Operation, Request, SECTOR};
use memory::GuestRam;
use virtio::{Blk, BlkOptions, Rng, VirtioDevice, VirtioMmio, VirtioPci};

use crate::Target;
use crate::input::Input;

/// Devices in PCI slots.
pub const PCI: Target = Target {
    name: "virtio-pci",
    about: "a PCI bus with virtio devices: configuration, registers, rings",
    seeds: || seeds(&[0x10, 0x20, 0x32, 0x30, 0x31]),
    words: &[],
    run: |data| with_ram(data, pci),
};

/// A disk behind memory-mapped registers.
pub const MMIO: Target = Target {
    name: "virtio-mmio",
    about: "a virtio disk behind memory-mapped registers, and its rings",
    seeds: || seeds(&[0x40, 0x41]),
    words: &[],
    run: |data| with_ram(data, mmio),
};

pub const RAM: u64 = 1 << 20;
/// Rings of queue 0, sixteen entries; the rest of the script's RAM is behind them.
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const LOW: u64 = 0xc000_0000;

/// A disk that answers at once: odd sectors cannot be read or written.
struct Disk;

impl BlockBackend for Disk {
    fn len(&self) -> u64 {
        64 * SECTOR
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn submit(&self, request: Request) {
        let (offset, len) = match &request.operation {
            Operation::Read { offset, to: data } | Operation::Write { offset, from: data, .. } => {
                (*offset, data.len())
            }
            Operation::Discard { offset, len } | Operation::WriteZeroes { offset, len, .. } => {
                (*offset, *len)
            }
            Operation::Flush => (0, 0),
        };
        assert!(
            offset.checked_add(len).is_some_and(|end| end <= self.len()),
            "{request:?} is not on the disk"
        );
        let result =
            if (offset / SECTOR).is_multiple_of(2) { Ok(()) } else { Err(std::io::ErrorKind::Other.into()) };
        (request.done)(result);
    }
}

struct Nowhere;

impl MsiSink for Nowhere {
    fn send(&self, _address: u64, _data: u32) {}
}

fn with_ram(data: &[u8], play: fn(&Arc<GuestRam>, Input<'_>)) {
    match GuestRam::new(RAM) {
        Ok(ram) => play(&Arc::new(ram), Input::new(data)),
        Err(error) => panic!("{error}"),
    }
}

fn blk() -> Arc<dyn VirtioDevice> {
    match Blk::new(Arc::new(Disk), &BlkOptions { queues: 2, ..BlkOptions::default() }) {
        Ok(blk) => Arc::new(blk),
        Err(error) => panic!("{error}"),
    }
}

/// What the guest does to a device behind memory-mapped registers and in its own memory; `queues` it sets up by the book.
pub fn drive(part: &VirtioMmio, ram: &GuestRam, queues: &[u16], what: u8, input: &mut Input<'_>) {
    match what >> 4 {
        0..4 => access(part, what, u64::from(input.u16() & 0x1ff), input),
        4 if what & 1 == 0 => negotiate_mmio(part, queues),
        4 => {
            let _: Action = part.write(0x50, &[what >> 1 & 7, 0, 0, 0]);
        }
        5 => {
            let _: Action = part.write(0x70, &[0; 4]);
        }
        6 => same(part),
        7 => part.reset(),
        _ => in_ram(ram, what, input),
    }
}

/// What the guest does in its own memory.
fn in_ram(ram: &GuestRam, what: u8, input: &mut Input<'_>) {
    let index = u64::from(what & 0xf);
    let available = |n: u64| AVAILABLE + n;
    match what >> 4 {
        // A descriptor with any content, or one that might be right.
        8 => drop(ram.write(DESCRIPTORS + 16 * index, &input.array::<16>())),
        9 | 10 => {
            let (addr, len, flags) = (u64::from(input.u16()) << 4, input.u16(), u16::from(input.u8() & 7));
            let next = u16::from(input.u8() & 0x1f);
            let words = [addr, u64::from(len) | u64::from(flags) << 32 | u64::from(next) << 48];
            drop(ram.write(DESCRIPTORS + 16 * index, &words.map(u64::to_le_bytes).concat()));
        }
        // A request of the disk's, whole.
        11 => {
            let (kind, sector, len) = (input.u8() & 0xf, input.u8(), input.u16());
            let header = [u64::from(kind), u64::from(sector)].map(u64::to_le_bytes).concat();
            drop(ram.write(0x8000, &header));
            let write = u64::from(kind != 1) << 1;
            for (i, (addr, len, flags)) in
                [(0x8000, 16, 1), (0x9000, u64::from(len), 1 | write), (0x8800, 1, 2)].into_iter().enumerate()
            {
                let words = [addr, len | flags << 32 | (i as u64 + 1) << 48];
                drop(ram.write(DESCRIPTORS + 16 * i as u64, &words.map(u64::to_le_bytes).concat()));
            }
            offer(ram, 0);
        }
        12 => offer(ram, index as u16),
        13 => drop(ram.store_u16(available(2 * (index % 4)), input.u16())),
        _ => drop(ram.write(u64::from(input.u16()) << 3, &input.array::<8>())),
    }
}

/// Makes a chain available.
fn offer(ram: &GuestRam, head: u16) {
    let next = ram.load_u16(AVAILABLE + 2).unwrap_or(0);
    let _ = ram.store_u16(AVAILABLE + 4 + 2 * u64::from(next % 16), head);
    let _ = ram.store_u16(AVAILABLE + 2, next.wrapping_add(1));
}

fn pci(ram: &Arc<GuestRam>, mut input: Input<'_>) {
    let rng: Arc<dyn VirtioDevice> = match Rng::new() {
        Ok(rng) => Arc::new(rng),
        Err(error) => panic!("{error}"),
    };
    let windows = PciWindows { low: LOW..LOW + (1 << 20), high: 1 << 44..1 << 45 };
    let mut bus = PciBus::new(windows, Arc::new(HostBridge::new()));
    let functions = [blk(), rng].map(|device| {
        Arc::new(VirtioPci::new(device, ram.clone(), IrqLine::unconnected(), 16, Arc::new(Nowhere)))
    });
    for function in &functions {
        assert!(bus.add(function.clone()).is_ok());
    }
    let bus = Arc::new(bus);
    bus.reset();
    let ports = ConfigPorts::new(bus.clone(), Arc::new(ResetControl::new()));
    let (ecam, memory) = (Ecam::new(bus.clone()), PciMemory::new(bus.clone()));
    while !input.is_empty() {
        let what = input.u8();
        let function = &functions[usize::from(what >> 2 & 1)];
        match what >> 4 {
            0 => access(&ports, what, u64::from(input.u8() & 7), &mut input),
            1 => access(&ecam, what, u64::from(input.u16()) | u64::from(what & 4) << 14, &mut input),
            2 => access(&memory, what, LOW + u64::from(input.u16()), &mut input),
            // Off the bus in the middle of its work.
            3 if what & 3 == 2 => {
                function.write_config(4, &[2, 0]);
            }
            3 if what & 1 == 0 => negotiate_pci(function.as_ref()),
            3 => {
                let _: Action = function.write_bar(0, 0x3000 + u64::from(what & 8) / 2, &[0, 0]);
            }
            4 if what & 1 == 0 => function.reset(),
            4 | 5 => {
                let mut data = input.array::<8>();
                let (bar, offset, len) = (what & 2, u64::from(input.u16() & 0x3fff), 1 << (what >> 2 & 3));
                let _: Action = function.write_bar(bar, offset, &data[..len]);
                function.read_bar(bar, offset, &mut data[..len]);
            }
            6 => same(function.as_ref()),
            7 => bus.reset(),
            _ => in_ram(ram, what, &mut input),
        }
    }
    functions.iter().for_each(|function| same(function.as_ref()));
}

fn mmio(ram: &Arc<GuestRam>, mut input: Input<'_>) {
    let part = VirtioMmio::new(blk(), ram.clone(), IrqLine::unconnected());
    while !input.is_empty() {
        let what = input.u8();
        if what & 0xf1 == 0x41 {
            // There are two queues.
            let _: Action = part.write(0x50, &[what >> 3 & 1, 0, 0, 0]);
        } else {
            drive(&part, ram, &[0], what, &mut input);
        }
    }
    same(&part);
}

/// A read or a write.
fn access(part: &dyn Registers, what: u8, offset: u64, input: &mut Input<'_>) {
    let len = 1usize << (what & 3);
    let mut data = [0; 8];
    if what & 8 == 0 {
        part.read(offset, &mut data[..len]);
    } else {
        data = input.array::<8>();
        let _: Action = part.write(offset, &data[..len]);
    }
}

fn negotiate_pci(function: &VirtioPci) {
    function.write_config(4, &[6, 0]);
    let set = |at: u64, len: usize, value: u64| {
        let _: Action = function.write_bar(0, at, &value.to_le_bytes()[..len]);
    };
    [0, 1, 3].iter().for_each(|&status| set(0x14, 1, status));
    for word in [0, 1] {
        set(0, 4, word);
        set(8, 4, word);
        let mut features = [0; 4];
        function.read_bar(0, 4, &mut features);
        set(0xc, 4, u32::from_le_bytes(features).into());
    }
    set(0x14, 1, 11);
    set(0x18, 2, 16);
    for (at, addr) in [(0x20, DESCRIPTORS), (0x28, AVAILABLE), (0x30, USED)] {
        set(at, 8, addr);
    }
    set(0x1c, 2, 1);
    set(0x14, 1, 15);
}

/// Brings the device up with some of its queues, which have the same rings.
fn negotiate_mmio(part: &VirtioMmio, queues: &[u16]) {
    let set = |at: u64, value: u64| {
        let _: Action = part.write(at, &(value as u32).to_le_bytes());
    };
    [0, 1, 3].iter().for_each(|&status| set(0x70, status));
    for word in [0, 1] {
        set(0x14, word);
        set(0x24, word);
        let mut features = [0; 4];
        part.read(0x10, &mut features);
        set(0x20, u32::from_le_bytes(features).into());
    }
    set(0x70, 11);
    for &queue in queues {
        set(0x30, queue.into());
        set(0x38, 16);
        for (at, addr) in [(0x80, DESCRIPTORS), (0x90, AVAILABLE), (0xa0, USED)] {
            set(at, addr);
        }
        set(0x44, 1);
    }
    set(0x70, 15);
}

/// A part takes its own state.
pub fn same<T: SaveRestore>(part: &T) {
    let state = serde_json::to_value(part.save()).ok().and_then(|v| serde_json::from_value(v).ok());
    assert_eq!(state.map(|s| part.restore(&s)), Some(Ok(())), "{}", T::KIND);
}

/// A driver that sets the device up, then requests of every type, then what a driver should not do.
fn seeds(setup: &[u8]) -> Vec<Vec<u8>> {
    let kick = setup.last().copied().unwrap_or(0);
    let negotiate = kick & !1;
    let mut good = vec![negotiate];
    for kind in [0, 1, 4, 8, 11, 13] {
        good.extend([0xb0, kind, 2, 0, 2, kick]);
    }
    let indirect = [negotiate, 0x90, 0, 1, 0x20, 0, 4, 0, 0x91, 0, 0x10, 1, 0, 1, 1, 0xc0, kick];
    let rings = [negotiate, 0xd1, 0xff, 0xff, kick, negotiate, 0xc0, 0xc1, 0xc2, kick, 0x60];
    let mut seeds = vec![good, indirect.to_vec(), rings.to_vec()];
    for &what in setup {
        for value in [0, 0xff] {
            seeds.push(
                [what | 10, 4, 0x80, value, value, value, value, 0, 0, 0, 0, what, 0x10, 0x80].repeat(4),
            );
        }
    }
    seeds
}

use std::sync::Arc;

use cpu::{Clock, Signals};
use proptest::prelude::*;

use super::*;

struct Rig {
    clock: Arc<Clock>,
    signals: Vec<Arc<Signals>>,
    bus: Arc<ApicBus>,
}

impl Rig {
    /// `cpus` software-enabled APICs.
    fn new(cpus: usize) -> Self {
        let clock = Arc::new(Clock::new());
        let signals: Vec<_> = (0..cpus).map(|_| Arc::new(Signals::new())).collect();
        let bus = Arc::new(ApicBus::new(&clock, signals.iter().cloned()));
        let rig = Self { clock, signals, bus };
        for i in 0..cpus {
            write(&rig.lapic(i), 0xf0, 0x1ff);
        }
        rig
    }

    fn lapic(&self, cpu: usize) -> LocalApic {
        LocalApic::of(&self.bus, cpu as u32).unwrap()
    }

    fn x2apic(&self, cpu: usize) -> LocalApic {
        let lapic = self.lapic(cpu);
        let base = lapic.msr_read(0x1b).unwrap();
        assert!(lapic.msr_write(0x1b, base | 0x400));
        lapic
    }

    fn advance(&self, ns: u64) {
        self.clock.set_tsc(self.clock.tsc() + self.clock.ns_to_tsc(ns));
    }

    fn has(&self, cpu: usize, bits: u32) -> bool {
        self.signals[cpu].load() & bits == bits
    }
}

fn write(lapic: &LocalApic, offset: u64, value: u32) {
    lapic.mmio_write(offset, &value.to_le_bytes());
}

fn read(lapic: &LocalApic, offset: u64) -> u32 {
    let mut data = [0; 4];
    lapic.mmio_read(offset, &mut data);
    u32::from_le_bytes(data)
}

/// Sends a vector to oneself.
fn request(lapic: &LocalApic, vector: u8) {
    write(lapic, 0x300, 0x4_0000 | u32::from(vector));
}

#[test]
fn identification_and_power_on() {
    let rig = Rig::new(2);
    let ap = rig.lapic(1);
    assert_eq!(read(&ap, 0x20), 1 << 24);
    assert_eq!(read(&ap, 0x30), 0x0105_0014);
    assert_eq!(read(&ap, 0xe0), u32::MAX);
    assert_eq!(read(&ap, 0x320), 0x1_0000);
    assert_eq!(rig.lapic(0).msr_read(0x1b), Some(0xfee0_0900));
    assert_eq!(ap.msr_read(0x1b), Some(0xfee0_0800));
    let mut wide = [0xaa; 8];
    ap.mmio_read(0x30, &mut wide);
    assert_eq!(u64::from_le_bytes(wide), 0x0105_0014);
    let mut byte = [0];
    ap.mmio_read(0x32, &mut byte);
    assert_eq!(byte, [0x05]);
}

#[test]
fn interrupts_nest_by_priority_class() {
    let rig = Rig::new(1);
    let lapic = rig.lapic(0);
    request(&lapic, 0x45);
    request(&lapic, 0x61);
    assert_eq!(lapic.take_interrupt(), Some(0x61));
    assert_eq!(read(&lapic, 0xa0), 0x60, "processor priority");
    request(&lapic, 0x6f);
    assert!(!rig.has(0, Signals::INTR), "same class waits");
    request(&lapic, 0x70);
    assert!(rig.has(0, Signals::INTR));
    assert_eq!(lapic.take_interrupt(), Some(0x70));
    for next in [None, Some(0x6f), Some(0x45), None] {
        write(&lapic, 0xb0, 0);
        assert_eq!(rig.has(0, Signals::INTR), next.is_some());
        assert_eq!(lapic.take_interrupt(), next);
    }
}

#[test]
fn task_priority_holds_back() {
    let rig = Rig::new(1);
    let lapic = rig.lapic(0);
    lapic.set_task_priority(5);
    assert_eq!((lapic.task_priority(), read(&lapic, 0x80)), (5, 0x50));
    request(&lapic, 0x5f);
    assert_eq!(lapic.take_interrupt(), None);
    write(&lapic, 0x80, 0x4f);
    assert_eq!(lapic.task_priority(), 4);
    assert!(rig.has(0, Signals::INTR));
    lapic.set_task_priority(15);
    assert!(!rig.has(0, Signals::INTR));
    lapic.set_task_priority(0);
    assert_eq!(lapic.take_interrupt(), Some(0x5f));
}

#[test]
fn a_software_disabled_apic_takes_no_fixed_interrupt() {
    let rig = Rig::new(2);
    let lapic = rig.lapic(1);
    write(&lapic, 0x350, 0x30);
    write(&lapic, 0xf0, 0xff);
    assert_eq!(read(&lapic, 0x350), 0x1_0030, "local vectors are masked");
    write(&lapic, 0x350, 0x30);
    assert_eq!(read(&lapic, 0x350), 0x1_0030, "and stay so");
    let sender = rig.lapic(0);
    write(&sender, 0x310, 1 << 24);
    write(&sender, 0x300, 0x40);
    assert!(!rig.has(1, Signals::INTR));
    write(&sender, 0x300, 0x400);
    assert!(rig.has(1, Signals::NMI), "an NMI it does");
}

#[test]
fn shorthands() {
    let rig = Rig::new(3);
    let sender = rig.lapic(1);
    let took = || [0, 1, 2].map(|cpu| rig.lapic(cpu).take_interrupt());
    write(&sender, 0x300, 0x4_0041);
    assert_eq!(took(), [None, Some(0x41), None]);
    write(&sender, 0x300, 0x8_0051);
    assert_eq!(took(), [Some(0x51); 3]);
    write(&sender, 0x300, 0xc_0061);
    assert_eq!(took(), [Some(0x61), None, Some(0x61)]);
    write(&sender, 0x310, 0xff << 24);
    write(&sender, 0x300, 0x71);
    assert_eq!(took(), [Some(0x71); 3], "physical broadcast");
}

#[test]
fn logical_destinations() {
    let rig = Rig::new(3);
    let sender = rig.lapic(0);
    let send = |destination: u32| {
        write(&sender, 0x310, destination << 24);
        write(&sender, 0x300, 0x8f0);
        [0, 1, 2].map(|cpu| {
            let lapic = rig.lapic(cpu);
            let taken = lapic.take_interrupt().is_some();
            write(&lapic, 0xb0, 0);
            taken
        })
    };
    for (cpu, id) in [0x01, 0x02, 0x40].into_iter().enumerate() {
        write(&rig.lapic(cpu), 0xd0, id << 24);
    }
    assert_eq!(send(0x42), [false, true, true], "flat");
    for (cpu, id) in [0x11, 0x12, 0x21].into_iter().enumerate() {
        write(&rig.lapic(cpu), 0xd0, id << 24);
        write(&rig.lapic(cpu), 0xe0, 0);
    }
    assert_eq!(send(0x13), [true, true, false], "cluster 1");
    assert_eq!(send(0x21), [false, false, true], "cluster 2");
}

#[test]
fn x2apic_ids_and_ipis() {
    let rig = Rig::new(18);
    let (sender, receiver) = (rig.x2apic(0), rig.x2apic(17));
    assert_eq!(receiver.msr_read(0x802), Some(17));
    assert_eq!(receiver.msr_read(0x80d), Some(0x1_0002));
    assert!(sender.msr_write(0x830, 17 << 32 | 0x55));
    assert_eq!(receiver.take_interrupt(), Some(0x55));
    assert!(receiver.msr_write(0x80b, 0));
    assert!(sender.msr_write(0x830, 0x1_0002 << 32 | 0x856));
    assert_eq!(receiver.take_interrupt(), Some(0x56));
    assert_eq!(sender.msr_read(0x830), Some(0x1_0002 << 32 | 0x856));
    assert!(sender.msr_write(0x83f, 0x77));
    assert_eq!(sender.take_interrupt(), Some(0x77));
    assert_eq!(receiver.mmio_offset(0xfee0_0030), None, "the page is gone");
    assert_eq!(rig.lapic(1).mmio_offset(0xfee0_0030), Some(0x30));
}

#[test]
fn x2apic_faults() {
    let rig = Rig::new(1);
    assert_eq!(rig.lapic(0).msr_read(0x802), None, "not in xAPIC mode");
    assert!(!rig.lapic(0).msr_write(0x808, 0));
    let lapic = rig.x2apic(0);
    for msr in
        [0x800, 0x801, 0x804, 0x809, 0x80b, 0x80c, 0x80e, 0x829, 0x82f, 0x831, 0x83a, 0x83f, 0x840, 0x8ff]
    {
        assert_eq!(lapic.msr_read(msr), None, "read {msr:#x}");
    }
    let read_only = [0x802, 0x803, 0x80a, 0x80d, 0x810, 0x818, 0x820, 0x839];
    for msr in read_only.into_iter().chain([0x80e, 0x831, 0x840]) {
        assert!(!lapic.msr_write(msr, 0), "write {msr:#x}");
    }
    for (msr, value) in [
        (0x808, 0x100),
        (0x80b, 1),
        (0x80f, 1 << 10),
        (0x828, 1),
        (0x830, 1 << 20),
        (0x832, 1 << 8),
        (0x835, 1 << 20),
        (0x838, 1 << 32),
        (0x83e, 4),
        (0x83f, 0x100),
    ] {
        assert!(!lapic.msr_write(msr, value), "{msr:#x} = {value:#x}");
    }
    assert!(lapic.msr_write(0x808, 0x20) && lapic.task_priority() == 2);
    assert!(lapic.msr_write(0x835, 0x700));
    assert_eq!(lapic.msr_read(0x835), Some(0x700));
}

#[test]
fn base_register_transitions() {
    const BASE: u64 = 0xfee0_0900;
    const OFF: u64 = 0xfee0_0100;
    const X2: u64 = 0xfee0_0d00;
    const BAD: u64 = 0xfee0_0500;
    let rig = Rig::new(1);
    let lapic = rig.lapic(0);
    let steps = [
        (BAD, false),
        (BASE | 1 << 9, false),
        (BASE | 1 << 52, false),
        (BASE, true),
        (X2, true),
        (BASE, false),
        (BAD, false),
        (OFF, true),
        (X2, false),
        (BASE, true),
    ];
    let mut current = BASE;
    for (value, legal) in steps {
        assert_eq!(lapic.msr_write(0x1b, value), legal, "{current:#x} -> {value:#x}");
        if legal {
            current = value;
        }
        assert_eq!(lapic.msr_read(0x1b), Some(current));
    }
    assert_eq!(read(&lapic, 0xf0), 0xff, "a disabled APIC comes back as after power-on");
    assert!(lapic.msr_write(0x1b, 0x1_2345_6900));
    assert_eq!(lapic.mmio_offset(0x1_2345_6020), Some(0x20), "the page moves");
    assert_eq!(lapic.mmio_offset(0xfee0_0020), None);
}

#[test]
fn errors_are_reported() {
    let rig = Rig::new(1);
    let lapic = rig.lapic(0);
    write(&lapic, 0x370, 0xfe);
    write(&lapic, 0x300, 0x4_0005);
    assert_eq!(lapic.take_interrupt(), Some(0xfe));
    assert_eq!(read(&lapic, 0x280), 0, "not before it is written");
    write(&lapic, 0x280, 0);
    assert_eq!(read(&lapic, 0x280), 0x20, "illegal vector sent");
    write(&lapic, 0x3a0, 1);
    write(&lapic, 0x280, 0);
    assert_eq!(read(&lapic, 0x280), 0x80, "illegal register");
    write(&lapic, 0x280, 0);
    assert_eq!(read(&lapic, 0x280), 0);
}

#[test]
fn a_one_shot_timer_fires_once() {
    let rig = Rig::new(1);
    let lapic = rig.lapic(0);
    write(&lapic, 0x320, 0x30);
    write(&lapic, 0x3e0, 0b1011); // by 1
    assert_eq!(lapic.next_deadline(), None);
    let before = rig.clock.ns();
    write(&lapic, 0x380, 1_000_000_000);
    let due = rig.clock.tsc_to_ns(lapic.next_deadline().unwrap()) - before;
    assert!((1_000_000_000..1_100_000_000).contains(&due), "{due}");
    rig.advance(400_000_000);
    lapic.poll();
    assert!(!rig.has(0, Signals::INTR));
    let count = read(&lapic, 0x390);
    assert!((400_000_000..=600_000_000).contains(&count), "{count}");
    rig.advance(600_000_000);
    lapic.poll();
    assert_eq!(lapic.take_interrupt(), Some(0x30));
    assert_eq!((lapic.next_deadline(), read(&lapic, 0x390)), (None, 0));
    assert_eq!(read(&lapic, 0x380), 1_000_000_000);
}

#[test]
fn a_periodic_timer_keeps_its_phase() {
    let rig = Rig::new(1);
    let lapic = rig.lapic(0);
    write(&lapic, 0x320, 0x2_0030);
    write(&lapic, 0x3e0, 0b0011); // by 16
    write(&lapic, 0x380, 62_500_000); // one second
    let first = lapic.next_deadline().unwrap();
    rig.advance(1_000_000_000);
    lapic.poll();
    assert_eq!(lapic.take_interrupt(), Some(0x30));
    write(&lapic, 0xb0, 0);
    let period = rig.clock.ns_to_tsc(1_000_000_000);
    assert_eq!(lapic.next_deadline(), Some(first + period));
    rig.advance(5_300_000_000);
    lapic.poll();
    assert_eq!(lapic.take_interrupt(), Some(0x30), "one for five");
    assert_eq!(lapic.next_deadline(), Some(first + 6 * period));
    write(&lapic, 0x380, 0);
    assert_eq!(lapic.next_deadline(), None);
}

#[test]
fn tsc_deadline() {
    let rig = Rig::new(1);
    let lapic = rig.lapic(0);
    assert!(lapic.msr_write(0x6e0, 5));
    assert_eq!(lapic.msr_read(0x6e0), Some(0), "ignored in another mode");
    write(&lapic, 0x320, 0x4_0031);
    let at = rig.clock.tsc() + rig.clock.tsc_hz();
    assert!(lapic.msr_write(0x6e0, at));
    assert_eq!((lapic.msr_read(0x6e0), lapic.next_deadline()), (Some(at), Some(at)));
    rig.advance(1_000_000_000);
    lapic.poll();
    assert_eq!(lapic.take_interrupt(), Some(0x31));
    assert_eq!((lapic.msr_read(0x6e0), lapic.next_deadline()), (Some(0), None));
    write(&lapic, 0xb0, 0);
    assert!(lapic.msr_write(0x6e0, 1), "in the past: at once, without a poll");
    assert_eq!(lapic.take_interrupt(), Some(0x31));
    // The deadline is in the processor's own TSC.
    lapic.set_tsc_adjust(1000);
    assert!(lapic.msr_write(0x6e0, at + 10 * rig.clock.tsc_hz()));
    assert_eq!(lapic.next_deadline(), Some(at + 10 * rig.clock.tsc_hz() - 1000));
    write(&lapic, 0x320, 0x31);
    assert_eq!(lapic.next_deadline(), None, "leaving the mode disarms");
}

#[test]
fn changing_the_divider_keeps_the_count() {
    let rig = Rig::new(1);
    let lapic = rig.lapic(0);
    write(&lapic, 0x3e0, 0b1011);
    write(&lapic, 0x380, 4_000_000_000);
    rig.advance(1_000_000_000);
    let now = rig.clock.ns();
    write(&lapic, 0x3e0, 0b0000); // by 2
    let left = rig.clock.tsc_to_ns(lapic.next_deadline().unwrap()) - now;
    assert!((5_900_000_000..=6_000_001_000).contains(&left), "{left}");
}

#[test]
fn startup_protocol() {
    let rig = Rig::new(2);
    let (bsp, ap) = (rig.lapic(0), rig.lapic(1));
    assert!(ap.waits_for_sipi() && !bsp.waits_for_sipi());
    write(&bsp, 0x310, 1 << 24);
    write(&bsp, 0x300, 0x4500); // INIT
    assert!(rig.has(1, Signals::EXIT));
    assert!(ap.take_init() && !ap.take_init());
    assert_eq!(read(&ap, 0xf0), 0xff, "its registers are reset");
    write(&bsp, 0x300, 0x8500); // INIT level de-assert
    assert!(!ap.take_init());
    write(&bsp, 0x300, 0x4609);
    write(&bsp, 0x300, 0x4609);
    assert_eq!((ap.take_sipi(), ap.take_sipi()), (Some(9), None));
    write(&bsp, 0x300, 0x4609);
    assert_eq!(ap.take_sipi(), None, "a running processor does not listen");
    write(&bsp, 0x300, 0x4500);
    write(&bsp, 0x300, 0x460a);
    assert!(ap.take_init());
    assert_eq!(ap.take_sipi(), Some(10), "both before the processor looked");
    write(&ap, 0x300, 0x4500);
    assert!(bsp.take_init() && !bsp.waits_for_sipi(), "the boot processor starts by itself");
}

#[test]
fn init_keeps_the_mode() {
    let rig = Rig::new(2);
    let ap = rig.x2apic(1);
    write(&rig.lapic(0), 0x310, 1 << 24);
    write(&rig.lapic(0), 0x300, 0x4500);
    assert!(ap.take_init());
    assert_eq!(ap.msr_read(0x1b), Some(0xfee0_0c00));
    assert_eq!(ap.msr_read(0x802), Some(1));
}

#[test]
fn state_survives_and_nonsense_is_refused() {
    let rig = Rig::new(1);
    let lapic = rig.lapic(0);
    request(&lapic, 0x45);
    request(&lapic, 0x61);
    lapic.take_interrupt();
    write(&lapic, 0x320, 0x2_0030);
    write(&lapic, 0x380, 1_000_000);
    rig.bus.core(0).unwrap().accept(&crate::interrupt::Message {
        destination: crate::interrupt::Destination::Broadcast,
        delivery: crate::interrupt::Delivery::Nmi,
        vector: 0,
        level: false,
    });
    let state = lapic.save();
    let json = serde_json::to_string(&state).unwrap();
    let other = Rig::new(1);
    let restored = other.lapic(0);
    restored.restore(&serde_json::from_str(&json).unwrap()).unwrap();
    assert_eq!(restored.save(), state);
    assert!(other.has(0, Signals::NMI));
    write(&restored, 0xb0, 0);
    assert_eq!(restored.take_interrupt(), Some(0x45));
    let before = restored.save();
    for bad in [
        ApicState { id: 1, ..state.clone() },
        ApicState { apic_base: 0x400, ..state.clone() },
        ApicState { lvt: [1 << 31; 6], ..state.clone() },
        ApicState { irr: [1; 8], ..state.clone() },
    ] {
        assert!(restored.restore(&bad).is_err());
    }
    assert_eq!(restored.save(), before);
}

proptest! {
    /// INTR says exactly whether an interrupt can be taken, whatever happened before; a deadline that is
    /// passed is gone after a poll.
    #[test]
    fn the_signal_is_the_truth(
        steps in prop::collection::vec((0..6u8, 0..0x40u64, any::<u32>(), any::<u32>()), 1..60),
    ) {
        let rig = Rig::new(2);
        for (what, register, value, high) in steps {
            let lapic = rig.lapic(usize::from(value & 1 != 0));
            let wide = u64::from(high) << 32 | u64::from(value);
            match what {
                0 | 1 => write(&lapic, register << 4, value),
                2 => { lapic.msr_write(0x800 + register as u32, if high & 1 == 0 { wide } else { u64::from(value) & 0x7ff }); }
                3 => { lapic.msr_write([0x1b, 0x6e0][register as usize & 1], 0xfee0_0000 | wide & 0xd00); }
                4 => lapic.set_task_priority(value as u8),
                _ => {
                    rig.bus.set_lint0(high & 1 != 0);
                    rig.bus.pulse_lint1();
                }
            }
            for cpu in 0..2 {
                let lapic = rig.lapic(cpu);
                lapic.poll();
                prop_assert!(lapic.next_deadline().is_none_or(|d| d > 0));
                let signal = rig.has(cpu, Signals::INTR);
                let external = matches!(lapic.core.take_interrupt(), core::Taken::Vector(_) | core::Taken::External);
                prop_assert_eq!(signal, external);
                let state = lapic.save();
                prop_assert!(lapic.restore(&state).is_ok());
                prop_assert_eq!(lapic.save(), state);
            }
        }
    }
}

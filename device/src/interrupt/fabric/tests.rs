use cpu::{Chips, ChipsState};

use super::*;
use crate::{Registers, SaveRestore};

struct Pc {
    fabric: Arc<InterruptFabric>,
    signals: Vec<Arc<Signals>>,
}

impl Pc {
    /// All local APICs enabled, flat logical ids.
    fn new(cpus: u32) -> Self {
        let clock = Arc::new(Clock::new());
        let signals: Vec<_> = (0..cpus).map(|_| Arc::new(Signals::new())).collect();
        let pc = Self { fabric: InterruptFabric::new(&clock, signals.iter().cloned()), signals };
        for cpu in 0..cpus {
            pc.lapic_write(cpu, 0xf0, 0x1ff);
            pc.lapic_write(cpu, 0xd0, 1 << (24 + cpu));
        }
        pc
    }

    fn lapic(&self, cpu: u32) -> LocalApic {
        self.fabric.lapic(cpu).unwrap()
    }

    fn lapic_write(&self, cpu: u32, offset: u64, value: u32) {
        self.lapic(cpu).mmio_write(offset, &value.to_le_bytes());
    }

    fn route(&self, pin: u32, low: u32, destination: u8) {
        for (register, value) in [(0x11 + 2 * pin, u32::from(destination) << 24), (0x10 + 2 * pin, low)] {
            let _ = self.fabric.ioapic().write(0, &register.to_le_bytes());
            let _ = self.fabric.ioapic().write(0x10, &value.to_le_bytes());
        }
    }

    fn entry(&self, pin: u32) -> u32 {
        let _ = self.fabric.ioapic().write(0, &(0x10 + 2 * pin).to_le_bytes());
        let mut data = [0; 4];
        self.fabric.ioapic().read(0x10, &mut data);
        u32::from_le_bytes(data)
    }

    /// INTR says the same as the APIC would.
    fn take(&self, cpu: u32) -> Option<u8> {
        let signal = self.signals[cpu as usize].load() & Signals::INTR != 0;
        let vector = self.lapic(cpu).take_interrupt();
        assert_eq!(signal, vector.is_some(), "INTR of cpu {cpu}");
        vector
    }

    fn eoi(&self, cpu: u32) {
        self.lapic_write(cpu, 0xb0, 0);
    }

    /// Vectors from 0x20 on, for inputs that `mask` leaves open.
    fn begin_8259(&self, mask: u8) {
        for (offset, value) in [(0, 0x11), (1, 0x20), (1, 4), (1, 1), (1, mask)] {
            let _ = self.fabric.pic().write(offset, &[value]);
        }
    }

    /// Has an engine have the local APICs, and what else it takes; what it got.
    fn lend(&self, engine: Arc<dyn Apics>) -> Vec<ApicState> {
        let mut states = Vec::new();
        let give = |state: &ApicState| {
            states.push(state.clone());
            Ok(())
        };
        self.fabric.lend(&engine, give).unwrap();
        states
    }
}

#[test]
fn an_edge_reaches_the_addressed_processor() {
    let pc = Pc::new(2);
    pc.route(4, 0x41, 1);
    pc.fabric.line(4).pulse();
    assert_eq!(pc.take(0), None);
    assert_eq!(pc.take(1), Some(0x41));
    assert_eq!(pc.take(1), None);
    pc.fabric.line(4).pulse();
    assert_eq!(pc.take(1), None, "0x41 is in service");
    pc.eoi(1);
    assert_eq!(pc.take(1), Some(0x41));
}

#[test]
fn the_timer_is_on_pin_two() {
    let pc = Pc::new(1);
    pc.route(2, 0x30, 0);
    pc.fabric.line(0).pulse();
    assert_eq!(pc.take(0), Some(0x30));
}

#[test]
fn an_edge_on_a_masked_pin_is_lost() {
    let pc = Pc::new(1);
    pc.fabric.line(5).pulse();
    pc.route(5, 0x55, 0);
    assert_eq!(pc.take(0), None);
}

#[test]
fn a_level_comes_again_after_eoi_until_it_falls() {
    let pc = Pc::new(1);
    pc.route(9, 0x8061, 0);
    pc.fabric.line(9).raise();
    assert_eq!(pc.take(0), Some(0x61));
    assert_ne!(pc.entry(9) & 1 << 14, 0, "remote IRR");
    pc.eoi(0);
    assert_eq!(pc.take(0), Some(0x61), "still asserted");
    pc.fabric.line(9).lower();
    pc.eoi(0);
    assert_eq!(pc.take(0), None);
    assert_eq!(pc.entry(9) & 1 << 14, 0);
}

#[test]
fn a_directed_eoi_replaces_the_broadcast() {
    let pc = Pc::new(1);
    pc.lapic_write(0, 0xf0, 0x11ff); // suppress EOI broadcasts
    pc.route(9, 0x8061, 0);
    pc.fabric.line(9).raise();
    assert_eq!(pc.take(0), Some(0x61));
    pc.eoi(0);
    assert_eq!(pc.take(0), None);
    let _ = pc.fabric.ioapic().write(0x40, &0x61u32.to_le_bytes());
    assert_eq!(pc.take(0), Some(0x61));
}

#[test]
fn logical_and_lowest_priority_destinations() {
    let pc = Pc::new(3);
    pc.route(6, 0x0870, 0b110); // fixed, logical
    pc.fabric.line(6).pulse();
    assert_eq!([pc.take(0), pc.take(1), pc.take(2)], [None, Some(0x70), Some(0x70)]);
    pc.route(6, 0x0971, 0b111); // lowest priority
    pc.eoi(2);
    pc.lapic(0).set_task_priority(9);
    pc.fabric.line(6).pulse();
    assert_eq!([pc.take(0), pc.take(1), pc.take(2)], [None, None, Some(0x71)]);
}

#[test]
fn the_8259_goes_through_lint0() {
    let pc = Pc::new(2);
    pc.lapic(0).set_virtual_wire();
    let pic = pc.fabric.pic();
    for (offset, value) in
        [(0, 0x11), (1, 0x20), (1, 4), (1, 1), (1, 0), (2, 0x11), (3, 0x28), (3, 2), (3, 1), (3, 0)]
    {
        let _ = pic.write(offset, &[value]);
    }
    pc.fabric.line(0).pulse();
    pc.fabric.line(1).pulse();
    assert_eq!(pc.take(0), Some(0x20));
    assert_eq!(pc.take(0), None);
    let _ = pic.write(0, &[0x20]);
    assert_eq!(pc.take(0), Some(0x21));
    assert_eq!(pc.take(1), None);
    let _ = pic.write(0, &[0x20]);
    // A masked LINT0 holds it back, a disabled APIC lets it through.
    pc.lapic_write(0, 0x350, 0x1_0700);
    pc.fabric.line(0).pulse();
    assert_eq!(pc.take(0), None);
    assert!(pc.lapic(0).msr_write(0x1b, 0xfee0_0000));
    assert_eq!(pc.take(0), Some(0x20));
}

#[test]
fn the_8259_goes_through_ioapic_pin_zero() {
    let pc = Pc::new(1);
    pc.begin_8259(0);
    pc.route(0, 0x0700, 0);
    for _ in 0..2 {
        pc.fabric.line(1).pulse();
        pc.fabric.line(3).pulse();
        assert_eq!(pc.take(0), Some(0x21));
        let _ = pc.fabric.pic().write(0, &[0x20]);
        assert_eq!(pc.take(0), Some(0x23));
        let _ = pc.fabric.pic().write(0, &[0x20]);
    }
}

#[test]
fn message_signalled_interrupts() {
    let pc = Pc::new(2);
    assert!(pc.fabric.deliver_msi(0xfee0_1000, 0x4045));
    assert_eq!(pc.take(1), Some(0x45));
    assert!(pc.fabric.deliver_msi(0xfeef_f000, 0x56), "broadcast");
    assert_eq!([pc.take(0), pc.take(1)], [Some(0x56), Some(0x56)]);
    assert!(!pc.fabric.deliver_msi(0xfee7_7000, 0x47), "nobody has id 0x77");
    assert!(
        pc.fabric.deliver_msi(0xfee0_2004, 0x68),
        "logical, without the redirection hint, as Linux has it"
    );
    assert_eq!([pc.take(0), pc.take(1)], [None, Some(0x68)]);
    assert!(!pc.fabric.deliver_msi(0xfed0_0000, 0x47));
    assert!(pc.fabric.deliver_msi(0xfee0_1000, 0x400));
    assert_eq!(pc.signals[1].load() & Signals::NMI, Signals::NMI);
}

#[test]
fn the_nmi_line_is_lint1() {
    let pc = Pc::new(2);
    pc.fabric.nmi();
    assert_eq!(pc.signals[0].load(), 0, "masked");
    pc.lapic_write(0, 0x360, 0x400);
    pc.fabric.nmi();
    assert_eq!([pc.signals[0].load(), pc.signals[1].load()], [Signals::NMI, 0]);
}

#[test]
fn processors_that_interrupt_each_other_do_not_lock_up() {
    let pc = Pc::new(2);
    const ROUNDS: usize = 50_000;
    let start = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        for cpu in 0..2 {
            let (pc, start) = (&pc, &start);
            scope.spawn(move || {
                start.wait();
                let lapic = pc.lapic(cpu);
                for _ in 0..ROUNDS {
                    lapic.mmio_write(0x310, &((1 - cpu) << 24).to_le_bytes());
                    lapic.mmio_write(0x300, &0x40u32.to_le_bytes());
                    if lapic.take_interrupt().is_some() {
                        lapic.mmio_write(0xb0, &[0; 4]);
                    }
                }
            });
        }
    });
    for cpu in 0..2 {
        while pc.take(cpu).is_some() {
            pc.eoi(cpu);
        }
        assert_eq!(pc.signals[cpu as usize].load() & Signals::INTR, 0);
    }
}

#[test]
fn a_level_shared_between_threads_is_never_lost() {
    // One thread drives the line, another takes and ends the interrupts: whenever the line is up for good,
    // an interrupt is pending or in service.
    let pc = Pc::new(1);
    pc.route(10, 0x80a0, 0);
    std::thread::scope(|scope| {
        let driver = scope.spawn(|| {
            for _ in 0..20_000 {
                pc.fabric.line(10).raise();
                pc.fabric.line(10).lower();
            }
            pc.fabric.line(10).raise();
        });
        let lapic = pc.lapic(0);
        while !driver.is_finished() {
            if lapic.take_interrupt().is_some() {
                lapic.mmio_write(0xb0, &[0; 4]);
            }
        }
    });
    assert_eq!(pc.take(0), Some(0xa0));
}

/// An engine's local APICs: what they were told.
#[derive(Default)]
struct Engine(parking_lot::Mutex<Vec<(&'static str, u64, u32)>>);

impl Apics for Engine {
    fn send(&self, address: u64, data: u32) -> bool {
        self.0.lock().push(("message", address, data));
        true
    }

    fn route(&self, pin: u32, _: u64, data: u32) {
        self.0.lock().push(("route", pin.into(), data));
    }
}

#[test]
fn lent_local_apics_get_messages_and_come_back_with_what_they_got() {
    let pc = Pc::new(2);
    pc.route(4, 0x41, 1);
    pc.lapic_write(0, 0x300, 0x4_0050); // to itself
    pc.lapic_write(1, 0x80, 0x20);
    let engine = Arc::new(Engine::default());
    let states = pc.lend(engine.clone());
    assert_eq!((states[0].irr[2], states[1].tpr), (1 << 16, 0x20));
    assert!(engine.0.lock().contains(&("route", 4, 0x41)));
    assert_eq!((pc.take(0), pc.take(1)), (None, None), "the APICs are not here");
    engine.0.lock().clear();
    // Lines and messages go there; a new entry is told, a mask is not.
    pc.fabric.line(4).pulse();
    assert!(pc.fabric.deliver_msi(0xfee0_1000, 0x61));
    pc.route(4, 0x1_0041, 1);
    pc.route(9, 0x8042, 0);
    let told = std::mem::take(&mut *engine.0.lock());
    assert_eq!(told[..2], [("message", 0xfee0_1000, 0x41), ("message", 0xfee0_1000, 0x61)]);
    assert!(told[2..].iter().all(|told| told.0 == "route" && told.1 == 9), "{told:x?}");
    assert_eq!(told.last(), Some(&("route", 9, 0xc042)));
    // They come back, and nothing goes there any more.
    pc.fabric
        .recall(|id| {
            let mut state = states[id as usize].clone();
            state.irr[1] |= 1;
            Ok(state)
        })
        .unwrap();
    pc.fabric.deliver_msi(0xfee0_1000, 0x62);
    assert!(engine.0.lock().is_empty());
    assert_eq!((pc.take(0), pc.take(1)), (Some(0x50), Some(0x62)));
    pc.eoi(1);
    assert_eq!(pc.take(1), None, "TPR holds it back");
    pc.lapic_write(1, 0x80, 0);
    assert_eq!(pc.take(1), Some(0x20));
}

/// An engine's controllers, all of them: the state they were given, and what they were told.
#[derive(Default)]
struct WholeEngine {
    state: parking_lot::Mutex<Option<ChipsState>>,
    told: parking_lot::Mutex<Vec<(&'static str, u32, bool)>>,
}

impl Apics for WholeEngine {
    fn send(&self, _: u64, data: u32) -> bool {
        self.told.lock().push(("message", data, true));
        true
    }

    fn route(&self, pin: u32, _: u64, _: u32) {
        self.told.lock().push(("route", pin, true));
    }

    fn chips(&self) -> Option<&dyn Chips> {
        Some(self)
    }
}

impl Chips for WholeEngine {
    fn set_line(&self, line: u32, asserted: bool) {
        self.told.lock().push(("line", line, asserted));
    }

    fn give(&self, state: &ChipsState) -> Result<(), EngineError> {
        *self.state.lock() = Some(state.clone());
        Ok(())
    }

    fn take(&self) -> Result<ChipsState, EngineError> {
        self.state.lock().clone().ok_or_else(|| EngineError::BadState("never given".to_owned()))
    }
}

#[test]
fn controllers_that_are_all_lent_get_lines_and_come_back() {
    let pc = Pc::new(1);
    pc.begin_8259(0xee);
    pc.route(4, 0x41, 0);
    pc.route(10, 0x80a0, 0);
    pc.fabric.line(10).raise();
    let engine = Arc::new(WholeEngine::default());
    let mut states = pc.lend(engine.clone());
    let given = engine.take().unwrap();
    assert_eq!((given.ioapic.inputs, given.ioapic.table[10] as u32), (1 << 10, 0xc0a0));
    assert_eq!((given.pic.master.base, given.pic.master.imr), (0x20, 0xee));
    assert_eq!(states[0].irr[5], 1, "the local APIC has it");
    // Lines go there when they change, also the timer's and one that only the 8259s have open; nothing happens here.
    for (line, asserted) in [(4, true), (4, true), (0, true), (10, false), (20, true)] {
        pc.fabric.line(line).set(asserted);
    }
    let told = std::mem::take(&mut *engine.told.lock());
    assert_eq!(told, [("line", 4, true), ("line", 0, true), ("line", 10, false), ("line", 20, true)]);
    assert_eq!((pc.take(0), pc.fabric.pic().output()), (None, false));
    pc.fabric.line(10).raise();
    // There the CPU has ended the level's interrupt, and not been interrupted again.
    engine.state.lock().as_mut().unwrap().ioapic.table[10] &= !0x4000;
    engine.state.lock().as_mut().unwrap().pic.master.irr = 1 << 0;
    engine.told.lock().clear();
    states[0].irr[5] = 0;
    pc.fabric.recall(|_| Ok(states[0].clone())).unwrap();
    assert_eq!(
        pc.fabric.ioapic().save().inputs,
        1 << 2 | 1 << 4 | 1 << 10 | 1 << 20 | 1,
        "lines and the 8259"
    );
    assert_eq!(pc.take(0), Some(0xa0));
    pc.lapic_write(0, 0x350, 0x700);
    assert_eq!(pc.take(0), Some(0x20), "the 8259's");
    // An edge is one only after the line has fallen.
    pc.eoi(0);
    pc.fabric.line(10).lower();
    while pc.take(0).is_some() {
        pc.eoi(0);
    }
    pc.fabric.line(4).raise();
    assert_eq!(pc.take(0), None);
    pc.fabric.line(4).lower();
    pc.fabric.line(4).raise();
    assert_eq!(pc.take(0), Some(0x41));
    assert!(engine.told.lock().is_empty());
}

#[test]
fn the_8259_interrupts_a_processor_whose_local_apic_is_lent() {
    let pc = Pc::new(1);
    pc.begin_8259(0xfe);
    pc.lend(Arc::new(Engine::default()));
    pc.fabric.line(0).raise();
    assert_eq!(pc.take(0), Some(0x20));
    assert_eq!(pc.take(0), None);
}

#[test]
fn local_apics_that_an_engine_refuses_stay() {
    let pc = Pc::new(1);
    let apics: Arc<dyn Apics> = Arc::new(Engine::default());
    let refused = pc.fabric.lend(&apics, |_| Err(EngineError::BadState("no".to_owned())));
    assert!(refused.is_err());
    pc.fabric.deliver_msi(0xfee0_0000, 0x61);
    assert_eq!(pc.take(0), Some(0x61));
}

//! State, acceptance and priorities of one local APIC (Intel SDM volume 3, 12.8).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use cpu::{Clock, Signals};
use parking_lot::Mutex;

use super::timer::Timer;
use crate::interrupt::{Delivery, Destination, Message};

pub(super) mod base {
    //! Bits of IA32_APIC_BASE.
    pub(in super::super) const BSP: u64 = 1 << 8;
    pub(in super::super) const X2APIC: u64 = 1 << 10;
    pub(in super::super) const ENABLE: u64 = 1 << 11;
    pub(in super::super) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    pub(in super::super) const DEFAULT: u64 = 0xfee0_0000;
}

pub(super) mod esr {
    //! Bits of the error status register.
    pub(in super::super) const SEND_VECTOR: u32 = 1 << 5;
    pub(in super::super) const RECEIVE_VECTOR: u32 = 1 << 6;
    pub(in super::super) const REGISTER: u32 = 1 << 7;
}

/// Indices of the local vector table, in the order of their registers from 0x320.
pub(super) mod lvt {
    pub(in super::super) const TIMER: usize = 0;
    pub(in super::super) const LINT0: usize = 3;
    pub(in super::super) const LINT1: usize = 4;
    pub(in super::super) const ERROR: usize = 5;
    pub(in super::super) const COUNT: usize = 6;
    pub(in super::super) const MASKED: u32 = 1 << 16;
}

const SVR_ENABLE: u32 = 1 << 8;
const SVR_SUPPRESS_EOI: u32 = 1 << 12;

/// 256 bits, one per vector.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Vectors(pub(super) [u32; 8]);

impl Vectors {
    pub(super) fn get(&self, vector: u8) -> bool {
        self.0[usize::from(vector >> 5)] >> (vector & 31) & 1 != 0
    }

    pub(super) fn set(&mut self, vector: u8, on: bool) {
        let (word, bit) = (&mut self.0[usize::from(vector >> 5)], 1 << (vector & 31));
        if on { *word |= bit } else { *word &= !bit }
    }

    pub(super) fn highest(&self) -> Option<u8> {
        let (i, word) = self.0.iter().enumerate().rev().find(|(_, word)| **word != 0)?;
        Some((i as u8) << 5 | (31 - word.leading_zeros() as u8))
    }
}

/// What the CPU gets when it accepts an interrupt.
pub(super) enum Taken {
    None,
    Vector(u8),
    /// The 8259 has the vector.
    External,
}

/// A local APIC without the way to others.
pub(in crate::interrupt) struct Core {
    id: u32,
    pub(super) clock: Arc<Clock>,
    signals: Arc<Signals>,
    state: Mutex<State>,
    // Mirrors of what others (or the hot paths) look at without the lock. Written under it.
    apic_base: AtomicU64,
    logical_id: AtomicU32,
    cluster: AtomicBool,
    software_enabled: AtomicBool,
    task_priority: AtomicU8,
    processor_priority: AtomicU8,
    deadline: AtomicU64,
}

/// Runtime state behind the lock.
#[derive(Debug)]
pub(super) struct State {
    pub(super) apic_base: u64,
    pub(super) tpr: u8,
    pub(super) ldr: u32,
    pub(super) dfr: u32,
    pub(super) svr: u32,
    /// Errors since the last write of ESR.
    pub(super) errors: u32,
    /// ESR as it reads.
    pub(super) esr: u32,
    pub(super) icr: u64,
    pub(super) lvt: [u32; lvt::COUNT],
    pub(super) irr: Vectors,
    pub(super) isr: Vectors,
    pub(super) tmr: Vectors,
    pub(super) timer: Timer,
    pub(super) tsc_adjust: u64,
    /// Level of LINT0, which the 8259 drives.
    pub(super) lint0: bool,
    /// An I/O APIC pin in ExtINT mode fired.
    pub(super) external: bool,
    pub(super) init: bool,
    pub(super) sipi: Option<u8>,
    pub(super) waits_for_sipi: bool,
}

impl State {
    pub(super) fn power_on(id: u32) -> Self {
        let bsp = id == 0;
        let mut state = Self {
            apic_base: base::DEFAULT | base::ENABLE | if bsp { base::BSP } else { 0 },
            tpr: 0,
            ldr: 0,
            dfr: 0,
            svr: 0,
            errors: 0,
            esr: 0,
            icr: 0,
            lvt: [0; lvt::COUNT],
            irr: Vectors::default(),
            isr: Vectors::default(),
            tmr: Vectors::default(),
            timer: Timer::default(),
            tsc_adjust: 0,
            lint0: false,
            external: false,
            init: false,
            sipi: None,
            waits_for_sipi: !bsp,
        };
        state.clear_registers();
        state
    }

    /// The registers as INIT and a disabled APIC leave them (12.4.7.1): all but the base and, in x2APIC mode, the ids.
    pub(super) fn clear_registers(&mut self) {
        (self.tpr, self.ldr, self.dfr, self.svr) = (0, 0, u32::MAX, 0xff);
        (self.errors, self.esr, self.icr) = (0, 0, 0);
        self.lvt = [lvt::MASKED; lvt::COUNT];
        (self.irr, self.isr, self.tmr) = Default::default();
        self.timer = Timer::default();
        self.external = false;
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.apic_base & base::ENABLE != 0
    }

    pub(super) fn is_x2apic(&self) -> bool {
        self.apic_base & base::X2APIC != 0
    }

    pub(super) fn is_software_enabled(&self) -> bool {
        self.svr & SVR_ENABLE != 0
    }

    pub(super) fn processor_priority(&self) -> u8 {
        let in_service = self.isr.highest().unwrap_or(0);
        if self.tpr >> 4 >= in_service >> 4 { self.tpr } else { in_service & 0xf0 }
    }

    fn deliverable(&self) -> Option<u8> {
        self.irr.highest().filter(|vector| vector >> 4 > self.processor_priority() >> 4)
    }

    /// The 8259 drives the CPU's INTR pin through LINT0 or an I/O APIC pin.
    fn external_pending(&self) -> bool {
        let lint0 = self.lvt[lvt::LINT0];
        let through = !self.is_enabled()
            || lint0 & lvt::MASKED == 0 && Delivery::decode(lint0.into()) == Some(Delivery::ExtInt);
        self.lint0 && (through || self.external)
    }

    /// Records errors and raises the error interrupt (12.5.3).
    pub(super) fn error(&mut self, bits: u32) {
        self.errors |= bits;
        self.fire(lvt::ERROR);
    }

    /// A local interrupt source fires. True if it is an NMI.
    pub(super) fn fire(&mut self, source: usize) -> bool {
        let entry = self.lvt[source];
        if entry & lvt::MASKED != 0 {
            return false;
        }
        // The timer and error entries have no delivery mode: those bits are zero, fixed.
        match Delivery::decode(entry.into()) {
            Some(Delivery::Fixed) => {
                self.request(entry as u8, false);
                false
            }
            delivery => delivery == Some(Delivery::Nmi),
        }
    }

    /// A fixed interrupt arrives.
    pub(super) fn request(&mut self, vector: u8, level: bool) -> bool {
        if !self.is_software_enabled() {
            return false;
        }
        if vector < 16 {
            // Straight into the register: the error interrupt may itself have an illegal vector.
            self.errors |= esr::RECEIVE_VECTOR;
            let entry = self.lvt[lvt::ERROR];
            if entry & lvt::MASKED == 0 && entry as u8 >= 16 {
                self.irr.set(entry as u8, true);
            }
            return false;
        }
        self.irr.set(vector, true);
        self.tmr.set(vector, level);
        true
    }
}

impl Core {
    pub(in crate::interrupt) fn new(id: u32, clock: Arc<Clock>, signals: Arc<Signals>) -> Self {
        let core = Self {
            id,
            clock,
            signals,
            state: Mutex::new(State::power_on(id)),
            apic_base: AtomicU64::new(0),
            logical_id: AtomicU32::new(0),
            cluster: AtomicBool::new(false),
            software_enabled: AtomicBool::new(false),
            task_priority: AtomicU8::new(0),
            processor_priority: AtomicU8::new(0),
            deadline: AtomicU64::new(u64::MAX),
        };
        core.with(|_| ());
        core
    }

    /// Changes the state, then brings the mirrors and the CPU's INTR signal in step with it.
    pub(super) fn with<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.lock();
        let result = change(&mut state);
        self.publish(&state);
        result
    }

    pub(super) fn look<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        look(&self.state.lock())
    }

    fn publish(&self, state: &State) {
        let relaxed = Ordering::Relaxed;
        self.apic_base.store(state.apic_base, relaxed);
        self.logical_id.store(self.logical_id_of(state), relaxed);
        self.cluster.store(state.dfr >> 28 == 0, relaxed);
        self.software_enabled.store(state.is_enabled() && state.is_software_enabled(), relaxed);
        self.task_priority.store(state.tpr, relaxed);
        self.processor_priority.store(state.processor_priority(), relaxed);
        self.deadline.store(state.timer.deadline().unwrap_or(u64::MAX), relaxed);
        let pending = state.external_pending() || state.is_enabled() && state.deliverable().is_some();
        if pending != (self.signals.load() & Signals::INTR != 0) {
            if pending {
                self.signals.set(Signals::INTR);
            } else {
                self.signals.clear(Signals::INTR);
            }
        }
    }

    /// LDR as it reads: in x2APIC mode it is derived from the id (12.12.10.2).
    pub(super) fn logical_id_of(&self, state: &State) -> u32 {
        if state.is_x2apic() { (self.id >> 4) << 16 | 1 << (self.id & 0xf) } else { state.ldr }
    }

    pub(in crate::interrupt) fn id(&self) -> u32 {
        self.id
    }

    pub(super) fn is_bsp(&self) -> bool {
        self.id == 0
    }

    pub(super) fn task_priority(&self) -> u8 {
        self.task_priority.load(Ordering::Relaxed)
    }

    pub(super) fn set_task_priority(&self, priority: u8) {
        if priority != self.task_priority() {
            self.with(|state| state.tpr = priority);
        }
    }

    pub(in crate::interrupt) fn processor_priority(&self) -> u8 {
        self.processor_priority.load(Ordering::Relaxed)
    }

    pub(in crate::interrupt) fn is_software_enabled(&self) -> bool {
        self.software_enabled.load(Ordering::Relaxed)
    }

    pub(super) fn mmio_offset(&self, addr: u64) -> Option<u64> {
        let apic_base = self.apic_base.load(Ordering::Relaxed);
        let answers = apic_base & (base::ENABLE | base::X2APIC) == base::ENABLE;
        (answers && addr & !0xfff == apic_base & base::ADDRESS).then_some(addr & 0xfff)
    }

    pub(super) fn is_x2apic(&self) -> bool {
        self.apic_base.load(Ordering::Relaxed) & base::X2APIC != 0
    }

    pub(super) fn next_deadline(&self) -> Option<u64> {
        Some(self.deadline.load(Ordering::Relaxed)).filter(|d| *d != u64::MAX)
    }

    #[inline]
    pub(super) fn poll(&self) {
        let deadline = self.deadline.load(Ordering::Relaxed);
        if deadline != u64::MAX && self.clock.tsc() >= deadline {
            self.with(|state| state.poll_timer(&self.clock));
        }
    }

    /// Destination matching (12.6.2).
    pub(in crate::interrupt) fn is_addressed(&self, destination: Destination) -> bool {
        let apic_base = self.apic_base.load(Ordering::Relaxed);
        if apic_base & base::ENABLE == 0 {
            return false;
        }
        let own = self.logical_id.load(Ordering::Relaxed);
        match destination {
            Destination::Broadcast => true,
            Destination::Physical(id) => id == self.id,
            // An eight-bit destination in x2APIC mode is one in cluster 0.
            Destination::Logical(mask) if apic_base & base::X2APIC != 0 => {
                mask >> 16 == own >> 16 && mask & own & 0xffff != 0
            }
            Destination::Logical(mask) if mask > 0xff => false,
            Destination::Logical(mask) => {
                let own = own >> 24;
                if self.cluster.load(Ordering::Relaxed) {
                    mask >> 4 == own >> 4 && mask & own & 0xf != 0
                } else {
                    mask & own != 0
                }
            }
        }
    }

    /// A message arrives. True if it was accepted.
    pub(in crate::interrupt) fn accept(&self, message: &Message) -> bool {
        let accepted = self.with(|state| {
            if !state.is_enabled() {
                return false;
            }
            match message.delivery {
                Delivery::Fixed | Delivery::LowestPriority => {
                    return state.request(message.vector, message.level);
                }
                Delivery::ExtInt => state.external = true,
                Delivery::Init => {
                    state.init = true;
                    state.sipi = None;
                    state.waits_for_sipi = !self.is_bsp();
                }
                Delivery::Startup if state.waits_for_sipi => state.sipi = Some(message.vector),
                Delivery::Startup | Delivery::Smi | Delivery::Nmi => {}
            }
            true
        });
        match message.delivery {
            Delivery::Nmi if accepted => self.signals.set(Signals::NMI),
            Delivery::Init | Delivery::Startup if accepted => self.signals.set(Signals::EXIT),
            _ => {}
        }
        accepted
    }

    pub(in crate::interrupt) fn set_lint0(&self, asserted: bool) {
        let nmi = self.with(|state| {
            let was = std::mem::replace(&mut state.lint0, asserted);
            state.external &= asserted;
            asserted && !was && state.is_enabled() && state.fire(lvt::LINT0)
        });
        if nmi {
            self.signals.set(Signals::NMI);
        }
    }

    pub(in crate::interrupt) fn pulse_lint1(&self) {
        // A disabled APIC is not there: LINT1 is the CPU's NMI pin.
        if self.with(|state| !state.is_enabled() || state.fire(lvt::LINT1)) {
            self.signals.set(Signals::NMI);
        }
    }

    pub(super) fn take_interrupt(&self) -> Taken {
        self.with(|state| {
            if state.external_pending() {
                state.external = false;
                return Taken::External;
            }
            match state.deliverable() {
                Some(vector) if state.is_enabled() => {
                    state.irr.set(vector, false);
                    state.isr.set(vector, true);
                    Taken::Vector(vector)
                }
                _ => Taken::None,
            }
        })
    }

    /// Ends the interrupt in service; the vector if its EOI goes to the I/O APIC.
    pub(super) fn end_of_interrupt(&self) -> Option<u8> {
        self.with(|state| {
            let vector = state.isr.highest()?;
            state.isr.set(vector, false);
            (state.tmr.get(vector) && state.svr & SVR_SUPPRESS_EOI == 0).then_some(vector)
        })
    }

    pub(super) fn set_tsc_adjust(&self, adjust: u64) {
        self.with(|state| {
            state.tsc_adjust = adjust;
            state.rearm_tsc_deadline(&self.clock);
        });
    }

    pub(super) fn take_init(&self) -> bool {
        self.with(|state| {
            let init = std::mem::take(&mut state.init);
            if init {
                state.clear_registers();
                self.signals.clear(Signals::NMI);
            }
            init
        })
    }

    pub(super) fn take_sipi(&self) -> Option<u8> {
        self.with(|state| {
            let vector = state.sipi.take()?;
            state.waits_for_sipi = false;
            Some(vector)
        })
    }

    pub(super) fn waits_for_sipi(&self) -> bool {
        self.look(|state| state.waits_for_sipi)
    }

    pub(super) fn set_virtual_wire(&self) {
        self.with(|state| {
            state.svr = SVR_ENABLE | 0xff;
            state.lvt[lvt::LINT0] = 0x700;
            state.lvt[lvt::LINT1] = 0x400;
        });
    }

    pub(in crate::interrupt) fn reset(&self) {
        self.with(|state| {
            let lint0 = state.lint0; // the 8259 still drives it
            *state = State { lint0, ..State::power_on(self.id) };
            self.signals.clear(Signals::NMI);
        });
    }

    pub(super) fn nmi_pending(&self) -> bool {
        self.signals.load() & Signals::NMI != 0
    }

    pub(super) fn set_signals(&self, bits: u32) {
        self.signals.set(bits);
    }
}

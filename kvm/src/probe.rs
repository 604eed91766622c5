//! What this host's KVM is worth: a tiny guest tells. The device node alone says nothing: there are KVMs without hardware
//! virtualization under them, which emulate what the guest's kernel does.

use std::cell::RefCell;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use cpu::x86::{CpuModel, cr0, cr4, efer, seg, seg_attr};
use cpu::{Clock, CpuIo, CpuState, Engine, EngineError, Irqchip, Segment, Signals, Vcpu, VcpuExit, VmConfig};
use memory::GuestRam;

use crate::engine::{Helpers, Kvm};
use crate::modes::Modes;

/// Bytes of the guest's RAM. What is behind is mapped, and a device.
const RAM: u64 = 0x8000;
const DEVICE: u32 = 0x1_0000;
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD: u64 = 0x3000;
/// Page directory of 32-bit paging.
const PD32: u64 = 0x4000;
const CODE: u64 = 0x5000;
/// Instructions of a short run.
const SHORT: u32 = 2000;
/// A short run that takes less is repeated with more, for the figure's sake.
const QUICK: Duration = Duration::from_micros(100);
/// Instructions of the first look at a ring, which is enough where KVM emulates it.
const GLANCE: u32 = 400;
/// What a glance cannot be mistaken for: exits of a KVM within another machine take some ten microseconds.
const HOPELESS: f64 = WORTH / 10.0;
/// Slower than this in ring 0, other engines are better: they run some hundred million.
const WORTH: f64 = 50e6;

/// What the host's TSC counts in a second, more or less: to measure it takes longer than the probe.
const TSC_HZ: u64 = 2_000_000_000;
/// After so many ticks a guest that has not come back never will.
const PATIENCE: u64 = TSC_HZ / 25;

/// Instructions per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speed {
    /// Of a guest's kernel.
    pub ring0: f64,
    /// Of its programs.
    pub ring3: f64,
}

impl Speed {
    /// Times a loop in both rings, in a few milliseconds. `exact`: in a few more where the host is fast. Without, a ring 3 whose
    /// kernel is emulated is not looked at.
    ///
    /// # Errors
    /// The engine does not run the guest.
    pub fn measure(engine: &dyn Engine, exact: bool) -> Result<Self, EngineError> {
        let mut guest = Guest::new(engine)?;
        let ring0 = guest.speed(0, exact)?;
        let ring3 = if exact || ring0 > HOPELESS { guest.speed(3, exact)? } else { 0.0 };
        let speed = Self { ring0, ring3 };
        // Kernels take their time to end a VM.
        let _ = std::thread::Builder::new().name("kvm-probe".into()).spawn(move || drop(guest));
        Ok(speed)
    }

    /// What speaks against running guests at this speed.
    pub fn drawback(&self) -> Option<String> {
        let million = |speed: f64| (speed / 1e6).max(1.0).round();
        if self.ring0 < WORTH {
            Some(format!("its ring 0 runs {} M insn/s", million(self.ring0)))
        } else if self.ring3 < WORTH {
            Some(format!("its ring 3 runs {} M insn/s", million(self.ring3)))
        } else {
            None
        }
    }
}

/// What this host's KVM can be trusted with; found out once.
pub fn modes(helpers: &Helpers) -> Modes {
    static MODES: OnceLock<Modes> = OnceLock::new();
    *MODES.get_or_init(|| {
        let kvm = Kvm::with_modes(helpers.clone(), Modes::All);
        let complete = Guest::new(&kvm).is_ok_and(|mut guest| guest.runs_paged32());
        if complete { Modes::All } else { Modes::Long }
    })
}

struct Guest {
    ram: Arc<GuestRam>,
    vcpu: Box<dyn Vcpu>,
    clock: Arc<Clock>,
    signals: Arc<Signals>,
}

impl Guest {
    fn new(engine: &dyn Engine) -> Result<Self, EngineError> {
        let ram = GuestRam::new(RAM).map_err(|e| EngineError::BadState(e.to_string()))?;
        let ram = Arc::new(ram);
        let entries = [(PML4, PDPT | 7), (PDPT, PD | 7), (PD, 0x87), (PD32, 0x87)];
        for (at, entry) in entries {
            ram.store_u64(at, entry);
        }
        let clock = Arc::new(Clock::assuming(TSC_HZ));
        let model = Arc::new(CpuModel::best_for_host());
        let config =
            VmConfig { ram: ram.clone(), clock: clock.clone(), model, vcpus: 1, irqchip: Irqchip::Userspace };
        let signals = Arc::new(Signals::new());
        let vcpu = engine.create_vm(config)?.create_vcpu(0, signals.clone())?;
        Ok(Self { ram, vcpu, clock, signals })
    }

    /// Runs `code` in `state` until it halts or has come to the device twice; why it ended, and when it came.
    fn run(
        &mut self,
        code: &[u8],
        state: &CpuState,
    ) -> Result<(Option<VcpuExit>, Vec<Instant>), EngineError> {
        let written = self.ram.write(CODE, code);
        written.map_err(|e| EngineError::BadState(e.to_string()))?;
        self.signals.clear(u32::MAX);
        self.vcpu.set_state(state)?;
        let (visits, patience) = (RefCell::default(), self.clock.tsc() + PATIENCE);
        let device = Device { visits, signals: &self.signals, clock: &self.clock, patience };
        let exit = self.vcpu.run(&device).ok();
        Ok((exit, device.visits.into_inner()))
    }

    fn runs_paged32(&mut self) -> bool {
        let mut state = flat(0xc09b, 0);
        state.cr0 |= cr0::PG;
        state.cr4 = cr4::PSE;
        state.cr3 = PD32;
        matches!(self.run(&[0xf4], &state), Ok((Some(VcpuExit::Halt), _)))
    }

    /// The best of two runs: the host has other work, too.
    fn speed(&mut self, ring: u16, exact: bool) -> Result<f64, EngineError> {
        if !exact {
            let glance = self.time(ring, GLANCE)?.min(self.time(ring, GLANCE)?);
            let speed = f64::from(GLANCE) / glance.as_secs_f64().max(1e-9);
            if speed < HOPELESS {
                return Ok(speed);
            }
        }
        let first = self.time(ring, SHORT)?;
        let short = if first < QUICK { first } else { first.min(self.time(ring, SHORT)?) };
        if exact && short < QUICK {
            let long = SHORT * 500;
            return Ok(f64::from(long) / self.time(ring, long)?.as_secs_f64());
        }
        Ok(f64::from(SHORT) / short.as_secs_f64().max(1e-9))
    }

    /// How long that many instructions take.
    fn time(&mut self, ring: u16, instructions: u32) -> Result<Duration, EngineError> {
        // mov [DEVICE], eax; mov ecx, n; again: dec ecx; jnz again; mov [DEVICE], eax; jmp $
        let mut code = vec![0x89, 0x04, 0x25];
        code.extend(DEVICE.to_le_bytes());
        code.push(0xb9);
        code.extend((instructions / 2).to_le_bytes());
        code.extend([0xff, 0xc9, 0x75, 0xfc, 0x89, 0x04, 0x25]);
        code.extend(DEVICE.to_le_bytes());
        code.extend([0xeb, 0xfe]);
        let mut state = flat(0xa09b, ring);
        state.cr0 |= cr0::PG;
        state.cr4 = cr4::PAE;
        state.cr3 = PML4;
        state.efer = efer::LME | efer::LMA;
        match self.run(&code, &state)?.1.as_slice() {
            [start, end] => Ok(end.duration_since(*start)),
            _ => Err(EngineError::BadState("the engine does not run a loop of 64-bit code".into())),
        }
    }
}

/// Protected mode at the code, with flat segments.
fn flat(code: u32, ring: u16) -> CpuState {
    let dpl = u32::from(ring) << seg_attr::DPL_SHIFT;
    let segment = |selector, attr| Segment { selector: selector | ring, base: 0, limit: u32::MAX, attr };
    let mut state = CpuState::reset();
    state.segments = [segment(16, 0xc093 | dpl); 6];
    state.segments[seg::CS] = segment(8, code | dpl);
    state.cr0 = cr0::PE | cr0::ET | cr0::NE;
    state.rip = CODE;
    state
}

/// All that the guest can reach outside its RAM.
struct Device<'a> {
    visits: RefCell<Vec<Instant>>,
    signals: &'a Signals,
    clock: &'a Clock,
    patience: u64,
}

impl CpuIo for Device<'_> {
    fn mmio_write(&self, _: u64, _: &[u8]) {
        let mut visits = self.visits.borrow_mut();
        visits.push(Instant::now());
        if visits.len() >= 2 {
            self.signals.set(Signals::EXIT);
        }
    }

    fn deadline(&self) -> Option<u64> {
        Some(self.patience)
    }

    fn poll(&self) {
        if self.clock.tsc() >= self.patience {
            self.signals.set(Signals::EXIT);
        }
    }
}

//! A vCPU in 64-bit mode with paging, to run single instructions on.

use std::sync::Arc;

use cpu::x86::{CpuModel, Exception, cr0, cr4, efer, seg_attr, xcr0};
use cpu::{Clock, CpuState, Irqchip, Segment, Signals, VmConfig};
use memory::GuestRam;

use crate::code::Code;
use crate::cpu::Cpu;
use crate::decode::Decoder;
use crate::op::{Stop, slot};

/// Guest addresses: linear and physical are the same, up to 2 MiB.
pub(super) const CODE: u64 = 0x1_0000;
pub(super) const DATA: u64 = 0x2_0000;
/// A page that is not present.
pub(super) const ABSENT: u64 = 0x4_0000;
/// A page that is read-only (CR0.WP is set).
pub(super) const READ_ONLY: u64 = 0x5_0000;

pub(super) struct Guest {
    pub cpu: Cpu,
    pub ram: Arc<GuestRam>,
    decoder: Decoder,
    code: Code,
}

impl Guest {
    pub fn new() -> Self {
        Self::with_model(CpuModel::named(Some("host")).unwrap())
    }

    pub fn with_model(model: CpuModel) -> Self {
        let ram = Arc::new(GuestRam::new(2 << 20).unwrap());
        for (at, entry) in [(0x1000, 0x2007), (0x2000, 0x3007), (0x3000, 0x4007)] {
            ram.store_u64(at, entry).unwrap();
        }
        for page in 0..512u64 {
            let flags = match page << 12 {
                ABSENT => 0,
                READ_ONLY => 5,
                _ => 7,
            };
            ram.store_u64(0x4000 + page * 8, page << 12 | flags).unwrap();
        }
        let config = VmConfig {
            ram: ram.clone(),
            clock: Arc::new(Clock::new()),
            model: Arc::new(model),
            vcpus: 1,
            irqchip: Irqchip::Userspace,
        };
        let mut cpu = Cpu::new(&config, 0, Arc::new(Signals::new()));
        cpu.load_state(&Self::state());
        Self { cpu, ram, decoder: Decoder::default(), code: Code::default() }
    }

    /// 64-bit mode, ring 0, everything enabled.
    pub fn state() -> CpuState {
        let mut state = CpuState::reset();
        let attr = seg_attr::P | seg_attr::S | seg_attr::RW | seg_attr::ACCESSED;
        let data =
            Segment { selector: 0x10, base: 0, limit: u32::MAX, attr: attr | seg_attr::DB | seg_attr::G };
        let code = Segment { selector: 8, attr: attr | seg_attr::CODE | seg_attr::L | seg_attr::G, ..data };
        state.segments = [data, code, data, data, data, data];
        state.cr0 = cr0::PE | cr0::PG | cr0::NE | cr0::MP | cr0::ET | cr0::WP;
        state.cr3 = 0x1000;
        state.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE;
        state.efer = efer::LME | efer::LMA | efer::NXE;
        state.xcr0 = xcr0::X87 | xcr0::SSE | xcr0::AVX;
        state.rip = CODE;
        state
    }

    /// Runs the one instruction whose bytes are given.
    pub fn run(&mut self, bytes: &[u8]) -> Stop {
        let mut padded = [0x90; 16];
        padded[..bytes.len()].copy_from_slice(bytes);
        self.ram.write(CODE, &padded).unwrap();
        self.cpu.rip = CODE;
        self.cpu.regs[usize::from(slot::BLOCK)] = CODE;
        self.cpu.regs[usize::from(slot::BLOCK_PLUS_PAGE)] = CODE + 4096;
        if let Err(stop) = self.decoder.single(&mut self.cpu, &mut self.code) {
            return stop;
        }
        self.code.run_first(&mut self.cpu)
    }

    /// Runs an instruction that must complete.
    #[track_caller]
    pub fn complete(&mut self, bytes: &[u8]) {
        let stop = self.run(bytes);
        assert!(
            matches!(stop, Stop::End | Stop::Leave),
            "{stop:?} {:?} for {bytes:02x?}",
            self.cpu.exception
        );
    }

    /// Runs an instruction that must fault.
    #[track_caller]
    pub fn fault(&mut self, bytes: &[u8]) -> Exception {
        let stop = self.run(bytes);
        assert_eq!(stop, Stop::Fault, "{bytes:02x?}");
        self.cpu.exception
    }
}

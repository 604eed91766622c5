//! The architectural state of an x86-64 CPU, engine-neutral and serialisable.

use serde::{Deserialize, Serialize};

use crate::x86::{cr0, rflags};

/// Bytes of the XSAVE image: legacy area, header, and the upper halves of the YMM registers (standard form,
/// components x87, SSE and AVX; Intel SDM volume 1, 13.4).
pub const XSAVE_LEN: usize = 512 + 64 + 256;

/// Where [`CpuState::xsave`] has FCS and, behind it, FDS: two bytes each, in the part of the legacy area that the CPU
/// leaves to software. The image has x87 pointers of 64 bits, which leave no room for them in their usual places.
pub const XSAVE_SELECTORS: usize = 464;

/// A segment register with its hidden part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Segment {
    /// Visible selector.
    pub selector: u16,
    /// Base address.
    pub base: u64,
    /// Limit in bytes (granularity applied).
    pub limit: u32,
    /// Access rights as in the descriptor: bits 0-7 type, S, DPL, P; bits 12-15 AVL, L, D/B, G.
    /// Bit 16 set: unusable (null selector).
    pub attr: u32,
}

/// GDTR or IDTR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DescriptorTable {
    /// Base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u16,
}

/// Model-specific registers that belong to the CPU core (those of the local APIC are with the APIC).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[allow(missing_docs)] // the names are the manual's
pub struct Msrs {
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub sfmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub tsc_aux: u64,
    /// Guest TSC minus the machine clock's.
    pub tsc_adjust: u64,
    pub pat: u64,
    pub misc_enable: u64,
    pub spec_ctrl: u64,
    pub mtrr_def_type: u64,
    pub mtrr_fixed: [u64; 11],
    pub mtrr_var: [u64; 16],
    /// Where the guest had KVM's wall clock written last.
    #[serde(default)]
    pub kvm_wall_clock: u64,
    /// Where the guest wants KVM's clock for this CPU; bit 0: it does.
    #[serde(default)]
    pub kvm_system_time: u64,
    /// Where the guest wants to be told of the time that this CPU loses; bit 0: it does.
    #[serde(default)]
    pub kvm_steal_time: u64,
}

/// What the CPU has to do before or after its next instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PendingEvents {
    /// Interrupts are held back for one instruction (after STI, MOV SS, POP SS).
    pub interrupt_shadow: bool,
    /// That shadow also holds back debug exceptions (MOV SS, POP SS).
    pub mov_ss_shadow: bool,
    /// NMIs are blocked until IRET.
    pub nmi_blocked: bool,
    /// The CPU is halted (HLT) and waits for an interrupt.
    pub halted: bool,
}

/// Everything software can observe of a CPU at an instruction boundary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // the names are the manual's
pub struct CpuState {
    /// RAX RCX RDX RBX RSP RBP RSI RDI R8-R15.
    pub gpr: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    /// ES CS SS DS FS GS.
    pub segments: [Segment; 6],
    pub ldtr: Segment,
    pub tr: Segment,
    pub gdtr: DescriptorTable,
    pub idtr: DescriptorTable,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    pub xcr0: u64,
    /// DR0-DR3, DR6, DR7.
    pub dr: [u64; 6],
    pub msrs: Msrs,
    /// XSAVE image in the standard form with 64-bit x87 pointers, [`XSAVE_LEN`] bytes; see [`XSAVE_SELECTORS`] too.
    pub xsave: Vec<u8>,
    pub events: PendingEvents,
}

impl CpuState {
    /// The state after power-on or INIT of the boot processor (Intel SDM volume 3, table 10-1).
    pub fn reset() -> Self {
        let data = Segment { selector: 0, base: 0, limit: 0xffff, attr: 0x93 };
        let code = Segment { selector: 0xf000, base: 0xffff_0000, limit: 0xffff, attr: 0x9b };
        let mut xsave = vec![0; XSAVE_LEN];
        xsave[0..2].copy_from_slice(&0x37fu16.to_le_bytes()); // FCW as FNINIT leaves it
        xsave[24..28].copy_from_slice(&0x1f80u32.to_le_bytes()); // MXCSR
        let mut gpr = [0; 16];
        gpr[2] = 0x600; // EDX: family 6
        Self {
            gpr,
            rip: 0xfff0,
            rflags: rflags::FIXED,
            segments: [data, code, data, data, data, data],
            ldtr: Segment { attr: 0x82, limit: 0xffff, ..Segment::default() },
            tr: Segment { attr: 0x8b, limit: 0xffff, ..Segment::default() },
            gdtr: DescriptorTable { base: 0, limit: 0xffff },
            idtr: DescriptorTable { base: 0, limit: 0xffff },
            cr0: cr0::CD | cr0::NW | cr0::ET,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            efer: 0,
            xcr0: 1,
            dr: [0, 0, 0, 0, 0xffff_0ff0, 0x400],
            msrs: Msrs { pat: 0x0007_0406_0007_0406, misc_enable: 1, ..Msrs::default() },
            xsave,
            events: PendingEvents::default(),
        }
    }

    /// The state after a start-up IPI with `vector` (Intel SDM volume 3, 9.4.4): real mode at `vector`:0000.
    pub fn startup(vector: u8) -> Self {
        let mut state = Self::reset();
        state.segments[1].selector = u16::from(vector) << 8;
        state.segments[1].base = u64::from(vector) << 12;
        state.rip = 0;
        state
    }
}

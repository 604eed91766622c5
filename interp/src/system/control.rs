//! Control registers: MOV CR, LMSW, SMSW, CLTS (Intel SDM volume 3, 2.5 and 4.1).

use cpu::x86::{Feature, cr0, cr4, efer, seg, seg_attr};
use iced_x86::Mnemonic;

use super::descriptor::kind;
use super::{drain, serialised};
use crate::cpu::{CodeSize, Cpu};
use crate::decode::Lowering;
use crate::op::{Done, Op, Stop};

const CR0_BITS: u64 =
    cr0::PE | cr0::MP | cr0::EM | cr0::TS | cr0::NE | cr0::WP | cr0::AM | cr0::NW | cr0::CD | cr0::PG;
/// Changes of these invalidate translations.
const CR0_PAGING: u64 = cr0::PG | cr0::WP | cr0::PE | cr0::AM;
const CR4_BITS: u64 = cr4::TSD
    | cr4::DE
    | cr4::PSE
    | cr4::PAE
    | cr4::MCE
    | cr4::PGE
    | cr4::PCE
    | cr4::OSFXSR
    | cr4::OSXMMEXCPT
    | cr4::UMIP
    | cr4::FSGSBASE
    | cr4::PCIDE
    | cr4::SMEP
    | cr4::SMAP;
/// Changes of these invalidate translations, global ones too.
const CR4_PAGING: u64 = cr4::PSE | cr4::PAE | cr4::PGE | cr4::PCIDE | cr4::SMEP | cr4::SMAP;
/// CR3: do not invalidate the address space.
const CR3_KEEP: u64 = 1 << 63;
/// CR3 bits that are reserved in long mode.
const CR3_RESERVED: u64 = !((1 << cpu::x86::PHYS_BITS) - 1) & !CR3_KEEP;

/// MOV to and from control registers.
pub(super) fn lower_mov(l: &mut Lowering) -> bool {
    let to = l.insn.op0_register().is_cr();
    let register = l.insn.op_register(if to { 0 } else { 1 });
    if to {
        l.src(1);
    } else {
        l.dst(0);
    }
    match (register.number(), to) {
        (0, true) => l.end_with(write_cr0),
        (2, true) => l.run(write_cr2),
        (3, true) => l.end_with(write_cr3),
        (4, true) => l.end_with(write_cr4),
        (8, true) => l.end_with(write_cr8),
        (0, false) => l.run(read_cr0),
        (2, false) => l.run(read_cr2),
        (3, false) => l.run(read_cr3),
        (4, false) => l.run(read_cr4),
        (8, false) => l.run(read_cr8),
        _ => l.end_with(super::undefined),
    }
}

/// LMSW, SMSW, CLTS.
pub(super) fn lower(l: &mut Lowering) -> bool {
    match l.insn.mnemonic() {
        Mnemonic::Clts => l.end_with(clts),
        Mnemonic::Lmsw => {
            l.source16(0);
            l.end_with(lmsw)
        }
        _ => {
            l.selector_target(0);
            l.run(smsw)
        }
    }
}

macro_rules! reader {
    ($name:ident, $register:ident) => {
        fn $name(cpu: &mut Cpu, op: &Op) -> Done {
            cpu.require_cpl0()?;
            cpu.set_system_reg(op.dst, cpu.$register);
            Ok(())
        }
    };
}
reader!(read_cr0, cr0);
reader!(read_cr2, cr2);
reader!(read_cr3, cr3);
reader!(read_cr4, cr4);

fn read_cr8(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.require_cpl0()?;
    let priority = cpu.io().task_priority();
    cpu.set_system_reg(op.dst, u64::from(priority));
    Ok(())
}

fn write_cr8(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.require_cpl0()?;
    let value = cpu.system_reg(op.src);
    if value > 0xf {
        return Err(cpu.gp0());
    }
    cpu.io().set_task_priority(value as u8);
    cpu.rip = cpu.next_ip(op); // the one control register that does not serialise
    Err(Stop::Jump)
}

fn write_cr2(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.require_cpl0()?;
    cpu.cr2 = cpu.system_reg(op.src);
    drain();
    Ok(())
}

fn write_cr0(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.require_cpl0()?;
    let next_ip = cpu.next_ip(op);
    cpu.set_cr0(cpu.system_reg(op.src))?;
    drain();
    cpu.rip = next_ip;
    Err(Stop::Jump)
}

fn write_cr3(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.require_cpl0()?;
    let value = cpu.system_reg(op.src);
    let pcide = cpu.cr4 & cr4::PCIDE != 0;
    let keep = pcide && value & CR3_KEEP != 0;
    if cpu.long_mode() && (value & CR3_RESERVED != 0 || (!pcide && value & CR3_KEEP != 0)) {
        return Err(cpu.gp0());
    }
    if cpu.uses_pdptes(cpu.cr0, cpu.cr4) && !cpu.valid_pdptes(value) {
        return Err(cpu.gp0());
    }
    cpu.cr3 = value & !CR3_KEEP;
    cpu.tlb.switch(cpu.pcid(), keep);
    serialised(cpu, op)
}

fn write_cr4(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.require_cpl0()?;
    let new = cpu.system_reg(op.src);
    let old = cpu.cr4;
    let mut known = CR4_BITS;
    if cpu.model.has(Feature::XSAVE) {
        known |= cr4::OSXSAVE;
    }
    let enters_pcid = new & !old & cr4::PCIDE != 0;
    let invalid = new & !known != 0
        || (cpu.long_mode() && new & cr4::PAE == 0)
        || (enters_pcid && (!cpu.long_mode() || cpu.cr3 & 0xfff != 0));
    if invalid {
        return Err(cpu.gp0());
    }
    let changed = new ^ old;
    if cpu.uses_pdptes(cpu.cr0, new) && changed & CR4_PAGING != 0 && !cpu.valid_pdptes(cpu.cr3) {
        return Err(cpu.gp0());
    }
    cpu.cr4 = new;
    if changed & CR4_PAGING != 0 {
        cpu.tlb.flush_all();
        cpu.tlb.switch(cpu.pcid(), false);
        cpu.refresh();
    }
    serialised(cpu, op)
}

fn clts(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.require_cpl0()?;
    cpu.cr0 &= !cr0::TS;
    serialised(cpu, op)
}

fn lmsw(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.require_cpl0()?;
    let next_ip = cpu.next_ip(op);
    let low = cr0::PE | cr0::MP | cr0::EM | cr0::TS;
    let value = u64::from(cpu.load_source16(op)?) & low;
    // LMSW can set PE but not clear it.
    let kept = cpu.cr0 & (!low | cr0::PE);
    cpu.set_cr0(kept | value)?;
    drain();
    cpu.rip = next_ip;
    Err(Stop::Jump)
}

fn smsw(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.forbid_in_user_mode()?;
    cpu.store_selector(op, cpu.cr0)
}

impl Cpu {
    /// UMIP: instructions that store system registers are not for applications.
    pub(super) fn forbid_in_user_mode(&mut self) -> Result<(), Stop> {
        if self.cpl > 0 && self.cr4 & cr4::UMIP != 0 { Err(self.gp0()) } else { Ok(()) }
    }

    /// The address space that CR3 names.
    #[inline]
    pub fn pcid(&self) -> u16 {
        if self.cr4 & cr4::PCIDE != 0 { self.cr3 as u16 & 0xfff } else { 0 }
    }

    /// PAE paging outside long mode, which reads the four top entries when CR3 is loaded.
    fn uses_pdptes(&self, cr0: u64, cr4: u64) -> bool {
        cr0 & cr0::PG != 0 && cr4 & cr4::PAE != 0 && !self.long_mode()
    }

    /// The page-directory-pointer entries at CR3 have no reserved bits set.
    pub(super) fn valid_pdptes(&self, cr3: u64) -> bool {
        let reserved = !((1 << cpu::x86::PHYS_BITS) - 1) | 0x1e6;
        (0..4).all(|i| {
            let entry = self.ram.load_u64((cr3 & 0xffff_ffe0) + i * 8).unwrap_or(u64::MAX);
            entry & 1 == 0 || entry & reserved == 0
        })
    }

    /// Writes CR0 with all checks and consequences.
    fn set_cr0(&mut self, value: u64) -> Result<(), Stop> {
        let old = self.cr0;
        let new = value & CR0_BITS | cr0::ET;
        let pg = new & cr0::PG != 0;
        let invalid = value >> 32 != 0
            || (pg && new & cr0::PE == 0)
            || new & (cr0::NW | cr0::CD) == cr0::NW
            || (!pg && old & cr0::PG != 0 && self.cr4 & cr4::PCIDE != 0)
            || (!pg && old & cr0::PG != 0 && self.code_size == CodeSize::Bits64);
        if invalid {
            return Err(self.gp0());
        }
        let starts_paging = pg && old & cr0::PG == 0;
        if starts_paging && self.efer & efer::LME != 0 {
            let tss16 = self.tr.attr & 0xf & !kind::BUSY == kind::TSS16;
            let long_code = self.segments[seg::CS].attr & seg_attr::L != 0;
            if self.cr4 & cr4::PAE == 0 || tss16 || long_code {
                return Err(self.gp0());
            }
            self.efer |= efer::LMA;
        } else if starts_paging && self.uses_pdptes(new, self.cr4) && !self.valid_pdptes(self.cr3) {
            return Err(self.gp0());
        }
        if !pg {
            self.efer &= !efer::LMA;
        }
        self.cr0 = new;
        if (new ^ old) & CR0_PAGING != 0 {
            self.tlb.flush_all();
            self.refresh();
        }
        Ok(())
    }
}

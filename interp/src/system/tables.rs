//! Descriptor table registers and the instructions that look at descriptors: LGDT, SGDT, LIDT, SIDT, LLDT, SLDT,
//! LTR, STR, LAR, LSL, VERR, VERW, ARPL.

use cpu::x86::vector;
use cpu::{DescriptorTable, Segment};
use iced_x86::{Code, Mnemonic};

use super::descriptor::{Descriptor, is_null, kind, null_segment, selector_code};
use super::serialised;
use crate::cpu::{CodeSize, Cpu};
use crate::decode::Lowering;
use crate::op::{Done, Op, Stop};

pub(super) fn lower(l: &mut Lowering) -> bool {
    use Mnemonic as M;
    match l.insn.mnemonic() {
        M::Lgdt | M::Lidt | M::Sgdt | M::Sidt => {
            l.op.aux = match l.insn.code() {
                Code::Lgdt_m1632_16 | Code::Lidt_m1632_16 | Code::Sgdt_m1632_16 | Code::Sidt_m1632_16 => 2,
                Code::Lgdt_m1664 | Code::Lidt_m1664 | Code::Sgdt_m1664 | Code::Sidt_m1664 => 8,
                _ => 4,
            };
            match l.insn.mnemonic() {
                M::Lgdt => l.end_with(lgdt),
                M::Lidt => l.end_with(lidt),
                M::Sgdt => l.run(sgdt),
                _ => l.run(sidt),
            }
        }
        M::Sldt => {
            l.selector_target(0);
            l.run(sldt)
        }
        M::Str => {
            l.selector_target(0);
            l.run(str)
        }
        M::Lar | M::Lsl => {
            l.source16(1);
            l.dst(0);
            // The source's mark stays; the destination's size joins it.
            l.op.aux |= l.size(0) as u8;
            l.run(if l.insn.mnemonic() == M::Lar { lar } else { lsl })
        }
        M::Arpl => {
            l.selector_target(0);
            l.src(1);
            l.run(arpl)
        }
        mnemonic => {
            l.source16(0);
            match mnemonic {
                M::Lldt => l.end_with(lldt),
                M::Ltr => l.end_with(ltr),
                M::Verr => l.run(verr),
                _ => l.run(verw),
            }
        }
    }
}

/// Loads limit and base. 16-bit operands have a base of 24 bits.
fn load_table(cpu: &mut Cpu, op: &Op) -> Result<DescriptorTable, Stop> {
    cpu.require_cpl0()?;
    let wide = op.aux == 8;
    let lin = cpu.linear(op, if wide { 10 } else { 6 }, false)?;
    let limit = cpu.load(lin, op.seg)?;
    let at = cpu.wrap_linear(lin.wrapping_add(2));
    let base = match op.aux {
        8 => cpu.load::<u64>(at, op.seg)?,
        4 => u64::from(cpu.load::<u32>(at, op.seg)?),
        _ => u64::from(cpu.load::<u32>(at, op.seg)? & 0x00ff_ffff),
    };
    if wide && !Cpu::canonical(base) {
        return Err(cpu.gp0());
    }
    Ok(DescriptorTable { base, limit })
}

fn lgdt(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.gdtr = load_table(cpu, op)?;
    serialised(cpu, op)
}

fn lidt(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.idtr = load_table(cpu, op)?;
    serialised(cpu, op)
}

fn store_table(cpu: &mut Cpu, op: &Op, table: DescriptorTable) -> Done {
    cpu.forbid_in_user_mode()?;
    let wide = op.aux == 8;
    let lin = cpu.linear(op, if wide { 10 } else { 6 }, true)?;
    let at = cpu.wrap_linear(lin.wrapping_add(2));
    // The base first: if its page faults, nothing is written.
    let stored =
        if wide { cpu.store(at, op.seg, table.base)? } else { cpu.store(at, op.seg, table.base as u32)? };
    stored.and(cpu.store(lin, op.seg, table.limit)?).done()
}

fn sgdt(cpu: &mut Cpu, op: &Op) -> Done {
    store_table(cpu, op, cpu.gdtr)
}

fn sidt(cpu: &mut Cpu, op: &Op) -> Done {
    store_table(cpu, op, cpu.idtr)
}

impl Cpu {
    /// #UD in real and v8086 mode.
    fn require_segmentation(&mut self) -> Result<(), Stop> {
        if self.real_segments() { Err(self.ud()) } else { Ok(()) }
    }

    /// A system segment register from its descriptor, which takes 16 bytes in long mode.
    fn system_segment(&mut self, selector: u16, descriptor: Descriptor) -> Result<Segment, Stop> {
        let mut base = descriptor.base();
        if self.long_mode() {
            base |= self.upper_half(descriptor, selector, 0)?;
            if !Self::canonical(base) {
                return Err(self.fault(vector::GP, selector_code(selector, 0)));
            }
        }
        Ok(Segment { selector, base, limit: descriptor.limit(), attr: descriptor.attr() })
    }
}

fn sldt(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.require_segmentation()?;
    cpu.forbid_in_user_mode()?;
    cpu.store_selector(op, u64::from(cpu.ldtr.selector))
}

fn str(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.require_segmentation()?;
    cpu.forbid_in_user_mode()?;
    cpu.store_selector(op, u64::from(cpu.tr.selector))
}

fn lldt(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.require_segmentation()?;
    cpu.require_cpl0()?;
    let selector = cpu.load_source16(op)?;
    cpu.ldtr = if is_null(selector) {
        null_segment(selector)
    } else {
        let code = selector_code(selector, 0);
        if selector & 4 != 0 {
            return Err(cpu.fault(vector::GP, code));
        }
        let descriptor = cpu.descriptor(selector, vector::GP)?;
        if descriptor.system() != Some(kind::LDT) {
            return Err(cpu.fault(vector::GP, code));
        }
        if !descriptor.present() {
            return Err(cpu.fault(vector::NP, code));
        }
        cpu.system_segment(selector, descriptor)?
    };
    serialised(cpu, op)
}

fn ltr(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.require_segmentation()?;
    cpu.require_cpl0()?;
    let selector = cpu.load_source16(op)?;
    if is_null(selector) {
        return Err(cpu.gp0());
    }
    let code = selector_code(selector, 0);
    if selector & 4 != 0 {
        return Err(cpu.fault(vector::GP, code));
    }
    let descriptor = cpu.descriptor(selector, vector::GP)?;
    let available = match descriptor.system() {
        Some(kind::TSS32) => true,
        Some(kind::TSS16) => !cpu.long_mode(),
        _ => false,
    };
    if !available {
        return Err(cpu.fault(vector::GP, code));
    }
    if !descriptor.present() {
        return Err(cpu.fault(vector::NP, code));
    }
    let mut tr = cpu.system_segment(selector, descriptor)?;
    cpu.update_access(descriptor, |byte| byte | kind::BUSY as u8)?;
    tr.attr |= kind::BUSY;
    cpu.tr = tr;
    serialised(cpu, op)
}

impl Cpu {
    /// The descriptor that LAR, LSL, VERR or VERW may look at; `None` clears ZF.
    fn visible(&mut self, selector: u16, system: &[u32]) -> Result<Option<Descriptor>, Stop> {
        if is_null(selector) {
            return Ok(None);
        }
        let Some(descriptor) = self.as_system(|cpu| cpu.find_descriptor(selector))? else { return Ok(None) };
        if let Some(kind) = descriptor.system()
            && !system.contains(&kind)
        {
            return Ok(None);
        }
        let conforming = descriptor.is_code() && descriptor.is_conforming();
        let privilege = self.cpl.max(selector as u8 & 3);
        Ok((conforming || privilege <= descriptor.dpl()).then_some(descriptor))
    }

    fn set_zf(&mut self, zf: bool) {
        self.flags = self.flags.with_zf(zf);
    }

    fn set_sized_dst(&mut self, op: &Op, value: u32) {
        match op.aux & 0xf {
            2 => self.set_dst(op, value as u16),
            _ => self.set_dst(op, value),
        }
    }
}

fn lar(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.require_segmentation()?;
    let selector = cpu.load_source16(op)?;
    let types: &[u32] = if cpu.long_mode() {
        &[kind::LDT, kind::TSS32, kind::TSS32_BUSY, kind::CALL32]
    } else {
        &[
            kind::TSS16,
            kind::LDT,
            kind::TSS16_BUSY,
            kind::CALL16,
            kind::TASK_GATE,
            kind::TSS32,
            kind::TSS32_BUSY,
            kind::CALL32,
        ]
    };
    let found = cpu.visible(selector, types)?;
    if let Some(descriptor) = found {
        cpu.set_sized_dst(op, (descriptor.raw >> 32) as u32 & 0x00ff_ff00);
    }
    cpu.set_zf(found.is_some());
    Ok(())
}

fn lsl(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.require_segmentation()?;
    let selector = cpu.load_source16(op)?;
    let types: &[u32] = if cpu.long_mode() {
        &[kind::LDT, kind::TSS32, kind::TSS32_BUSY]
    } else {
        &[kind::TSS16, kind::LDT, kind::TSS16_BUSY, kind::TSS32, kind::TSS32_BUSY]
    };
    let found = cpu.visible(selector, types)?;
    if let Some(descriptor) = found {
        cpu.set_sized_dst(op, descriptor.limit());
    }
    cpu.set_zf(found.is_some());
    Ok(())
}

fn verr(cpu: &mut Cpu, op: &Op) -> Done {
    verify(cpu, op, Descriptor::is_readable)
}

fn verw(cpu: &mut Cpu, op: &Op) -> Done {
    verify(cpu, op, Descriptor::is_writable_data)
}

fn verify(cpu: &mut Cpu, op: &Op, suits: fn(Descriptor) -> bool) -> Done {
    cpu.require_segmentation()?;
    let selector = cpu.load_source16(op)?;
    let found = cpu.visible(selector, &[])?;
    cpu.set_zf(found.is_some_and(suits));
    Ok(())
}

fn arpl(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.require_segmentation()?;
    let rpl = cpu.src::<u16>(op) & 3;
    let adjusted = |selector: u16| (selector & 3 < rpl).then_some(selector & !3 | rpl);
    if op.aux & super::operand::REG != 0 {
        let new = adjusted(cpu.dst(op));
        if let Some(new) = new {
            cpu.set_dst(op, new);
        }
        cpu.set_zf(new.is_some());
        return Ok(());
    }
    debug_assert!(cpu.code_size != CodeSize::Bits64);
    // Memory that need not change is not written, and may be read-only.
    let selector = cpu.load_op::<u16>(op)?;
    let new = adjusted(selector);
    let stored = match new {
        Some(new) => {
            let lin = cpu.linear(op, 2, true)?;
            cpu.store(lin, op.seg, new)?.done()
        }
        None => Ok(()),
    };
    cpu.set_zf(new.is_some());
    stored
}

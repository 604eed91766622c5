//! Hardware task switches (Intel SDM volume 3, chapter 8).

use cpu::Segment;
use cpu::x86::{Exception, cr0, cr4, rflags, seg, seg_attr, vector};

use super::debug::{KEEP_RF, dr6};
use super::descriptor::{is_null, kind, null_segment, selector_code};
use super::stack::Stack;
use crate::cpu::Cpu;
use crate::mmu::{Access, Privilege};
use crate::op::Stop;

/// Why tasks are switched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    Jump,
    Call,
    /// IRET with NT set.
    Return,
    /// An event through a task gate, with its error code and the EXT bit of codes raised meanwhile.
    Event {
        code: Option<u32>,
        ext: u32,
    },
}

/// The new task is in.
pub(super) enum Switched {
    Runs,
    /// Its state was found wanting: `cpu.exception` is to be delivered in it.
    Faulted,
}

/// Segment registers in the order in which a TSS holds them.
const ORDER: [usize; 6] = [seg::ES, seg::CS, seg::SS, seg::DS, seg::FS, seg::GS];

/// What a TSS holds of a task.
#[derive(Default)]
struct Image {
    cr3: Option<u32>,
    eip: u32,
    eflags: u32,
    gpr: [u32; 8],
    selectors: [u16; 6],
    ldt: u16,
    trap: bool,
}

impl Cpu {
    /// Switches to the task of `selector`; the running one goes on at `rip` with `flags` when it is resumed.
    /// `Err`: nothing but memory has changed.
    pub(super) fn task_switch(
        &mut self,
        selector: u16,
        cause: Cause,
        rip: u64,
        flags: u64,
    ) -> Result<Switched, Stop> {
        let returns = cause == Cause::Return;
        let bad = if returns { vector::TS } else { vector::GP };
        let ext = if let Cause::Event { ext, .. } = cause { ext } else { 0 };
        let code = selector_code(selector, ext);
        if is_null(selector) || selector & 4 != 0 {
            return Err(self.fault(bad, code));
        }
        let new = self.as_system(|cpu| cpu.system_descriptor(selector, bad, ext))?;
        let busy = if returns { kind::BUSY } else { 0 };
        let wide = match new.system() {
            Some(k) if k == kind::TSS32 | busy => true,
            Some(k) if k == kind::TSS16 | busy => false,
            _ => return Err(self.fault(bad, code)),
        };
        if !new.present() {
            return Err(self.fault(vector::NP, code));
        }
        if new.limit() < min_limit(wide) {
            return Err(self.fault(vector::TS, code));
        }

        let (old_tr, new_base) = (self.tr, new.base());
        let nested = matches!(cause, Cause::Call | Cause::Event { .. });
        self.probe_tss(old_tr.base, tr_is_wide(&old_tr), Access::Write)?;
        self.probe_tss(new_base, wide, if nested { Access::Write } else { Access::Read })?;
        let old_flags = if returns { flags & !rflags::NT } else { flags };
        let image = self.as_system(|cpu| -> Result<Image, Stop> {
            cpu.save_task(&old_tr, rip, old_flags)?;
            if nested {
                cpu.set_table(new_base, old_tr.selector)?;
            }
            cpu.read_task(new_base, wide)
        })?;
        if matches!(cause, Cause::Jump | Cause::Return) {
            let old = self.as_system(|cpu| cpu.system_descriptor(old_tr.selector, vector::TS, ext))?;
            self.update_access(old, |byte| byte & !(kind::BUSY as u8))?;
        }
        if !returns {
            self.update_access(new, |byte| byte | kind::BUSY as u8)?;
        }
        self.tr = Segment { selector, attr: new.attr() | kind::BUSY, base: new_base, limit: new.limit() };
        Ok(match self.enter_task(&image, wide, nested, cause) {
            Ok(()) => Switched::Runs,
            Err(_) => Switched::Faulted,
        })
    }

    fn probe_tss(&mut self, base: u64, wide: bool, access: Access) -> Result<(), Stop> {
        let size = min_limit(wide) as usize + 1;
        self.probe(self.wrap_linear(base), size, access, Privilege::System)
    }

    /// Stores the dynamic part of the running task.
    fn save_task(&mut self, tr: &Segment, rip: u64, flags: u64) -> Result<(), Stop> {
        let base = tr.base;
        let at = |offset: u64| base.wrapping_add(offset);
        let segments = self.segments;
        if tr_is_wide(tr) {
            self.set_table(at(0x20), rip as u32)?;
            self.set_table(at(0x24), flags as u32)?;
            for i in 0..8u64 {
                self.set_table(at(0x28 + i * 4), self.gpr::<u32>(i as usize))?;
            }
            for (i, &index) in ORDER.iter().enumerate() {
                self.set_table(at(0x48 + i as u64 * 4), segments[index].selector)?;
            }
        } else {
            self.set_table(at(0xe), rip as u16)?;
            self.set_table(at(0x10), flags as u16)?;
            for i in 0..8u64 {
                self.set_table(at(0x12 + i * 2), self.gpr::<u16>(i as usize))?;
            }
            for (i, &index) in ORDER.iter().take(4).enumerate() {
                self.set_table(at(0x22 + i as u64 * 2), segments[index].selector)?;
            }
        }
        Ok(())
    }

    fn read_task(&mut self, base: u64, wide: bool) -> Result<Image, Stop> {
        let at = |offset: u64| base.wrapping_add(offset);
        let mut image = Image::default();
        if wide {
            image.cr3 = Some(self.table(at(0x1c))?);
            image.eip = self.table(at(0x20))?;
            image.eflags = self.table(at(0x24))?;
            for i in 0..8 {
                image.gpr[i] = self.table(at(0x28 + i as u64 * 4))?;
            }
            for (i, &index) in ORDER.iter().enumerate() {
                image.selectors[index] = self.table(at(0x48 + i as u64 * 4))?;
            }
            image.ldt = self.table(at(0x60))?;
            image.trap = self.table::<u16>(at(0x64))? & 1 != 0;
        } else {
            image.eip = u32::from(self.table::<u16>(at(0xe))?);
            image.eflags = u32::from(self.table::<u16>(at(0x10))?);
            for i in 0..8 {
                image.gpr[i] = 0xffff_0000 | u32::from(self.table::<u16>(at(0x12 + i as u64 * 2))?);
            }
            for (i, &index) in ORDER.iter().take(4).enumerate() {
                image.selectors[index] = self.table(at(0x22 + i as u64 * 2))?;
            }
            image.ldt = self.table(at(0x2a))?;
        }
        Ok(image)
    }

    /// Takes over the new task's state. An error is an exception in the new task.
    fn enter_task(&mut self, image: &Image, wide: bool, nested: bool, cause: Cause) -> Result<(), Stop> {
        self.cr0 |= cr0::TS;
        self.rip = u64::from(image.eip);
        let nt = if nested { rflags::NT } else { 0 };
        self.set_rflags(u64::from(image.eflags) | nt);
        self.watch_hits |= KEEP_RF;
        self.dr[5] &= !0x155; // the local enable bits
        for (i, &value) in image.gpr.iter().enumerate() {
            self.regs[i] = u64::from(value);
        }
        for (i, &selector) in image.selectors.iter().enumerate() {
            self.segments[i] = null_segment(selector);
        }
        self.ldtr = null_segment(image.ldt);
        // Until CS is loaded nothing may run with the old privilege; its RPL becomes the CPL.
        let v8086 = self.v8086();
        self.cpl = if v8086 { 3 } else { image.selectors[seg::CS] as u8 & 3 };
        if let Some(cr3) = image.cr3
            && self.paging()
        {
            self.cr3 = u64::from(cr3);
            self.tlb.switch(0, false);
            if self.cr4 & cr4::PAE != 0 && !self.valid_pdptes(self.cr3) {
                return Err(self.fault(vector::TS, selector_code(self.tr.selector, 0)));
            }
        }
        self.refresh();
        self.load_task_segments(image, v8086)?;
        self.refresh();
        if let Cause::Event { code: Some(code), .. } = cause {
            let mut stack = Stack::current(self);
            stack.push_sized(self, if wide { 4 } else { 2 }, u64::from(code))?;
            stack.commit(self);
        }
        if u64::from(image.eip) > u64::from(self.segments[seg::CS].limit) {
            return Err(self.gp0());
        }
        if image.trap {
            return Err(self.raise(Exception::debug(dr6::BT)));
        }
        Ok(())
    }

    fn load_task_segments(&mut self, image: &Image, v8086: bool) -> Result<(), Stop> {
        if !is_null(image.ldt) {
            let code = selector_code(image.ldt, 0);
            if image.ldt & 4 != 0 {
                return Err(self.fault(vector::TS, code));
            }
            let ldt = self.descriptor(image.ldt, vector::TS)?;
            if ldt.system() != Some(kind::LDT) || !ldt.present() {
                return Err(self.fault(vector::TS, code));
            }
            self.ldtr =
                Segment { selector: image.ldt, base: ldt.base(), limit: ldt.limit(), attr: ldt.attr() };
        }
        if v8086 {
            for (i, &selector) in image.selectors.iter().enumerate() {
                self.segments[i] = self.real_segment(i, selector);
            }
            return Ok(());
        }
        let cs = image.selectors[seg::CS];
        let ss = image.selectors[seg::SS];
        if is_null(ss) {
            return Err(self.fault(vector::TS, selector_code(ss, 0)));
        }
        self.segments[seg::SS] = self.checked_stack(ss, self.cpl, vector::TS, 0)?;
        if is_null(cs) {
            return Err(self.fault(vector::TS, selector_code(cs, 0)));
        }
        let code = self.descriptor(cs, vector::TS)?;
        let allowed = if code.is_conforming() { code.dpl() <= self.cpl } else { code.dpl() == self.cpl };
        if !code.is_code() || !allowed {
            return Err(self.fault(vector::TS, selector_code(cs, 0)));
        }
        self.check_code(code, cs, 0)?;
        self.mark_accessed(code)?;
        self.segments[seg::CS] = code.segment(cs);
        for index in [seg::DS, seg::ES, seg::FS, seg::GS] {
            self.segments[index] = self.data_segment(image.selectors[index], vector::TS)?;
        }
        Ok(())
    }

    /// IRET with NT set: back to the task that the running one's link names.
    pub(super) fn task_return(&mut self, rip: u64) -> Result<Switched, Stop> {
        let base = self.tr.base;
        let link: u16 = self.as_system(|cpu| cpu.table(base))?;
        let flags = self.rflags();
        self.task_switch(link, Cause::Return, rip, flags)
    }

    /// Ends an instruction that switched tasks.
    pub(super) fn end_task_switch(&mut self, switched: Switched) -> Stop {
        match switched {
            Switched::Runs => Stop::Jump,
            Switched::Faulted => self.deliver_exception().err().unwrap_or(Stop::Jump),
        }
    }
}

/// The limit a TSS must have at least.
fn min_limit(wide: bool) -> u32 {
    if wide { 0x67 } else { 0x2b }
}

fn tr_is_wide(tr: &Segment) -> bool {
    tr.attr & seg_attr::TYPE & !kind::BUSY == kind::TSS32
}

//! Segment descriptors: fetching them from the tables, and loading segment registers with all checks
//! (Intel SDM volume 3, 3.4 and 5.5 to 5.8).

use cpu::Segment;
use cpu::x86::{Exception, cr4, rflags, seg, seg_attr, vector};

use crate::cpu::{CodeSize, Cpu};
use crate::mmu::Int;
use crate::op::{SEG_FLAT, Stop};

/// Types of system descriptors.
pub(super) mod kind {
    pub const TSS16: u32 = 0x1;
    pub const LDT: u32 = 0x2;
    pub const TSS16_BUSY: u32 = 0x3;
    pub const CALL16: u32 = 0x4;
    pub const TASK_GATE: u32 = 0x5;
    pub const INT16: u32 = 0x6;
    pub const TRAP16: u32 = 0x7;
    pub const TSS32: u32 = 0x9;
    pub const TSS32_BUSY: u32 = 0xb;
    pub const CALL32: u32 = 0xc;
    pub const INT32: u32 = 0xe;
    pub const TRAP32: u32 = 0xf;
    /// The bit that makes a TSS busy.
    pub const BUSY: u32 = 0x2;
}

/// Eight bytes of a descriptor table, and where they are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Descriptor {
    pub raw: u64,
    pub addr: u64,
}

impl Descriptor {
    /// Base address bits 0 to 31.
    #[inline]
    pub fn base(self) -> u64 {
        (self.raw >> 16 & 0x00ff_ffff) | (self.raw >> 32 & 0xff00_0000)
    }

    /// Limit in bytes.
    #[inline]
    pub fn limit(self) -> u32 {
        let limit = (self.raw & 0xffff | self.raw >> 32 & 0xf_0000) as u32;
        if self.attr() & seg_attr::G != 0 { (limit << 12) | 0xfff } else { limit }
    }

    /// As in [`Segment::attr`].
    #[inline]
    pub fn attr(self) -> u32 {
        (self.raw >> 40) as u32 & 0xf0ff
    }

    #[inline]
    pub fn dpl(self) -> u8 {
        (self.raw >> 45) as u8 & 3
    }

    #[inline]
    pub fn present(self) -> bool {
        self.attr() & seg_attr::P != 0
    }

    /// A code segment.
    #[inline]
    pub fn is_code(self) -> bool {
        self.attr() & (seg_attr::S | seg_attr::CODE) == seg_attr::S | seg_attr::CODE
    }

    #[inline]
    pub fn is_conforming(self) -> bool {
        self.attr() & seg_attr::DC != 0
    }

    pub fn is_writable_data(self) -> bool {
        let bits = seg_attr::S | seg_attr::CODE | seg_attr::RW;
        self.attr() & bits == seg_attr::S | seg_attr::RW
    }

    /// A data segment or a readable code segment.
    pub fn is_readable(self) -> bool {
        let attr = self.attr();
        attr & seg_attr::S != 0 && (attr & seg_attr::CODE == 0 || attr & seg_attr::RW != 0)
    }

    /// The type of a system descriptor, `None` of a code or data segment.
    #[inline]
    pub fn system(self) -> Option<u32> {
        let attr = self.attr();
        (attr & seg_attr::S == 0).then_some(attr & seg_attr::TYPE)
    }

    /// Selector of a gate.
    pub fn gate_selector(self) -> u16 {
        (self.raw >> 16) as u16
    }

    /// Offset bits 0 to 31 of a gate.
    pub fn gate_offset(self) -> u64 {
        self.raw & 0xffff | self.raw >> 32 & 0xffff_0000
    }

    /// The segment register contents.
    #[inline]
    pub fn segment(self, selector: u16) -> Segment {
        Segment { selector, base: self.base(), limit: self.limit(), attr: self.attr() | seg_attr::ACCESSED }
    }
}

/// A segment register loaded with a null selector.
pub(super) fn null_segment(selector: u16) -> Segment {
    Segment { selector, base: 0, limit: 0, attr: seg_attr::UNUSABLE }
}

/// A stack segment register loaded with a null selector, which 64-bit mode allows; its DPL is the CPL.
pub(super) fn null_stack(cpl: u8) -> Segment {
    let attr = seg_attr::UNUSABLE | u32::from(cpl) << seg_attr::DPL_SHIFT;
    Segment { selector: u16::from(cpl), base: 0, limit: 0, attr }
}

pub(super) fn is_null(selector: u16) -> bool {
    selector & !3 == 0
}

/// The error code that names a selector.
#[inline]
pub(super) fn selector_code(selector: u16, ext: u32) -> u32 {
    u32::from(selector & !3) | ext
}

impl Cpu {
    /// Raises an exception with an error code.
    #[cold]
    pub(super) fn fault(&mut self, vector: u8, code: u32) -> Stop {
        self.raise(Exception::with_code(vector, code))
    }

    /// Raises #GP(0).
    #[cold]
    pub(super) fn gp0(&mut self) -> Stop {
        self.raise(Exception::gp(0))
    }

    /// Raises #UD.
    #[cold]
    pub(super) fn ud(&mut self) -> Stop {
        self.raise(Exception::ud())
    }

    /// #GP(0) unless CPL is 0.
    #[inline]
    pub(super) fn require_cpl0(&mut self) -> Result<(), Stop> {
        if self.cpl != 0 { Err(self.gp0()) } else { Ok(()) }
    }

    /// Makes accesses from here on those of a privilege level; RFLAGS.AC as in `eflags`.
    #[inline]
    pub fn set_privilege(&mut self, cpl: u8, eflags: u64) {
        self.cpl = cpl;
        self.eflags = eflags;
        self.tlb.set_mode(cpl == 3, self.cr4 & cr4::SMAP != 0, eflags & rflags::AC != 0);
    }

    /// Runs `body` with the privilege of accesses to descriptor tables and task-state segments.
    #[inline]
    pub(super) fn as_system<R>(&mut self, body: impl FnOnce(&mut Self) -> R) -> R {
        let (cpl, eflags) = (self.cpl, self.eflags);
        self.set_privilege(0, eflags & !rflags::AC);
        let result = body(self);
        self.set_privilege(cpl, eflags);
        result
    }

    /// Loads from a system structure; within [`as_system`](Self::as_system).
    #[inline]
    pub(super) fn table<T: Int>(&mut self, lin: u64) -> Result<T, Stop> {
        let lin = self.wrap_linear(lin);
        self.load(lin, SEG_FLAT)
    }

    /// Stores to a system structure; within [`as_system`](Self::as_system).
    pub(super) fn set_table<T: Int>(&mut self, lin: u64, value: T) -> Result<(), Stop> {
        let lin = self.wrap_linear(lin);
        // System instructions end their block, which notices overwritten code.
        self.store(lin, SEG_FLAT, value).map(|_| ())
    }

    /// Where the descriptor of a selector is; `None` beyond the table's limit.
    #[inline]
    fn descriptor_address(&self, selector: u16) -> Option<u64> {
        let offset = u64::from(selector & !7);
        let (base, limit) = if selector & 4 == 0 {
            (self.gdtr.base, u64::from(self.gdtr.limit))
        } else if self.ldtr.attr & seg_attr::UNUSABLE != 0 {
            return None;
        } else {
            (self.ldtr.base, u64::from(self.ldtr.limit))
        };
        (offset + 7 <= limit).then(|| base.wrapping_add(offset))
    }

    /// The descriptor of a selector, if the table has it; within [`as_system`](Self::as_system).
    #[inline]
    pub(super) fn find_descriptor(&mut self, selector: u16) -> Result<Option<Descriptor>, Stop> {
        match self.descriptor_address(selector) {
            Some(addr) => Ok(Some(Descriptor { raw: self.table(addr)?, addr })),
            None => Ok(None),
        }
    }

    /// The descriptor of a selector; `vector` with the selector if there is none. Within
    /// [`as_system`](Self::as_system).
    #[inline]
    pub(super) fn system_descriptor(
        &mut self,
        selector: u16,
        vector: u8,
        ext: u32,
    ) -> Result<Descriptor, Stop> {
        match self.find_descriptor(selector)? {
            Some(descriptor) => Ok(descriptor),
            None => Err(self.fault(vector, selector_code(selector, ext))),
        }
    }

    /// The descriptor of a selector; `vector` with the selector if there is none.
    #[inline]
    pub(super) fn descriptor(&mut self, selector: u16, vector: u8) -> Result<Descriptor, Stop> {
        self.as_system(|cpu| cpu.system_descriptor(selector, vector, 0))
    }

    /// Bits 32 to 63 of the base or offset of a 16-byte descriptor; #GP if its type field is not zero or the
    /// table ends before it.
    pub(super) fn upper_half(
        &mut self,
        descriptor: Descriptor,
        selector: u16,
        ext: u32,
    ) -> Result<u64, Stop> {
        let limit = if selector & 4 == 0 { u32::from(self.gdtr.limit) } else { self.ldtr.limit };
        let inside = u32::from(selector & !7) + 15 <= limit;
        let upper =
            if inside { self.as_system(|cpu| cpu.table(descriptor.addr.wrapping_add(8)))? } else { u64::MAX };
        if upper >> 40 & 0x1f != 0 {
            return Err(self.fault(vector::GP, selector_code(selector, ext)));
        }
        Ok(upper << 32)
    }

    /// Sets the accessed bit of a code or data descriptor in memory.
    #[inline]
    pub(super) fn mark_accessed(&mut self, descriptor: Descriptor) -> Result<(), Stop> {
        if descriptor.attr() & seg_attr::ACCESSED != 0 {
            return Ok(());
        }
        self.update_access(descriptor, |byte| byte | seg_attr::ACCESSED as u8)
    }

    /// Changes the access byte of a descriptor in memory, atomically.
    pub(super) fn update_access(
        &mut self,
        descriptor: Descriptor,
        mut change: impl FnMut(u8) -> u8,
    ) -> Result<(), Stop> {
        let lin = self.wrap_linear(descriptor.addr.wrapping_add(5));
        // As in `set_table`, overwritten code is noticed at the end of the block.
        self.as_system(|cpu| cpu.modify_locked::<u8, ()>(lin, SEG_FLAT, |_, byte| (change(byte), ())))
            .map(|_| ())
    }

    /// Fills a segment register other than CS.
    #[inline]
    pub(super) fn set_segment(&mut self, index: usize, segment: Segment) {
        self.segments[index] = segment;
        let flat = self.code_size == CodeSize::Bits64 && index < seg::FS;
        self.seg_base[index] = if flat { 0 } else { segment.base };
    }

    /// Fills CS, and what depends on it.
    pub(super) fn set_code(&mut self, segment: Segment, cpl: u8) {
        self.segments[seg::CS] = segment;
        self.cpl = cpl;
        self.refresh();
    }

    /// A segment register of real or v8086 mode.
    pub(super) fn real_segment(&self, index: usize, selector: u16) -> Segment {
        let base = u64::from(selector) << 4;
        if self.v8086() {
            return Segment { selector, base, limit: 0xffff, attr: 0xf3 };
        }
        // Limit and size stay, which is how software reaches 4 GiB from real mode.
        let old = self.segments[index];
        let access = if index == seg::CS { 0x9b } else { 0x93 };
        Segment { selector, base, limit: old.limit, attr: old.attr & (seg_attr::G | seg_attr::DB) | access }
    }

    /// Loads a segment register other than CS as MOV and POP do.
    pub(super) fn load_segment(&mut self, index: usize, selector: u16) -> Result<(), Stop> {
        let segment = if self.real_segments() {
            self.real_segment(index, selector)
        } else if index == seg::SS {
            self.stack_segment(selector)?
        } else {
            self.data_segment(selector, vector::GP)?
        };
        self.set_segment(index, segment);
        Ok(())
    }

    /// Checks and fetches what DS, ES, FS or GS shall hold; `vector` is #GP, or #TS in a task switch.
    pub(super) fn data_segment(&mut self, selector: u16, vector: u8) -> Result<Segment, Stop> {
        if is_null(selector) {
            return Ok(null_segment(selector));
        }
        let descriptor = self.descriptor(selector, vector)?;
        let conforming = descriptor.is_code() && descriptor.is_conforming();
        let privilege = self.cpl.max(selector as u8 & 3);
        if !descriptor.is_readable() || (!conforming && privilege > descriptor.dpl()) {
            return Err(self.fault(vector, selector_code(selector, 0)));
        }
        if !descriptor.present() {
            return Err(self.fault(vector::NP, selector_code(selector, 0)));
        }
        self.mark_accessed(descriptor)?;
        Ok(descriptor.segment(selector))
    }

    /// Loads a segment register with what it has been loaded with elsewhere at CPL 3: null if the tables have no such segment.
    pub fn adopt_selector(&mut self, index: usize, selector: u16) {
        if index == seg::CS {
            if let Ok(Some(descriptor)) = self.as_system(|cpu| cpu.find_descriptor(selector)) {
                self.set_code(descriptor.segment(selector), 3);
            }
        } else {
            let segment = self.data_segment(selector, vector::GP);
            self.set_segment(index, segment.unwrap_or_else(|_| null_segment(selector)));
        }
    }

    fn stack_segment(&mut self, selector: u16) -> Result<Segment, Stop> {
        if is_null(selector) {
            let allowed =
                self.code_size == CodeSize::Bits64 && self.cpl < 3 && selector as u8 & 3 == self.cpl;
            return if allowed { Ok(null_stack(self.cpl)) } else { Err(self.gp0()) };
        }
        self.checked_stack(selector, self.cpl, vector::GP, 0)
    }

    /// Checks and fetches a stack segment for privilege level `cpl`, not null; `vector` is #GP, or #TS where
    /// the selector comes from a TSS.
    pub(super) fn checked_stack(
        &mut self,
        selector: u16,
        cpl: u8,
        vector: u8,
        ext: u32,
    ) -> Result<Segment, Stop> {
        let descriptor = self.as_system(|cpu| cpu.system_descriptor(selector, vector, ext))?;
        if selector as u8 & 3 != cpl || !descriptor.is_writable_data() || descriptor.dpl() != cpl {
            return Err(self.fault(vector, selector_code(selector, ext)));
        }
        if !descriptor.present() {
            return Err(self.fault(vector::SS, selector_code(selector, ext)));
        }
        self.mark_accessed(descriptor)?;
        Ok(descriptor.segment(selector))
    }

    /// Checks of a code descriptor that do not depend on privilege: present (#NP), and not both L and D.
    pub(super) fn check_code(&mut self, descriptor: Descriptor, selector: u16, ext: u32) -> Result<(), Stop> {
        if !descriptor.present() {
            return Err(self.fault(vector::NP, selector_code(selector, ext)));
        }
        let both = seg_attr::L | seg_attr::DB;
        if self.long_mode() && descriptor.attr() & both == both {
            return Err(self.fault(vector::GP, selector_code(selector, ext)));
        }
        Ok(())
    }

    /// #GP unless `ip` may be jumped to in a code segment: canonical, or within the limit.
    pub(super) fn check_target(&mut self, segment: &Segment, ip: u64, ext: u32) -> Result<(), Stop> {
        let inside = if self.long_mode() && segment.attr & seg_attr::L != 0 {
            Self::canonical(ip)
        } else {
            ip <= u64::from(segment.limit)
        };
        if inside { Ok(()) } else { Err(self.fault(vector::GP, ext)) }
    }
}

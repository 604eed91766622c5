//! The guest that a case starts from: memory with all tables, and a CPU state.

use std::sync::Arc;

use cpu::x86::{cr0, cr4, efer, rflags, seg};
use cpu::{CpuState, DescriptorTable, Segment};
use iced_x86::code_asm::{CodeAssembler, CodeLabel};
use iced_x86::{BlockEncoderOptions, IcedError};
use memory::GuestRam;

use crate::layout::{self, descriptor, gate, sel};
use crate::record;

/// The mode in which a case starts, at privilege level 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Real mode, all segments at 0.
    Real,
    /// 32-bit protected mode without paging, flat segments.
    Protected,
    /// The same with 32-bit paging.
    Paged32,
    /// The same with PAE paging.
    Pae,
    /// 64-bit mode.
    Long,
}

/// A guest under construction. Cases write their code with `asm` and change the rest by the methods.
pub struct Guest {
    /// Assembler for the code at the start address.
    pub asm: CodeAssembler,
    /// The state in which the CPU starts.
    pub state: CpuState,
    mode: Mode,
    ram: Arc<GuestRam>,
    mark: Option<CodeLabel>,
}

fn flat(selector: u16, attr: u32) -> Segment {
    Segment { selector, base: 0, limit: u32::MAX, attr }
}

impl Guest {
    /// RAM with all tables, and a CPU in `mode` at the start address.
    pub(crate) fn new(mode: Mode, ram: Arc<GuestRam>) -> Result<Self, IcedError> {
        let bits = match mode {
            Mode::Real => 16,
            Mode::Long => 64,
            _ => 32,
        };
        let mut this =
            Self { asm: CodeAssembler::new(bits)?, state: CpuState::reset(), mode, ram, mark: None };
        this.registers();
        this.descriptors();
        this.page_tables();
        record::install(&mut this)?;
        Ok(this)
    }

    /// Where the case's code starts.
    pub fn start(&self) -> u64 {
        if self.mode == Mode::Real { layout::REAL_CODE } else { layout::CODE }
    }

    /// The start mode.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    fn registers(&mut self) {
        let start = self.start();
        let state = &mut self.state;
        state.rip = start;
        state.rflags = rflags::FIXED;
        state.gpr[4] = layout::STACK;
        state.msrs.mtrr_def_type = 0xc06;
        if self.mode == Mode::Real {
            state.gpr[4] = layout::REAL_STACK;
            state.segments[seg::CS].selector = 0;
            state.segments[seg::CS].base = 0;
            state.cr0 = cr0::ET | cr0::NE;
            state.idtr = DescriptorTable { base: 0, limit: 0x3ff };
            return;
        }
        let long = self.mode == Mode::Long;
        state.segments = [flat(sel::DATA, 0xc093); 6];
        state.segments[seg::CS] = if long { flat(sel::CODE64, 0xa09b) } else { flat(sel::CODE32, 0xc09b) };
        state.gdtr = DescriptorTable { base: layout::GDT, limit: sel::BEYOND - 1 };
        state.idtr = DescriptorTable { base: layout::IDT, limit: if long { 0xfff } else { 0x7ff } };
        state.tr = Segment { selector: sel::TSS, base: layout::TSS, limit: 0x67, attr: 0x8b };
        state.ldtr = Segment { selector: 0, base: 0, limit: 0, attr: 1 << 16 };
        state.cr0 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP;
        state.cr4 = cr4::OSFXSR | cr4::OSXMMEXCPT;
        match self.mode {
            Mode::Paged32 => {
                state.cr0 |= cr0::PG;
                state.cr3 = layout::PD;
            }
            Mode::Pae => {
                state.cr0 |= cr0::PG;
                state.cr4 |= cr4::PAE | cr4::PGE;
                state.cr3 = layout::PDPT;
                state.efer = efer::NXE;
            }
            Mode::Long => {
                state.cr0 |= cr0::PG;
                state.cr4 |= cr4::PAE | cr4::PGE;
                state.cr3 = layout::PML4;
                state.efer = efer::SCE | efer::LME | efer::LMA | efer::NXE;
            }
            _ => {}
        }
    }

    fn descriptors(&mut self) {
        if self.mode == Mode::Real {
            return;
        }
        let long = self.mode == Mode::Long;
        let all = 0xf_ffff;
        let entries = [
            (sel::CODE32, descriptor(0, all, 0x9b, 0xc)),
            (sel::CODE64, descriptor(0, all, 0x9b, 0xa)),
            (sel::DATA, descriptor(0, all, 0x93, 0xc)),
            (sel::USER_CODE32, descriptor(0, all, 0xfb, 0xc)),
            (sel::USER_DATA, descriptor(0, all, 0xf3, 0xc)),
            (sel::USER_CODE64, descriptor(0, all, 0xfb, 0xa)),
            (sel::TSS, descriptor(layout::TSS as u32, 0x67, 0x8b, 0)),
            (sel::CONFORMING, descriptor(0, all, 0x9f, if long { 0xa } else { 0xc })),
            (sel::ABSENT, descriptor(0, all, 0x13, 0xc)),
            (sel::CODE16, descriptor(0, 0xffff, 0x9b, 0)),
            (sel::DATA16, descriptor(0, 0xffff, 0x93, 0)),
            (sel::LDT, descriptor(layout::LDT as u32, 0xff, 0x82, 0)),
        ];
        for (selector, raw) in entries {
            self.gdt(selector, raw);
        }
        if long {
            for (offset, stack) in [(4, layout::STACK0), (0x24, layout::STACK_IST)] {
                self.write_u64(layout::TSS + offset, stack);
            }
        } else {
            self.gdt(sel::TSS2, descriptor(layout::TSS2 as u32, 0x67, 0x89, 0));
            self.write_u32(layout::TSS + 4, layout::STACK0 as u32);
            self.write_u32(layout::TSS + 8, u32::from(sel::DATA));
        }
        self.write_u16(layout::TSS + 0x66, 0x68); // no I/O bitmap
    }

    fn page_tables(&mut self) {
        if self.mode == Mode::Paged32 {
            self.write_u32(layout::PD, layout::PT as u32 | 7);
            for page in 0..512 {
                self.write_u32(layout::PT + page * 4, (page as u32) << 12 | 7);
            }
            return;
        }
        let top = if self.mode == Mode::Pae { 1 } else { 7 };
        self.write_u64(layout::PML4, layout::PDPT | 7);
        self.write_u64(layout::PDPT, layout::PD | top);
        self.write_u64(layout::PD, layout::PT | 7);
        for page in 0..512 {
            self.write_u64(layout::PT + page * 8, page << 12 | 7);
        }
    }

    /// Where the page-table entry of a page is.
    pub fn pte(&self, page: u64) -> u64 {
        layout::PT + (page >> 12) * if self.mode == Mode::Paged32 { 4 } else { 8 }
    }

    /// Replaces the page-table entry of a page of RAM.
    pub fn map(&mut self, page: u64, entry: u64) {
        let at = self.pte(page);
        if self.mode == Mode::Paged32 {
            self.write_u32(at, entry as u32);
        } else {
            self.write_u64(at, entry);
        }
    }

    /// Replaces a descriptor.
    pub fn gdt(&mut self, selector: u16, raw: u64) {
        self.write_u64(layout::GDT + u64::from(selector & !7), raw);
    }

    /// Replaces the gate of a vector; `access` is 0x8e for an interrupt gate of DPL 0, `extra` the IST.
    pub fn idt(&mut self, vector: u8, selector: u16, offset: u64, access: u8, extra: u8) {
        let low = gate(selector, offset, access, extra);
        if self.mode == Mode::Long {
            self.write_u64(layout::IDT + u64::from(vector) * 16, low);
            self.write_u64(layout::IDT + u64::from(vector) * 16 + 8, offset >> 32);
        } else {
            self.write_u64(layout::IDT + u64::from(vector) * 8, low);
        }
    }

    /// Changes type and privilege of a vector's gate, which leads to the recorder: 0xee lets ring 3 use it.
    pub fn idt_access(&mut self, vector: u8, access: u8) {
        let size = if self.mode == Mode::Long { 16 } else { 8 };
        self.write(layout::IDT + u64::from(vector) * size + 5, &[access]);
    }

    /// Writes memory. Cases stay within RAM.
    pub fn write(&mut self, addr: u64, bytes: &[u8]) {
        let written = self.ram.write(addr, bytes);
        debug_assert!(written.is_ok(), "case writes beyond RAM: {addr:#x}");
    }

    /// Writes a 16-bit word.
    pub fn write_u16(&mut self, addr: u64, value: u16) {
        self.write(addr, &value.to_le_bytes());
    }

    /// Writes a 32-bit word.
    pub fn write_u32(&mut self, addr: u64, value: u32) {
        self.write(addr, &value.to_le_bytes());
    }

    /// Writes a 64-bit word.
    pub fn write_u64(&mut self, addr: u64, value: u64) {
        self.write(addr, &value.to_le_bytes());
    }

    /// Assembles another piece of code at `addr`, in code of `bits` bits.
    pub fn code_at(
        &mut self,
        addr: u64,
        bits: u32,
        code: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    ) -> Result<(), IcedError> {
        let mut asm = CodeAssembler::new(bits)?;
        code(&mut asm)?;
        let bytes = asm.assemble(addr)?;
        self.write(addr, &bytes);
        Ok(())
    }

    /// Code in ring 3 of the start mode, entered from the case's code by IRET; it starts at [`layout::CODE`]
    /// plus 0x2000. RFLAGS there are `flags`.
    pub fn user(
        &mut self,
        flags: u32,
        code: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    ) -> Result<(), IcedError> {
        let entry = layout::CODE + 0x2000;
        let long = self.mode == Mode::Long;
        let cs = if long { sel::USER_CODE64 } else { sel::USER_CODE32 };
        let words = [u32::from(sel::USER_DATA), layout::STACK3 as u32, flags, u32::from(cs), entry as u32];
        for word in words {
            self.asm.push(word as i32)?;
        }
        if long {
            self.asm.iretq()?;
        } else {
            self.asm.iretd()?;
        }
        self.code_at(entry, if long { 64 } else { 32 }, code)
    }

    /// Marks the place of the next instruction, for [`Expect::FaultAtMark`](crate::Expect::FaultAtMark).
    pub fn mark(&mut self) -> Result<(), IcedError> {
        let mut label = self.asm.create_label();
        self.asm.set_label(&mut label)?;
        self.mark = Some(label);
        Ok(())
    }

    /// Puts the case's code into memory and gives the marked address.
    pub(crate) fn finish(&mut self) -> Result<Option<u64>, IcedError> {
        let start = self.start();
        let options = BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS;
        let result = self.asm.assemble_options(start, options)?;
        self.write(start, &result.inner.code_buffer);
        self.mark.map(|label| result.label_ip(&label)).transpose()
    }
}

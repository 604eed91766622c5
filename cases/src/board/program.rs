//! The guest of a case: a flat image with everything in its place.

use cpu::x86::{cr0, cr4, efer, msr};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::asm::{Asm, Done};
use super::case::Outcome;
use super::layout::*;
use super::part::{DEBUG_EXIT, IOAPIC, LAPIC};
use crate::layout::{descriptor, gate};

/// A program under construction: every CPU has its own code, all share the interrupt handlers.
pub struct Program {
    image: Vec<u8>,
    cpus: u32,
    /// Number of the last check.
    checks: u8,
    /// Where the next handler goes.
    next: u64,
}

/// Stops a CPU that has nothing to do any more.
fn park(a: &mut CodeAssembler) -> Done {
    let mut forever = a.create_label();
    a.set_label(&mut forever)?;
    a.cli()?;
    a.hlt()?;
    a.jmp(forever)
}

fn assemble(bits: u32, at: u64, code: impl FnOnce(&mut CodeAssembler) -> Done) -> Result<Vec<u8>, IcedError> {
    let mut asm = CodeAssembler::new(bits)?;
    code(&mut asm)?;
    asm.assemble(at)
}

impl Program {
    pub(super) fn new(cpus: u32) -> Result<Self, IcedError> {
        let mut this = Self { image: vec![0; (END - LOAD) as usize], cpus, checks: 0, next: PIECES };
        this.tables();
        this.start_up()?;
        this.faults()?;
        for cpu in 0..CPUS {
            this.code_at(CODE + cpu * 0x1000, 64, park)?;
        }
        Ok(this)
    }

    /// Number of CPUs.
    pub fn cpus(&self) -> u32 {
        self.cpus
    }

    /// The code of a CPU, 64-bit, interrupts off. Behind its end CPU 0 ends the run, others halt for good.
    /// R15 points to the local APIC and R14 to the I/O APIC, and must not change.
    pub fn cpu(&mut self, cpu: u64, code: impl FnOnce(&mut Asm) -> Done) -> Done {
        let at = CODE + cpu * 0x1000;
        let bytes = self.assembled(at, |a| {
            code(a)?;
            if cpu == 0 { a.exit(0) } else { park(a) }
        })?;
        debug_assert!(bytes.len() <= 0x1000, "the code of a CPU takes more than a page");
        self.put(at, &bytes);
        Ok(())
    }

    /// The handler of an interrupt, for all CPUs. It may change RAX, RBX, RCX and RDX.
    pub fn on(&mut self, vector: u8, code: impl FnOnce(&mut Asm) -> Done) -> Done {
        let at = self.piece(|a| {
            for register in [rax, rbx, rcx, rdx] {
                a.push(register)?;
            }
            code(a)?;
            for register in [rdx, rcx, rbx, rax] {
                a.pop(register)?;
            }
            a.iretq()
        })?;
        self.gate(vector, at);
        Ok(())
    }

    /// A handler that counts in the word `vector` of its CPU's page, and ends the interrupt.
    pub fn count(&mut self, vector: u8) -> Done {
        self.on(vector, |a| {
            a.bump(vector.into())?;
            a.eoi()
        })
    }

    /// Lets [`Asm::faults`] catch an exception with an error code.
    pub fn catch(&mut self, vector: u8) -> Done {
        let at = self.piece(|a| {
            a.pop(r12)?; // the error code
            a.mov(qword_ptr(rsp), r13)?;
            a.iretq()
        })?;
        self.gate(vector, at);
        Ok(())
    }

    /// A piece of 64-bit code; its address, which is a multiple of 64.
    pub fn piece(&mut self, code: impl FnOnce(&mut Asm) -> Done) -> Result<u64, IcedError> {
        let at = self.next;
        let bytes = self.assembled(at, code)?;
        self.put(at, &bytes);
        self.next = (at + bytes.len() as u64).next_multiple_of(64);
        Ok(at)
    }

    /// 16-bit code that stands at [`LOW_CODE`] when CPU 0 begins.
    pub fn low(&mut self, code: impl FnOnce(&mut CodeAssembler) -> Done) -> Done {
        let bytes = assemble(16, LOW_CODE, code)?;
        self.put(LOW + (LOW_CODE - TRAMPOLINE), &bytes);
        Ok(())
    }

    /// A word of the image.
    pub fn put_u64(&mut self, at: u64, value: u64) {
        self.put(at, &value.to_le_bytes());
    }

    pub(super) fn finish(self) -> Result<Vec<u8>, IcedError> {
        Ok(self.image)
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        let start = (at - LOAD) as usize;
        self.image[start..start + bytes.len()].copy_from_slice(bytes);
    }

    fn assembled(&mut self, at: u64, code: impl FnOnce(&mut Asm) -> Done) -> Result<Vec<u8>, IcedError> {
        let mut asm = Asm::new(self.cpus, self.checks)?;
        code(&mut asm)?;
        self.checks = asm.checks();
        asm.assemble(at)
    }

    fn code_at(&mut self, at: u64, bits: u32, code: impl FnOnce(&mut CodeAssembler) -> Done) -> Done {
        let bytes = assemble(bits, at, code)?;
        self.put(at, &bytes);
        Ok(())
    }

    fn gate(&mut self, vector: u8, at: u64) {
        let entry = IDT + u64::from(vector) * 16;
        self.put_u64(entry, gate(sel::CODE64, at, 0x8e, 0));
        self.put_u64(entry + 8, at >> 32);
    }

    fn tables(&mut self) {
        const MAGIC: u32 = 0x1bad_b002;
        const FLAGS: u32 = 1 << 16; // the address fields hold
        let header =
            [MAGIC, FLAGS, 0u32.wrapping_sub(MAGIC + FLAGS), LOAD as u32, LOAD as u32, 0, 0, ENTRY as u32];
        for (i, field) in (0..).zip(header) {
            self.put(LOAD + i * 4, &field.to_le_bytes());
        }
        for (selector, access, flags) in
            [(sel::CODE32, 0x9b, 0xc), (sel::CODE64, 0x9b, 0xa), (sel::DATA, 0x93, 0xc)]
        {
            self.put_u64(GDT + u64::from(selector), descriptor(0, 0xf_ffff, access, flags));
        }
        // The first 4 GiB mapped to themselves, the 2 MiB from DATA by small pages.
        self.put_u64(PML4, PDPT | 3);
        for i in 0..4 {
            self.put_u64(PDPT + i * 8, (PD + i * 0x1000) | 3);
        }
        for i in 0..2048 {
            self.put_u64(PD + i * 8, i << 21 | 0x83);
        }
        self.put_u64(PD + (DATA >> 21) * 8, PT | 3);
        for i in 0..512 {
            self.put_u64(PT + i * 8, (DATA + (i << 12)) | 3);
        }
    }

    /// From the two places where CPUs begin to the code of each.
    fn start_up(&mut self) -> Done {
        const GDTR: u64 = TRAMPOLINE + 0xf00;
        let low = |at: u64| LOW + (at - TRAMPOLINE);
        self.put(low(GDTR), &0x2fu16.to_le_bytes());
        self.put(low(GDTR) + 2, &(GDT as u32).to_le_bytes());
        let far = |selector: u16, offset: u64| {
            let mut bytes = vec![0xea];
            bytes.extend((offset as u32).to_le_bytes());
            bytes.extend(selector.to_le_bytes());
            bytes
        };
        let trampoline = assemble(16, TRAMPOLINE, |a| {
            a.cli()?;
            a.xor(ax, ax)?;
            a.mov(ds, ax)?;
            a.lgdt(fword_ptr(GDTR))?;
            a.mov(eax, cr0)?;
            a.or(eax, 1)?;
            a.mov(cr0, eax)?;
            a.db(&[0x66])?;
            a.db(&far(sel::CODE32, LONG))
        })?;
        self.put(low(TRAMPOLINE), &trampoline);
        // The boot processor, in 32-bit protected mode.
        self.code_at(ENTRY, 32, |a| {
            a.cli()?;
            a.cld()?;
            a.mov(esi, LOW as u32)?;
            a.mov(edi, TRAMPOLINE as u32)?;
            a.mov(ecx, 0x800)?;
            a.rep().movsd()?;
            a.lgdt(fword_ptr(GDTR))?;
            for port in [0x21, 0xa1] {
                a.mov(al, 0xff)?; // whatever a loader left unmasked
                a.out(port, al)?;
            }
            a.db(&far(sel::CODE32, LONG))
        })?;
        self.code_at(LONG, 32, |a| {
            a.mov(eax, u32::from(sel::DATA))?;
            for segment in [ds, es, ss, fs, gs] {
                a.mov(segment, eax)?;
            }
            a.mov(eax, cr4)?;
            a.or(eax, (cr4::PAE | cr4::PGE | cr4::OSFXSR | cr4::OSXMMEXCPT) as i32)?;
            a.mov(cr4, eax)?;
            a.mov(eax, PML4 as u32)?;
            a.mov(cr3, eax)?;
            a.mov(ecx, msr::EFER)?;
            a.rdmsr()?;
            a.or(eax, (efer::SCE | efer::LME | efer::NXE) as i32)?;
            a.wrmsr()?;
            a.mov(eax, cr0)?;
            a.and(eax, !(cr0::CD | cr0::NW | cr0::EM | cr0::TS) as i32)?;
            a.or(eax, (cr0::PG | cr0::WP | cr0::NE | cr0::MP) as i32)?;
            a.mov(cr0, eax)?;
            a.db(&far(sel::CODE64, LONG64))
        })?;
        self.code_at(LONG64, 64, |a| {
            let mut boot = a.create_label();
            a.mov(eax, 1)?;
            a.cpuid()?;
            a.shr(ebx, 24)?;
            a.shl(ebx, 12)?;
            a.lea(rsp, qword_ptr(rbx + (STACKS + 0x1000)))?;
            a.mov(ecx, msr::GS_BASE)?;
            a.lea(rax, qword_ptr(rbx + CPU))?;
            a.xor(edx, edx)?;
            a.wrmsr()?;
            a.lidt(tword_ptr(IDTR))?;
            a.mov(r15d, LAPIC as u32)?;
            a.mov(r14d, IOAPIC as u32)?;
            a.mov(eax, dword_ptr(r15 + 0xf0))?;
            a.mov(qword_ptr(FIRST_SVR * 8).gs(), rax)?;
            a.mov(dword_ptr(r15 + 0xf0), 0x1ff)?; // the APIC is on
            a.inc(qword_ptr(STARTS * 8).gs())?;
            a.add(rbx, CODE as i32)?;
            a.mov(ecx, msr::APIC_BASE)?;
            a.rdmsr()?;
            a.test(eax, 0x100)?;
            a.jnz(boot)?;
            a.lock().inc(qword_ptr(STARTED))?;
            a.set_label(&mut boot)?;
            a.jmp(rbx)
        })?;
        self.put(IDTR, &0xfffu16.to_le_bytes());
        self.put_u64(IDTR + 2, IDT);
        Ok(())
    }

    /// Handlers that write down an unexpected interrupt or exception and end the run.
    fn faults(&mut self) -> Done {
        for vector in 0..=255u8 {
            let at = STUBS + u64::from(vector) * 16;
            self.code_at(at, 64, |a| {
                if !matches!(vector, 8 | 10..=14 | 17) {
                    a.push(0)?;
                }
                a.push(i32::from(vector))?;
                a.jmp(COMMON)
            })?;
            self.gate(vector, at);
        }
        self.code_at(COMMON, 64, |a| {
            for word in 0..3 {
                a.pop(qword_ptr(FAULT + word * 8))?;
            }
            a.mov(rax, cr2)?;
            a.mov(qword_ptr(FAULT + 24), rax)?;
            a.mov(eax, 1)?;
            a.cpuid()?;
            a.shr(ebx, 24)?;
            a.mov(qword_ptr(FAULT + 32), rbx)?;
            a.mov(al, u32::from(Outcome::UNEXPECTED))?;
            a.out(DEBUG_EXIT, al)?;
            park(a)
        })
    }
}

//! The assembler of board cases: iced's, with the phrases that they share.

use std::ops::{Deref, DerefMut};

use cpu::x86::msr;
use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::layout::*;
use super::part::*;

/// What code-writing functions give.
pub type Done = Result<(), IcedError>;

/// An assembler of 64-bit code. Checks are numbered through the program, in the order in which they are written.
pub struct Asm {
    inner: CodeAssembler,
    cpus: u32,
    checks: u8,
}

impl Deref for Asm {
    type Target = CodeAssembler;

    fn deref(&self) -> &CodeAssembler {
        &self.inner
    }
}

impl DerefMut for Asm {
    fn deref_mut(&mut self) -> &mut CodeAssembler {
        &mut self.inner
    }
}

/// Writes a byte to a port of any number. Changes RAX and RDX.
fn port_out(a: &mut CodeAssembler, port: u32, value: u32) -> Done {
    a.mov(edx, port)?;
    a.mov(al, value)?;
    a.out(dx, al)
}

impl Asm {
    pub(super) fn new(cpus: u32, checks: u8) -> Result<Self, IcedError> {
        Ok(Self { inner: CodeAssembler::new(64)?, cpus, checks })
    }

    pub(super) fn checks(&self) -> u8 {
        self.checks
    }

    /// Ends the run with a value, and halts.
    pub fn exit(&mut self, value: u8) -> Done {
        self.mov(al, u32::from(value))?;
        self.out(DEBUG_EXIT, al)?;
        self.park()
    }

    /// Halts for good.
    pub fn park(&mut self) -> Done {
        let mut forever = self.create_label();
        self.set_label(&mut forever)?;
        self.cli()?;
        self.hlt()?;
        self.jmp(forever)
    }

    /// A loop: `code` gets the label of its beginning and that of its end.
    pub fn repeat(&mut self, code: impl FnOnce(&mut Self, CodeLabel, CodeLabel) -> Done) -> Done {
        let (mut again, mut end) = (self.create_label(), self.create_label());
        self.set_label(&mut again)?;
        self.zero_bytes()?;
        code(self, again, end)?;
        self.set_label(&mut end)?;
        self.zero_bytes() // the label is that of the next instruction, whatever it is
    }

    /// Runs `code` so often; counts in RSI.
    pub fn times(&mut self, count: u32, code: impl FnOnce(&mut Self) -> Done) -> Done {
        let mut next = self.create_label();
        self.mov(esi, count)?;
        self.set_label(&mut next)?;
        self.zero_bytes()?;
        code(self)?;
        self.dec(esi)?;
        self.jnz(next)
    }

    // Checks.

    /// The run fails unless `jump` jumps to its label.
    pub fn check(&mut self, jump: impl FnOnce(&mut CodeAssembler, CodeLabel) -> Done) -> Done {
        self.checks += 1;
        let number = self.checks;
        let mut good = self.create_label();
        jump(&mut self.inner, good)?;
        self.mov(qword_ptr(SEEN), rax)?;
        self.exit(number)?;
        self.set_label(&mut good)?;
        self.zero_bytes()
    }

    /// EAX must be `value`.
    pub fn check_eax(&mut self, value: u32) -> Done {
        self.cmp(eax, value as i32)?;
        self.check(|a, good| a.je(good))
    }

    /// These bits of EAX must be set, or clear.
    pub fn check_bits(&mut self, bits: u32, set: bool) -> Done {
        self.and(eax, bits as i32)?;
        self.cmp(eax, if set { bits as i32 } else { 0 })?;
        self.check(|a, good| a.je(good))
    }

    /// A word of memory must be `value`. Changes RAX.
    pub fn check_word(&mut self, at: u64, value: i32) -> Done {
        self.mov(rax, qword_ptr(at))?;
        self.cmp(rax, value)?;
        self.check(|a, good| a.je(good))
    }

    /// What `code` does must raise the exception that the case catches. Changes R12 (the error code) and R13.
    pub fn faults(&mut self, code: impl FnOnce(&mut Self) -> Done) -> Done {
        let mut after = self.create_label();
        self.lea(r13, qword_ptr(after))?;
        code(self)?;
        self.check(|_, _| Ok(()))?;
        self.set_label(&mut after)?;
        self.zero_bytes()
    }

    // Time and other CPUs.

    /// Some time.
    pub fn delay(&mut self, rounds: u32) -> Done {
        self.mov(ecx, rounds)?;
        let mut next = self.create_label();
        self.set_label(&mut next)?;
        self.dec(ecx)?;
        self.jnz(next)
    }

    /// Spins until a word is at least `value`.
    pub fn wait(&mut self, at: u64, value: i32) -> Done {
        self.repeat(|a, again, end| {
            a.cmp(qword_ptr(at), value)?;
            a.jae(end)?;
            a.pause()?;
            a.jmp(again)
        })
    }

    /// Sleeps until interrupts have made a word at least `value`. Leaves interrupts off.
    pub fn sleep(&mut self, at: u64, value: i32) -> Done {
        self.repeat(|a, again, end| {
            a.cli()?;
            a.cmp(qword_ptr(at), value)?;
            a.jae(end)?;
            a.sti()?;
            a.hlt()?;
            a.jmp(again)
        })
    }

    /// Counts in a word of this CPU's page.
    pub fn bump(&mut self, word: u64) -> Done {
        self.inc(qword_ptr(word * 8).gs())
    }

    /// Appends a byte to the log, which holds eight. Changes RAX.
    pub fn log(&mut self, value: u8) -> Done {
        self.mov(rax, qword_ptr(LOG_LEN))?;
        self.mov(byte_ptr(rax + LOG), u32::from(value))?;
        self.inc(qword_ptr(LOG_LEN))
    }

    // MSRs, ports, APICs.

    /// RAX from an MSR. Changes RCX and RDX.
    pub fn msr(&mut self, number: u32) -> Done {
        self.mov(ecx, number)?;
        self.rdmsr()?;
        self.shl(rdx, 32)?;
        self.or(rax, rdx)
    }

    /// An MSR from a value. Changes RAX, RCX and RDX.
    pub fn set_msr(&mut self, number: u32, value: u64) -> Done {
        self.mov(ecx, number)?;
        self.mov(eax, value as u32)?;
        self.mov(edx, (value >> 32) as u32)?;
        self.wrmsr()
    }

    /// TSC in RAX. Changes RDX.
    pub fn tsc(&mut self) -> Done {
        self.rdtsc()?;
        self.shl(rdx, 32)?;
        self.or(rax, rdx)
    }

    /// A byte to a port. Changes RAX and RDX.
    pub fn outb(&mut self, port: u32, value: u32) -> Done {
        port_out(&mut self.inner, port, value)
    }

    /// EAX from a byte of a port. Changes RDX.
    pub fn inb(&mut self, port: u32) -> Done {
        self.mov(edx, port)?;
        self.in_(al, dx)?;
        self.movzx(eax, al)
    }

    /// A local APIC register.
    pub fn set_apic(&mut self, register: u32, value: u32) -> Done {
        self.mov(dword_ptr(r15 + register), value)
    }

    /// EAX from a local APIC register.
    pub fn apic(&mut self, register: u32) -> Done {
        self.mov(eax, dword_ptr(r15 + register))
    }

    /// The bit of a vector in one of the APIC's sets must be set, or clear. Changes RAX.
    pub fn check_vector(&mut self, (register, bit): (u32, u32), set: bool) -> Done {
        self.apic(register)?;
        self.check_bits(bit, set)
    }

    /// Spins until the bit of a vector is set. Changes RAX.
    pub fn wait_vector(&mut self, (register, bit): (u32, u32)) -> Done {
        self.repeat(|a, again, end| {
            a.apic(register)?;
            a.test(eax, bit as i32)?;
            a.jnz(end)?;
            a.pause()?;
            a.jmp(again)
        })
    }

    /// End of interrupt.
    pub fn eoi(&mut self) -> Done {
        self.set_apic(apic::EOI, 0)
    }

    /// Sends what the command says to a destination.
    pub fn ipi(&mut self, destination: u32, command: u32) -> Done {
        self.set_apic(apic::ICR_HIGH, destination << 24)?;
        self.set_apic(apic::ICR, command)
    }

    /// Starts all other CPUs and waits until they are there.
    pub fn start_others(&mut self) -> Done {
        self.set_apic(apic::ICR, icr::OTHERS | icr::INIT)?;
        self.delay(1000)?;
        for _ in 0..2 {
            self.set_apic(apic::ICR, icr::OTHERS | icr::STARTUP | (TRAMPOLINE >> 12) as u32)?;
            self.delay(1000)?;
        }
        self.wait(STARTED, self.cpus as i32 - 1)
    }

    /// INIT and start-up of one CPU.
    pub fn restart(&mut self, cpu: u32, page: u64) -> Done {
        self.ipi(cpu, icr::INIT)?;
        self.delay(1000)?;
        self.ipi(cpu, icr::STARTUP | (page >> 12) as u32)
    }

    /// A register of the I/O APIC.
    pub fn set_ioapic(&mut self, register: u32, value: u32) -> Done {
        self.mov(dword_ptr(r14), register)?;
        self.mov(dword_ptr(r14 + 0x10), value)
    }

    /// EAX from a register of the I/O APIC.
    pub fn ioapic(&mut self, register: u32) -> Done {
        self.mov(dword_ptr(r14), register)?;
        self.mov(eax, dword_ptr(r14 + 0x10))
    }

    /// A redirection entry for a CPU.
    pub fn route(&mut self, pin: u32, cpu: u32, entry: u32) -> Done {
        self.set_ioapic(0x11 + 2 * pin, cpu << 24)?;
        self.set_ioapic(0x10 + 2 * pin, entry)
    }

    /// Initialises the 8259s: vectors 0x20-0x2f, all masked but `inputs`; LINT0 passes their interrupts.
    pub fn init_pic(&mut self, inputs: u32) -> Done {
        for (port, value) in [(PIC1, 0x11), (PIC2, 0x11), (PIC1 + 1, 0x20), (PIC2 + 1, 0x28)] {
            self.outb(port, value)?;
        }
        for (port, value) in [(PIC1 + 1, 4), (PIC2 + 1, 2), (PIC1 + 1, 1), (PIC2 + 1, 1)] {
            self.outb(port, value)?;
        }
        self.outb(PIC1 + 1, !inputs & 0xff)?;
        self.outb(PIC2 + 1, !inputs >> 8 & 0xff)?;
        self.set_apic(apic::LVT_LINT0, apic::EXT_INT)
    }

    /// Channel 0 of the 8254: mode and count.
    pub fn pit(&mut self, mode: u32, count: u32) -> Done {
        self.outb(PIT_CONTROL, 0x30 | mode << 1)?;
        self.outb(PIT, count & 0xff)?;
        self.outb(PIT, count >> 8)
    }

    /// A register of the real-time clock.
    pub fn set_rtc(&mut self, register: u32, value: u32) -> Done {
        self.outb(RTC, register)?;
        self.outb(RTC + 1, value)
    }

    /// EAX from a register of the real-time clock.
    pub fn rtc(&mut self, register: u32) -> Done {
        self.outb(RTC, register)?;
        self.inb(RTC + 1)
    }

    /// IA32_TSC_DEADLINE so many ticks from now. Changes RAX, RCX and RDX.
    pub fn set_deadline(&mut self, ticks: u32) -> Done {
        self.tsc()?;
        self.add(rax, ticks as i32)?;
        self.mov(rdx, rax)?;
        self.shr(rdx, 32)?;
        self.mov(ecx, msr::TSC_DEADLINE)?;
        self.wrmsr()
    }
}

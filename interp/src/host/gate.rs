//! May an instruction run now? CR0, CR4 and XCR0 decide (Intel SDM volume 3, 2.5 and 14.3).

use cpu::x86::{Exception, cr0, cr4, vector, xcr0};

use super::form::Gate;
use crate::cpu::{CodeSize, Cpu};
use crate::op::Stop;

impl Cpu {
    #[inline(always)]
    pub(super) fn gate(&mut self, gate: Gate) -> Result<(), Stop> {
        match gate {
            Gate::Open => Ok(()),
            Gate::VexGpr => self.vex(),
            Gate::Sse => self.sse(),
            Gate::Avx => self.avx(),
            Gate::Mmx => self.mmx(),
            Gate::SseMmx => {
                self.sse()?;
                self.mmx()
            }
            Gate::X87 => self.waiting_x87(),
        }
    }

    /// Legacy-encoded instructions on XMM registers.
    #[inline(always)]
    pub(super) fn sse(&mut self) -> Result<(), Stop> {
        if self.cr0 & (cr0::EM | cr0::TS) != 0 || self.cr4 & cr4::OSFXSR == 0 {
            return Err(self.no_sse());
        }
        Ok(())
    }

    #[cold]
    fn no_sse(&mut self) -> Stop {
        let undefined = self.cr0 & cr0::EM != 0 || self.cr4 & cr4::OSFXSR == 0;
        self.raise(if undefined { Exception::ud() } else { Exception::new(vector::NM) })
    }

    /// VEX-encoded instructions on XMM and YMM registers.
    #[inline(always)]
    pub(super) fn avx(&mut self) -> Result<(), Stop> {
        const STATE: u64 = xcr0::SSE | xcr0::AVX;
        let enabled = self.cr4 & cr4::OSXSAVE != 0 && self.xcr0 & STATE == STATE;
        if !enabled || self.code_size != CodeSize::Bits64 && self.real_segments() {
            return Err(self.raise(Exception::ud()));
        }
        if self.cr0 & cr0::TS != 0 {
            return Err(self.raise(Exception::new(vector::NM)));
        }
        Ok(())
    }

    /// VEX-encoded instructions on general registers.
    #[inline(always)]
    pub(super) fn vex(&mut self) -> Result<(), Stop> {
        if self.code_size != CodeSize::Bits64 && self.real_segments() {
            return Err(self.raise(Exception::ud()));
        }
        Ok(())
    }

    /// MMX instructions.
    pub(super) fn mmx(&mut self) -> Result<(), Stop> {
        if self.cr0 & cr0::EM != 0 {
            return Err(self.raise(Exception::ud()));
        }
        self.task_switched()?;
        self.pending_x87()
    }

    /// x87 instructions that report pending exceptions first.
    pub(super) fn waiting_x87(&mut self) -> Result<(), Stop> {
        self.x87()?;
        self.pending_x87()
    }

    /// x87 instructions of any kind.
    pub(super) fn x87(&mut self) -> Result<(), Stop> {
        if self.cr0 & (cr0::EM | cr0::TS) != 0 {
            return Err(self.raise(Exception::new(vector::NM)));
        }
        self.host.reclaim_x87();
        Ok(())
    }

    /// #NM if CR0.TS.
    pub(super) fn task_switched(&mut self) -> Result<(), Stop> {
        if self.cr0 & cr0::TS != 0 {
            return Err(self.raise(Exception::new(vector::NM)));
        }
        Ok(())
    }

    /// #MF if an x87 exception is pending. With CR0.NE clear a PC would signal IRQ 13 through FERR#, which no
    /// machine of this project wires up: the exception stays pending and execution goes on.
    pub(super) fn pending_x87(&mut self) -> Result<(), Stop> {
        self.host.reclaim_x87();
        if self.host.x87().pending() && self.cr0 & cr0::NE != 0 {
            return Err(self.raise(Exception::new(vector::MF)));
        }
        Ok(())
    }

    /// What an unmasked SIMD floating-point exception raises.
    #[cold]
    pub(super) fn simd_exception(&mut self) -> Stop {
        let reported = self.cr4 & cr4::OSXMMEXCPT != 0;
        self.raise(if reported { Exception::new(vector::XM) } else { Exception::ud() })
    }
}

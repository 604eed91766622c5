//! Between the interpreter's state and [`cpu::CpuState`].

use cpu::x86::{cr0, cr4, efer, rflags, seg, seg_attr};
use cpu::{CpuState, EngineError, XSAVE_LEN};

use crate::cpu::Cpu;

impl Cpu {
    /// The architectural state.
    pub fn save_state(&self) -> CpuState {
        let mut gpr = [0; 16];
        gpr.copy_from_slice(&self.regs[..16]);
        CpuState {
            gpr,
            rip: self.rip,
            rflags: self.rflags(),
            segments: self.segments,
            ldtr: self.ldtr,
            tr: self.tr,
            gdtr: self.gdtr,
            idtr: self.idtr,
            cr0: self.cr0,
            cr2: self.cr2,
            cr3: self.cr3,
            cr4: self.cr4,
            efer: self.efer,
            xcr0: self.xcr0,
            dr: self.dr,
            msrs: self.msrs.clone(),
            xsave: self.host.to_xsave(),
            events: self.events,
        }
    }

    /// Refuses what would break the interpreter's own assumptions.
    pub fn check_state(&self, state: &CpuState) -> Result<(), EngineError> {
        let bad = |what: &str| Err(EngineError::BadState(what.to_owned()));
        if state.xsave.len() != XSAVE_LEN {
            return bad("the xsave image has the wrong length");
        }
        let long = state.efer & efer::LMA != 0;
        if long && (state.cr0 & cr0::PG == 0 || state.cr4 & cr4::PAE == 0) {
            return bad("long mode without paging");
        }
        if state.cr0 & cr0::PG != 0 && state.cr0 & cr0::PE == 0 {
            return bad("paging without protected mode");
        }
        if state.rflags & rflags::VM != 0 && (long || state.cr0 & cr0::PE == 0) {
            return bad("virtual-8086 mode outside 32-bit protected mode");
        }
        let wide = long && state.segments[seg::CS].attr & seg_attr::L != 0;
        if !wide && state.rip > u64::from(u32::MAX) {
            return bad("rip has more than 32 bits outside 64-bit mode");
        }
        Ok(())
    }

    /// Takes over a state that passed [`check_state`](Self::check_state).
    pub fn load_state(&mut self, state: &CpuState) {
        self.regs[..16].copy_from_slice(&state.gpr);
        self.rip = state.rip;
        self.segments = state.segments;
        self.ldtr = state.ldtr;
        self.tr = state.tr;
        self.gdtr = state.gdtr;
        self.idtr = state.idtr;
        self.cr0 = state.cr0;
        self.cr2 = state.cr2;
        self.cr3 = state.cr3;
        self.cr4 = state.cr4;
        self.efer = state.efer;
        self.xcr0 = state.xcr0;
        self.dr = state.dr;
        self.msrs = state.msrs.clone();
        self.host.from_xsave(&state.xsave);
        self.events = state.events;
        self.time_is_stale = true;
        self.cpl = self.cpl_of(state);
        self.set_rflags(state.rflags);
        self.refresh();
        self.tlb.flush_all();
        self.tlb.switch(self.pcid(), false);
    }

    /// The privilege level is SS.DPL (Intel SDM volume 3, 5.5), 3 in v8086 mode, 0 in real mode.
    fn cpl_of(&self, state: &CpuState) -> u8 {
        if state.cr0 & cr0::PE == 0 {
            0
        } else if state.rflags & rflags::VM != 0 {
            3
        } else {
            (state.segments[seg::SS].attr >> 5 & 3) as u8
        }
    }
}

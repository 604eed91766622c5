//! One instruction, by its class.

use iced_x86::Instruction;

use super::Emitter;
use crate::frontend::class::Class;

/// Where a direct branch leads.
#[derive(Debug, Clone, Copy)]
pub struct Edge {
    /// From the first byte of the page.
    pub target: i64,
    /// Not forward: it may close a loop.
    pub backward: bool,
    /// Flags are live there.
    pub live: bool,
}

impl Emitter<'_> {
    /// Emits an instruction; `None` if the interpreter has to do it.
    pub fn instruction(&mut self, insn: &Instruction, class: Class, bytes: &[u8], edge: Edge) -> Option<()> {
        if !matches!(class, Class::X87 { noted: true, .. } | Class::Nothing) {
            self.settle_x87();
        }
        self.defers = self.may_defer(insn, class);
        if !self.defers {
            self.settle_stack();
        }
        if self.parked && !self.live {
            self.parked = false;
        }
        // These ask for flags themselves, where they need them.
        let keeps = matches!(
            class,
            Class::Native(_)
                | Class::X87 { .. }
                | Class::Lea
                | Class::Prefetch
                | Class::Push
                | Class::Pop
                | Class::PushMemory
                | Class::PopMemory
                | Class::Leave
                | Class::Pushf
                | Class::Nothing
                | Class::Jmp
                | Class::Serialize
                | Class::BitString(_)
                | Class::Pause
                | Class::String(_)
                | Class::Cld
                | Class::Divide
                | Class::Call
                | Class::CallIndirect
                | Class::JmpIndirect
                | Class::Ret
        );
        if !keeps {
            self.unpark();
        }
        match class {
            Class::Operation => return None,
            Class::Nothing => {}
            Class::Native(access) => self.native(insn, bytes, access)?,
            Class::Lea => self.lea(insn)?,
            Class::Prefetch => self.prefetch(insn),
            Class::Push => self.push(insn),
            Class::Pop => self.pop(insn),
            Class::PushMemory => self.push_memory(insn)?,
            Class::PopMemory => self.pop_memory(insn)?,
            Class::Leave => self.leave(insn),
            Class::Jcc => {
                let condition = encoding(insn.condition_code() as u8);
                self.jcc(condition, edge.target, edge.live, edge.backward);
            }
            Class::Jmp => self.jump(edge.target, edge.live, edge.backward),
            Class::Call => self.call(insn, edge),
            Class::JmpIndirect => self.jump_indirect(insn)?,
            Class::CallIndirect => self.call_indirect(insn)?,
            Class::Ret => self.ret(insn),
            Class::BitString(access) => self.bit_string(insn, bytes, access)?,
            Class::Pause => self.pause(insn),
            Class::Serialize => self.serialize(insn),
            Class::String(size) => self.string(insn, size),
            Class::Cld => self.clear_direction(insn),
            Class::Divide => self.divide(insn)?,
            Class::Cli => self.cli(),
            Class::Sti => self.sti(insn),
            Class::Pushf => self.pushf(insn),
            Class::Selector => self.selector(insn),
            Class::StoreSelector => self.store_selector(insn)?,
            Class::Control => self.control(insn),
            Class::Stac => self.set_access(insn, true),
            Class::Clac => self.set_access(insn, false),
            Class::ReadBase => self.read_base(insn),
            Class::WriteBase => self.write_base(insn),
            Class::Swapgs => self.swapgs(),
            Class::Rdtsc => self.rdtsc(),
            Class::Rdtscp => self.rdtscp(),
            Class::Syscall => self.syscall(insn),
            Class::Sysret => self.sysret(insn),
            Class::X87 { access, noted } => self.x87(insn, bytes, access, noted)?,
            Class::LoadControl => self.load_control(insn)?,
        }
        Some(())
    }
}

/// Number of a condition as instructions encode it, from iced's.
fn encoding(condition: u8) -> u8 {
    // iced counts o, no, b, ae, e, ne, be, a, s, ns, p, np, l, ge, le, g from 1.
    condition.wrapping_sub(1) & 15
}

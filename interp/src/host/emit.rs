//! The host code of a form: load the operands, execute the very instruction, store what it wrote.
//!
//! A stub is a `sysv64` function. RDI, RSI, RDX and RCX point to the operands (the last two are moved to R10 and
//! R11, out of the way of implicit operands), R8 to the state, R9 to the general registers of the guest.

use std::mem::offset_of;

use iced_x86::code_asm::*;
use iced_x86::{Code, IcedError, Instruction, InstructionInfoFactory, OpAccess, Register};

use super::form::{Kind, OPERANDS, Shape};
use super::state::{HostState, Ymm};

/// Pointers to the operands.
const POINTERS: [AsmRegister64; OPERANDS] = [rdi, rsi, r10, r11];
/// Where operands are while the instruction runs. XMM0 is kept free for implicit operands.
const XMM: [AsmRegisterXmm; OPERANDS] = [xmm1, xmm2, xmm3, xmm4];
const YMM: [AsmRegisterYmm; OPERANDS] = [ymm1, ymm2, ymm3, ymm4];
const MM: [AsmRegisterMm; OPERANDS] = [mm0, mm1, mm2, mm3];
const GPR: [[Register; 4]; 3] = [
    [Register::AL, Register::AX, Register::EAX, Register::RAX],
    [Register::CL, Register::CX, Register::ECX, Register::RCX],
    [Register::BL, Register::BX, Register::EBX, Register::RBX],
];
const GPR64: [AsmRegister64; 3] = [rax, rcx, rbx];
const GPR32: [AsmRegister32; 3] = [eax, ecx, ebx];

/// The stub of an instruction on vector, MMX and general registers; `None` if it cannot be encoded.
pub(super) fn vector(insn: &Instruction, shape: &Shape) -> Option<Vec<u8>> {
    assemble(|a| emit_vector(a, insn, shape))
}

/// The stub of an x87 instruction: operands are the memory operand, the image to load and the image to save.
pub(super) fn x87(insn: &Instruction, shape: &Shape) -> Option<Vec<u8>> {
    assemble(|a| {
        a.fxrstor64(ptr(rsi))?;
        load_flags(a, shape.flags_in)?;
        a.add_instruction(host_form(insn, |_| None))?;
        store_flags(a, shape.flags)?;
        a.fxsave64(ptr(rdx))?;
        a.fninit()?;
        a.ret()
    })
}

fn assemble(body: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Option<Vec<u8>> {
    let mut a = CodeAssembler::new(64).ok()?;
    body(&mut a).ok()?;
    a.assemble(0).ok()
}

fn emit_vector(a: &mut CodeAssembler, insn: &Instruction, shape: &Shape) -> Result<(), IcedError> {
    let mut assigned = [Register::None; OPERANDS];
    let mut gprs = 0;
    for (n, kind) in shape.kinds.iter().enumerate() {
        assigned[n] = match kind {
            Kind::Vector if insn.op_register(n as u32).is_ymm() => YMM[n].into(),
            Kind::Vector => XMM[n].into(),
            Kind::Mmx => MM[n].into(),
            Kind::Gpr(size) => {
                gprs += 1;
                GPR[gprs - 1][size.trailing_zeros() as usize & 3]
            }
            Kind::Memory | Kind::None => Register::None,
        };
    }
    let host = host_form(insn, |n| assigned.get(n).copied().filter(|r| *r != Register::None));
    let implicit = Implicit::of(&host, &assigned);
    let uses_rbx = gprs == 3;
    if uses_rbx {
        a.push(rbx)?;
    }
    for (n, from) in [(2, rdx), (3, rcx)] {
        if shape.kinds[n] != Kind::None {
            a.mov(POINTERS[n], from)?;
        }
    }
    transfer(a, shape, &assigned, false)?;
    implicit.load(a)?;
    load_flags(a, shape.flags_in)?;
    if shape.float {
        a.ldmxcsr(dword_ptr(r8) + offset_of!(HostState, mxcsr_in) as i32)?;
    }
    a.add_instruction(host)?;
    store_flags(a, shape.flags)?;
    if shape.float {
        a.stmxcsr(dword_ptr(r8) + offset_of!(HostState, mxcsr_out) as i32)?;
        a.ldmxcsr(dword_ptr(r8) + offset_of!(HostState, mxcsr_host) as i32)?;
    }
    transfer(a, shape, &assigned, true)?;
    implicit.store(a, shape.vex)?;
    if shape.vex && shape.kinds.contains(&Kind::Vector) {
        a.vzeroupper()?;
    }
    if shape.kinds.contains(&Kind::Mmx) {
        a.emms()?;
    }
    if uses_rbx {
        a.pop(rbx)?;
    }
    a.ret()
}

/// Loads all register operands, or stores those that were written. Where one register is two destinations the
/// first operand's value stays, so it is stored last.
fn transfer(
    a: &mut CodeAssembler,
    shape: &Shape,
    assigned: &[Register; OPERANDS],
    store: bool,
) -> Result<(), IcedError> {
    for n in (0..OPERANDS).rev() {
        if store && !shape.written[n] {
            continue;
        }
        let at = ptr(POINTERS[n]);
        match (shape.kinds[n], store) {
            (Kind::Vector, false) if shape.vex => a.vmovups(YMM[n], at)?,
            (Kind::Vector, true) if shape.vex => a.vmovups(at, YMM[n])?,
            (Kind::Vector, false) => a.movups(XMM[n], at)?,
            (Kind::Vector, true) => a.movups(at, XMM[n])?,
            (Kind::Mmx, false) => a.movq(MM[n], qword_ptr(POINTERS[n]))?,
            (Kind::Mmx, true) => a.movq(qword_ptr(POINTERS[n]), MM[n])?,
            (Kind::Gpr(size), _) => {
                let g = (assigned[n].number() & 3).min(2); // RAX, RCX, RBX are numbers 0, 1, 3
                match (store, size) {
                    (false, 1) => a.movzx(GPR32[g], byte_ptr(POINTERS[n]))?,
                    (false, _) => a.mov(GPR64[g], qword_ptr(POINTERS[n]))?,
                    (true, _) => a.mov(qword_ptr(POINTERS[n]), GPR64[g])?,
                }
            }
            (Kind::Memory | Kind::None, _) => {}
        }
    }
    Ok(())
}

/// The instruction with its operands replaced: registers as `assigned` says, memory by `[pointer]`.
fn host_form(insn: &Instruction, assigned: impl Fn(usize) -> Option<Register>) -> Instruction {
    let mut host = *insn;
    host.set_code_size(iced_x86::CodeSize::Code64);
    host.set_has_lock_prefix(false);
    host.set_has_rep_prefix(false);
    host.set_has_repne_prefix(false);
    host.set_segment_prefix(Register::None);
    for n in 0..insn.op_count() {
        match insn.op_kind(n) {
            iced_x86::OpKind::Memory => {
                let pointer = POINTERS[(n as usize).min(OPERANDS - 1)];
                host.set_memory_base(pointer.into());
                host.set_memory_index(Register::None);
                host.set_memory_index_scale(1);
                host.set_memory_displacement64(0);
                host.set_memory_displ_size(0);
            }
            iced_x86::OpKind::Register => {
                if let Some(register) = assigned(n as usize) {
                    host.set_op_register(n, register);
                }
            }
            _ => {}
        }
    }
    host
}

fn load_flags(a: &mut CodeAssembler, wanted: bool) -> Result<(), IcedError> {
    if wanted {
        a.push(qword_ptr(r8) + offset_of!(HostState, flags) as i32)?;
        a.popfq()?;
    }
    Ok(())
}

fn store_flags(a: &mut CodeAssembler, wanted: bool) -> Result<(), IcedError> {
    if wanted {
        a.pushfq()?;
        a.pop(qword_ptr(r8) + offset_of!(HostState, flags) as i32)?;
    }
    Ok(())
}

/// Operands that the instruction does not name.
#[derive(Default)]
struct Implicit {
    xmm0_read: bool,
    xmm0_written: bool,
    /// RAX, RCX, RDX.
    read: [bool; 3],
    written: [bool; 3],
}

const IMPLICIT: [(Register, AsmRegister64); 3] =
    [(Register::RAX, rax), (Register::RCX, rcx), (Register::RDX, rdx)];

impl Implicit {
    fn of(host: &Instruction, assigned: &[Register; OPERANDS]) -> Self {
        let mut this = Self::default();
        let mut factory = InstructionInfoFactory::new();
        for used in factory.info(host).used_registers() {
            let register = used.register().full_register();
            if assigned.iter().any(|r| r.full_register() == register) {
                continue;
            }
            let writes = !matches!(used.access(), OpAccess::Read | OpAccess::CondRead);
            let reads = !matches!(used.access(), OpAccess::Write);
            if used.register().is_vector_register() {
                this.xmm0_read |= reads;
                this.xmm0_written |= writes;
            } else if let Some(n) = IMPLICIT.iter().position(|(r, _)| *r == register) {
                this.read[n] |= reads;
                this.written[n] |= writes;
            }
        }
        this
    }

    fn load(&self, a: &mut CodeAssembler) -> Result<(), IcedError> {
        if self.xmm0_read {
            a.movups(xmm0, ptr(r8) + XMM0)?;
        }
        for (n, (_, register)) in IMPLICIT.into_iter().enumerate() {
            if self.read[n] {
                a.mov(register, qword_ptr(r9) + 8 * n as i32)?;
            }
        }
        Ok(())
    }

    fn store(&self, a: &mut CodeAssembler, vex: bool) -> Result<(), IcedError> {
        match (self.xmm0_written, vex) {
            (true, true) => a.vmovups(ptr(r8) + XMM0, ymm0)?,
            (true, false) => a.movups(ptr(r8) + XMM0, xmm0)?,
            _ => {}
        }
        for (n, (_, register)) in IMPLICIT.into_iter().enumerate() {
            if self.written[n] {
                a.mov(qword_ptr(r9) + 8 * n as i32, register)?;
            }
        }
        Ok(())
    }
}

const XMM0: i32 = offset_of!(HostState, ymm) as i32;
const _: () = assert!(offset_of!(Ymm, lo) == 0);

/// The low 11 bits of an x87 opcode, as FOP has them.
pub(crate) fn x87_opcode(insn: &Instruction) -> u16 {
    let mut encoder = iced_x86::Encoder::new(match insn.code_size() {
        iced_x86::CodeSize::Code16 => 16,
        iced_x86::CodeSize::Code32 => 32,
        _ => 64,
    });
    if insn.code() == Code::INVALID || encoder.encode(insn, insn.ip()).is_err() {
        return 0;
    }
    let bytes = encoder.take_buffer();
    match bytes.iter().position(|b| (0xd8..=0xdf).contains(b)) {
        Some(at) => u16::from(bytes[at] & 7) << 8 | bytes.get(at + 1).copied().map_or(0, u16::from),
        None => 0,
    }
}

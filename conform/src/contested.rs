//! Cases in which processors of different vendors differ, so that the host's answer would be none: they are not
//! generated. Each with the reason, as seen on AMD family 25 beside Intel's manual, and on Intel family 6 model 207 where it
//! says so. What differs in the outcome only is in `vendor`.

use cpu::x86::{gpr, rflags};
use iced_x86::{Code, Instruction, Mnemonic as M, OpKind, Register};

use crate::input::Input;
use crate::layout::{CODE, CODE_LEN, DATA, PAGE, STACK, selector::CODE32};
use crate::vendor;

/// Where the kernel puts a process's own code, heap, libraries and stack.
const CHILD: std::ops::Range<u64> = 0x5000_0000_0000..0x7fff_ffff_f000;

/// Why a case is not to be compared.
pub(crate) fn contested(insn: &Instruction, input: &Input) -> Option<&'static str> {
    if insn.is_invalid() {
        return undefined_opcode(input);
    }
    let prefixed = insn.has_rep_prefix() || insn.has_repne_prefix();
    match insn.mnemonic() {
        // AMD tests ZF as the repeat prefix says.
        M::Loope | M::Loopne if prefixed || repeat_prefix(input) => Some("LOOPcc with a repeat prefix"),
        // AMD checks the port first.
        M::Insb | M::Insw | M::Insd | M::Outsb | M::Outsw | M::Outsd
            if prefixed && count(insn, input) == 0 =>
        {
            Some("REP INS or OUTS with a count of zero")
        }
        M::Shld | M::Shrd if wide_double_shift(insn, input) => Some("16-bit double shift by more than 16"),
        // AMD: #UD.
        M::Vpinsrd | M::Vpextrd
            if input.compat() && without_prefixes(input).get(2).is_some_and(|b| b & 0x80 != 0) =>
        {
            Some("VPINSRD or VPEXTRD with VEX.W in 32-bit code")
        }
        M::Push | M::Pop | M::Retf if vendor::intel() && split_selector(insn, input) => {
            Some("selector in a slot across pages: Intel reaches for the selector alone")
        }
        // Intel drops the upper half of the offset, AMD finds it to be beyond the limit.
        M::Retf if vendor::intel() && matches!(insn.code(), Code::Retfq | Code::Retfq_imm16) => {
            narrowed_return(input).then_some("far return to 32-bit code with an offset of more bits")
        }
        // The decoder takes it for PAUSE, processors for XCHG R8, RAX.
        M::Pause if input.code().iter().any(|b| b & 0xf1 == 0x41) => Some("PAUSE with REX.B"),
        _ => memory(insn, input),
    }
}

/// Encodings that Intel's manual calls undefined.
fn undefined_opcode(input: &Input) -> Option<&'static str> {
    if input.regs.rip + 15 >= CODE + CODE_LEN {
        // What is noticed first, the undefined opcode or the page that ends within it.
        return Some("undefined opcode at a page end");
    }
    match without_prefixes(input) {
        [0xc4, map, _, 0x00 | 0x01, ..] if map & 0x1f == 3 => {
            Some("VPERMQ or VPERMPD without VEX.W: AMD executes it")
        }
        [0x0f, 0x00, ..] => Some("LOCK with VERR or VERW: AMD ignores it"),
        [0x0f, 0x01, ..] => Some("calls of a hypervisor, which may see them whatever the prefixes"),
        [0x8f, ..] => Some("XOP: AMD knows how long it is, even where it is undefined"),
        _ => None,
    }
}

fn without_prefixes(input: &Input) -> &[u8] {
    let rex = |b: &u8| !input.compat() && (0x40..=0x4f).contains(b);
    let prefix = |b: &u8| matches!(b, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3) || rex(b);
    let code = input.code();
    &code[code.iter().take_while(|b| prefix(b)).count()..]
}

fn repeat_prefix(input: &Input) -> bool {
    input.code().iter().take_while(|b| !matches!(b, 0xe0 | 0xe1)).any(|b| matches!(b, 0xf2 | 0xf3))
}

fn count(insn: &Instruction, input: &Input) -> u64 {
    let rcx = input.regs.gpr[gpr::RCX];
    let narrow = |kind| {
        matches!(kind, OpKind::MemoryESEDI | OpKind::MemorySegESI | OpKind::MemoryESDI | OpKind::MemorySegSI)
    };
    let small = |kind| matches!(kind, OpKind::MemoryESDI | OpKind::MemorySegSI);
    match (insn.op0_kind(), insn.op1_kind()) {
        (a, b) if small(a) || small(b) => rcx & 0xffff,
        (a, b) if narrow(a) || narrow(b) => rcx & 0xffff_ffff,
        _ => rcx,
    }
}

fn wide_double_shift(insn: &Instruction, input: &Input) -> bool {
    let raw = match insn.op_kind(2) {
        OpKind::Immediate8 => u64::from(insn.immediate8()),
        _ => input.regs.gpr[gpr::RCX],
    };
    insn.op1_register().size() == 2 && raw & 31 > 16
}

fn split_selector(insn: &Instruction, input: &Input) -> bool {
    let change = i64::from(insn.stack_pointer_increment());
    let slot = input.regs.gpr[gpr::RSP].wrapping_add_signed(change.min(0));
    let frame = match insn.code() {
        Code::Retfw | Code::Retfw_imm16 => 4,
        Code::Retfd | Code::Retfd_imm16 => 8,
        Code::Retfq | Code::Retfq_imm16 => 16,
        _ if half_push(insn) => 4,
        _ if insn.mnemonic() == M::Pop && insn.op0_register().is_segment_register() => change.unsigned_abs(),
        _ => return false,
    };
    slot % PAGE + frame > PAGE
}

fn narrowed_return(input: &Input) -> bool {
    let frame = input.patches().iter().rfind(|patch| patch.addr == input.regs.gpr[gpr::RSP]);
    frame.is_some_and(|patch| patch.bytes[4..8] != [0; 4] && patch.bytes[8] == CODE32 as u8)
}

/// Reasons that lie in where memory operands are.
fn memory(insn: &Instruction, input: &Input) -> Option<&'static str> {
    if insn.is_vsib() {
        return None;
    }
    (0..insn.op_count()).filter(|&i| is_memory(insn.op_kind(i))).find_map(|i| operand(insn, i, input))
}

fn operand(insn: &Instruction, operand: u32, input: &Input) -> Option<&'static str> {
    let size = insn.memory_size().size().max(1) as u64;
    let effective = address(insn, operand, input, false)?;
    let linear = address(insn, operand, input, true)?;
    let limit = match address_bits(insn, input) {
        16 => Some(0xffff),
        32 => Some(0xffff_ffff),
        _ => None,
    };
    let from_bit = |limit: u64| effective.wrapping_add(bit_string(insn, input)) & limit;
    if limit.is_some_and(|limit| from_bit(limit) + (size - 1) > limit) {
        return Some("operand that wraps around the address size");
    }
    // AMD wants the offset canonical, Intel the sum.
    if !input.compat() && linear != effective && !(canonical(effective) && canonical(linear)) {
        return Some("non-canonical offset in FS or GS");
    }
    if CHILD.contains(&linear) {
        return Some("memory of the child process itself");
    }
    let aligned = linear.is_multiple_of(size);
    match insn.mnemonic() {
        M::Maskmovq | M::Maskmovdqu | M::Vmaskmovdqu if !writable(linear, size) => {
            Some("masked store where not all bytes can be written")
        }
        M::Maskmovq | M::Maskmovdqu | M::Vmaskmovdqu
            if insn.segment_prefix() == Register::CS && input.compat() =>
        {
            Some("masked store to a code segment")
        }
        // Intel's manual asks for alignment, and so do the models.
        M::Sha1msg1
        | M::Sha1msg2
        | M::Sha1nexte
        | M::Sha1rnds4
        | M::Sha256msg1
        | M::Sha256msg2
        | M::Sha256rnds2
            if !aligned && !vendor::intel() =>
        {
            Some("misaligned operand of a SHA instruction")
        }
        // #GP for the alignment, or #SS for the address; Intel's #AC comes before the address, too.
        _ if (size >= 16 || vendor::intel() && input.regs.rflags & rflags::AC != 0)
            && !aligned
            && !(canonical(linear) && canonical(linear.wrapping_add(size - 1))) =>
        {
            Some("non-canonical and misaligned")
        }
        _ => None,
    }
}

/// How far from its operand a bit string's bit is, by the number in a register.
fn bit_string(insn: &Instruction, input: &Input) -> u64 {
    if !matches!(insn.mnemonic(), M::Bt | M::Bts | M::Btr | M::Btc) || insn.op1_kind() != OpKind::Register {
        return 0;
    }
    let register = insn.op1_register();
    let number = input.regs.gpr[register.full_register().number()] as i64;
    let bits = 8 * register.size() as u32;
    let number = number << (64 - bits) >> (64 - bits);
    ((number >> bits.ilog2()) * i64::from(bits / 8)) as u64
}

fn is_memory(kind: OpKind) -> bool {
    !matches!(
        kind,
        OpKind::Register
            | OpKind::NearBranch16
            | OpKind::NearBranch32
            | OpKind::NearBranch64
            | OpKind::FarBranch16
            | OpKind::FarBranch32
            | OpKind::Immediate8
            | OpKind::Immediate8_2nd
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64
    )
}

/// Address of a memory operand: the offset alone, or with the segment's base.
pub(crate) fn address(insn: &Instruction, operand: u32, input: &Input, linear: bool) -> Option<u64> {
    insn.virtual_address(operand, 0, |register, _, _| {
        Some(match register {
            Register::FS if linear => input.regs.fs_base,
            Register::GS if linear => input.regs.gs_base,
            r if r.is_segment_register() => 0,
            r if r.is_gpr() => {
                let slot = r.full_register() as usize - Register::RAX as usize;
                let value = input.regs.gpr[slot & 15];
                match r.size() {
                    1 => value & 0xff,
                    2 => value & 0xffff,
                    4 => value & 0xffff_ffff,
                    _ => value,
                }
            }
            _ => 0,
        })
    })
}

fn address_bits(insn: &Instruction, input: &Input) -> u32 {
    for register in [insn.memory_base(), insn.memory_index()] {
        if register.is_gpr() && register.size() > 1 {
            return register.size() as u32 * 8;
        }
    }
    match insn.memory_base() {
        Register::EIP => return 32,
        Register::RIP => return 64,
        _ => {}
    }
    for operand in 0..insn.op_count() {
        match insn.op_kind(operand) {
            OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => return 16,
            OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => return 32,
            OpKind::MemorySegRSI | OpKind::MemorySegRDI | OpKind::MemoryESRDI => return 64,
            _ => {}
        }
    }
    match insn.memory_displ_size() {
        2 => 16,
        4 => 32,
        8 => 64,
        _ if input.compat() => 32,
        _ => 64,
    }
}

fn canonical(linear: u64) -> bool {
    ((linear << 16) as i64 >> 16) as u64 == linear
}

fn writable(linear: u64, size: u64) -> bool {
    let within = |start: u64, len: u64| linear >= start && linear.saturating_add(size) <= start + len;
    within(DATA, 2 * PAGE) || within(STACK, PAGE)
}

/// True if processors agree where alignment checks (EFLAGS.AC) find fault with the instruction: its operands are integers
/// of at most 8 bytes, loaded or stored one by one.
pub(crate) fn alignment_agreed(insn: &Instruction) -> bool {
    let other = |r: Register| r.is_vector_register() || r.is_mm() || r.is_st() || r.is_segment_register();
    let x87 = insn.memory_size().is_packed() || insn.code().op_code().op_code() & 0xf8 == 0xd8;
    insn.memory_size().size() <= 8
        && !x87
        && !(0..insn.op_count()).any(|i| insn.op_kind(i) == OpKind::Register && other(insn.op_register(i)))
        && !matches!(insn.mnemonic(), M::Enter | M::Bound | M::Movsxd | M::Ldmxcsr | M::Stmxcsr)
        && !insn.is_save_restore_instruction()
        && !far(insn)
}

fn far(insn: &Instruction) -> bool {
    insn.is_call_far()
        || insn.is_call_far_indirect()
        || insn.is_jmp_far_indirect()
        || insn.mnemonic() == M::Retf
}

/// Forms that not all hosts have.
pub(crate) fn vendor_form(code: Code) -> Option<&'static str> {
    match code {
        Code::Jmp_m1664
        | Code::Call_m1664
        | Code::Lss_r64_m1664
        | Code::Lfs_r64_m1664
        | Code::Lgs_r64_m1664 => Some("AMD has no far pointers of 80 bits"),
        Code::Reservednop_rm16_r16_0F0D
        | Code::Reservednop_rm32_r32_0F0D
        | Code::Reservednop_rm64_r64_0F0D => {
            Some("AMD has prefetches of memory there, and no register forms")
        }
        Code::Serialize => Some("all models have it, and few hosts"),
        _ => None,
    }
}

/// What of a fault is the same everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Vector, code and address.
    All,
    /// That there is one: which of several comes first is open.
    Any,
}

/// What of a fault is compared.
pub(crate) fn fault(insn: &Instruction) -> Fault {
    match insn.mnemonic() {
        M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq if insn.is_string_instruction() => Fault::Any,
        M::Fldenv
        | M::Fnstenv
        | M::Fnsave
        | M::Frstor
        | M::Fxsave
        | M::Fxsave64
        | M::Fxrstor
        | M::Fxrstor64 => Fault::Any,
        // AMD reads the stack of an outer level before it looks at the selector.
        M::Retf => Fault::Any,
        // AMD looks for the stack page first, and pushes nothing if the target is bad.
        M::Call => Fault::Any,
        // AMD looks at the address first, Intel at the values.
        M::Vcvtps2ph => Fault::Any,
        _ => Fault::All,
    }
}

/// True if an instruction that raised #XM may have turned the x87 registers to MMX use before: AMD does.
pub(crate) fn mmx_before_fault(insn: &Instruction) -> bool {
    matches!(
        insn.mnemonic(),
        M::Cvtps2pi | M::Cvttps2pi | M::Cvtpd2pi | M::Cvttpd2pi | M::Cvtpi2ps | M::Cvtpi2pd
    )
}

/// True if a fault leaves general registers in a state that is open: registers popped before it keep their values on
/// some processors.
pub(crate) fn partial_registers(insn: &Instruction) -> bool {
    matches!(insn.mnemonic(), M::Popa | M::Popad)
}

/// True if PUSH of a segment register may write 2 of its 4 bytes: AMD writes all, Intel the selector alone.
pub(crate) fn half_push(insn: &Instruction) -> bool {
    insn.mnemonic() == M::Push
        && insn.op0_register().is_segment_register()
        && insn.stack_pointer_increment() == -4
}

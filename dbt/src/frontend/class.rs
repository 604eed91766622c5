//! How an instruction is translated.

use iced_x86::{Code, CpuidFeature, Instruction, MemorySize, Mnemonic, OpKind, Register};

use interp::core::Mode;

use super::code32::{self, word};

/// The kinds of translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Nothing to do.
    Nothing,
    /// The guest's instruction itself, its memory operand checked.
    Native(Option<Access>),
    /// LEA.
    Lea,
    /// A hint at memory that will be wanted.
    Prefetch,
    /// PUSH of a register or an immediate, POP of a register, LEAVE: of words as long as the code's addresses.
    Push,
    Pop,
    /// PUSH and POP of such a word in memory.
    PushMemory,
    PopMemory,
    Leave,
    /// Direct branches.
    Jcc,
    Jmp,
    Call,
    /// Indirect branches.
    JmpIndirect,
    CallIndirect,
    Ret,
    /// BT, BTS, BTR and BTC of a bit in memory whose number is in a register.
    BitString(Access),
    Pause,
    /// What was executed before is done, and code that was written is executed as written.
    Serialize,
    /// A string instruction with elements of so many bytes, and CLD.
    String(u8),
    Cld,
    /// DIV and IDIV of 32 and 64 bits.
    Divide,
    /// Interrupt flag, RFLAGS and segment registers, where they need no checks.
    Cli,
    Sti,
    Pushf,
    Selector,
    /// A selector to memory.
    StoreSelector,
    /// CR2 or CR3 to a register.
    Control,
    /// RDFSBASE and RDGSBASE, WRFSBASE and WRGSBASE.
    ReadBase,
    WriteBase,
    /// SWAPGS, and the time-stamp counter.
    Swapgs,
    Rdtsc,
    Rdtscp,
    /// SYSCALL of CPL 3, SYSRET to 64-bit code.
    Syscall,
    Sysret,
    /// STAC and CLAC with SMAP, where they make a difference.
    Stac,
    Clac,
    /// x87 and MMX instructions themselves; `noted`: they become the x87 unit's last instruction.
    X87 {
        access: Option<Access>,
        noted: bool,
    },
    /// FLDCW.
    LoadControl,
    /// The interpreter's operation.
    Operation,
}

impl Class {
    /// Control never goes on behind it.
    pub fn leaves(self) -> bool {
        matches!(
            self,
            Self::Jmp
                | Self::Serialize
                | Self::JmpIndirect
                | Self::Ret
                | Self::Syscall
                | Self::Sysret
                | Self::Stac
                | Self::Clac
        )
    }

    /// The mode it leads to from `mode`, where that is another one.
    pub fn other(self, mode: Mode) -> Option<Mode> {
        match self {
            Self::Syscall => Some(Mode { user: false, ..mode }),
            Self::Sysret => Some(Mode { user: true, ..mode }),
            Self::Stac => Some(Mode { user_pages: true, ..mode }),
            Self::Clac => Some(Mode { user_pages: false, ..mode }),
            _ => None,
        }
    }
}

/// The memory operand of a native instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// Bytes, a power of two.
    pub size: u8,
    /// It is written.
    pub store: bool,
    /// The address must be a multiple of the size.
    pub aligned: bool,
}

/// Chooses.
pub fn class(insn: &Instruction, mode: Mode) -> Class {
    match choose(insn, mode) {
        Class::Nothing => Class::Nothing,
        class if mode.code32.is_none_or(|code| code32::is_the_hosts(insn, code)) => class,
        Class::Prefetch => Class::Nothing,
        _ => Class::Operation,
    }
}

fn choose(insn: &Instruction, mode: Mode) -> Class {
    use Mnemonic as M;
    if let Some(class) = super::x87::class(insn, mode) {
        return class;
    }
    let register = |n: u32| insn.op_kind(n) == OpKind::Register;
    let memory = (0..insn.op_count()).find(|&i| insn.op_kind(i) == OpKind::Memory);
    let is_word = register(0) && insn.op_register(0).is_gpr() && insn.op_register(0).size() == word(insn);
    match insn.mnemonic() {
        M::Nop | M::Reservednop | M::Endbr64 | M::Endbr32 => Class::Nothing,
        M::Prefetchnta | M::Prefetcht0 | M::Prefetcht1 | M::Prefetcht2 | M::Prefetchw => Class::Prefetch,
        M::Lea => Class::Lea,
        M::Push => match insn.op_kind(0) {
            OpKind::Register if is_word => Class::Push,
            OpKind::Immediate8to64 | OpKind::Immediate32to64 => Class::Push,
            _ if matches!(insn.code(), Code::Pushd_imm8 | Code::Pushd_imm32) => Class::Push,
            _ if matches!(insn.code(), Code::Push_rm64 | Code::Push_rm32) => Class::PushMemory,
            _ => Class::Operation,
        },
        M::Pop if is_word => Class::Pop,
        // RSP in the address would be RSP behind the instruction.
        M::Pop
            if matches!(insn.code(), Code::Pop_rm64 | Code::Pop_rm32)
                && insn.memory_base().full_register() != Register::RSP =>
        {
            Class::PopMemory
        }
        M::Leave if matches!(insn.code(), Code::Leaveq | Code::Leaved) => Class::Leave,
        _ if insn.op0_kind() == OpKind::NearBranch16 => Class::Operation,
        M::Jmp | M::Call if matches!(insn.code(), Code::Jmp_rm16 | Code::Call_rm16) => Class::Operation,
        M::Jmp if insn.is_jmp_short_or_near() => Class::Jmp,
        M::Call if insn.is_call_near() => Class::Call,
        M::Jmp if insn.is_jmp_near_indirect() => Class::JmpIndirect,
        M::Call if insn.is_call_near_indirect() => Class::CallIndirect,
        M::Ret => match insn.code() {
            Code::Retnq | Code::Retnq_imm16 | Code::Retnd | Code::Retnd_imm16 => Class::Ret,
            _ => Class::Operation,
        },
        M::Div | M::Idiv if divided(insn) => Class::Divide,
        M::Pause => Class::Pause,
        M::Serialize => Class::Serialize,
        M::Cld => Class::Cld,
        _ if insn.is_string_instruction() => string(insn),
        M::Bt | M::Bts | M::Btr | M::Btc if memory.is_some() && register(1) => {
            access(insn, 0).map_or(Class::Operation, Class::BitString)
        }
        M::Cli if !mode.user => Class::Cli,
        M::Sti if !mode.user => Class::Sti,
        M::Mov if insn.code() == Code::Mov_rm16_Sreg && memory.is_some() => Class::StoreSelector,
        M::Mov
            if matches!(insn.code(), Code::Mov_r64_cr | Code::Mov_r32_cr)
                && !mode.user
                && matches!(insn.op1_register(), Register::CR2 | Register::CR3) =>
        {
            Class::Control
        }
        M::Clac if mode.user_pages => Class::Clac,
        M::Stac if !mode.user && mode.smap && !mode.user_pages => Class::Stac,
        // AC has that value already.
        M::Clac if !mode.user && mode.smap => Class::Nothing,
        M::Stac if mode.user_pages => Class::Nothing,
        M::Swapgs if !mode.user => Class::Swapgs,
        M::Rdtsc if mode.tsc || !mode.user => Class::Rdtsc,
        M::Rdtscp if mode.tsc || !mode.user => Class::Rdtscp,
        M::Syscall if mode.user && mode.code32.is_none() => Class::Syscall,
        M::Sysretq if !mode.user && !mode.user_pages => Class::Sysret,
        M::Pushfq | M::Pushfd => Class::Pushf,
        M::Rdfsbase | M::Rdgsbase if mode.bases => Class::ReadBase,
        M::Wrfsbase | M::Wrgsbase if mode.bases => Class::WriteBase,
        M::Mov
            if matches!(insn.code(), Code::Mov_rm16_Sreg | Code::Mov_r32m16_Sreg | Code::Mov_r64m16_Sreg)
                && register(0) =>
        {
            Class::Selector
        }
        _ if insn.is_jcc_short_or_near() => Class::Jcc,
        _ if integer(insn) || vector(insn, mode) => match memory {
            None => Class::Native(None),
            Some(operand) => match access(insn, operand) {
                Some(access) => Class::Native(Some(access)),
                None => Class::Operation,
            },
        },
        _ => Class::Operation,
    }
}

/// MOVS, STOS, LODS, SCAS and CMPS of addresses as long as the code's; repeated, the first two.
fn string(insn: &Instruction) -> Class {
    use Mnemonic as M;
    let moves = matches!(
        insn.mnemonic(),
        M::Movsb | M::Movsw | M::Movsd | M::Movsq | M::Stosb | M::Stosw | M::Stosd | M::Stosq
    );
    let port = matches!(insn.mnemonic(), M::Insb | M::Insw | M::Insd | M::Outsb | M::Outsw | M::Outsd);
    let code32 = code32::is(insn);
    let plain = (0..insn.op_count()).all(|i| match insn.op_kind(i) {
        OpKind::Register => true,
        OpKind::MemorySegRSI | OpKind::MemoryESRDI => !code32,
        OpKind::MemorySegESI | OpKind::MemoryESEDI => code32,
        _ => false,
    });
    let based = matches!(insn.segment_prefix(), Register::FS | Register::GS)
        || code32 && insn.segment_prefix() == Register::CS;
    let repeated = insn.has_rep_prefix() || insn.has_repne_prefix();
    if port || !plain || based || repeated && !moves {
        return Class::Operation;
    }
    Class::String(insn.memory_size().size() as u8)
}

/// The divisor has 32 or 64 bits.
fn divided(insn: &Instruction) -> bool {
    use iced_x86::Code as C;
    matches!(insn.code(), C::Div_rm32 | C::Div_rm64 | C::Idiv_rm32 | C::Idiv_rm64)
}

fn integer(insn: &Instruction) -> bool {
    use Mnemonic as M;
    match insn.mnemonic() {
        M::Mov => {
            let plain = |n: u32| insn.op_kind(n) != OpKind::Register || insn.op_register(n).is_gpr();
            plain(0) && plain(1) && (code32::is(insn) || !absolute(insn))
        }
        M::Bt
        | M::Bts
        | M::Btr
        | M::Btc
        | M::Add
        | M::Or
        | M::Adc
        | M::Sbb
        | M::And
        | M::Sub
        | M::Xor
        | M::Cmp
        | M::Test
        | M::Inc
        | M::Dec
        | M::Neg
        | M::Not
        | M::Xadd
        | M::Cmpxchg
        | M::Cmpxchg8b
        | M::Cmpxchg16b
        | M::Xchg
        | M::Movzx
        | M::Movsx
        | M::Movsxd
        | M::Bswap
        | M::Movbe
        | M::Movnti
        | M::Cbw
        | M::Cwde
        | M::Cdqe
        | M::Cwd
        | M::Cdq
        | M::Cqo
        | M::Lahf
        | M::Sahf
        | M::Clc
        | M::Stc
        | M::Cmc
        | M::Shl
        | M::Sal
        | M::Shr
        | M::Sar
        | M::Rol
        | M::Ror
        | M::Rcl
        | M::Rcr
        | M::Shld
        | M::Shrd
        | M::Mul
        | M::Imul
        | M::Bsf
        | M::Bsr
        | M::Lfence
        | M::Mfence
        | M::Sfence => true,
        M::Popcnt
        | M::Lzcnt
        | M::Tzcnt
        | M::Crc32
        | M::Andn
        | M::Bextr
        | M::Blsi
        | M::Blsmsk
        | M::Blsr
        | M::Bzhi
        | M::Mulx
        | M::Pdep
        | M::Pext
        | M::Rorx
        | M::Sarx
        | M::Shlx
        | M::Shrx
        | M::Adcx
        | M::Adox => true,
        _ => {
            use iced_x86::ConditionCode;
            // SETcc and CMOVcc.
            insn.condition_code() != ConditionCode::None
                && !insn.is_jcc_short_or_near()
                && !insn.is_loop()
                && !insn.is_loopcc()
                && !insn.is_string_instruction()
                && insn
                    .cpuid_features()
                    .iter()
                    .all(|f| matches!(f, CpuidFeature::CMOV | CpuidFeature::INTEL386))
        }
    }
}

/// MOV between the accumulator and a 64-bit absolute address.
fn absolute(insn: &Instruction) -> bool {
    use iced_x86::Code as C;
    matches!(
        insn.code(),
        C::Mov_AL_moffs8
            | C::Mov_AX_moffs16
            | C::Mov_EAX_moffs32
            | C::Mov_RAX_moffs64
            | C::Mov_moffs8_AL
            | C::Mov_moffs16_AX
            | C::Mov_moffs32_EAX
            | C::Mov_moffs64_RAX
    )
}

fn vector(insn: &Instruction, mode: Mode) -> bool {
    use CpuidFeature as F;
    use Mnemonic as M;
    if matches!(
        insn.mnemonic(),
        M::Maskmovdqu
            | M::Vmaskmovdqu
            | M::Maskmovq
            | M::Vmaskmovps
            | M::Vmaskmovpd
            | M::Vpmaskmovd
            | M::Vpmaskmovq
            | M::Ldmxcsr
            | M::Vldmxcsr
            | M::Stmxcsr
            | M::Vstmxcsr
            | M::Clflush
            | M::Pause
    ) || insn.is_vsib()
        || (0..insn.op_count())
            .any(|i| insn.op_kind(i) == OpKind::Register && other_file(insn.op_register(i)))
        || !(0..insn.op_count())
            .all(|i| matches!(insn.op_kind(i), OpKind::Register | OpKind::Memory | OpKind::Immediate8))
        || !(0..insn.op_count())
            .any(|i| insn.op_kind(i) == OpKind::Register && insn.op_register(i).is_vector_register())
            && !matches!(
                insn.mnemonic(),
                M::Vzeroupper
                    | M::Vzeroall
                    | M::Cvtsd2si
                    | M::Cvtss2si
                    | M::Cvttsd2si
                    | M::Cvttss2si
                    | M::Vcvtsd2si
                    | M::Vcvtss2si
                    | M::Vcvttsd2si
                    | M::Vcvttss2si
            )
    {
        return false;
    }
    let known = |f: &F| {
        matches!(
            f,
            F::SSE
                | F::SSE2
                | F::SSE3
                | F::SSSE3
                | F::SSE4_1
                | F::SSE4_2
                | F::AES
                | F::PCLMULQDQ
                | F::SHA
                | F::AVX
                | F::AVX2
                | F::F16C
                | F::FMA
                | F::SSE4A
                | F::VAES
                | F::VPCLMULQDQ
                | F::GFNI
        )
    };
    let features = insn.cpuid_features();
    let vex = insn.encoding() == iced_x86::EncodingKind::VEX;
    let legacy = insn.encoding() == iced_x86::EncodingKind::Legacy;
    !features.is_empty() && features.iter().all(known) && (legacy && mode.sse || vex && mode.avx)
}

/// MMX, x87, mask, bound, control and segment registers.
fn other_file(register: Register) -> bool {
    !register.is_gpr() && !register.is_vector_register()
}

/// The memory operand, if code can check it.
pub fn access(insn: &Instruction, operand: u32) -> Option<Access> {
    use Mnemonic as M;
    let size = insn.memory_size().size();
    if !size.is_power_of_two() || size > 32 {
        return None;
    }
    let reads = matches!(
        insn.mnemonic(),
        M::Cmp | M::Test | M::Bt | M::Mul | M::Ptest | M::Vptest | M::Vtestps | M::Vtestpd
    ) || insn.mnemonic() == M::Imul
        || insn.mnemonic() == M::Comiss;
    let store = operand == 0 && !reads;
    Some(Access { size: size as u8, store, aligned: aligned(insn, size) })
}

/// The instruction faults on an address that is not a multiple of its size.
fn aligned(insn: &Instruction, size: usize) -> bool {
    use Mnemonic as M;
    match insn.mnemonic() {
        M::Movups | M::Movupd | M::Movdqu | M::Lddqu => false,
        M::Vmovaps | M::Vmovapd | M::Vmovdqa | M::Vmovntps | M::Vmovntpd | M::Vmovntdq | M::Vmovntdqa => true,
        // String comparisons are the other exception among the legacy encodings.
        M::Cmpxchg16b => true,
        M::Pcmpestri | M::Pcmpestrm | M::Pcmpistri | M::Pcmpistrm => false,
        _ => {
            size == 16
                && insn.encoding() == iced_x86::EncodingKind::Legacy
                && insn.memory_size() != MemorySize::Unknown
                && !insn.op_register(0).is_gpr()
        }
    }
}

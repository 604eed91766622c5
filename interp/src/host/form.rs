//! Instruction forms: what a stub does and how its operands are passed. A form is an instruction with its
//! registers and addresses left open, so that all uses of an instruction share one; forms are made once per process.
// UNSAFETY: turns the arena's entry points into functions.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};

use iced_x86::{
    Code, EncodingKind, Instruction, InstructionInfoFactory, MemorySize, Mnemonic, OpAccess, OpKind, Register,
};

use super::arena::{Arena, ArenaError};
use super::emit;
use super::state::HostState;

/// Most operands of a form that are no immediates.
pub(super) const OPERANDS: usize = 4;

/// A stub: a pointer per operand, then the state and the general registers (for implicit operands).
pub(super) type Stub =
    unsafe extern "sysv64" fn(*mut u8, *mut u8, *mut u8, *mut u8, *mut HostState, *mut u64);

/// What an operand is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// No operand, or one that is part of the form.
    None,
    /// XMM or YMM register.
    Vector,
    /// MMX register.
    Mmx,
    /// General register; the size is that of the operand in bytes.
    Gpr(u8),
    /// The memory operand.
    Memory,
}

/// The conditions for an instruction to run at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    /// None: CRC32, POPCNT, RDRAND.
    Open,
    /// VEX-encoded on general registers: not in real and v8086 mode.
    VexGpr,
    Sse,
    Avx,
    Mmx,
    /// MMX and XMM registers: both sets of conditions.
    SseMmx,
    X87,
}

/// The memory operand of a form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    pub size: u8,
    /// The instruction writes it.
    pub store: bool,
    /// Address bits that must be zero.
    pub align: u8,
}

/// See the module.
pub(super) struct Form {
    pub stub: Stub,
    pub kinds: [Kind; OPERANDS],
    pub gate: Gate,
    pub memory: Option<Memory>,
    /// Reads or writes RFLAGS.
    pub flags: bool,
    /// Computes under MXCSR and can raise SIMD floating-point exceptions.
    pub float: bool,
    /// Bytes of half-precision results in the first operand.
    pub halves: u8,
    /// The first operand is an MMX register and is written.
    pub writes_mmx: bool,
    /// Touches MMX registers.
    pub mmx: bool,
}

/// What tells forms apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    code: Code,
    memory: bool,
    /// Immediate, or the number of ST(i).
    detail: u8,
}

#[derive(Default)]
struct Forms {
    known: HashMap<Key, Option<&'static Form>>,
    arena: Option<Arena>,
    complained: bool,
}

static FORMS: LazyLock<Mutex<Forms>> = LazyLock::new(Mutex::default);

/// The form of an instruction; `None` if no stub can be made for it.
pub(super) fn form(insn: &Instruction) -> Option<&'static Form> {
    let key = Key { code: insn.code(), memory: memory_operand(insn).is_some(), detail: detail(insn) };
    let mut forms = FORMS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(&known) = forms.known.get(&key) {
        return known;
    }
    let made = forms.make(insn);
    if let Err(error) = &made
        && !std::mem::replace(&mut forms.complained, true)
    {
        tracing::error!("vector instructions cannot be executed: {error}");
    }
    let made = made.ok().flatten();
    forms.known.insert(key, made);
    made
}

/// Gets the memory for stubs.
pub(super) fn prepare() -> Result<(), ArenaError> {
    FORMS.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).arena().map(|_| ())
}

impl Forms {
    fn arena(&mut self) -> Result<&mut Arena, ArenaError> {
        match &mut self.arena {
            Some(arena) => Ok(arena),
            none => Ok(none.insert(Arena::new()?)),
        }
    }

    fn make(&mut self, insn: &Instruction) -> Result<Option<&'static Form>, ArenaError> {
        let shape = shape(insn);
        let code = if shape.gate == Gate::X87 { emit::x87(insn, &shape) } else { emit::vector(insn, &shape) };
        let Some(code) = code else { return Ok(None) };
        let entry = self.arena()?.add(&code)?;
        // SAFETY: `emit` writes a function of this type, and the arena keeps it for the life of the process.
        let stub = unsafe { std::mem::transmute::<*const std::ffi::c_void, Stub>(entry) };
        Ok(Some(Box::leak(Box::new(Form { stub, ..shape.form() }))))
    }
}

/// A form before it has a stub, with what only the emitter needs.
pub(super) struct Shape {
    pub kinds: [Kind; OPERANDS],
    pub written: [bool; OPERANDS],
    pub gate: Gate,
    pub memory: Option<Memory>,
    pub flags: bool,
    /// The flags before matter: some are read or stay.
    pub flags_in: bool,
    pub float: bool,
    pub halves: u8,
    pub vex: bool,
}

impl Shape {
    fn form(&self) -> Form {
        unsafe extern "sysv64" fn none(
            _: *mut u8,
            _: *mut u8,
            _: *mut u8,
            _: *mut u8,
            _: *mut HostState,
            _: *mut u64,
        ) {
        }
        Form {
            stub: none,
            kinds: self.kinds,
            gate: self.gate,
            memory: self.memory,
            flags: self.flags,
            float: self.float,
            halves: self.halves,
            writes_mmx: self.kinds[0] == Kind::Mmx && self.written[0],
            mmx: self.kinds.contains(&Kind::Mmx),
        }
    }
}

/// Index of the memory operand.
pub(super) fn memory_operand(insn: &Instruction) -> Option<u32> {
    (0..insn.op_count()).find(|&n| insn.op_kind(n) == OpKind::Memory)
}

fn detail(insn: &Instruction) -> u8 {
    (0..insn.op_count())
        .map(|n| match insn.op_kind(n) {
            OpKind::Immediate8 => insn.immediate8(),
            OpKind::Register if insn.op_register(n).is_st() => insn.op_register(n).number() as u8,
            _ => 0,
        })
        .fold(0, |all, part| all | part)
}

fn shape(insn: &Instruction) -> Shape {
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(insn);
    let mut kinds = [Kind::None; OPERANDS];
    let mut written = [false; OPERANDS];
    for n in 0..insn.op_count().min(OPERANDS as u32) {
        let slot = n as usize;
        kinds[slot] = match insn.op_kind(n) {
            OpKind::Memory => Kind::Memory,
            OpKind::Register => kind(insn.op_register(n)),
            _ => Kind::None,
        };
        written[slot] = matches!(
            info.op_access(n),
            OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
        );
    }
    let vex = insn.code().encoding() == EncodingKind::VEX;
    let x87 = x87(insn);
    let vector = kinds.contains(&Kind::Vector);
    let gate = match (x87, vector, kinds.contains(&Kind::Mmx), vex) {
        (true, ..) => Gate::X87,
        (_, true, _, true) => Gate::Avx,
        (_, true, true, _) => Gate::SseMmx,
        (_, true, false, _) => Gate::Sse,
        (_, _, true, _) => Gate::Mmx,
        (.., true) => Gate::VexGpr,
        _ => Gate::Open,
    };
    let memory = memory_operand(insn).map(|n| {
        let size = insn.memory_size();
        Memory {
            size: size.size() as u8,
            store: written[n as usize],
            align: if aligned(insn, vex) { size.size() as u8 - 1 } else { 0 },
        }
    });
    let status = {
        use iced_x86::RflagsBits as B;
        B::CF | B::PF | B::AF | B::ZF | B::SF | B::OF
    };
    let (read, modified) = (insn.rflags_read() & status, insn.rflags_modified() & status);
    Shape {
        kinds,
        written,
        gate,
        memory,
        flags_in: read != 0 || (modified != 0 && modified != status),
        flags: read | modified != 0,
        float: float(insn.mnemonic()),
        halves: if insn.mnemonic() == Mnemonic::Vcvtps2ph { insn.op1_register().size() as u8 / 2 } else { 0 },
        vex,
    }
}

fn kind(register: Register) -> Kind {
    if register.is_xmm() || register.is_ymm() {
        Kind::Vector
    } else if register.is_mm() {
        Kind::Mmx
    } else if register.is_gpr() {
        Kind::Gpr(register.size() as u8)
    } else {
        Kind::None
    }
}

/// An x87 instruction.
pub(crate) fn x87(insn: &Instruction) -> bool {
    use iced_x86::CpuidFeature as C;
    insn.code()
        .cpuid_features()
        .iter()
        .any(|f| matches!(f, C::FPU | C::FPU287 | C::FPU387 | C::FPU287XL_ONLY))
        || matches!(
            insn.mnemonic(),
            Mnemonic::Fcmovb | Mnemonic::Fcmovbe | Mnemonic::Fcmove | Mnemonic::Fcmovnb
        )
        || matches!(insn.mnemonic(), Mnemonic::Fcmovnbe | Mnemonic::Fcmovne | Mnemonic::Fcmovnu)
        || matches!(insn.mnemonic(), Mnemonic::Fcmovu | Mnemonic::Fisttp | Mnemonic::Wait)
}

/// A misaligned memory operand raises #GP, as CPUs of Intel have it: those of AMD execute SHA instructions all the same. A
/// stub must not reach such an operand, since the exception would be this process's.
fn aligned(insn: &Instruction, vex: bool) -> bool {
    use Mnemonic as M;
    match insn.mnemonic() {
        M::Vmovaps | M::Vmovapd | M::Vmovdqa | M::Vmovntps | M::Vmovntpd | M::Vmovntdq | M::Vmovntdqa => true,
        M::Movups | M::Movupd | M::Movdqu | M::Lddqu => false,
        M::Pcmpestri | M::Pcmpestrm | M::Pcmpistri | M::Pcmpistrm => false,
        M::Pcmpestri64 | M::Pcmpestrm64 => false,
        _ => !vex && insn.memory_size().size() == 16 && insn.memory_size() != MemorySize::Unknown,
    }
}

/// The instruction computes under MXCSR. All such mnemonics, with or without V, begin with one of these and end
/// in an element type; conversions begin with CVT.
fn float(mnemonic: Mnemonic) -> bool {
    const STEMS: [&str; 19] = [
        "add", "addsub", "sub", "mul", "div", "sqrt", "min", "max", "cmp", "comi", "ucomi", "round", "dp",
        "hadd", "hsub", "rcp", "rsqrt", "fm", "fnm",
    ];
    let name = format!("{mnemonic:?}").to_lowercase();
    let name = name.strip_prefix('v').unwrap_or(&name);
    if name.starts_with("cvt") {
        return true;
    }
    let Some(stem) = ["ps", "pd", "ss", "sd"].iter().find_map(|t| name.strip_suffix(t)) else { return false };
    STEMS.contains(&stem) || stem.starts_with("fm") || stem.starts_with("fnm")
}

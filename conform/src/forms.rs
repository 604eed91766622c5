//! Which instruction forms are compared: everything iced knows, within a CPU model, but for what user code cannot
//! execute or no two machines agree on.

use cpu::x86::CpuModel;
use iced_x86::{Code, EncodingKind, Mnemonic, OpCodeOperandKind};

use crate::contested;

/// An instruction form in a mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Form {
    /// iced's code: mnemonic, operand kinds, sizes.
    pub code: Code,
    /// Compatibility mode (32-bit) instead of 64-bit mode.
    pub compat: bool,
}

impl Form {
    /// The name `--form` takes: iced's code, with `@32` in compatibility mode.
    pub fn name(self) -> String {
        let mode = if self.compat { "@32" } else { "" };
        match self.code {
            _ if self.is_sequence() => format!("sequence{mode}"),
            _ if self.is_bytes() => format!("bytes{mode}"),
            code => format!("{code:?}{mode}"),
        }
    }

    /// Not one instruction but a few.
    pub const fn sequence(compat: bool) -> Self {
        Self { code: Code::INVALID, compat }
    }

    /// True for [`sequence`](Self::sequence).
    pub fn is_sequence(self) -> bool {
        self.code == Code::INVALID
    }

    /// Random bytes.
    pub const fn bytes(compat: bool) -> Self {
        Self { code: Code::DeclareByte, compat }
    }

    /// True for [`bytes`](Self::bytes).
    pub fn is_bytes(self) -> bool {
        self.code == Code::DeclareByte
    }

    /// Bits of the code segment: 64 or 32.
    pub fn bitness(self) -> u32 {
        if self.compat { 32 } else { 64 }
    }
}

/// All forms of a model, in iced's order, 64-bit mode first.
pub fn forms(model: &CpuModel) -> Vec<Form> {
    let mut all = Vec::new();
    for compat in [false, true] {
        all.extend(Code::values().map(|code| Form { code, compat }).filter(|f| included(model, *f)));
    }
    all
}

/// True if cases of this form are generated.
pub(crate) fn included(model: &CpuModel, form: Form) -> bool {
    let info = form.code.op_code();
    let mode = if form.compat { info.mode32() && info.compatibility_mode() } else { info.mode64() };
    let encoding = matches!(info.encoding(), EncodingKind::Legacy | EncodingKind::VEX);
    info.is_instruction()
        && mode
        && encoding
        && info.decoder_option() == 0
        && !info.fwait()
        && model.allows(form.code)
        && excluded(form).is_none()
        && !short_branch(form)
}

/// AMD executes near branches with an operand-size prefix in 64-bit mode as 16-bit ones, Intel ignores the prefix.
fn short_branch(form: Form) -> bool {
    let near = |k: &OpCodeOperandKind| matches!(k, OpCodeOperandKind::br16_1 | OpCodeOperandKind::br16_2);
    !form.compat && form.code.op_code().op_kinds().iter().any(near)
}

/// Why a form that user code can encode is not compared.
pub fn excluded(form: Form) -> Option<&'static str> {
    use Mnemonic as M;
    let reason = match form.code.mnemonic() {
        M::Syscall | M::Sysenter => "enters the host kernel",
        M::Cpuid | M::Xgetbv => "differs by cpu model",
        M::Rdtsc | M::Rdtscp | M::Rdpmc | M::Rdrand | M::Rdseed | M::Rdpid => "has no repeatable result",
        M::Sgdt | M::Sidt | M::Sldt | M::Str | M::Smsw => "is emulated by the host kernel under UMIP",
        M::Lar | M::Lsl | M::Verr | M::Verw => "reads the host kernel's descriptors",
        M::Vmcall | M::Vmmcall => "calls the host's hypervisor",
        M::Iret | M::Iretd | M::Iretq => "is compared in the guest-mode cases",
        M::Sysret | M::Sysexit | M::Sysexitq | M::Sysretq => "is compared in the guest-mode cases",
        M::Xsave | M::Xsave64 | M::Xsaveopt | M::Xsaveopt64 | M::Xsavec | M::Xsavec64 => {
            "stores components that the model lacks"
        }
        M::Xrstor | M::Xrstor64 | M::Xsetbv => "loads components that the model lacks",
        M::Ud0 | M::Ud1 => "differs by vendor in length",
        M::Int1 => "is a debug exception, whose frame depends on the host kernel",
        _ => match form.code {
            Code::Bswap_r16 => "has an undefined result",
            // AMD and Intel disagree on the operand size in 64-bit mode.
            Code::Retnw_imm16
            | Code::Retnw
            | Code::Call_rm16
            | Code::Jmp_rm16
            | Code::Jmp_rel16
            | Code::Call_rel16
                if !form.compat =>
            {
                "differs by vendor in operand size"
            }
            code => return contested::vendor_form(code),
        },
    };
    Some(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_is_there() {
        let model = CpuModel::named(Some("x86-64-v1")).unwrap();
        let all = forms(&model);
        let has = |code, compat| all.contains(&Form { code, compat });
        assert!(has(Code::Add_rm64_r64, false) && !has(Code::Add_rm64_r64, true));
        assert!(has(Code::Daa, true) && !has(Code::Daa, false));
        assert!(
            has(Code::Movsb_m8_m8, false) && has(Code::Fsin, false) && has(Code::Mulps_xmm_xmmm128, true)
        );
        assert!(!has(Code::Syscall, false) && !has(Code::VEX_Vaddps_xmm_xmm_xmmm128, false));
        assert!(all.len() > 2000, "{}", all.len());
    }

    #[test]
    fn names_tell_the_mode() {
        assert_eq!(Form { code: Code::Add_rm8_r8, compat: true }.name(), "Add_rm8_r8@32");
    }
}

//! Dead flags: an engine that translates may use the arithmetic flags for itself where the guest has no instruction
//! left that could read them. Only the frame of an exception in between can tell.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic as M, OpKind, Register};

use crate::undefined::from_iced;

/// All arithmetic flags.
pub(crate) const ALL: u64 = 0x8d5;
/// Instructions looked at, along all paths.
const LOOK: u32 = 64;

/// The arithmetic flags that every path from `ip` overwrites before it reads them; `code` begins at `base`.
pub(crate) fn dead(bitness: u32, code: &[u8], base: u64, ip: u64) -> u64 {
    let one = |flag: &u64| Path { bitness, code, base, left: LOOK }.dead(ip, *flag);
    (0..64).map(|bit| 1 << bit).filter(|flag| ALL & flag != 0).filter(one).sum()
}

struct Path<'a> {
    bitness: u32,
    code: &'a [u8],
    base: u64,
    left: u32,
}

impl Path<'_> {
    fn dead(&mut self, mut ip: u64, mut pending: u64) -> bool {
        while pending != 0 {
            let rest = usize::try_from(ip.wrapping_sub(self.base)).ok().and_then(|at| self.code.get(at..));
            let insn = Decoder::with_ip(self.bitness, rest.unwrap_or(&[]), ip, DecoderOptions::NONE).decode();
            if insn.is_invalid() || self.left == 0 || from_iced(insn.rflags_read()) & pending != 0 {
                return false;
            }
            self.left -= 1;
            pending &= !overwritten(&insn);
            ip = insn.next_ip();
            match insn.flow_control() {
                FlowControl::Next => {}
                FlowControl::UnconditionalBranch => ip = insn.near_branch_target(),
                FlowControl::Call if insn.is_call_near() => ip = insn.near_branch_target(),
                FlowControl::ConditionalBranch if self.dead(insn.near_branch_target(), pending) => {}
                _ => return pending == 0,
            }
        }
        true
    }
}

/// Flags that the instruction surely overwrites. A shift by zero keeps all of them, and so does a string instruction that
/// is repeated no time.
fn overwritten(insn: &Instruction) -> u64 {
    let shift = matches!(
        insn.mnemonic(),
        M::Shl | M::Sal | M::Shr | M::Sar | M::Rol | M::Ror | M::Rcl | M::Rcr | M::Shld | M::Shrd
    );
    let count = insn.op_count().wrapping_sub(1);
    let by_cl = || insn.op_kind(count) == OpKind::Register && insn.op_register(count) == Register::CL;
    let size = match insn.op_kind(0) {
        OpKind::Register => insn.op_register(0).size(),
        _ => insn.memory_size().size(),
    };
    let mask = if size == 8 { 63 } else { 31 };
    let repeated = insn.is_string_instruction() && (insn.has_rep_prefix() || insn.has_repne_prefix());
    if repeated || shift && (by_cl() || insn.immediate(count) & mask == 0) {
        return 0;
    }
    from_iced(insn.rflags_modified())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpu::x86::rflags;

    #[test]
    fn flags_are_dead_where_all_paths_overwrite_them() {
        let dead = |code: &[u8]| dead(64, code, 0x1000, 0x1000);
        assert_eq!(dead(&[0x01, 0xd8]), ALL); // add eax, ebx
        assert_eq!(dead(&[0xff, 0xc0]), ALL & !rflags::CF); // inc eax
        assert_eq!(dead(&[0x11, 0xd8]), ALL & !rflags::CF); // adc eax, ebx
        assert_eq!(dead(&[0x8b, 0x03]), 0); // mov eax, [rbx], and then who knows
        assert_eq!(dead(&[0x8b, 0x03, 0x01, 0xd8]), ALL);
        assert_eq!(dead(&[0xd3, 0xe0]), 0); // shl eax, cl
        assert_eq!(dead(&[0xe3, 0x02, 0x01, 0xd8, 0x01, 0xd8]), ALL); // jrcxz over an add, to another
        assert_eq!(dead(&[0xe3, 0x02, 0x01, 0xd8, 0x90, 0xcc]), 0);
        assert_eq!(dead(&[0xeb, 0xfe]), 0); // for ever
        assert_eq!(dead(&[0xe8, 1, 0, 0, 0, 0x9c, 0x01, 0xd8]), ALL); // call of an add, over a pushf
    }
}

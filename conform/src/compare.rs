//! Two outcomes of a case side by side.

use crate::generate::Case;
use crate::input::{Outcome, canonical};
use crate::{contested, layout, undefined, vendor};

/// Something user code can see that is not the same.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Difference {
    /// A register's name, `fault`, or `memory` with an address.
    pub what: String,
    /// On the host CPU.
    pub host: String,
    /// On the engine.
    pub engine: String,
}

const GPR: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];
const SEGMENTS: [&str; 6] = ["es", "cs", "ss", "ds", "fs", "gs"];

/// Everything that differs. Both images are brought into canonical form first.
pub fn differences(case: &Case, host: &mut Outcome, engine: &mut Outcome) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut differ = |what: &str, a: String, b: String| {
        found.push(Difference { what: what.to_owned(), host: a, engine: b });
    };
    canonical(&mut host.fp);
    canonical(&mut engine.fp);
    let code_mask = !undefined::error_code(host);
    let (insn, mut undefined_flags) = undefined::context(case, host);
    undefined_flags |= vendor::flags(case, insn, host);
    vendor::settle(case, insn, host, engine);
    let scope = contested::fault(insn);
    let fault = |o: &Outcome| {
        let addressed = o.vector == u64::from(cpu::x86::vector::PF);
        let cr2 = if addressed { o.cr2 } else { 0 };
        match scope {
            // Any vector but INT3's stands for all.
            contested::Fault::Any if o.vector != u64::from(cpu::x86::vector::BP) => (u64::MAX, 0, 0),
            _ => (o.vector, o.code & code_mask, cr2),
        }
    };
    if fault(host) != fault(engine) {
        let text = |(vector, code, cr2)| fault_name(vector, code, cr2);
        differ("fault", text(fault(host)), text(fault(engine)));
    }
    let (a, b) = (&host.regs, &engine.regs);
    let hex = |v: u64| format!("{v:#x}");
    let partial = host.vector != u64::from(cpu::x86::vector::BP) && contested::partial_registers(insn);
    // In compatibility mode the upper halves are undefined (Intel SDM volume 1, 3.4.1.1).
    let gpr_mask = if a.selectors[1] == layout::selector::CODE32 { 0xffff_ffff } else { u64::MAX };
    for (i, name) in GPR.iter().enumerate() {
        if (a.gpr[i] ^ b.gpr[i]) & gpr_mask != 0 && !partial {
            differ(name, hex(a.gpr[i]), hex(b.gpr[i]));
        }
    }
    let flags = !undefined_flags;
    for (name, x, y) in [
        ("rip", a.rip, b.rip),
        ("rflags", a.rflags & flags, b.rflags & flags),
        ("fs.base", a.fs_base, b.fs_base),
        ("gs.base", a.gs_base, b.gs_base),
    ] {
        if x != y {
            differ(name, hex(x), hex(y));
        }
    }
    // The host kernel's return to the child clears null selectors altogether.
    let null = |selector: u16| if selector < 4 { 0 } else { selector };
    for (i, name) in SEGMENTS.iter().enumerate() {
        if null(a.selectors[i]) != null(b.selectors[i]) {
            differ(name, hex(a.selectors[i].into()), hex(b.selectors[i].into()));
        }
    }
    undefined::vector_state(insn, host, &mut engine.fp);
    let unmasked = *host;
    undefined::vector_state(insn, &unmasked, &mut host.fp);
    if scope == contested::Fault::Any && host.vector != engine.vector {
        // Another fault came first, with other flags.
        engine.fp[24..28].copy_from_slice(&host.fp[24..28]);
    }
    if host.fp != engine.fp {
        for (name, at, len) in vector_registers() {
            let range = at..at + len;
            if host.fp[range.clone()] != engine.fp[range.clone()] {
                differ(&name, little_endian(&host.fp[range.clone()]), little_endian(&engine.fp[range]));
            }
        }
    }
    for at in undefined::memory(case, insn, host) {
        engine.memory[at] = host.memory[at];
    }
    if host.memory != engine.memory {
        for (start, len) in runs(&host.memory, &engine.memory) {
            let range = start..start + len;
            let name = format!("memory {:#x}", layout::address(start));
            differ(&name, bytes(&host.memory[range.clone()]), bytes(&engine.memory[range]));
        }
    }
    found
}

/// Name, place and length of everything in an XSAVE image.
pub(crate) fn vector_registers() -> Vec<(String, usize, usize)> {
    let mut all: Vec<_> = [("fcw", 0, 2), ("fsw", 2, 2), ("ftw", 4, 1), ("mxcsr", 24, 4)]
        .map(|(n, a, l)| (n.to_owned(), a, l))
        .into();
    all.extend((0..8).map(|i| (format!("st{i}"), 32 + i * 16, 10)));
    all.extend((0..16).map(|i| (format!("xmm{i}"), 160 + i * 16, 16)));
    all.extend((0..16).map(|i| (format!("ymm{i}h"), 576 + i * 16, 16)));
    all
}

/// Runs of bytes around those that differ; three at most.
fn runs(a: &[u8], b: &[u8]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    if a == b {
        return runs;
    }
    for at in (0..a.len()).filter(|&i| a[i] != b[i]) {
        let full = runs.len() == 3;
        match runs.last_mut() {
            Some((start, len)) if at - *start < 32 => *len = at - *start + 1,
            _ if full => break,
            _ => runs.push((at, 1)),
        }
    }
    runs
}

pub(crate) fn bytes(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")
}

pub(crate) fn little_endian(bytes: &[u8]) -> String {
    bytes.iter().rev().fold("0x".to_owned(), |text, b| format!("{text}{b:02x}"))
}

fn fault_name(vector: u64, code: u64, cr2: u64) -> String {
    match vector {
        u64::MAX => "a fault".to_owned(),
        0 => "#DE".to_owned(),
        1 => "#DB".to_owned(),
        3 => "none".to_owned(),
        4 => "#OF".to_owned(),
        5 => "#BR".to_owned(),
        6 => "#UD".to_owned(),
        7 => "#NM".to_owned(),
        11 => format!("#NP({code:#x})"),
        12 => format!("#SS({code:#x})"),
        13 => format!("#GP({code:#x})"),
        14 => format!("#PF({code:#x}) at {cr2:#x}"),
        16 => "#MF".to_owned(),
        17 => format!("#AC({code:#x})"),
        19 => "#XM".to_owned(),
        _ => format!("exception {vector}({code:#x})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_joined_and_limited() {
        let mut a = vec![0u8; 4096];
        let b = a.clone();
        for i in [10, 12, 30, 100, 1000, 2000] {
            a[i] = 1;
        }
        assert_eq!(runs(&a, &b), [(10, 21), (100, 1), (1000, 1)]);
        assert!(runs(&b, &b).is_empty());
    }
}

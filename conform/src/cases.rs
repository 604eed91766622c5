//! Cases in which host and interpreter once differed. Every bug found becomes one.

use cpu::x86::gpr::{RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP};
use cpu::x86::seg;

use crate::Form;
use crate::contested::contested;
use crate::generate::{Case, decode};
use crate::input::{Input, Patch};
use crate::layout::{CODE, DATA, DATA_END, PAGE, READ_ONLY, STACK, selector};

struct Named {
    name: &'static str,
    code: &'static [u8],
    compat: bool,
    /// General registers that are not zero; RSP is in the middle of the stack.
    gpr: &'static [(usize, u64)],
    memory: &'static [(u64, &'static [u8])],
    fcw: u16,
    fsw: u16,
    mxcsr: u32,
    /// Lower halves of XMM1 and XMM2.
    xmm1: u64,
    xmm2: u64,
}

const PLAIN: Named = Named {
    name: "",
    code: &[],
    compat: false,
    gpr: &[],
    memory: &[],
    fcw: 0x37f,
    fsw: 0,
    mxcsr: 0x1f80,
    xmm1: 0,
    xmm2: 0,
};

const CASES: &[Named] = &[
    Named {
        name: "an SS override is ignored in 64-bit mode: #GP",
        code: &[0x36, 0x48, 0x8b, 0x00], // mov rax, ss:[rax]
        gpr: &[(RAX, 1 << 63)],
        ..PLAIN
    },
    Named {
        name: "a DS override on RBP is ignored in 64-bit mode: #SS",
        code: &[0x3e, 0x48, 0x8b, 0x45, 0x00], // mov rax, ds:[rbp]
        gpr: &[(RBP, 1 << 63)],
        ..PLAIN
    },
    Named {
        name: "an SS override of a string source is ignored in 64-bit mode: #GP",
        code: &[0x36, 0xa4], // movsb
        gpr: &[(RSI, 1 << 63), (RDI, DATA)],
        ..PLAIN
    },
    Named {
        name: "CALL to a non-canonical address pushes nothing",
        code: &[0xff, 0xd2], // call rdx
        gpr: &[(RDX, 1 << 55)],
        ..PLAIN
    },
    Named {
        name: "CALL that cannot push does not jump",
        code: &[0xff, 0xd2],
        gpr: &[(RDX, CODE), (RSP, STACK)],
        ..PLAIN
    },
    Named {
        name: "ARPL reads a page that is read-only",
        code: &[0x63, 0x08], // arpl [eax], cx
        compat: true,
        gpr: &[(RAX, READ_ONLY), (RCX, 1)],
        memory: &[(READ_ONLY, &[3, 0])],
        ..PLAIN
    },
    Named {
        name: "ARPL that adjusts writes: #PF on a read-only page",
        code: &[0x63, 0x08],
        compat: true,
        gpr: &[(RAX, READ_ONLY), (RCX, 3)],
        memory: &[(READ_ONLY, &[1, 0])],
        ..PLAIN
    },
    Named {
        name: "ARPL across a page end faults on the load",
        code: &[0x63, 0x08],
        compat: true,
        gpr: &[(RAX, DATA_END - 1), (RCX, 3)],
        ..PLAIN
    },
    Named {
        name: "POP FS reads eight bytes",
        code: &[0x0f, 0xa1],
        gpr: &[(RSP, STACK + PAGE - 2)],
        memory: &[(STACK + PAGE - 2, &[0, 0])],
        ..PLAIN
    },
    Named {
        name: "POP DS reads four bytes",
        code: &[0x1f],
        compat: true,
        gpr: &[(RSP, STACK + PAGE - 2)],
        memory: &[(STACK + PAGE - 2, &[0x2b, 0])],
        ..PLAIN
    },
    Named {
        name: "ENTER wants room for a whole slot at the new top of the stack",
        code: &[0xc8, 0x05, 0x00, 0x00], // enter $5, $0
        gpr: &[(RSP, STACK + 12)],
        ..PLAIN
    },
    Named {
        name: "VCVTPS2PH to a half that is tiny and exact, underflow unmasked: #XM",
        code: &[0xc4, 0xe3, 0x79, 0x1d, 0xca, 0x00], // vcvtps2ph xmm2, xmm1, 0
        mxcsr: 0x1780,
        xmm1: 0x3880_0000_3800_0000, // 2^-14 and 2^-15
        ..PLAIN
    },
    Named {
        name: "VCVTPS2PH to a half that is tiny and exact, underflow masked: nothing is flagged",
        code: &[0xc4, 0xe3, 0x79, 0x1d, 0xca, 0x00],
        xmm1: 0x3880_0000_3800_0000,
        ..PLAIN
    },
    // sbb [rdx*4+disp32], imm32 with two prefixes too many
    Named { name: "an instruction of 16 bytes: #GP", code: OVERLONG, ..PLAIN },
    Named { name: "an instruction of 16 bytes, stepped: #GP", code: OVERLONG, ..PLAIN },
    Named { name: "fifteen prefixes: #GP", code: &[0x66; 15], ..PLAIN },
    Named {
        name: "LOCK with an instruction of 15 bytes that cannot have it: #UD",
        code: &[0x66, 0x66, 0x66, 0xf0, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x89, 0xc0],
        ..PLAIN
    },
    Named {
        name: "a REX prefix before another prefix is void",
        code: &[0x48, 0x66, 0x89, 0xc4], // mov sp, ax
        gpr: &[(RAX, 0x5678)],
        ..PLAIN
    },
    Named {
        name: "PUSHFQ that faults keeps flags that only it reads",
        code: &[0xf9, 0x9c, 0x31, 0xc0], // stc; pushfq; xor eax, eax
        gpr: &[(RSP, STACK)],
        ..PLAIN
    },
    Named {
        name: "PUSHFQ keeps flags that are read behind it",
        code: &[0xf9, 0x9c, 0x11, 0xc0, 0x59], // stc; pushfq; adc eax, eax; pop rcx
        gpr: &[(RSP, DATA + 64)],
        ..PLAIN
    },
    Named {
        name: "a comparison repeated no time keeps flags",
        code: &[0xf9, 0x8b, 0x03, 0xf2, 0xaf, 0x0f, 0x92, 0xc0], // stc; mov eax, [rbx]; repne scasd; setc al
        gpr: &[(RBX, DATA)],
        ..PLAIN
    },
    Named {
        name: "SHA1NEXTE of a misaligned operand: #GP",
        code: &[0x0f, 0x38, 0xc8, 0x00], // sha1nexte xmm0, [rax]
        gpr: &[(RAX, DATA + 8)],
        ..PLAIN
    },
    Named {
        name: "a repeated comparison that faults",
        code: &[0xf3, 0xa6], // repe cmpsb
        gpr: &[(RSI, DATA_END - 2), (RDI, DATA), (RCX, 16)],
        memory: &[(DATA_END - 2, &[7, 7]), (DATA, &[7, 7])],
        ..PLAIN
    },
    Named {
        name: "a gather that faults leaves whole masks",
        code: &[0xc4, 0xe2, 0x69, 0x90, 0x0c, 0x20], // vpgatherdd xmm1, [rax + xmm4], xmm2
        gpr: &[(RAX, DATA_END)],
        xmm2: 1 << 31 | 7,
        ..PLAIN
    },
    Named {
        name: "MOVQ of an MMX register that faults",
        code: &[0x0f, 0x7f, 0x08], // movq [rax], mm1
        gpr: &[(RAX, READ_ONLY)],
        fsw: 0x2800,
        ..PLAIN
    },
    Named {
        name: "FSTP of an empty register, unmasked, to a page that is read-only",
        code: &[0xdd, 0x18], // fstp qword [rax]
        gpr: &[(RAX, READ_ONLY)],
        fcw: 0x37e,
        ..PLAIN
    },
    Named {
        name: "REP STOSW with a count of zero in ECX",
        code: &[0x67, 0x66, 0xf3, 0xab],
        gpr: &[(RCX, 1 << 32), (RDI, 5 << 32 | DATA)],
        ..PLAIN
    },
    Named {
        name: "VMASKMOVPS that faults in its second half",
        code: &[0xc4, 0xe2, 0x6d, 0x2e, 0x08], // vmaskmovps [rax], ymm2, ymm1
        gpr: &[(RAX, READ_ONLY - 4)],
        xmm2: 1 << 63 | 1 << 31,
        ..PLAIN
    },
    Named {
        name: "LEAVE at the end of 4 GiB",
        code: &[0xc9],
        compat: true,
        gpr: &[(RBP, 0xffff_ffff)],
        ..PLAIN
    },
];

const OVERLONG: &[u8] =
    &[0x66, 0x26, 0x66, 0x67, 0x4a, 0x81, 0x1c, 0x95, 0xd8, 0xe1, 0xff, 0x1f, 0xae, 0x00, 0xcc, 0xcc];

/// The cases, ready to run: all on which this host's CPU has a say.
pub fn named_cases() -> Vec<Case> {
    let cases = CASES.iter().enumerate().map(|(index, named)| case(index, named));
    cases.filter(|case| contested(&case.insn, &case.input).is_none()).collect()
}

fn case(index: usize, named: &Named) -> Case {
    let mut input = Input::zeroed();
    let data = selector::DATA;
    let (code, fs) = if named.compat { (selector::CODE32, data) } else { (selector::CODE64, 0) };
    input.regs.rip = CODE + 1024;
    input.regs.selectors = [data, code, data, data, fs, fs];
    debug_assert_eq!(input.regs.selectors[seg::CS], code);
    input.regs.gpr[RSP] = STACK + PAGE / 2;
    for &(register, value) in named.gpr {
        input.regs.gpr[register] = value;
    }
    input.fp[..2].copy_from_slice(&named.fcw.to_le_bytes());
    input.fp[2..4].copy_from_slice(&named.fsw.to_le_bytes());
    input.fp[24..28].copy_from_slice(&named.mxcsr.to_le_bytes());
    input.fp[176..184].copy_from_slice(&named.xmm1.to_le_bytes());
    input.fp[192..200].copy_from_slice(&named.xmm2.to_le_bytes());
    input.code[..named.code.len()].copy_from_slice(named.code);
    input.code_len = named.code.len() as u32;
    for (patch, &(addr, bytes)) in input.patches.iter_mut().zip(named.memory) {
        *patch = Patch { addr, len: bytes.len() as u64, bytes: [0; 64] };
        patch.bytes[..bytes.len()].copy_from_slice(bytes);
        input.patch_count += 1;
    }
    let form = Form { code: iced_x86::Code::INVALID, compat: named.compat };
    let insn = decode(form, named.code, input.regs.rip);
    let form = Form { code: insn.code(), compat: named.compat };
    Case {
        form,
        name: Some(named.name),
        seed: 0,
        index: index as u64,
        insn,
        steps: Vec::new(),
        undefined: 0,
        stepping: index % 2 == 1,
        input,
    }
}

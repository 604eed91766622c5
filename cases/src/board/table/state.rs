//! Programs that keep something in every part of a CPU's state for long: whoever moves the state meanwhile must
//! not lose any of it.

use cpu::x86::{cr4, gpr, msr, rflags};
use iced_x86::code_asm::*;

use crate::board::layout::*;
use crate::board::part::{apic, icr};
use crate::board::{BoardCase, Expect};
use crate::layout::descriptor;

const BASE: BoardCase = BoardCase::BASE;
const ROUNDS: u32 = 5000;
const A: u64 = DATA;
const B: u64 = DATA + 8;
/// x87 control word and, four bytes behind, MXCSR; in a page of the image.
const CONTROL: u64 = GDT + 0x100;

/// What [`CASES`]' first one computes: RAX, RDX, R8.
const fn mixed() -> [u64; 3] {
    let (mut x, mut y, mut z) = (1u64, 2u64, 3u64);
    let mut i = ROUNDS as u64;
    while i != 0 {
        let (sum, carry) = x.overflowing_add(z);
        x = sum;
        y = y.wrapping_add(x).wrapping_add(carry as u64).rotate_left(7);
        z = (z ^ y).wrapping_sub(i);
        i -= 1;
    }
    [x, y, z]
}

pub(super) const CASES: &[BoardCase] = &[
    BoardCase {
        name: "registers and flags through a long loop",
        cpus: 2,
        build: |p| {
            for cpu in 0..2 {
                p.cpu(cpu, |a| {
                    if cpu == 0 {
                        a.start_others()?;
                    }
                    for (i, register) in [rbx, rbp, r9, r10, r11, r12, r13].into_iter().enumerate() {
                        a.mov(register, 0x1111_1111_1111_1111 * (i as u64 + 1))?;
                    }
                    a.mov(eax, 1)?;
                    a.mov(edx, 2)?;
                    a.mov(r8d, 3)?;
                    a.std()?;
                    a.times(ROUNDS, |a| {
                        a.add(rax, r8)?;
                        a.adc(rdx, rax)?;
                        a.rol(rdx, 7)?;
                        a.xor(r8, rdx)?;
                        a.sub(r8, rsi)
                    })?;
                    a.pushfq()?;
                    a.mov(rdi, qword_ptr(rsp))?;
                    a.lock().inc(qword_ptr(A))?;
                    if cpu == 0 { a.wait(A, 2) } else { Ok(()) }
                })?;
            }
            Ok(())
        },
        expect: &[
            Expect::Reg(1, gpr::RAX, mixed()[0]),
            Expect::Reg(1, gpr::RDX, mixed()[1]),
            Expect::Reg(0, 8, mixed()[2]),
            Expect::Reg(1, 8, mixed()[2]),
            Expect::Reg(0, gpr::RBX, 0x1111_1111_1111_1111),
            Expect::Reg(1, gpr::RBP, 0x2222_2222_2222_2222),
            Expect::Reg(0, 13, 0x7777_7777_7777_7777),
            Expect::Reg(1, gpr::RDI, rflags::DF | rflags::ZF | rflags::PF | 2),
        ],
        ..BASE
    },
    BoardCase {
        name: "x87, MMX and SSE state through a long loop",
        build: |p| {
            p.put_u64(CONTROL, 0x7f80_0000_0e7f);
            p.cpu(0, |a| {
                a.fldcw(word_ptr(CONTROL))?; // double precision, towards zero
                a.ldmxcsr(dword_ptr(CONTROL + 4))?;
                a.mov(dword_ptr(A), 3)?;
                a.fldz()?;
                a.pxor(xmm7, xmm7)?;
                a.mov(eax, 5)?;
                a.movd(xmm9, eax)?;
                a.times(ROUNDS, |a| {
                    a.fiadd(dword_ptr(A))?;
                    a.paddq(xmm7, xmm9)?;
                    a.movaps(xmm15, xmm7)
                })?;
                a.fistp(dword_ptr(B))?;
                a.movq(qword_ptr(B + 8), xmm15)?;
                a.fnstcw(word_ptr(B + 16))?;
                a.stmxcsr(dword_ptr(B + 20))?;
                // MMX on top of the same registers.
                a.mov(eax, 7)?;
                a.movd(mm3, eax)?;
                a.pxor(mm0, mm0)?;
                a.times(ROUNDS, |a| a.paddd(mm0, mm3))?;
                a.movd(dword_ptr(B + 24), mm0)?;
                a.emms()
            })
        },
        expect: &[
            Expect::Mem(B, ROUNDS as u64 * 3),
            Expect::Mem(B + 8, ROUNDS as u64 * 5),
            Expect::Mem(B + 16, 0x7f80 << 32 | 0x0e7f),
            Expect::Mem(B + 24, ROUNDS as u64 * 7),
        ],
        ..BASE
    },
    BoardCase {
        name: "AVX state and XCR0 through a long loop",
        build: |p| {
            p.cpu(0, |a| {
                let mut without = a.create_label();
                a.mov(eax, 1)?;
                a.cpuid()?;
                a.and(ecx, 1 << 28 | 1 << 26)?;
                a.cmp(ecx, 1 << 28 | 1 << 26)?;
                a.jne(without)?;
                a.mov(rax, cr4)?;
                a.or(eax, cr4::OSXSAVE as i32)?;
                a.mov(cr4, rax)?;
                a.xor(ecx, ecx)?;
                a.xor(edx, edx)?;
                a.mov(eax, 7)?;
                a.xsetbv()?;
                a.mov(qword_ptr(A), 3)?;
                a.mov(qword_ptr(A + 24), 9)?;
                a.vmovdqu(ymm2, ymmword_ptr(A))?;
                a.vxorps(ymm11, ymm11, ymm11)?;
                a.times(ROUNDS, |a| a.vaddpd(ymm12, ymm2, ymm11))?;
                a.vmovdqu(ymmword_ptr(A + 32), ymm2)?;
                a.xor(ecx, ecx)?;
                a.xgetbv()?;
                a.check_eax(7)?;
                a.check_word(A + 56, 9)?;
                a.set_label(&mut without)?;
                a.zero_bytes()
            })
        },
        ..BASE
    },
    BoardCase {
        name: "segments keep their hidden part when their descriptor is gone",
        build: |p| {
            p.put_u64(GDT + u64::from(sel::FREE), descriptor(PAGE as u32, 0xf_ffff, 0x93, 0xc));
            p.cpu(0, |a| {
                a.mov(qword_ptr(PAGE), 0x77)?;
                a.mov(eax, u32::from(sel::FREE))?;
                a.mov(fs, eax)?;
                a.mov(qword_ptr(GDT + u64::from(sel::FREE)), 0)?;
                a.times(ROUNDS, |a| {
                    a.mov(rax, qword_ptr(0).fs())?;
                    a.check_eax(0x77)
                })
            })
        },
        ..BASE
    },
    BoardCase {
        name: "MSRs, CR2 and debug registers through a long loop",
        build: |p| {
            const VALUES: [(u32, u64); 9] = [
                (msr::STAR, 0x0023_0010_1234_5678),
                (msr::LSTAR, 0xffff_8000_0000_1000),
                (msr::CSTAR, 0xffff_8000_0000_2000),
                (msr::SFMASK, 0x4_7700),
                (msr::KERNEL_GS_BASE, 0x7fff_1234_5678),
                (msr::FS_BASE, 0xffff_ffff_8123_4567),
                (msr::SYSENTER_EIP, 0xffff_ffff_8000_3000),
                (msr::TSC_AUX, 0x55),
                (msr::PAT, 0x0007_0106_0007_0406),
            ];
            p.cpu(0, |a| {
                for (number, value) in VALUES {
                    a.set_msr(number, value)?;
                }
                a.mov(rbx, 0xffff_8765_4321_0000u64)?;
                a.mov(cr2, rbx)?;
                a.mov(dr0, rbx)?;
                a.mov(dr3, rbx)?;
                a.times(ROUNDS, |_| Ok(()))?;
                for (number, value) in VALUES {
                    a.msr(number)?;
                    a.mov(rcx, value)?;
                    a.cmp(rax, rcx)?;
                    a.check(|a, good| a.je(good))?;
                }
                for code in [3, 0] {
                    if code == 0 {
                        a.mov(rax, dr0)?
                    } else {
                        a.mov(rax, dr3)?
                    }
                    a.cmp(rax, rbx)?;
                    a.check(|a, good| a.je(good))?;
                }
                a.mov(rax, cr2)?;
                a.cmp(rax, rbx)?;
                a.check(|a, good| a.je(good))
            })
        },
        ..BASE
    },
    BoardCase {
        name: "an interrupt never comes between STI and the instruction behind it",
        build: |p| {
            p.on(0x50, |a| {
                a.mov(eax, ebx)?;
                a.check_eax(1)?;
                a.bump(0)?;
                a.eoi()
            })?;
            p.cpu(0, |a| {
                a.times(2000, |a| {
                    a.xor(ebx, ebx)?;
                    a.set_apic(apic::ICR, icr::SELF | icr::FIXED | 0x50)?;
                    a.wait_vector(apic::irr(0x50))?;
                    a.sti()?;
                    a.inc(ebx)?;
                    a.inc(ebx)?;
                    a.cli()
                })
            })
        },
        expect: &[Expect::Mem(cpu_word(0, 0), 2000)],
        ..BASE
    },
    BoardCase {
        name: "every instruction of a loop is single-stepped once",
        build: |p| {
            p.on(1, |a| a.bump(1))?;
            p.cpu(0, |a| {
                a.pushfq()?;
                a.or(dword_ptr(rsp), rflags::TF as i32)?;
                a.popfq()?;
                a.times(3000, |a| a.nop())?;
                a.pushfq()?;
                a.and(dword_ptr(rsp), !(rflags::TF as i32))?;
                a.popfq()?;
                a.nop()
            })
        },
        // MOV, three thousand times NOP, DEC and JNZ, PUSHF, AND, POPF: the last is still stepped.
        expect: &[Expect::Mem(cpu_word(0, 1), 1 + 3 * 3000 + 3)],
        ..BASE
    },
    BoardCase {
        name: "a data breakpoint is hit in every round of a loop",
        build: |p| {
            p.on(1, |a| {
                a.mov(rax, dr6)?;
                a.check_bits(0xf, true)?;
                a.mov(eax, 0xffff_0ff0u32)?;
                a.mov(dr6, rax)?;
                a.bump(1)
            })?;
            p.cpu(0, |a| {
                a.mov(eax, A as u32)?;
                for register in [dr0, dr1, dr2, dr3] {
                    a.mov(register, rax)?;
                }
                a.mov(eax, 0xdddd_04ffu32)?; // four bytes, written
                a.mov(dr7, rax)?;
                a.times(1000, |a| {
                    a.mov(eax, dword_ptr(A))?;
                    a.inc(dword_ptr(A))
                })
            })
        },
        expect: &[Expect::Mem(cpu_word(0, 1), 1000)],
        ..BASE
    },
    BoardCase {
        name: "long string instructions, interrupted, do all their work once",
        build: |p| {
            p.count(0x70)?;
            p.cpu(0, |a| {
                const LEN: u32 = 0x4_0000;
                a.set_apic(apic::DIVIDE, apic::BY_1)?;
                a.set_apic(apic::LVT_TIMER, apic::PERIODIC | 0x70)?;
                a.set_apic(apic::INITIAL, 50_000)?;
                a.sti()?;
                a.mov(edi, PAGE as u32)?;
                a.mov(ecx, LEN)?;
                a.mov(eax, 1)?;
                a.rep().stosb()?;
                a.mov(r8, rdi)?;
                a.mov(esi, PAGE as u32)?;
                a.lea(edi, dword_ptr(rsi + 1))?; // spreads the first byte
                a.mov(byte_ptr(rsi), 3)?;
                a.mov(ecx, LEN - 1)?;
                a.rep().movsb()?;
                a.cli()?;
                a.xor(ebx, ebx)?;
                a.mov(esi, PAGE as u32)?;
                let mut next = a.create_label();
                a.set_label(&mut next)?;
                a.movzx(eax, byte_ptr(rsi))?;
                a.add(ebx, eax)?;
                a.inc(esi)?;
                a.cmp(rsi, r8)?;
                a.jb(next)?;
                a.mov(eax, ebx)?;
                a.check_eax(3 * LEN)
            })
        },
        ..BASE
    },
];

//! What CPUs keep of memory that others change: code and translations.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use crate::board::asm::Done;
use crate::board::layout::*;
use crate::board::part::{apic, icr};
use crate::board::{Asm, BoardCase, Expect, Program};

const BASE: BoardCase = BoardCase::BASE;
const V: u8 = 0x60;

const ACKS: u64 = DATA;
const ROUND: u64 = DATA + 0x40;
const DONE: u64 = DATA + 0x80;
const RESULT: u64 = DATA + 0xc0;
const STOP: u64 = DATA + 0x100;
const WANTED: u64 = DATA + 0x140;
const SPARE: u64 = DATA + 0x180;

/// Two frames that [`PAGE`] is mapped to in turn, and what stands in them.
const FRAMES: [u64; 2] = [PAGE + 0x1000, PAGE + 0x2000];
const MARKS: [u64; 2] = [0x1111, 0x2222];

/// A function that gives a constant, and where the constant stands: on four bytes, so that a store to it is one.
fn constant(p: &mut Program, value: u32) -> Result<(u64, u64), IcedError> {
    let at = p.piece(|a| {
        a.db(&[0x90, 0x90, 0x90])?;
        a.mov(eax, value)?;
        a.ret()
    })?;
    Ok((at, at + 4))
}

fn serialise(a: &mut Asm) -> Done {
    a.xor(eax, eax)?;
    a.cpuid()
}

/// Calls a function until [`STOP`] is set.
fn call_until_stop(a: &mut Asm, function: u64) -> Done {
    a.repeat(|a, again, end| {
        a.call(function)?;
        a.cmp(qword_ptr(STOP), 0)?;
        a.jne(end)?;
        a.jmp(again)
    })
}

/// Spins until a word is at least RDI.
fn wait_rdi(a: &mut Asm, at: u64) -> Done {
    a.repeat(|a, again, end| {
        a.cmp(qword_ptr(at), rdi)?;
        a.jae(end)?;
        a.pause()?;
        a.jmp(again)
    })
}

/// A new constant for round RDI into the code at `at`; EAX and [`WANTED`] hold it.
fn modify(a: &mut Asm, at: u64) -> Done {
    a.imul_3(eax, edi, 0x0101_0101)?;
    a.mov(dword_ptr(WANTED), eax)?;
    a.mov(dword_ptr(at), eax)
}

fn check_result(a: &mut Asm) -> Done {
    a.mov(eax, dword_ptr(RESULT))?;
    a.cmp(eax, dword_ptr(WANTED))?;
    a.check(|a, good| a.je(good))
}

/// CPU 0 remaps [`PAGE`] a hundred times and interrupts the others, which forget their translation with `forget`
/// and look at the page, as they do all the time.
fn shootdown(p: &mut Program, forget: impl Fn(&mut Asm) -> Done) -> Done {
    let cpus = u64::from(p.cpus());
    p.on(V, |a| {
        forget(a)?;
        a.mov(rax, qword_ptr(PAGE))?;
        a.cmp(rax, qword_ptr(WANTED))?;
        a.check(|a, good| a.je(good))?;
        a.lock().inc(qword_ptr(ACKS))?;
        a.eoi()
    })?;
    for cpu in 1..cpus {
        p.cpu(cpu, |a| {
            a.lock().inc(qword_ptr(SPARE))?;
            a.sti()?;
            a.repeat(|a, again, end| {
                a.mov(rax, qword_ptr(PAGE))?;
                a.cmp(qword_ptr(STOP), 0)?;
                a.jne(end)?;
                a.jmp(again)
            })
        })?;
    }
    p.put_u64(pte(PAGE), FRAMES[0] | 3);
    p.cpu(0, |a| {
        for (frame, mark) in FRAMES.into_iter().zip(MARKS) {
            a.mov(qword_ptr(frame), mark as i32)?;
        }
        a.mov(qword_ptr(WANTED), MARKS[0] as i32)?;
        a.start_others()?;
        a.wait(SPARE, cpus as i32 - 1)?;
        a.xor(edi, edi)?;
        a.times(100, |a| {
            a.add(edi, cpus as i32 - 1)?;
            a.xor(qword_ptr(WANTED), (MARKS[0] ^ MARKS[1]) as i32)?;
            a.xor(qword_ptr(pte(PAGE)), (FRAMES[0] ^ FRAMES[1]) as i32)?;
            a.set_apic(apic::ICR, icr::OTHERS | icr::FIXED | u32::from(V))?;
            wait_rdi(a, ACKS)
        })?;
        a.inc(qword_ptr(STOP))
    })
}

pub(super) const CASES: &[BoardCase] = &[
    BoardCase {
        name: "code changed by another CPU while an interrupt holds this one",
        cpus: 2,
        build: |p| {
            let (function, at) = constant(p, 0)?;
            p.on(V, |a| {
                a.inc(qword_ptr(ACKS))?;
                a.mov(rbx, qword_ptr(ACKS))?;
                a.repeat(|a, again, end| {
                    a.cmp(qword_ptr(ROUND), rbx)?;
                    a.je(end)?;
                    a.pause()?;
                    a.jmp(again)
                })?;
                serialise(a)?;
                a.call(function)?;
                a.mov(dword_ptr(RESULT), eax)?;
                a.inc(qword_ptr(DONE))?;
                a.eoi()
            })?;
            p.cpu(1, |a| {
                a.sti()?;
                call_until_stop(a, function)
            })?;
            p.cpu(0, |a| {
                a.start_others()?;
                a.xor(edi, edi)?;
                a.times(100, |a| {
                    a.inc(edi)?;
                    a.ipi(1, icr::FIXED | u32::from(V))?;
                    wait_rdi(a, ACKS)?;
                    modify(a, at)?;
                    a.mov(qword_ptr(ROUND), rdi)?;
                    wait_rdi(a, DONE)?;
                    check_result(a)
                })?;
                a.inc(qword_ptr(STOP))
            })
        },
        ..BASE
    },
    BoardCase {
        name: "code changed by another CPU, which says so in memory",
        cpus: 2,
        build: |p| {
            let (function, at) = constant(p, 0)?;
            p.cpu(1, |a| {
                a.mov(edi, 1)?;
                a.times(300, |a| {
                    wait_rdi(a, ROUND)?;
                    serialise(a)?;
                    a.call(function)?;
                    a.mov(dword_ptr(RESULT), eax)?;
                    a.mov(qword_ptr(DONE), rdi)?;
                    a.inc(edi)
                })
            })?;
            p.cpu(0, |a| {
                a.start_others()?;
                a.mov(edi, 1)?;
                a.times(300, |a| {
                    modify(a, at)?;
                    a.mov(qword_ptr(ROUND), rdi)?;
                    wait_rdi(a, DONE)?;
                    check_result(a)?;
                    a.inc(edi)
                })
            })
        },
        ..BASE
    },
    BoardCase {
        name: "a breakpoint that another CPU puts into running code is hit, and gone when it takes it away",
        cpus: 2,
        build: |p| {
            let (function, _) = constant(p, 0)?;
            p.on(3, |a| a.inc(qword_ptr(ACKS)))?;
            p.cpu(1, |a| {
                a.repeat(|a, again, end| {
                    a.call(function)?;
                    serialise(a)?;
                    a.cmp(qword_ptr(ROUND), 1)?;
                    a.je(end)?;
                    a.jmp(again)
                })?;
                serialise(a)?;
                a.mov(rbx, qword_ptr(ACKS))?;
                a.mov(qword_ptr(SPARE), rbx)?;
                a.times(1000, |a| a.call(function))?;
                a.mov(rax, qword_ptr(ACKS))?;
                a.cmp(rax, qword_ptr(SPARE))?;
                a.check(|a, good| a.je(good))?;
                a.inc(qword_ptr(DONE))
            })?;
            p.cpu(0, |a| {
                a.start_others()?;
                a.delay(100_000)?;
                a.mov(byte_ptr(function), 0xcc)?;
                a.wait(ACKS, 100)?;
                a.mov(byte_ptr(function), 0x90)?;
                a.inc(qword_ptr(ROUND))?;
                a.wait(DONE, 1)
            })
        },
        ..BASE
    },
    BoardCase {
        name: "code written by another CPU to a page that held data",
        cpus: 2,
        build: |p| {
            p.cpu(1, |a| {
                a.mov(rax, qword_ptr(PAGE))?;
                a.wait(ROUND, 1)?;
                serialise(a)?;
                a.mov(ebx, PAGE as u32)?;
                a.call(rbx)?;
                a.mov(dword_ptr(RESULT), eax)?;
                a.inc(qword_ptr(DONE))
            })?;
            p.cpu(0, |a| {
                a.start_others()?;
                a.mov(byte_ptr(PAGE), 0xb8)?; // mov eax, imm32; ret
                a.mov(dword_ptr(PAGE + 1), 0x1234_5678)?;
                a.mov(byte_ptr(PAGE + 5), 0xc3)?;
                a.inc(qword_ptr(ROUND))?;
                a.wait(DONE, 1)
            })
        },
        expect: &[Expect::Mem(RESULT, 0x1234_5678)],
        ..BASE
    },
    BoardCase {
        name: "a store to the very next instruction is executed",
        build: |p| {
            p.cpu(0, |a| {
                a.mov(edi, 1)?;
                a.times(100, |a| {
                    let mut next = a.create_label();
                    a.lea(rbx, ptr(next))?;
                    a.imul_3(ecx, edi, 0x0101_0101)?;
                    a.mov(dword_ptr(rbx + 1), ecx)?;
                    a.set_label(&mut next)?;
                    a.mov(eax, 0)?;
                    a.cmp(eax, ecx)?;
                    a.check(|a, good| a.je(good))?;
                    a.inc(edi)
                })
            })
        },
        ..BASE
    },
    BoardCase {
        name: "code changed through another address of its page",
        build: |p| {
            let (function, at) = constant(p, 0)?;
            p.put_u64(pte(PAGE), (at & !0xfff) | 3);
            p.cpu(0, |a| {
                a.mov(edi, 1)?;
                a.times(100, |a| {
                    modify(a, PAGE | at & 0xfff)?;
                    serialise(a)?;
                    a.call(function)?;
                    a.cmp(eax, dword_ptr(WANTED))?;
                    a.check(|a, good| a.je(good))?;
                    a.inc(edi)
                })
            })
        },
        ..BASE
    },
    BoardCase {
        name: "a translation is shot down by interrupts, INVLPG",
        cpus: 4,
        build: |p| shootdown(p, |a| a.invlpg(ptr(PAGE))),
        ..BASE
    },
    BoardCase {
        name: "a translation is shot down by interrupts, CR3",
        cpus: 3,
        build: |p| {
            shootdown(p, |a| {
                a.mov(rax, cr3)?;
                a.mov(cr3, rax)
            })
        },
        ..BASE
    },
    BoardCase {
        name: "a page that is unmapped and shot down faults, one that is mapped is there without",
        cpus: 2,
        build: |p| {
            p.catch(14)?;
            p.on(V, |a| {
                a.invlpg(ptr(PAGE))?;
                a.inc(qword_ptr(ACKS))?;
                a.eoi()
            })?;
            p.cpu(1, |a| {
                a.mov(rax, qword_ptr(PAGE))?;
                a.inc(qword_ptr(SPARE))?;
                a.sti()?;
                a.wait(ACKS, 1)?;
                a.cli()?;
                a.faults(|a| a.mov(rax, qword_ptr(PAGE)))?;
                a.mov(rax, r12)?;
                a.check_eax(0)?;
                a.mov(rax, cr2)?;
                a.check_eax(PAGE as u32)?;
                a.inc(qword_ptr(DONE))?;
                let mut again = a.create_label();
                a.lea(r13, qword_ptr(again))?;
                a.set_label(&mut again)?;
                a.mov(rax, qword_ptr(PAGE))?; // faults until it does not
                a.inc(qword_ptr(DONE))
            })?;
            p.cpu(0, |a| {
                a.start_others()?;
                a.wait(SPARE, 1)?;
                a.and(qword_ptr(pte(PAGE)), !1)?;
                a.ipi(1, icr::FIXED | u32::from(V))?;
                a.wait(DONE, 1)?;
                a.delay(10_000)?;
                a.or(qword_ptr(pte(PAGE)), 1)?;
                a.wait(DONE, 2)
            })
        },
        ..BASE
    },
    BoardCase {
        name: "accessed and dirty bits are set without losing what others change in the entry",
        cpus: 3,
        build: |p| {
            // CPU 1 writes and CPU 2 reads the page behind fresh translations; CPU 0 turns a bit that belongs to
            // software.
            for cpu in 1..3 {
                p.cpu(cpu, |a| {
                    a.lock().inc(qword_ptr(SPARE))?;
                    a.repeat(|a, again, end| {
                        a.lock().btr(qword_ptr(pte(PAGE)), if cpu == 1 { 6 } else { 5 })?;
                        a.invlpg(ptr(PAGE))?;
                        if cpu == 1 {
                            a.mov(dword_ptr(PAGE), 1)?;
                        } else {
                            a.mov(eax, dword_ptr(PAGE))?;
                        }
                        a.cmp(qword_ptr(STOP), 0)?;
                        a.jne(end)?;
                        a.jmp(again)
                    })?;
                    a.lock().inc(qword_ptr(DONE))
                })?;
            }
            p.cpu(0, |a| {
                a.start_others()?;
                a.wait(SPARE, 2)?;
                a.times(20_000, |a| {
                    a.lock().bts(qword_ptr(pte(PAGE)), 9)?;
                    a.check(|a, good| a.jnc(good))?;
                    a.lock().btr(qword_ptr(pte(PAGE)), 9)?;
                    a.check(|a, good| a.jc(good))
                })?;
                a.inc(qword_ptr(STOP))?;
                a.wait(DONE, 2)
            })
        },
        expect: &[Expect::Mem(pte(PAGE), PAGE | 0x63)],
        ..BASE
    },
];

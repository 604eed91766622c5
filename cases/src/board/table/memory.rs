//! Memory that CPUs share: locked operations, fences, the order of stores.

use iced_x86::code_asm::*;

use crate::board::asm::Done;
use crate::board::layout::*;
use crate::board::{Asm, BoardCase, Expect, Program};

const BASE: BoardCase = BoardCase::BASE;
const CPUS: u64 = 4;

/// Words of their own cache lines.
const A: u64 = DATA;
const B: u64 = DATA + 0x40;
const C: u64 = DATA + 0x80;
const D: u64 = DATA + 0xc0;
const E: u64 = DATA + 0x100;
const F: u64 = DATA + 0x140;
const GO: u64 = DATA + 0x780;
const DONE: u64 = DATA + 0x7c0;

/// The same for every CPU, all at once.
fn all(p: &mut Program, code: impl Fn(&mut Asm, u64) -> Done) -> Done {
    let cpus = p.cpus();
    for cpu in 0..u64::from(cpus) {
        p.cpu(cpu, |a| {
            if cpu == 0 {
                a.start_others()?;
            }
            a.lock().inc(qword_ptr(GO))?;
            a.wait(GO, cpus as i32)?;
            code(a, cpu)?;
            a.lock().inc(qword_ptr(DONE))?;
            if cpu == 0 { a.wait(DONE, cpus as i32) } else { Ok(()) }
        })?;
    }
    Ok(())
}

/// Adds one to a word, not atomically.
fn increment(a: &mut Asm, at: u64) -> Done {
    a.mov(rax, qword_ptr(at))?;
    a.inc(rax)?;
    a.mov(qword_ptr(at), rax)
}

/// Each of two CPUs stores to its own word, then loads the other's: with something between that drains the stores,
/// at least one of them sees the other's. Without, both miss it now and then.
fn store_buffering(p: &mut Program, drain: impl Fn(&mut Asm) -> Done) -> Done {
    const STORED: [u64; 2] = [A, B];
    const SEEN: [u64; 2] = [C, D];
    const BEFORE: [u64; 2] = [E, F];
    const BEHIND: [u64; 2] = [E + 0x200, F + 0x200];
    // Without PAUSE: the two are to leave it at the same time.
    let meet = |a: &mut Asm, at: [u64; 2], cpu: usize| {
        a.mov(qword_ptr(at[cpu]), rdi)?;
        a.repeat(|a, again, end| {
            a.cmp(qword_ptr(at[1 - cpu]), rdi)?;
            a.jae(end)?;
            a.jmp(again)
        })
    };
    all(p, |a, cpu| {
        let cpu = cpu as usize;
        a.mov(edi, 1)?;
        a.times(5000, |a| {
            a.mov(rbp, rdi)?;
            meet(a, BEFORE, cpu)?;
            a.mov(qword_ptr(STORED[cpu]), rdi)?;
            drain(a)?;
            a.mov(rax, qword_ptr(STORED[1 - cpu]))?;
            a.mov(rdi, rbp)?;
            a.mov(qword_ptr(SEEN[cpu]), rax)?;
            meet(a, BEHIND, cpu)?;
            if cpu == 0 {
                a.mov(rax, qword_ptr(SEEN[0]))?;
                a.cmp(rax, qword_ptr(SEEN[1]))?;
                let mut good = a.create_label();
                a.jne(good)?;
                a.cmp(rax, rdi)?;
                a.check(|a, good| a.je(good))?;
                a.set_label(&mut good)?;
                a.zero_bytes()?;
            }
            a.inc(edi)
        })
    })
}

/// A case of [`store_buffering`].
macro_rules! drains {
    ($name:literal, $drain:expr) => {
        BoardCase { name: $name, cpus: 2, build: |p| store_buffering(p, $drain), ..BASE }
    };
}

pub(super) const CASES: &[BoardCase] = &[
    BoardCase {
        name: "locked additions of four CPUs give the exact sum, in all sizes",
        cpus: CPUS as u32,
        build: |p| {
            all(p, |a, _| {
                a.times(5000, |a| {
                    a.lock().inc(qword_ptr(A))?;
                    a.lock().add(dword_ptr(B), 3)?;
                    a.lock().sub(word_ptr(C), 1)?;
                    a.lock().dec(byte_ptr(D))?;
                    a.mov(eax, 5)?;
                    a.lock().xadd(qword_ptr(E), rax)?;
                    a.lock().adc(qword_ptr(F), 0x100) // carry is from the sum in RAX
                })
            })
        },
        expect: &[
            Expect::Mem(A, CPUS * 5000),
            Expect::Mem(B, CPUS * 15_000),
            Expect::Mem(C, (0x1_0000 - CPUS * 5000) & 0xffff),
            Expect::Mem(D, 0xff & (0u64.wrapping_sub(CPUS * 5000))),
            Expect::Mem(E, CPUS * 25_000),
            Expect::Mem(F, CPUS * 5000 * 0x100),
        ],
        ..BASE
    },
    BoardCase {
        name: "locked bit operations and logic of four CPUs in one word",
        cpus: CPUS as u32,
        build: |p| {
            all(p, |a, cpu| {
                a.mov(ebx, cpu as u32 + 8)?;
                a.times(5001, |a| {
                    a.lock().btc(dword_ptr(A), cpu as u32)?;
                    a.lock().btc(qword_ptr(A), rbx)?;
                    a.lock().xor(word_ptr(A + 2), 1 << cpu)?;
                    a.lock().or(byte_ptr(A + 4), 1 << cpu)?;
                    a.lock().and(byte_ptr(A + 4), !(1 << cpu))?;
                    a.lock().bts(dword_ptr(A + 4), cpu as u32 + 8)?;
                    a.check(|a, good| a.jnc(good))?;
                    a.lock().btr(dword_ptr(A + 4), cpu as u32 + 8)?;
                    a.check(|a, good| a.jc(good))?;
                    a.lock().not(byte_ptr(A + 6))?;
                    a.lock().neg(byte_ptr(A + 7))
                })
            })
        },
        expect: &[Expect::Mem(A, 0x000f_0f0f)],
        ..BASE
    },
    BoardCase {
        name: "compare-and-exchange loops of four CPUs, 8, 32, 64 and 128 bits wide",
        cpus: CPUS as u32,
        build: |p| {
            all(p, |a, _| {
                a.times(3000, |a| {
                    a.repeat(|a, again, end| {
                        a.mov(al, byte_ptr(A))?;
                        a.lea(ecx, dword_ptr(rax + 1))?;
                        a.lock().cmpxchg(byte_ptr(A), cl)?;
                        a.je(end)?;
                        a.jmp(again)
                    })?;
                    a.mov(eax, dword_ptr(B))?;
                    a.repeat(|a, again, end| {
                        a.lea(ecx, dword_ptr(rax + 7))?;
                        a.lock().cmpxchg(dword_ptr(B), ecx)?; // RAX is what was there
                        a.je(end)?;
                        a.jmp(again)
                    })?;
                    a.mov(eax, dword_ptr(C))?;
                    a.mov(edx, dword_ptr(C + 4))?;
                    a.repeat(|a, again, end| {
                        a.lea(ebx, dword_ptr(rax + 1))?;
                        a.lea(ecx, dword_ptr(rdx + 2))?;
                        a.lock().cmpxchg8b(qword_ptr(C))?;
                        a.je(end)?;
                        a.jmp(again)
                    })?;
                    a.mov(rax, qword_ptr(D))?;
                    a.mov(rdx, qword_ptr(D + 8))?;
                    a.repeat(|a, again, end| {
                        a.lea(rbx, qword_ptr(rax + 1))?;
                        a.lea(rcx, qword_ptr(rdx - 1))?;
                        a.lock().cmpxchg16b(xmmword_ptr(D))?;
                        a.je(end)?;
                        a.jmp(again)
                    })
                })
            })
        },
        expect: &[
            Expect::Mem(A, (CPUS * 3000) & 0xff),
            Expect::Mem(B, CPUS * 21_000),
            Expect::Mem(C, (CPUS * 3000) | ((CPUS * 6000) << 32)),
            Expect::Mem(D, CPUS * 3000),
            Expect::Mem(D + 8, 0u64.wrapping_sub(CPUS * 3000)),
        ],
        ..BASE
    },
    BoardCase {
        name: "locked additions across cache lines and pages",
        cpus: CPUS as u32,
        build: |p| {
            all(p, |a, _| {
                a.times(2000, |a| {
                    a.lock().inc(dword_ptr(DATA + 0x3e))?;
                    a.lock().add(qword_ptr(DATA + 0x7b), 0x1_0001)?;
                    a.lock().inc(qword_ptr(PAGE + 0xffd))?;
                    a.lock().inc(word_ptr(PAGE + 0x1fff))
                })
            })
        },
        expect: &[
            Expect::Mem(DATA + 0x3e, CPUS * 2000),
            Expect::Mem(DATA + 0x7b, CPUS * 2000 * 0x1_0001),
            Expect::Mem(PAGE + 0xffd, CPUS * 2000),
            Expect::Mem(PAGE + 0x1fff, CPUS * 2000),
        ],
        ..BASE
    },
    BoardCase {
        name: "a spin lock of XCHG guards a counter",
        cpus: CPUS as u32,
        build: |p| {
            all(p, |a, _| {
                a.times(3000, |a| {
                    a.repeat(|a, again, end| {
                        a.mov(eax, 1)?;
                        a.xchg(dword_ptr(A), eax)?;
                        a.test(eax, eax)?;
                        a.jz(end)?;
                        a.pause()?;
                        a.jmp(again)
                    })?;
                    increment(a, B)?;
                    a.mov(dword_ptr(A), 0)
                })
            })
        },
        expect: &[Expect::Mem(B, CPUS * 3000)],
        ..BASE
    },
    BoardCase {
        name: "a ticket lock of XADD guards a counter",
        cpus: 2,
        build: |p| {
            all(p, |a, _| {
                a.times(3000, |a| {
                    a.mov(eax, 1)?;
                    a.lock().xadd(dword_ptr(A), eax)?;
                    a.repeat(|a, again, end| {
                        a.cmp(eax, dword_ptr(B))?;
                        a.je(end)?;
                        a.pause()?;
                        a.jmp(again)
                    })?;
                    increment(a, C)?;
                    a.inc(dword_ptr(B))
                })
            })
        },
        expect: &[Expect::Mem(C, 6000)],
        ..BASE
    },
    BoardCase {
        name: "Peterson's algorithm with MFENCE guards a counter",
        cpus: 2,
        build: |p| {
            all(p, |a, cpu| {
                let (mine, other) = if cpu == 0 { (A, B) } else { (B, A) };
                a.times(3000, |a| {
                    a.mov(dword_ptr(mine), 1)?;
                    a.mov(dword_ptr(C), 1 - cpu as u32)?;
                    a.mfence()?;
                    a.repeat(|a, again, end| {
                        a.cmp(dword_ptr(other), 0)?;
                        a.je(end)?;
                        a.cmp(dword_ptr(C), cpu as i32)?;
                        a.je(end)?;
                        a.pause()?;
                        a.jmp(again)
                    })?;
                    increment(a, D)?;
                    a.mov(dword_ptr(mine), 0)
                })
            })
        },
        expect: &[Expect::Mem(D, 6000)],
        ..BASE
    },
    drains!("MFENCE keeps loads behind the stores before it", |a| a.mfence()),
    drains!("a locked operation keeps loads behind the stores before it", |a| {
        a.lock().or(qword_ptr(rsp - 8), 0)
    }),
    drains!("XCHG with memory keeps loads behind the stores before it", |a| a.xchg(qword_ptr(rsp - 8), rdi)),
    drains!("CPUID keeps loads behind the stores before it", |a| {
        a.xor(eax, eax)?;
        a.cpuid()
    }),
    drains!("MOV to CR3 keeps loads behind the stores before it", |a| {
        a.mov(rax, cr3)?;
        a.mov(cr3, rax)
    }),
    drains!("INVLPG keeps loads behind the stores before it", |a| a.invlpg(ptr(PAGE))),
    drains!("MOV to a debug register keeps loads behind the stores before it", |a| a.mov(dr0, rdi)),
    drains!("WRMSR keeps loads behind the stores before it", |a| a.set_msr(cpu::x86::msr::TSC_AUX, 1)),
    drains!("WBINVD keeps loads behind the stores before it", |a| a.wbinvd()),
    drains!("LIDT keeps loads behind the stores before it", |a| {
        a.sidt(tword_ptr(rsp - 16))?;
        a.lidt(tword_ptr(rsp - 16))
    }),
    drains!("IRET keeps loads behind the stores before it", |a| {
        let mut here = a.create_label();
        a.lea(rbx, qword_ptr(here))?;
        a.mov(rcx, rsp)?;
        a.push(i32::from(sel::DATA))?;
        a.push(rcx)?;
        a.pushfq()?;
        a.push(i32::from(sel::CODE64))?;
        a.push(rbx)?;
        a.iretq()?;
        a.set_label(&mut here)?;
        a.zero_bytes()
    }),
    BoardCase {
        name: "stores are seen in their order",
        cpus: 2,
        build: |p| {
            all(p, |a, cpu| {
                if cpu == 0 {
                    return a.times(20_000, |a| {
                        a.inc(qword_ptr(A))?;
                        a.inc(qword_ptr(B))
                    });
                }
                a.repeat(|a, again, end| {
                    a.mov(rbx, qword_ptr(B))?;
                    a.mov(rax, qword_ptr(A))?;
                    a.cmp(rax, rbx)?;
                    a.check(|a, good| a.jae(good))?;
                    a.cmp(rbx, 20_000)?;
                    a.je(end)?;
                    a.jmp(again)
                })
            })
        },
        ..BASE
    },
    BoardCase {
        name: "stores within a cache line are never seen in halves",
        cpus: 2,
        build: |p| {
            all(p, |a, cpu| {
                let wide = [A, A + 11, A + 24];
                if cpu == 0 {
                    a.xor(ebx, ebx)?;
                    a.times(20_000, |a| {
                        a.not(rbx)?;
                        for at in wide {
                            a.mov(qword_ptr(at), rbx)?;
                        }
                        a.mov(dword_ptr(A + 33), ebx)?;
                        a.mov(word_ptr(A + 41), bx)
                    })?;
                    return a.mov(dword_ptr(B), 1);
                }
                a.repeat(|a, again, end| {
                    for at in wide {
                        a.mov(rax, qword_ptr(at))?;
                        a.lea(rcx, qword_ptr(rax + 1))?;
                        a.cmp(rcx, 1)?; // -1 or 0
                        a.check(|a, good| a.jbe(good))?;
                    }
                    a.mov(eax, dword_ptr(A + 33))?;
                    a.lea(ecx, dword_ptr(rax + 1))?;
                    a.cmp(ecx, 1)?;
                    a.check(|a, good| a.jbe(good))?;
                    a.movsx(eax, word_ptr(A + 41))?;
                    a.lea(ecx, dword_ptr(rax + 1))?;
                    a.cmp(ecx, 1)?;
                    a.check(|a, good| a.jbe(good))?;
                    a.cmp(dword_ptr(B), 1)?;
                    a.je(end)?;
                    a.jmp(again)
                })
            })
        },
        ..BASE
    },
    BoardCase {
        name: "a loop without PAUSE sees what another CPU stores",
        cpus: 2,
        build: |p| {
            all(p, |a, cpu| {
                a.mov(edi, 1)?;
                a.times(100, |a| {
                    if cpu == 0 {
                        a.mov(qword_ptr(A), rdi)?;
                    }
                    a.repeat(|a, again, end| {
                        a.cmp(qword_ptr(if cpu == 0 { B } else { A }), rdi)?;
                        a.jae(end)?;
                        a.jmp(again)
                    })?;
                    if cpu == 1 {
                        a.mov(qword_ptr(B), rdi)?;
                    }
                    a.inc(edi)
                })
            })
        },
        ..BASE
    },
];

//! Timers: that of the local APIC in its three modes, the 8254, the real-time clock, the PM timer, the TSC.

use cpu::x86::msr;
use iced_x86::code_asm::*;

use crate::board::asm::Done;
use crate::board::layout::*;
use crate::board::part::*;
use crate::board::{Asm, BoardCase, Expect};

const BASE: BoardCase = BoardCase::BASE;
const V: u8 = 0x70;
const TIMER: u32 = V as u32;
/// Words of DATA.
const A: u64 = DATA;
const B: u64 = DATA + 8;

/// A timer of the local APIC, not divided.
fn start_timer(a: &mut Asm, entry: u32, count: u32) -> Done {
    a.set_apic(apic::DIVIDE, apic::BY_1)?;
    a.set_apic(apic::LVT_TIMER, entry)?;
    a.set_apic(apic::INITIAL, count)
}

/// Channel 2 of the 8254 for a one-shot count, started by its gate.
fn start_channel_2(a: &mut Asm, count: u32) -> Done {
    a.outb(PORT_B, 0)?;
    a.outb(PIT_CONTROL, 0xb0)?;
    a.outb(PIT + 2, count & 0xff)?;
    a.outb(PIT + 2, count >> 8)?;
    a.outb(PORT_B, 1)
}

fn wait_channel_2(a: &mut Asm) -> Done {
    a.repeat(|a, again, end| {
        a.inb(PORT_B)?;
        a.test(al, 0x20)?;
        a.jnz(end)?;
        a.jmp(again)
    })
}

/// EAX from the PM timer.
fn pm_timer(a: &mut Asm) -> Done {
    a.mov(edx, PM_TIMER)?;
    a.in_(eax, dx)
}

pub(super) const CASES: &[BoardCase] = &[
    BoardCase {
        name: "a one-shot timer counts down, ends HLT, and fires once",
        build: |p| {
            p.count(V)?;
            p.cpu(0, |a| {
                start_timer(a, TIMER, 2_000_000_000)?;
                a.apic(apic::CURRENT)?;
                a.mov(ebx, eax)?;
                a.apic(apic::CURRENT)?;
                a.cmp(eax, ebx)?;
                a.check(|a, good| a.jb(good))?;
                a.cmp(ebx, 2_000_000_000)?;
                a.check(|a, good| a.jbe(good))?;
                a.set_apic(apic::INITIAL, 1_000_000)?;
                a.sleep(cpu_word(0, V.into()), 1)?;
                a.apic(apic::CURRENT)?;
                a.check_eax(0)?;
                a.apic(apic::INITIAL)?;
                a.check_eax(1_000_000)?;
                a.sti()?;
                a.delay(1_000_000)
            })
        },
        expect: &[Expect::Mem(cpu_word(0, V as u64), 1)],
        ..BASE
    },
    BoardCase {
        name: "a periodic timer ends HLT again and again, until its count is zero",
        build: |p| {
            p.count(V)?;
            p.cpu(0, |a| {
                start_timer(a, apic::PERIODIC | TIMER, 500_000)?;
                a.sleep(cpu_word(0, V.into()), 20)?;
                a.set_apic(apic::INITIAL, 0)?;
                a.apic(apic::CURRENT)?;
                a.check_eax(0)?;
                a.sti()?;
                a.nop()?;
                a.mov(rbx, qword_ptr(cpu_word(0, V.into())))?;
                a.delay(1_000_000)?;
                a.mov(rax, qword_ptr(cpu_word(0, V.into())))?;
                a.cmp(rax, rbx)?;
                a.check(|a, good| a.je(good))
            })
        },
        ..BASE
    },
    BoardCase {
        name: "a periodic timer interrupts a loop",
        build: |p| {
            p.count(V)?;
            p.cpu(0, |a| {
                start_timer(a, apic::PERIODIC | TIMER, 100_000)?;
                a.sti()?;
                let mut spin = a.create_label();
                a.set_label(&mut spin)?;
                a.cmp(qword_ptr(cpu_word(0, V.into())), 20)?;
                a.jb(spin)
            })
        },
        ..BASE
    },
    BoardCase {
        name: "a periodic timer interrupts a loop of calls that never return",
        build: |p| {
            p.count(V)?;
            p.cpu(0, |a| {
                start_timer(a, apic::PERIODIC | TIMER, 100_000)?;
                a.sti()?;
                let (mut spin, mut end) = (a.create_label(), a.create_label());
                a.push(0)?;
                a.set_label(&mut spin)?;
                a.lea(rsp, qword_ptr(rsp + 8))?;
                a.cmp(qword_ptr(cpu_word(0, V.into())), 20)?;
                a.jae(end)?;
                a.call(spin)?;
                a.set_label(&mut end)?;
                a.nop()
            })
        },
        ..BASE
    },
    BoardCase {
        name: "a masked timer runs out unseen",
        build: |p| {
            p.cpu(0, |a| {
                start_timer(a, apic::MASKED | TIMER, 10_000)?;
                a.repeat(|a, again, end| {
                    a.apic(apic::CURRENT)?;
                    a.test(eax, eax)?;
                    a.jz(end)?;
                    a.jmp(again)
                })?;
                a.delay(100_000)?;
                a.check_vector(apic::irr(TIMER), false)?;
                a.set_apic(apic::LVT_TIMER, TIMER)?;
                a.sti()?;
                a.delay(100_000)
            })
        },
        ..BASE
    },
    BoardCase {
        name: "the divide register slows the timer down",
        build: |p| {
            p.cpu(0, |a| {
                // 2 to 128, then 1: never more counts than TSC time allows, and at least one of them.
                for (code, shift) in [(0, 1), (1, 2), (2, 3), (3, 4), (8, 5), (9, 6), (10, 7), (11, 0)] {
                    a.set_apic(apic::LVT_TIMER, apic::MASKED)?;
                    a.set_apic(apic::DIVIDE, code)?;
                    pm_timer(a)?;
                    a.mov(ebx, eax)?;
                    a.set_apic(apic::INITIAL, u32::MAX)?;
                    a.delay(10_000)?;
                    a.apic(apic::CURRENT)?;
                    a.not(eax)?;
                    a.mov(edi, eax)?; // counts
                    a.test(eax, eax)?;
                    a.check(|a, good| a.jnz(good))?;
                    pm_timer(a)?;
                    a.sub(eax, ebx)?;
                    a.inc(eax)?;
                    a.imul_3(rax, rax, 280)?; // at least the nanoseconds passed
                    a.shl(rdi, shift)?;
                    a.cmp(rdi, rax)?;
                    a.check(|a, good| a.jbe(good))?;
                }
                Ok(())
            })
        },
        ..BASE
    },
    BoardCase {
        name: "a TSC deadline ends HLT at its time, not before, and is zero then",
        build: |p| {
            p.on(V, |a| {
                a.tsc()?;
                a.mov(qword_ptr(A), rax)?;
                a.bump(V.into())?;
                a.eoi()
            })?;
            p.cpu(0, |a| {
                a.set_apic(apic::LVT_TIMER, apic::TSC_DEADLINE | TIMER)?;
                a.times(10, |a| {
                    a.set_deadline(2_000_000)?;
                    a.msr(msr::TSC_DEADLINE)?;
                    a.mov(rbx, rax)?;
                    a.repeat(|a, again, end| {
                        a.cli()?;
                        a.mov(rax, qword_ptr(A))?;
                        a.cmp(rax, qword_ptr(B))?;
                        a.jne(end)?;
                        a.sti()?;
                        a.hlt()?;
                        a.jmp(again)
                    })?;
                    a.mov(qword_ptr(B), rax)?;
                    a.cmp(rax, rbx)?;
                    a.check(|a, good| a.jae(good))?;
                    a.msr(msr::TSC_DEADLINE)?;
                    a.check_eax(0)
                })
            })
        },
        expect: &[Expect::Mem(cpu_word(0, V as u64), 10)],
        ..BASE
    },
    BoardCase {
        name: "a TSC deadline that is over fires at once; zero disarms",
        build: |p| {
            p.count(V)?;
            p.cpu(0, |a| {
                a.set_apic(apic::LVT_TIMER, apic::TSC_DEADLINE | TIMER)?;
                a.sti()?;
                a.set_msr(msr::TSC_DEADLINE, 1)?;
                a.wait(cpu_word(0, V.into()), 1)?;
                a.set_deadline(200_000)?;
                a.set_msr(msr::TSC_DEADLINE, 0)?;
                a.mov(rbx, qword_ptr(cpu_word(0, V.into())))?; // it may have come before
                a.delay(1_000_000)?;
                a.mov(rax, qword_ptr(cpu_word(0, V.into())))?;
                a.cmp(rax, rbx)?;
                a.check(|a, good| a.je(good))
            })
        },
        ..BASE
    },
    BoardCase {
        name: "deadline and count belong to their modes",
        build: |p| {
            p.cpu(0, |a| {
                a.set_apic(apic::LVT_TIMER, apic::MASKED | TIMER)?;
                a.set_deadline(i32::MAX as u32)?;
                a.msr(msr::TSC_DEADLINE)?;
                a.check_eax(0)?;
                a.set_apic(apic::LVT_TIMER, apic::TSC_DEADLINE | apic::MASKED | TIMER)?;
                a.set_apic(apic::INITIAL, 1_000_000)?;
                a.apic(apic::CURRENT)?;
                a.check_eax(0)?;
                a.set_deadline(i32::MAX as u32)?;
                a.set_apic(apic::LVT_TIMER, apic::MASKED | TIMER)?;
                a.set_apic(apic::LVT_TIMER, apic::TSC_DEADLINE | apic::MASKED | TIMER)?;
                a.msr(msr::TSC_DEADLINE)?;
                a.check_eax(0)
            })
        },
        ..BASE
    },
    BoardCase {
        name: "a deadline follows the TSC that software moves",
        build: |p| {
            p.count(V)?;
            p.cpu(0, |a| {
                a.set_apic(apic::LVT_TIMER, apic::TSC_DEADLINE | TIMER)?;
                a.tsc()?;
                a.mov(rdi, 1u64 << 50)?;
                a.add(rax, rdi)?;
                a.mov(rdx, rax)?;
                a.shr(rdx, 32)?;
                a.mov(ecx, msr::TSC_DEADLINE)?;
                a.wrmsr()?; // weeks away
                a.sti()?;
                a.delay(10_000)?;
                a.check_word(cpu_word(0, V.into()), 0)?;
                a.set_msr(msr::TSC_ADJUST, 1 << 51)?;
                a.wait(cpu_word(0, V.into()), 1)?;
                a.set_msr(msr::TSC, 1 << 20)?;
                a.tsc()?;
                a.shr(rax, 50)?;
                a.check_eax(0)
            })
        },
        ..BASE
    },
    BoardCase {
        name: "every CPU has a timer of its own",
        cpus: 4,
        build: |p| {
            p.count(V)?;
            for cpu in 0..4 {
                p.cpu(cpu, |a| {
                    if cpu == 0 {
                        a.start_others()?;
                    }
                    if cpu % 2 == 0 {
                        start_timer(a, apic::PERIODIC | TIMER, 300_000 + 1000 * cpu as u32)?;
                        a.sleep(cpu_word(cpu, V.into()), 10)?;
                        a.set_apic(apic::INITIAL, 0)?;
                    } else {
                        a.set_apic(apic::LVT_TIMER, apic::TSC_DEADLINE | TIMER)?;
                        for n in 1..=10 {
                            a.set_deadline(500_000)?;
                            a.sleep(cpu_word(cpu, V.into()), n)?;
                        }
                    }
                    a.lock().inc(qword_ptr(A))?;
                    if cpu == 0 { a.wait(A, 4) } else { Ok(()) }
                })?;
            }
            Ok(())
        },
        ..BASE
    },
    BoardCase {
        name: "the 8254 in one-shot mode interrupts once",
        build: |p| {
            p.count(0x42)?;
            p.cpu(0, |a| {
                a.route(2, 0, 0x42)?;
                a.pit(0, 1000)?;
                a.sleep(cpu_word(0, 0x42), 1)?;
                a.sti()?;
                a.delay(1_000_000)?;
                a.check_word(cpu_word(0, 0x42), 1)?;
                a.pit(0, 500)?;
                a.sleep(cpu_word(0, 0x42), 2)
            })
        },
        ..BASE
    },
    BoardCase {
        name: "channel 2 of the 8254 counts down while its gate is open, and shows its end in port B",
        build: |p| {
            p.cpu(0, |a| {
                let count = |a: &mut Asm| {
                    a.outb(PIT_CONTROL, 0x80)?; // latch
                    a.inb(PIT + 2)?;
                    a.mov(ebx, eax)?;
                    a.inb(PIT + 2)?;
                    a.shl(eax, 8)?;
                    a.or(eax, ebx)
                };
                start_channel_2(a, 0xffff)?;
                count(a)?;
                a.mov(edi, eax)?;
                a.delay(100_000)?;
                a.inb(PORT_B)?;
                a.mov(ebp, eax)?;
                count(a)?;
                a.cmp(eax, edi)?;
                // Lower, or so late on this host that it ran out.
                let mut late = a.create_label();
                a.jb(late)?;
                wait_channel_2(a)?;
                a.set_label(&mut late)?;
                a.outb(PORT_B, 0)?; // the gate closes
                count(a)?;
                a.mov(edi, eax)?;
                a.delay(100_000)?;
                count(a)?;
                a.cmp(eax, edi)?;
                a.check(|a, good| a.je(good))?;
                start_channel_2(a, 2000)?;
                wait_channel_2(a)
            })
        },
        ..BASE
    },
    BoardCase {
        name: "the 8254, the PM timer, the TSC and the local APIC's timer agree on what has passed",
        build: |p| {
            p.cpu(0, |a| {
                const COUNT: u64 = 11_932; // 10 ms
                pm_timer(a)?;
                a.mov(ebx, eax)?;
                start_timer(a, apic::MASKED | TIMER, u32::MAX)?;
                start_channel_2(a, COUNT as u32)?;
                wait_channel_2(a)?;
                a.apic(apic::CURRENT)?;
                a.not(eax)?;
                a.mov(edi, eax)?; // nanoseconds by the local APIC
                pm_timer(a)?;
                a.sub(eax, ebx)?;
                a.cmp(eax, (COUNT * PM_TIMER_HZ / 1_193_182 - 2) as i32)?;
                a.check(|a, good| a.jae(good))?;
                // Everything between the two PM timer readings passed there too.
                a.inc(eax)?;
                a.imul_3(rax, rax, 280)?;
                a.cmp(rax, rdi)?;
                a.check(|a, good| a.jae(good))?;
                a.mov(eax, edi)?;
                a.cmp(eax, 9_999_000)?;
                a.check(|a, good| a.jae(good))
            })
        },
        ..BASE
    },
    BoardCase {
        name: "the PM timer goes on and never back",
        build: |p| {
            p.cpu(0, |a| {
                pm_timer(a)?;
                a.mov(ebx, eax)?;
                a.mov(edi, eax)?;
                a.times(10_000, |a| {
                    pm_timer(a)?;
                    a.mov(ecx, eax)?;
                    a.sub(eax, ebx)?;
                    a.mov(ebx, ecx)?;
                    a.test(eax, eax)?;
                    a.check(|a, good| a.jns(good))
                })?;
                a.mov(eax, ebx)?;
                a.cmp(eax, edi)?;
                a.check(|a, good| a.jne(good))
            })
        },
        ..BASE
    },
    BoardCase {
        name: "the periodic interrupt of the real-time clock ends HLT, again when register C was read",
        build: |p| {
            p.on(0x48, |a| {
                a.bump(0x48)?;
                a.rtc(0x0c)?;
                a.check_bits(0xc0, true)?;
                a.eoi()
            })?;
            p.cpu(0, |a| {
                a.route(8, 0, 0x48)?;
                a.set_rtc(0x0a, 0x26)?; // 1024 Hz
                a.rtc(0x0c)?;
                a.set_rtc(0x0b, 0x42)?;
                a.sleep(cpu_word(0, 0x48), 10)?;
                a.set_rtc(0x0b, 0x02)
            })
        },
        ..BASE
    },
    BoardCase {
        name: "the real-time clock tells each new second, and holds its interrupt until register C is read",
        build: |p| {
            p.count(0x48)?;
            p.cpu(0, |a| {
                a.route(8, 0, 0x48)?;
                a.rtc(0x0c)?;
                a.set_rtc(0x0b, 0x12)?;
                a.sleep(cpu_word(0, 0x48), 1)?;
                a.rtc(0)?;
                a.mov(ebx, eax)?;
                a.rtc(0x0c)?;
                a.check_bits(0x90, true)?;
                a.sleep(cpu_word(0, 0x48), 2)?;
                a.rtc(0)?;
                a.cmp(eax, ebx)?;
                a.check(|a, good| a.jne(good))?;
                a.set_rtc(0x0b, 0x02)
            })
        },
        ..BASE
    },
    BoardCase {
        name: "RDTSC never goes back, on one CPU",
        build: |p| {
            p.cpu(0, |a| {
                a.tsc()?;
                a.mov(rbx, rax)?;
                a.times(100_000, |a| {
                    a.tsc()?;
                    a.cmp(rax, rbx)?;
                    a.check(|a, good| a.jae(good))?;
                    a.mov(rbx, rax)
                })
            })
        },
        ..BASE
    },
    BoardCase {
        name: "RDTSC never goes back, from one CPU to another",
        cpus: 2,
        build: |p| {
            // A is the turn, B the last reading.
            for cpu in 0..2 {
                p.cpu(cpu, |a| {
                    if cpu == 0 {
                        a.start_others()?;
                    }
                    a.mov(edi, cpu as u32)?;
                    a.times(1000, |a| {
                        a.repeat(|a, again, end| {
                            a.cmp(qword_ptr(A), rdi)?;
                            a.je(end)?;
                            a.pause()?;
                            a.jmp(again)
                        })?;
                        a.lfence()?; // RDTSC does not wait for the load by itself
                        a.tsc()?;
                        a.cmp(rax, qword_ptr(B))?;
                        a.check(|a, good| a.jae(good))?;
                        a.mov(qword_ptr(B), rax)?;
                        a.inc(qword_ptr(A))?;
                        a.add(edi, 2)
                    })?;
                    if cpu == 0 { a.wait(A, 2000) } else { Ok(()) }
                })?;
            }
            Ok(())
        },
        ..BASE
    },
];

//! Interrupts between CPUs: who is addressed, NMIs, messages that nobody takes.

use iced_x86::code_asm::*;

use crate::board::asm::Done;
use crate::board::layout::*;
use crate::board::part::{apic, icr};
use crate::board::{Asm, BoardCase, Expect, Program};

const BASE: BoardCase = BoardCase::BASE;
const V: u32 = 0x51;
const LAST: u8 = 0x5f;

/// CPU 0 sends what `send` says, then an interrupt to each CPU by its id, which tells that all went before. The
/// others set up their APIC with `prepare` and sleep.
fn send(
    p: &mut Program,
    prepare: impl Fn(&mut Asm, u64) -> Done,
    send: impl FnOnce(&mut Asm) -> Done,
) -> Done {
    p.count(V as u8)?;
    p.count(LAST)?;
    let cpus = u64::from(p.cpus());
    for cpu in 1..cpus {
        p.cpu(cpu, |a| {
            prepare(a, cpu)?;
            a.lock().inc(qword_ptr(DATA))?;
            a.sleep(cpu_word(cpu, LAST.into()), 1)
        })?;
    }
    p.cpu(0, |a| {
        a.start_others()?;
        prepare(a, 0)?;
        a.wait(DATA, cpus as i32 - 1)?;
        a.sti()?;
        send(a)?;
        for cpu in (0..cpus).rev() {
            a.ipi(cpu as u32, icr::FIXED | u32::from(LAST))?;
            a.wait(cpu_word(cpu, LAST.into()), 1)?;
        }
        a.delay(1000)
    })
}

fn nothing(_: &mut Asm, _: u64) -> Done {
    Ok(())
}

/// How many of the interrupts of [`send`] CPU `n` got.
const fn got(cpu: u64, count: u64) -> Expect {
    Expect::Mem(cpu_word(cpu, V as u64), count)
}

/// Flat model: one bit per CPU.
fn flat(a: &mut Asm, cpu: u64) -> Done {
    a.set_apic(apic::DFR, u32::MAX)?;
    a.set_apic(apic::LDR, 1 << (24 + cpu))
}

/// Cluster model: CPUs 0 and 1 in cluster 1, CPUs 2 and 3 in cluster 2.
fn cluster(a: &mut Asm, cpu: u64) -> Done {
    a.set_apic(apic::DFR, 0x0fff_ffff)?;
    a.set_apic(apic::LDR, ((cpu as u32 / 2 + 1) << 4 | 1 << (cpu % 2)) << 24)
}

pub(super) const CASES: &[BoardCase] = &[
    BoardCase {
        name: "an interrupt to all but self",
        cpus: 4,
        build: |p| send(p, nothing, |a| a.set_apic(apic::ICR, icr::OTHERS | icr::FIXED | V)),
        expect: &[got(0, 0), got(1, 1), got(2, 1), got(3, 1)],
        ..BASE
    },
    BoardCase {
        name: "an interrupt to all with self",
        cpus: 4,
        build: |p| send(p, nothing, |a| a.set_apic(apic::ICR, icr::ALL | icr::FIXED | V)),
        expect: &[got(0, 1), got(1, 1), got(2, 1), got(3, 1)],
        ..BASE
    },
    BoardCase {
        name: "an interrupt to self goes to nobody else, whatever the destination says",
        cpus: 4,
        build: |p| send(p, nothing, |a| a.ipi(2, icr::SELF | icr::FIXED | V)),
        expect: &[got(0, 1), got(1, 0), got(2, 0), got(3, 0)],
        ..BASE
    },
    BoardCase {
        name: "an interrupt to a physical id, one that is there and one that is not",
        cpus: 4,
        build: |p| {
            send(p, nothing, |a| {
                a.ipi(9, icr::FIXED | V)?;
                a.ipi(2, icr::FIXED | V)
            })
        },
        expect: &[got(0, 0), got(1, 0), got(2, 1), got(3, 0)],
        ..BASE
    },
    BoardCase {
        name: "physical destination 0xff is everybody",
        cpus: 4,
        build: |p| send(p, nothing, |a| a.ipi(0xff, icr::FIXED | V)),
        expect: &[got(0, 1), got(1, 1), got(2, 1), got(3, 1)],
        ..BASE
    },
    BoardCase {
        name: "logical destinations, flat",
        cpus: 4,
        build: |p| send(p, flat, |a| a.ipi(0b1010, icr::LOGICAL | icr::FIXED | V)),
        expect: &[got(0, 0), got(1, 1), got(2, 0), got(3, 1)],
        ..BASE
    },
    BoardCase {
        name: "logical destinations, clusters",
        cpus: 4,
        build: |p| {
            send(p, cluster, |a| {
                a.ipi(0x21, icr::LOGICAL | icr::FIXED | V)?;
                a.wait(cpu_word(2, V.into()), 1)?;
                a.ipi(0x13, icr::LOGICAL | icr::FIXED | V)
            })
        },
        expect: &[got(0, 1), got(1, 1), got(2, 1), got(3, 0)],
        ..BASE
    },
    BoardCase {
        name: "a lowest-priority interrupt goes to the CPU with the lowest priority",
        cpus: 4,
        build: |p| {
            let prepare = |a: &mut Asm, cpu: u64| {
                flat(a, cpu)?;
                a.set_apic(apic::TPR, if cpu == 2 { 0x10 } else { 0x30 })
            };
            send(p, prepare, |a| a.ipi(0xf, icr::LOGICAL | icr::LOWEST | V))
        },
        expect: &[got(0, 0), got(1, 0), got(2, 1), got(3, 0)],
        ..BASE
    },
    BoardCase {
        name: "a CPU whose local apic is off takes no fixed interrupt",
        cpus: 3,
        build: |p| {
            p.count(V as u8)?;
            p.cpu(1, |a| {
                a.set_apic(apic::SVR, 0xff)?;
                a.sti()?;
                a.inc(qword_ptr(DATA))?;
                a.wait(DATA, 2)
            })?;
            p.cpu(2, |a| a.sleep(cpu_word(2, V.into()), 1))?;
            p.cpu(0, |a| {
                a.start_others()?;
                a.wait(DATA, 1)?;
                a.ipi(1, icr::FIXED | V)?;
                a.ipi(2, icr::FIXED | V)?;
                a.wait(cpu_word(2, V.into()), 1)?;
                a.inc(qword_ptr(DATA))?;
                a.delay(1000)
            })
        },
        expect: &[got(1, 0), got(2, 1)],
        ..BASE
    },
    BoardCase {
        name: "a token goes round by interrupts to halted CPUs",
        cpus: 4,
        build: |p| {
            const ROUNDS: i32 = 100;
            p.count(V as u8)?;
            for cpu in 0..4 {
                p.cpu(cpu, |a| {
                    if cpu == 0 {
                        a.start_others()?;
                        a.ipi(1, icr::FIXED | V)?;
                    }
                    a.mov(edi, 1)?;
                    a.times(ROUNDS as u32, |a| {
                        a.repeat(|a, again, end| {
                            a.cli()?;
                            a.cmp(qword_ptr(cpu_word(cpu, V.into())), rdi)?;
                            a.jae(end)?;
                            a.sti()?;
                            a.hlt()?;
                            a.jmp(again)
                        })?;
                        a.inc(edi)?;
                        a.inc(qword_ptr(DATA))?; // only one CPU has the token
                        a.ipi((cpu as u32 + 1) % 4, icr::FIXED | V)
                    })
                })?;
            }
            Ok(())
        },
        expect: &[Expect::AtLeast(DATA, 397), got(0, 100)],
        ..BASE
    },
    BoardCase {
        name: "an NMI interrupts a CPU with interrupts off, and ends its HLT",
        cpus: 2,
        build: |p| {
            p.on(2, |a| a.bump(2))?;
            p.cpu(1, |a| {
                a.cli()?;
                a.lock().inc(qword_ptr(DATA))?;
                a.wait(cpu_word(1, 2), 1)?;
                a.lock().inc(qword_ptr(DATA))?;
                a.hlt()?;
                a.lock().inc(qword_ptr(DATA))
            })?;
            p.cpu(0, |a| {
                a.start_others()?;
                a.wait(DATA, 1)?;
                a.ipi(1, icr::NMI)?;
                a.wait(DATA, 2)?;
                a.delay(10_000)?;
                a.ipi(1, icr::NMI)?;
                a.wait(cpu_word(1, 2), 2)?;
                a.repeat(|a, again, end| {
                    // The second one may have come before the HLT; a third ends it then.
                    a.cmp(qword_ptr(DATA), 3)?;
                    a.jae(end)?;
                    a.delay(100_000)?;
                    a.ipi(1, icr::NMI)?;
                    a.jmp(again)
                })
            })
        },
        expect: &[Expect::Mem(cpu_word(0, 2), 0)],
        ..BASE
    },
    BoardCase {
        name: "NMIs are blocked in their handler, and one of them is kept",
        cpus: 2,
        build: |p| {
            p.on(2, |a| {
                let mut second = a.create_label();
                a.bump(2)?;
                a.cmp(qword_ptr(2 * 8).gs(), 1)?;
                a.jne(second)?;
                a.wait(DATA, 2)?;
                a.delay(1000)?;
                a.check_word(cpu_word(1, 2), 1)?;
                a.set_label(&mut second)?;
                a.zero_bytes()
            })?;
            p.cpu(1, |a| {
                a.lock().inc(qword_ptr(DATA))?;
                a.wait(cpu_word(1, 2), 2)?;
                a.delay(10_000)?;
                a.lock().inc(qword_ptr(DATA))
            })?;
            p.cpu(0, |a| {
                a.start_others()?;
                a.wait(DATA, 1)?;
                a.ipi(1, icr::NMI)?;
                a.wait(cpu_word(1, 2), 1)?;
                for _ in 0..3 {
                    a.ipi(1, icr::NMI)?;
                }
                a.lock().inc(qword_ptr(DATA))?;
                a.wait(DATA, 3)
            })
        },
        expect: &[Expect::Mem(cpu_word(1, 2), 2)],
        ..BASE
    },
    BoardCase {
        name: "an NMI to self",
        build: |p| {
            p.on(2, |a| a.bump(2))?;
            p.cpu(0, |a| {
                a.set_apic(apic::ICR, icr::SELF | icr::NMI)?;
                a.wait(cpu_word(0, 2), 1)
            })
        },
        ..BASE
    },
];

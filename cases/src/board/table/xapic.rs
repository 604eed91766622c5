//! One local APIC by its memory-mapped registers: identity, self-interrupts, priorities.

use iced_x86::code_asm::*;

use crate::board::layout::*;
use crate::board::part::apic;
use crate::board::part::icr::{FIXED, SELF};
use crate::board::{BoardCase, Expect};

const BASE: BoardCase = BoardCase::BASE;

pub(super) const CASES: &[BoardCase] = &[
    BoardCase {
        name: "each local apic answers at the default address with its id and version",
        cpus: 2,
        build: |p| {
            for cpu in 0..2 {
                p.cpu(cpu, |a| {
                    if cpu == 0 {
                        a.start_others()?;
                    }
                    a.msr(cpu::x86::msr::APIC_BASE)?;
                    a.check_eax(if cpu == 0 { 0xfee0_0900 } else { 0xfee0_0800 })?;
                    a.apic(apic::ID)?;
                    a.check_eax((cpu as u32) << 24)?;
                    a.apic(apic::VERSION)?;
                    a.check_bits(0xe0, false)?;
                    a.apic(apic::VERSION)?;
                    a.check_bits(0x10, true)?;
                    if cpu == 0 {
                        return a.wait(DATA, 1);
                    }
                    a.inc(qword_ptr(DATA))
                })?;
            }
            Ok(())
        },
        ..BASE
    },
    BoardCase {
        name: "a self-interrupt waits in IRR for IF, is in ISR until EOI",
        build: |p| {
            p.on(0x50, |a| {
                a.check_vector(apic::irr(0x50), false)?;
                a.check_vector(apic::isr(0x50), true)?;
                a.apic(apic::PPR)?;
                a.check_eax(0x50)?;
                a.eoi()?;
                a.check_vector(apic::isr(0x50), false)?;
                a.apic(apic::PPR)?;
                a.check_eax(0)?;
                a.bump(0)
            })?;
            p.cpu(0, |a| {
                a.set_apic(apic::ICR, SELF | FIXED | 0x50)?;
                a.delay(1000)?;
                a.check_vector(apic::irr(0x50), true)?;
                a.check_word(cpu_word(0, 0), 0)?;
                a.sti()?;
                a.wait(cpu_word(0, 0), 1)?;
                a.delay(1000)?;
                a.check_word(cpu_word(0, 0), 1)
            })
        },
        ..BASE
    },
    BoardCase {
        name: "of several interrupts the highest vector comes first",
        build: |p| {
            const VECTORS: [u8; 5] = [0x41, 0x92, 0x63, 0x60, 0xff];
            for vector in VECTORS {
                p.on(vector, |a| {
                    a.log(vector)?;
                    a.eoi()
                })?;
            }
            p.cpu(0, |a| {
                for vector in VECTORS {
                    a.set_apic(apic::ICR, SELF | FIXED | u32::from(vector))?;
                }
                a.sti()?;
                a.wait(LOG_LEN, 5)
            })
        },
        expect: &[Expect::Mem(LOG, 0x41_60_63_92_ff)],
        ..BASE
    },
    BoardCase {
        name: "an interrupt in service holds back its own class, not a higher one",
        build: |p| {
            p.on(0x61, |a| {
                a.log(0x61)?;
                a.set_apic(apic::ICR, SELF | FIXED | 0x6f)?;
                a.set_apic(apic::ICR, SELF | FIXED | 0x71)?;
                a.sti()?;
                a.wait(LOG_LEN, 2)?;
                a.delay(1000)?;
                a.cli()?;
                a.log(0x62)?;
                a.eoi()
            })?;
            for vector in [0x6f, 0x71] {
                p.on(vector, |a| {
                    a.log(vector)?;
                    a.eoi()
                })?;
            }
            p.cpu(0, |a| {
                a.set_apic(apic::ICR, SELF | FIXED | 0x61)?;
                a.sti()?;
                a.wait(LOG_LEN, 4)
            })
        },
        expect: &[Expect::Mem(LOG, 0x6f_62_71_61)],
        ..BASE
    },
    BoardCase {
        name: "EOI ends the highest interrupt in service",
        build: |p| {
            p.on(0x45, |a| {
                a.set_apic(apic::ICR, SELF | FIXED | 0x85)?;
                a.sti()?;
                a.wait(cpu_word(0, 0), 1)?;
                a.cli()?;
                a.check_vector(apic::isr(0x85), false)?;
                a.check_vector(apic::isr(0x45), true)?;
                a.eoi()?;
                a.bump(0)
            })?;
            p.on(0x85, |a| {
                a.check_vector(apic::isr(0x45), true)?;
                a.check_vector(apic::isr(0x85), true)?;
                a.apic(apic::PPR)?;
                a.check_eax(0x80)?;
                a.eoi()?;
                a.apic(apic::PPR)?;
                a.check_eax(0x40)?;
                a.bump(0)
            })?;
            p.cpu(0, |a| {
                a.set_apic(apic::ICR, SELF | FIXED | 0x45)?;
                a.sti()?;
                a.wait(cpu_word(0, 0), 2)?;
                a.eoi()?; // nothing is in service: without effect
                a.check_vector(apic::isr(0x45), false)
            })
        },
        ..BASE
    },
    BoardCase {
        name: "TPR holds back its class and those below",
        build: |p| {
            p.count(0x5f)?;
            p.count(0x60)?;
            p.cpu(0, |a| {
                a.sti()?;
                a.set_apic(apic::TPR, 0x50)?;
                a.set_apic(apic::ICR, SELF | FIXED | 0x5f)?;
                a.set_apic(apic::ICR, SELF | FIXED | 0x60)?;
                a.wait(cpu_word(0, 0x60), 1)?;
                a.delay(1000)?;
                a.check_word(cpu_word(0, 0x5f), 0)?;
                a.check_vector(apic::irr(0x5f), true)?;
                a.set_apic(apic::TPR, 0x4f)?;
                a.wait(cpu_word(0, 0x5f), 1)
            })
        },
        ..BASE
    },
    BoardCase {
        name: "PPR is the higher of TPR and what is in service",
        build: |p| {
            p.on(0x61, |a| {
                a.apic(apic::PPR)?;
                a.check_eax(0x60)?;
                a.set_apic(apic::TPR, 0x72)?;
                a.apic(apic::PPR)?;
                a.check_eax(0x72)?;
                a.set_apic(apic::TPR, 0)?;
                a.bump(0)?;
                a.eoi()
            })?;
            p.cpu(0, |a| {
                a.set_apic(apic::TPR, 0x35)?;
                a.apic(apic::PPR)?;
                a.check_eax(0x35)?;
                a.apic(apic::TPR)?;
                a.check_eax(0x35)?;
                a.set_apic(apic::ICR, SELF | FIXED | 0x61)?;
                a.sti()?;
                a.wait(cpu_word(0, 0), 1)?;
                a.apic(apic::PPR)?;
                a.check_eax(0)
            })
        },
        ..BASE
    },
    BoardCase {
        name: "CR8 is the upper half of TPR",
        build: |p| {
            p.count(0x55)?;
            p.cpu(0, |a| {
                a.set_apic(apic::TPR, 0x73)?;
                a.mov(rax, cr8)?;
                a.check_eax(7)?;
                a.mov(eax, 5)?;
                a.mov(cr8, rax)?;
                a.apic(apic::TPR)?;
                a.check_eax(0x50)?;
                a.sti()?;
                a.set_apic(apic::ICR, SELF | FIXED | 0x55)?;
                a.delay(1000)?;
                a.check_word(cpu_word(0, 0x55), 0)?;
                a.mov(eax, 4)?;
                a.mov(cr8, rax)?;
                a.wait(cpu_word(0, 0x55), 1)
            })
        },
        ..BASE
    },
    BoardCase {
        name: "CR8 has four bits",
        build: |p| {
            p.catch(13)?;
            p.cpu(0, |a| {
                a.mov(eax, 0x10)?;
                a.faults(|a| a.mov(cr8, rax))?;
                a.apic(apic::TPR)?;
                a.check_eax(0)
            })
        },
        ..BASE
    },
    BoardCase {
        name: "an interrupt that TPR holds back does not end HLT, one that it lets through does",
        build: |p| {
            p.count(0x43)?;
            p.count(0x83)?;
            p.cpu(0, |a| {
                a.set_apic(apic::TPR, 0x40)?;
                a.set_apic(apic::ICR, SELF | FIXED | 0x43)?;
                a.set_apic(apic::DIVIDE, apic::BY_1)?;
                a.set_apic(apic::LVT_TIMER, 0x83)?;
                a.set_apic(apic::INITIAL, 1_000_000)?;
                a.sleep(cpu_word(0, 0x83), 1)?;
                a.check_word(cpu_word(0, 0x43), 0)?;
                a.set_apic(apic::TPR, 0)?;
                a.sleep(cpu_word(0, 0x43), 1)
            })
        },
        ..BASE
    },
    BoardCase {
        name: "a local apic that software disabled masks its local vectors and takes no fixed interrupt",
        build: |p| {
            p.count(0x44)?;
            p.cpu(0, |a| {
                a.set_apic(apic::LVT_TIMER, 0x30)?;
                a.apic(apic::LVT_TIMER)?;
                a.check_eax(0x30)?;
                a.set_apic(apic::SVR, 0xff)?;
                a.apic(apic::LVT_TIMER)?;
                a.check_eax(apic::MASKED | 0x30)?;
                a.set_apic(apic::LVT_TIMER, 0x31)?;
                a.apic(apic::LVT_TIMER)?;
                a.check_eax(apic::MASKED | 0x31)?;
                a.set_apic(apic::ICR, SELF | FIXED | 0x44)?;
                a.delay(1000)?;
                a.check_vector(apic::irr(0x44), false)?;
                a.set_apic(apic::SVR, 0x1ee)?;
                a.apic(apic::SVR)?;
                a.check_eax(0x1ee)?;
                a.apic(apic::LVT_TIMER)?;
                a.check_eax(apic::MASKED | 0x31)?;
                a.sti()?;
                a.delay(1000)?;
                a.check_word(cpu_word(0, 0x44), 0)
            })
        },
        ..BASE
    },
    BoardCase {
        name: "sending an illegal vector is an error, with its interrupt",
        build: |p| {
            p.count(0x52)?;
            p.cpu(0, |a| {
                a.set_apic(apic::LVT_ERROR, 0x52)?;
                a.sti()?;
                a.set_apic(apic::ICR, SELF | FIXED | 5)?;
                a.wait(cpu_word(0, 0x52), 1)?;
                a.apic(apic::ESR)?;
                a.check_bits(0x20, false)?; // a write shows what happened
                a.set_apic(apic::ESR, 0)?;
                a.apic(apic::ESR)?;
                a.check_bits(0x20, true)?;
                a.set_apic(apic::ESR, 0)?;
                a.apic(apic::ESR)?;
                a.check_eax(0)
            })
        },
        ..BASE
    },
    BoardCase {
        name: "a register that does not exist is an error",
        build: |p| {
            p.count(0x52)?;
            p.cpu(0, |a| {
                a.set_apic(apic::LVT_ERROR, 0x52)?;
                a.sti()?;
                a.apic(0x40)?;
                a.wait(cpu_word(0, 0x52), 1)?;
                a.set_apic(apic::ESR, 0)?;
                a.apic(apic::ESR)?;
                a.check_eax(0x80)?;
                a.set_apic(0x40, 0)?;
                a.wait(cpu_word(0, 0x52), 2)?;
                a.set_apic(apic::ESR, 0)?;
                a.apic(apic::ESR)?;
                a.check_eax(0x80)
            })
        },
        ..BASE
    },
    BoardCase {
        name: "an interrupt that is requested again while in service comes once more",
        build: |p| {
            p.on(0x66, |a| {
                let mut again = a.create_label();
                a.bump(0)?;
                a.cmp(qword_ptr(0).gs(), 1)?;
                a.jne(again)?;
                for _ in 0..2 {
                    a.set_apic(apic::ICR, SELF | FIXED | 0x66)?;
                }
                a.wait_vector(apic::irr(0x66))?;
                a.set_label(&mut again)?;
                a.eoi()
            })?;
            p.cpu(0, |a| {
                a.set_apic(apic::ICR, SELF | FIXED | 0x66)?;
                a.sti()?;
                a.wait(cpu_word(0, 0), 2)?;
                a.delay(1000)?;
                a.check_word(cpu_word(0, 0), 2)
            })
        },
        ..BASE
    },
];

//! Interrupts of devices: through the 8259s as external interrupts, and through the I/O APIC.

use iced_x86::code_asm::*;

use crate::board::asm::Done;
use crate::board::layout::*;
use crate::board::part::*;
use crate::board::{Asm, BoardCase, Expect};

const BASE: BoardCase = BoardCase::BASE;

/// Redirection entry: level-triggered.
const LEVEL: u32 = 1 << 15;
const REMOTE_IRR: u32 = 1 << 14;
const MASKED: u32 = 1 << 16;
/// 1.7 ms of the 8254.
const TICK: u32 = 2048;

/// The serial port as a source of a level: it interrupts while its transmitter is empty and nobody has read the
/// interrupt's identification.
fn raise_serial(a: &mut Asm) -> Done {
    a.outb(COM1 + 1, 0)?;
    a.outb(COM1 + 4, 0x0b)?; // OUT2 connects the line
    a.outb(COM1 + 1, 2)
}

fn lower_serial(a: &mut Asm) -> Done {
    a.inb(COM1 + 2)
}

fn pic_eoi(a: &mut Asm, slave: bool) -> Done {
    if slave {
        a.outb(PIC2, 0x20)?;
    }
    a.outb(PIC1, 0x20)
}

/// EAX from the interrupt request or in-service register of an 8259.
fn pic_register(a: &mut Asm, port: u32, in_service: bool) -> Done {
    a.outb(port, if in_service { 0x0b } else { 0x0a })?;
    a.inb(port)
}

pub(super) const CASES: &[BoardCase] = &[
    BoardCase {
        name: "the 8254 interrupts through the 8259 and LINT0",
        build: |p| {
            p.on(0x20, |a| {
                pic_register(a, PIC1, true)?;
                a.check_eax(1)?;
                a.check_vector(apic::isr(0x20), false)?; // the local APIC does not know of it
                a.bump(0)?;
                pic_eoi(a, false)?;
                pic_register(a, PIC1, true)?;
                a.check_eax(0)
            })?;
            p.cpu(0, |a| {
                a.init_pic(1 << 0)?;
                a.pit(2, TICK)?;
                a.sleep(cpu_word(0, 0), 5)
            })
        },
        ..BASE
    },
    BoardCase {
        name: "the 8254 interrupts through I/O APIC pin 2",
        build: |p| {
            p.on(0x42, |a| {
                a.check_vector(apic::isr(0x42), true)?;
                a.check_vector(apic::tmr(0x42), false)?;
                a.bump(0)?;
                a.eoi()
            })?;
            p.cpu(0, |a| {
                a.set_apic(apic::LVT_LINT0, apic::MASKED)?;
                a.route(2, 0, 0x42)?;
                a.pit(2, TICK)?;
                a.sleep(cpu_word(0, 0), 5)?;
                a.ioapic(0x14)?;
                a.check_eax(0x42)
            })
        },
        ..BASE
    },
    BoardCase {
        name: "the 8254 interrupts through the 8259 and I/O APIC pin 0",
        build: |p| {
            p.on(0x20, |a| {
                a.bump(0)?;
                pic_eoi(a, false)
            })?;
            p.cpu(0, |a| {
                a.init_pic(1 << 0)?;
                a.set_apic(apic::LVT_LINT0, apic::MASKED)?;
                a.route(0, 0, apic::EXT_INT)?;
                a.pit(2, TICK)?;
                a.sleep(cpu_word(0, 0), 5)
            })
        },
        ..BASE
    },
    BoardCase {
        name: "the I/O APIC sends an interrupt to the CPU of its entry",
        cpus: 3,
        build: |p| {
            p.count(0x42)?;
            p.cpu(1, |a| a.sleep(cpu_word(1, 0x42), 3))?;
            p.cpu(2, |a| {
                a.sleep(cpu_word(2, 0x42), 3)?;
                a.set_ioapic(0x14, MASKED)?;
                a.lock().inc(qword_ptr(DATA))
            })?;
            p.cpu(0, |a| {
                a.start_others()?;
                a.route(2, 2, 0x42)?;
                a.pit(2, TICK)?;
                a.wait(DATA, 1)
            })
        },
        expect: &[Expect::Mem(cpu_word(0, 0x42), 0), Expect::Mem(cpu_word(1, 0x42), 0)],
        ..BASE
    },
    BoardCase {
        name: "the I/O APIC delivers an NMI",
        build: |p| {
            p.on(2, |a| {
                a.set_ioapic(0x14, MASKED)?;
                a.bump(2)
            })?;
            p.cpu(0, |a| {
                a.route(2, 0, 0x400)?;
                a.pit(0, TICK)?;
                a.wait(cpu_word(0, 2), 1)
            })
        },
        ..BASE
    },
    BoardCase {
        name: "the I/O APIC has 24 masked pins and keeps its id",
        build: |p| {
            p.cpu(0, |a| {
                a.ioapic(1)?;
                a.and(eax, 0x00ff_0000)?;
                a.check_eax(23 << 16)?;
                for pin in [1, 3, 23] {
                    a.ioapic(0x10 + 2 * pin)?;
                    a.check_bits(MASKED, true)?;
                }
                a.set_ioapic(0, 5 << 24)?;
                a.ioapic(0)?;
                a.check_eax(5 << 24)?;
                a.route(23, 3, 0x1_a0f7)?;
                a.ioapic(0x3e)?;
                a.check_eax(0x1_a0f7)?;
                a.ioapic(0x3f)?;
                a.check_eax(3 << 24)
            })
        },
        ..BASE
    },
    BoardCase {
        name: "an edge on a masked pin is lost",
        build: |p| {
            p.count(0x42)?;
            p.cpu(0, |a| {
                a.route(2, 0, MASKED | 0x42)?;
                a.pit(0, 100)?;
                a.repeat(|a, again, end| {
                    // Until OUT of channel 0 is high.
                    a.outb(PIT_CONTROL, 0xe2)?;
                    a.inb(PIT)?;
                    a.test(al, 0x80)?;
                    a.jnz(end)?;
                    a.jmp(again)
                })?;
                a.delay(1_000_000)?;
                a.route(2, 0, 0x42)?;
                a.sti()?;
                a.delay(10_000)
            })
        },
        expect: &[Expect::Mem(cpu_word(0, 0x42), 0)],
        ..BASE
    },
    BoardCase {
        name: "a level is delivered again after EOI while it lasts",
        build: |p| {
            p.on(0x44, |a| {
                let mut more = a.create_label();
                a.check_vector(apic::tmr(0x44), true)?;
                a.ioapic(0x18)?;
                a.check_bits(REMOTE_IRR, true)?;
                a.bump(0)?;
                a.cmp(qword_ptr(0).gs(), 3)?;
                a.jne(more)?;
                lower_serial(a)?;
                a.set_label(&mut more)?;
                a.eoi()
            })?;
            p.cpu(0, |a| {
                a.route(4, 0, LEVEL | 0x44)?;
                raise_serial(a)?;
                a.sleep(cpu_word(0, 0), 3)?;
                a.sti()?;
                a.delay(10_000)?;
                a.check_word(cpu_word(0, 0), 3)?;
                a.ioapic(0x18)?;
                a.check_bits(REMOTE_IRR, false)
            })
        },
        ..BASE
    },
    BoardCase {
        name: "a level waits behind the mask, and is sent once until EOI",
        build: |p| {
            p.on(0x44, |a| {
                a.bump(0)?;
                a.sti()?;
                a.delay(10_000)?;
                a.cli()?;
                a.check_word(cpu_word(0, 0), 1)?;
                lower_serial(a)?;
                a.eoi()
            })?;
            p.cpu(0, |a| {
                a.route(4, 0, LEVEL | MASKED | 0x44)?;
                raise_serial(a)?;
                a.sti()?;
                a.delay(10_000)?;
                a.check_word(cpu_word(0, 0), 0)?;
                a.set_ioapic(0x18, LEVEL | 0x44)?;
                a.wait(cpu_word(0, 0), 1)?;
                a.delay(10_000)
            })
        },
        expect: &[Expect::Mem(cpu_word(0, 0), 1)],
        ..BASE
    },
    BoardCase {
        name: "without broadcast a level's EOI is told to the I/O APIC by software",
        build: |p| {
            p.on(0x44, |a| {
                a.bump(0)?;
                a.eoi()
            })?;
            p.cpu(0, |a| {
                a.set_apic(apic::SVR, 0x11ff)?;
                a.route(4, 0, LEVEL | 0x44)?;
                raise_serial(a)?;
                a.sleep(cpu_word(0, 0), 1)?;
                a.sti()?;
                a.delay(10_000)?;
                a.check_word(cpu_word(0, 0), 1)?;
                a.ioapic(0x18)?;
                a.check_bits(REMOTE_IRR, true)?;
                a.mov(dword_ptr(r14 + 0x40), 0x44)?;
                a.sleep(cpu_word(0, 0), 2)?;
                lower_serial(a)?;
                a.mov(dword_ptr(r14 + 0x40), 0x44)?;
                a.ioapic(0x18)?;
                a.check_bits(REMOTE_IRR, false)
            })
        },
        expect: &[Expect::Mem(cpu_word(0, 0), 2)],
        ..BASE
    },
    BoardCase {
        name: "the power button is a level on the system control interrupt",
        power_button: true,
        build: |p| {
            p.on(0x49, |a| {
                let mut more = a.create_label();
                a.bump(0)?;
                a.mov(edx, PM1_STATUS)?;
                a.in_(ax, dx)?;
                a.check_bits(0x100, true)?;
                a.cmp(qword_ptr(0).gs(), 2)?;
                a.jne(more)?;
                a.mov(eax, 0x100)?;
                a.out(dx, ax)?; // a one clears it
                a.set_label(&mut more)?;
                a.eoi()
            })?;
            p.cpu(0, |a| {
                a.mov(edx, PM1_ENABLE)?;
                a.mov(eax, 0x100)?;
                a.out(dx, ax)?;
                a.route(9, 0, LEVEL | 0x49)?;
                a.inc(qword_ptr(READY))?;
                a.sleep(cpu_word(0, 0), 2)?;
                a.sti()?;
                a.delay(10_000)?;
                a.mov(edx, PM1_STATUS)?;
                a.in_(ax, dx)?;
                a.check_bits(0x100, false)
            })
        },
        expect: &[Expect::Mem(cpu_word(0, 0), 2)],
        ..BASE
    },
    BoardCase {
        name: "a level through the 8259 comes again while it lasts",
        build: |p| {
            p.on(0x24, |a| {
                let mut more = a.create_label();
                a.bump(0)?;
                a.cmp(qword_ptr(0).gs(), 3)?;
                a.jne(more)?;
                lower_serial(a)?;
                a.set_label(&mut more)?;
                pic_eoi(a, false)
            })?;
            p.cpu(0, |a| {
                a.init_pic(1 << 4)?;
                a.outb(ELCR1, 1 << 4)?;
                raise_serial(a)?;
                a.sleep(cpu_word(0, 0), 3)?;
                a.sti()?;
                a.delay(10_000)
            })
        },
        expect: &[Expect::Mem(cpu_word(0, 0), 3)],
        ..BASE
    },
    BoardCase {
        name: "an interrupt of the 8259 waits behind its mask, and one that is withdrawn does not come",
        build: |p| {
            p.on(0x20, |a| {
                a.bump(0)?;
                pic_eoi(a, false)
            })?;
            p.on(0x24, |a| {
                a.bump(1)?;
                pic_eoi(a, false)
            })?;
            p.cpu(0, |a| {
                a.init_pic(1 << 4)?;
                a.outb(ELCR1, 1 << 4)?;
                a.pit(0, 100)?;
                a.repeat(|a, again, end| {
                    pic_register(a, PIC1, false)?;
                    a.test(al, 1)?;
                    a.jnz(end)?;
                    a.jmp(again)
                })?;
                raise_serial(a)?;
                lower_serial(a)?;
                a.sti()?;
                a.delay(10_000)?;
                a.check_word(cpu_word(0, 0), 0)?;
                a.outb(PIC1 + 1, !1u32 & 0xff)?;
                a.wait(cpu_word(0, 0), 1)
            })
        },
        expect: &[Expect::Mem(cpu_word(0, 1), 0)],
        ..BASE
    },
    BoardCase {
        name: "the second 8259 is behind the first; automatic end of interrupt",
        build: |p| {
            p.on(0x28, |a| {
                a.rtc(0x0c)?; // until it is read the clock does not interrupt again
                pic_register(a, PIC1, true)?;
                a.check_eax(1 << 2)?;
                pic_register(a, PIC2, true)?;
                a.check_eax(1)?;
                a.bump(0)?;
                pic_eoi(a, true)
            })?;
            p.on(0x20, |a| {
                a.bump(1)?;
                pic_register(a, PIC1, true)?;
                a.check_eax(0)
            })?;
            p.cpu(0, |a| {
                a.init_pic(1 << 8 | 1 << 2)?;
                a.set_rtc(0x0a, 0x26)?;
                a.rtc(0x0c)?;
                a.set_rtc(0x0b, 0x42)?;
                a.sleep(cpu_word(0, 0), 3)?;
                a.set_rtc(0x0b, 0x02)?;
                for (port, value) in [(PIC1, 0x11), (PIC1 + 1, 0x20), (PIC1 + 1, 4), (PIC1 + 1, 3)] {
                    a.outb(port, value)?;
                }
                a.outb(PIC1 + 1, 0xfe)?;
                a.pit(2, TICK)?;
                a.sleep(cpu_word(0, 1), 3)
            })
        },
        ..BASE
    },
    BoardCase {
        name: "two interrupts of the second 8259 at once",
        power_button: true,
        build: |p| {
            p.on(0x28, |a| {
                a.log(0x28)?;
                a.rtc(0x0c)?;
                pic_eoi(a, true)
            })?;
            p.on(0x29, |a| {
                a.log(0x29)?;
                a.mov(edx, PM1_STATUS)?;
                a.mov(eax, 0x100)?;
                a.out(dx, ax)?;
                pic_eoi(a, true)
            })?;
            p.cpu(0, |a| {
                a.init_pic(1 << 8 | 1 << 9 | 1 << 2)?;
                a.outb(ELCR1 + 1, 1 << 1)?;
                a.mov(edx, PM1_ENABLE)?;
                a.mov(eax, 0x100)?;
                a.out(dx, ax)?;
                a.set_rtc(0x0a, 0x26)?;
                a.set_rtc(0x0b, 0x42)?;
                a.inc(qword_ptr(READY))?;
                a.repeat(|a, again, end| {
                    pic_register(a, PIC2, false)?;
                    a.and(eax, 3)?;
                    a.cmp(eax, 3)?;
                    a.je(end)?;
                    a.jmp(again)
                })?;
                a.set_rtc(0x0b, 0x02)?;
                a.sleep(LOG_LEN, 2)
            })
        },
        expect: &[Expect::Mem(LOG, 0x2928)],
        ..BASE
    },
];

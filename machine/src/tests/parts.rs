//! The parts as a guest meets them: interrupts, the serial port, ACPI tables.

use super::*;
use crate::Outcome;

/// Address of the interrupt descriptor table and its pseudo-descriptor.
const IDT: u32 = 0x21_0000;
const IDTR: u32 = 0x20_f000;

/// Remaps the 8259s to vectors 0x20-0x2f and masks all but `irqs`.
fn init_pic(a: &mut CodeAssembler, irqs: u32) -> Result<(), IcedError> {
    let mask = !irqs;
    for (port, value) in [(0x20, 0x11), (0xa0, 0x11), (0x21, 0x20), (0xa1, 0x28), (0x21, 4), (0xa1, 2)] {
        out(a, port, value)?;
    }
    for (port, value) in [(0x21, 1), (0xa1, 1), (0x21, mask & 0xff), (0xa1, mask >> 8 & 0xff)] {
        out(a, port, value)?;
    }
    Ok(())
}

/// Puts an interrupt gate for `vector` into the table and loads the table. The handler's code stands right
/// here; a call over it gives its address.
pub fn gate(
    a: &mut CodeAssembler,
    vector: u32,
    handler: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Result<(), IcedError> {
    let mut over = a.create_label();
    a.call(over)?;
    handler(a)?;
    a.set_label(&mut over)?;
    a.pop(eax)?;
    a.mov(word_ptr(IDT + vector * 8), ax)?;
    a.mov(word_ptr(IDT + vector * 8 + 2), 0x10)?;
    a.mov(word_ptr(IDT + vector * 8 + 4), 0x8e00)?;
    a.shr(eax, 16)?;
    a.mov(word_ptr(IDT + vector * 8 + 6), ax)?;
    a.mov(word_ptr(IDTR), 0x7ff)?;
    a.mov(dword_ptr(IDTR + 2), IDT)?;
    a.lidt(fword_ptr(IDTR))
}

/// End of interrupt to the first 8259, and back.
fn finish(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(al, 0x20)?;
    a.out(0x20, al)?;
    a.iretd()
}

#[test]
fn the_timer_interrupts_through_the_8259() {
    let kernel = Kernel::new(|a| {
        let mut wait = a.create_label();
        init_pic(a, 1 << 0)?;
        gate(a, 0x20, |a| {
            a.inc(ebx)?;
            finish(a)
        })?;
        for (port, value) in [(0x43, 0x34), (0x40, 0), (0x40, 8)] {
            out(a, port, value)?; // channel 0, rate generator, 2048 periods: 1.7 ms
        }
        a.xor(ebx, ebx)?;
        a.set_label(&mut wait)?;
        a.sti()?;
        a.hlt()?;
        a.cmp(ebx, 5)?;
        a.jb(wait)?;
        exit(a, 5)
    });
    let machine = kernel.machine();
    machine.start().unwrap();
    let outcome = machine.wait();
    assert!(matches!(outcome, Outcome::DebugExit(5)), "{outcome}");
    assert!(machine.pc().clock.ns() > 6_000_000);
}

#[test]
fn deadlines_are_in_the_time_that_the_guest_set() {
    let kernel = Kernel::new(|a| {
        init_pic(a, 0)?;
        gate(a, 0x40, |a| exit(a, 7))?;
        a.mov(ecx, 0x10)?; // TSC: far in the future
        a.xor(eax, eax)?;
        a.mov(edx, 0x1_0000)?;
        a.wrmsr()?;
        a.mov(dword_ptr(0xfee0_0320u32), 0x4_0040)?; // timer: TSC deadline, vector 0x40
        a.rdtsc()?;
        a.add(eax, 1_000_000)?;
        a.adc(edx, 0)?;
        a.mov(ecx, 0x6e0)?;
        a.wrmsr()?;
        a.sti()?;
        a.hlt()?;
        halt(a)
    });
    let machine = kernel.machine();
    machine.start().unwrap();
    assert!(matches!(machine.wait(), Outcome::DebugExit(7)));
    assert_eq!(machine.cpu_states().unwrap()[0].msrs.tsc_adjust >> 47, 1);
}

#[test]
fn the_power_button_is_an_interrupt() {
    let kernel = Kernel::new(|a| {
        let mut wait = a.create_label();
        init_pic(a, 1 << 9 | 1 << 2)?;
        gate(a, 0x29, |a| exit(a, 9))?;
        a.mov(edx, 0x602)?;
        a.mov(ax, 1 << 8)?;
        a.out(dx, ax)?;
        a.mov(dword_ptr(SCRATCH), 1)?;
        a.set_label(&mut wait)?;
        a.sti()?;
        a.hlt()?;
        a.jmp(wait)
    });
    let machine = kernel.machine();
    machine.start().unwrap();
    while machine.pc().ram.load_u32(SCRATCH.into()) == Some(0) {
        std::thread::yield_now();
    }
    machine.press_power_button();
    assert!(matches!(machine.wait(), Outcome::DebugExit(9)));
}

/// Echoes what arrives on COM1, by interrupts, until a `q`.
fn echo() -> Kernel {
    Kernel::new(|a| {
        let mut wait = a.create_label();
        init_pic(a, 1 << 4)?;
        gate(a, 0x24, |a| {
            let mut go_on = a.create_label();
            a.mov(edx, 0x3f8)?;
            a.in_(al, dx)?;
            a.out(dx, al)?;
            a.cmp(al, i32::from(b'q'))?;
            a.jne(go_on)?;
            exit(a, 0)?;
            a.set_label(&mut go_on)?;
            finish(a)
        })?;
        out(a, 0x3fc, 0x0b)?; // DTR, RTS, OUT2
        out(a, 0x3f9, 1)?; // interrupt on received data
        out(a, 0x3f8, b'>'.into())?;
        a.set_label(&mut wait)?;
        a.sti()?;
        a.hlt()?;
        a.jmp(wait)
    })
}

#[test]
fn the_serial_port_talks_both_ways() {
    let screen = Arc::new(Screen::default());
    let kernel = echo();
    let machine = machine(kernel.spec(), screen.clone());
    machine.start().unwrap();
    screen.wait_for(">");
    assert_eq!(machine.pc().uart.push_input(b"ab"), 1, "without a FIFO there is room for one");
    screen.wait_for("a");
    assert_eq!(machine.pc().uart.push_input(b"q"), 1);
    assert!(matches!(machine.wait(), Outcome::DebugExit(0)));
    assert_eq!(&*screen.text.lock(), b">aq");
}

#[test]
fn the_acpi_tables_are_where_a_guest_looks() {
    let kernel = Kernel::new(|a| {
        let (mut next, mut found) = (a.create_label(), a.create_label());
        a.mov(esi, 0xe_0000)?;
        a.set_label(&mut next)?;
        a.cmp(dword_ptr(esi), u32::from_le_bytes(*b"RSD ") as i32)?;
        a.je(found)?;
        a.add(esi, 16)?;
        a.cmp(esi, 0x10_0000)?;
        a.jb(next)?;
        exit(a, 1)?;
        a.set_label(&mut found)?;
        a.mov(esi, dword_ptr(esi + 24))?; // XSDT
        a.mov(esi, dword_ptr(esi + 36))?; // its first entry
        a.cmp(dword_ptr(esi), u32::from_le_bytes(*b"FACP") as i32)?;
        a.setne(al)?;
        a.add(al, 2)?;
        exit_al(a)
    });
    let machine = kernel.machine();
    machine.start().unwrap();
    assert!(matches!(machine.wait(), Outcome::DebugExit(2)));
}

//! Several CPUs: start-up, inter-processor interrupts, shared memory.

use super::*;
use crate::Outcome;

/// The start-up code of application processors goes here: start-up vector 8.
const TRAMPOLINE: u32 = 0x8000;
/// ICR, low half.
const ICR: u32 = 0xfee0_0300;

/// Wakes all other CPUs into `code`, which is position-independent 16-bit code.
pub fn wake(a: &mut CodeAssembler, code: &[u8]) -> Result<(), IcedError> {
    for (i, byte) in code.iter().enumerate() {
        a.mov(byte_ptr(TRAMPOLINE + i as u32), u32::from(*byte))?;
    }
    a.mov(dword_ptr(ICR), 0xc_4500u32)?; // INIT to all others
    a.mov(dword_ptr(ICR), 0xc_4608u32) // start-up
}

/// 16-bit code: counts itself in at 0x9000, then halts.
fn count_in() -> Vec<u8> {
    let mut a = CodeAssembler::new(16).unwrap();
    a.xor(ax, ax).unwrap();
    a.mov(ds, ax).unwrap();
    a.lock().inc(word_ptr(0x9000)).unwrap();
    a.cli().unwrap();
    a.hlt().unwrap();
    a.assemble(0).unwrap()
}

#[test]
fn every_processor_starts_once() {
    let kernel = Kernel::new(|a| {
        let mut wait = a.create_label();
        wake(a, &count_in())?;
        a.set_label(&mut wait)?;
        a.pause()?;
        a.cmp(word_ptr(0x9000), 3)?;
        a.jb(wait)?;
        a.mov(dword_ptr(ICR), 0xc_4608u32)?; // a second start-up is ignored
        a.mov(ecx, 100_000)?;
        let mut delay = a.create_label();
        a.set_label(&mut delay)?;
        a.dec(ecx)?;
        a.jnz(delay)?;
        a.mov(al, byte_ptr(0x9000))?;
        exit_al(a)
    });
    for _ in 0..10 {
        let machine = machine(MachineSpec { cpus: 4, ..kernel.spec() }, Arc::new(NullBackend));
        machine.start().unwrap();
        let outcome = machine.wait();
        assert!(matches!(outcome, Outcome::DebugExit(3)), "{outcome}");
    }
}

#[test]
fn locked_additions_of_all_processors_add_up() {
    let mut a = CodeAssembler::new(16).unwrap();
    let mut next = a.create_label();
    a.xor(ax, ax).unwrap();
    a.mov(ds, ax).unwrap();
    a.mov(cx, 20_000).unwrap();
    a.set_label(&mut next).unwrap();
    a.lock().add(dword_ptr(0x9010), 3).unwrap();
    a.dec(cx).unwrap();
    a.jnz(next).unwrap();
    a.lock().inc(word_ptr(0x9000)).unwrap();
    a.cli().unwrap();
    a.hlt().unwrap();
    let code = a.assemble(0).unwrap();
    let kernel = Kernel::new(|a| {
        let mut wait = a.create_label();
        wake(a, &code)?;
        a.set_label(&mut wait)?;
        a.pause()?;
        a.cmp(word_ptr(0x9000), 3)?;
        a.jb(wait)?;
        exit(a, 0)
    });
    let machine = machine(MachineSpec { cpus: 4, ..kernel.spec() }, Arc::new(NullBackend));
    machine.start().unwrap();
    machine.wait();
    assert_eq!(machine.pc().ram.load_u32(0x9010), Some(3 * 20_000 * 3));
}

//! What is special about calls by the port.

use super::*;
use crate::BoardKind;
use crate::pc::Pc;

#[test]
fn the_port_takes_32_bits_and_tells_nothing() {
    const ANSWER: u32 = BLOCKS[0] + 24;
    for (_, kind) in ways().into_iter().filter(|(way, _)| *way == Way::Port) {
        let kernel = Kernel::new(|a| {
            a.mov(dword_ptr(BLOCKS[0]), VERSION)?;
            a.mov(dword_ptr(ANSWER), 0x55)?;
            a.mov(eax, BLOCKS[0])?;
            a.out(PORT, al)?;
            a.out(PORT, ax)?;
            a.out(PORT - 1, eax)?;
            a.out(PORT + 1, eax)?;
            a.in_(eax, PORT)?;
            a.inc(eax)?;
            a.add(eax, dword_ptr(ANSWER))?;
            a.mov(ebx, eax)?;
            Way::Port.call_ebx(a, 0, EXIT, 0)?;
            halt(a)
        });
        let machine = machine_on(kind, kernel.spec(), Arc::new(NullBackend));
        machine.start().unwrap();
        let outcome = machine.wait();
        assert!(matches!(outcome, Outcome::DebugExit(0x55)), "{kind}: {outcome}");
    }
}

#[test]
fn a_call_without_room_for_an_answer_is_not_made() {
    let ram = Arc::new(memory::GuestRam::new(2 << 20).unwrap());
    let calls = with_cpus(&ram);
    let block = |at: u32, call: [u64; 3]| {
        let words = [call[0], call[1], call[2], 0x55].map(u64::to_le_bytes).concat();
        // As much of it as there is room for.
        let room = words.len().min((2 << 20) - at as usize);
        ram.write(at.into(), &words[..room]).unwrap();
        calls.call_at(0, at)
    };
    let exit = [EXIT.into(), 3, 0];
    assert_eq!(block(0x1f_ffe0, exit), Action::DebugExit(3), "the last block");
    for at in [0x1f_ffe8, 0x1f_fff8, 0x1000 + 4, 0x1000 + 1] {
        assert_eq!(block(at, exit), Action::None, "{at:#x}");
    }
    for at in [0x20_0000, 0xfee0_0000, 0xffff_fff8, 0xffff_ffff] {
        assert_eq!(calls.call_at(0, at), Action::None, "{at:#x}");
    }
    // An event of such a call's does not come either.
    assert_eq!(block(0x2004, [SEND.into(), 0, 1]), Action::None);
    assert_eq!(block(0x2000, [TAKE.into(), 0, 0]), Action::None);
    assert_eq!(ram.load_u64(0x2018), Some(0));
    // Numbers and arguments have 64 bits, as answers do.
    for call in [[u64::from(VERSION) | 1 << 32, 0, 0], [u64::MAX, 0, 0]] {
        assert_eq!(block(0x2000, call), Action::None);
        assert_eq!(ram.load_u64(0x2018), Some(-1000i64 as u64), "{call:x?}");
    }
}

#[test]
fn no_part_of_a_board_is_at_the_port() {
    for kind in [BoardKind::Pc, BoardKind::Microvm] {
        let ram = Arc::new(memory::GuestRam::new(2 << 20).unwrap());
        let [console, debug] = [(); 2].map(|()| Arc::new(NullBackend));
        let backends = Backends { console, terminal: Arc::new(NullBackend), debug };
        let signals = [Arc::new(cpu::Signals::new())];
        let mut pc = Pc::new(kind, ram, Arc::new(cpu::Clock::new()), &signals, backends, vec![]).unwrap();
        let free = pc.ports.map(cpu::Hypercall::PORT, 4, Arc::new(device::legacy::DebugExit), 0);
        assert_eq!(free, Ok(()), "{kind:?}");
    }
}

//! What a process does for a program, and what it does not let it do.

use libc::{PROT_EXEC, PROT_READ, PROT_WRITE};
use memory::GuestRam;

use super::process::{OWN, Process, Stop};

const CODE: u64 = 0x40_0000;
const DATA: u64 = 0x50_0000;

/// A process with a page of code and one of data, the second and third page of RAM.
fn process(code: &[u8]) -> (Process, GuestRam) {
    let ram = GuestRam::freezable(1 << 20).unwrap();
    ram.write(0x1000, code).unwrap();
    let mut process = Process::new(&ram.file().unwrap()).unwrap();
    process.map(CODE, PROT_READ | PROT_EXEC, 0x1000);
    process.map(DATA, PROT_READ | PROT_WRITE, 0x2000);
    process.flush().unwrap();
    process.registers.rip = CODE;
    process.registers.flags = 0x202;
    process.registers.selectors = [0, 0x33, 0x2b, 0, 0, 0];
    (process, ram)
}

#[test]
fn code_runs_and_stores_where_the_guest_has_its_page() {
    // mov [rbx], rax; inc rax; ud2
    let (mut process, ram) = process(&[0x48, 0x89, 0x03, 0x48, 0xff, 0xc0, 0x0f, 0x0b]);
    for n in 0..16 {
        process.registers.general[n] = 0x1111_2222_3333_4440 + n as u64;
    }
    process.registers.general[3] = DATA + 8;
    (process.registers.fs_base, process.registers.gs_base) = (0x7000_1000, 0x7000_2000);
    assert_eq!(process.run().unwrap(), Stop::Instruction);
    assert_eq!(process.registers.rip, CODE + 6);
    assert_eq!(process.registers.general[0], 0x1111_2222_3333_4441);
    assert_eq!(process.registers.general[15], 0x1111_2222_3333_444f);
    assert_eq!((process.registers.fs_base, process.registers.gs_base), (0x7000_1000, 0x7000_2000));
    assert_eq!(ram.load_u64(0x2008), Some(0x1111_2222_3333_4440));
}

#[test]
fn no_call_reaches_the_kernel() {
    for (call, after) in [([0x0f, 0x05], 0), ([0xcd, 0x80], 0)] {
        // getppid, by each instruction
        let (mut process, _ram) = process(&[call[0], call[1], 0x0f, 0x0b]);
        process.registers.general[0] = 110;
        assert_eq!(process.run().unwrap(), Stop::Instruction);
        assert_eq!((process.registers.rip, process.registers.general[0]), (CODE + after, 110));
    }
    // The instruction in its own page makes none either, while the guest runs.
    let (mut process, _ram) = process(&[0x90]);
    process.registers.rip = OWN.end - 4096 + 33;
    process.registers.general[0] = 110;
    assert_eq!(process.run().unwrap(), Stop::Instruction);
    assert_eq!((process.registers.rip, process.registers.general[0]), (OWN.end - 4096 + 33, 110));
}

#[test]
fn what_is_not_mapped_so_is_a_fault() {
    // mov [rbx], al; mov al, [rbx]
    let (mut process, _ram) = process(&[0x88, 0x03, 0x8a, 0x03]);
    for address in [0x60_0000, CODE, OWN.start, OWN.end - 4096, 0x7fff_ffff_e000] {
        process.registers.rip = CODE;
        process.registers.general[3] = address;
        assert_eq!(process.run().unwrap(), Stop::Fault(address), "{address:#x}");
        assert_eq!(process.registers.rip, CODE);
    }
    process.unmap(DATA, 4096);
    process.flush().unwrap();
    (process.registers.rip, process.registers.general[3]) = (CODE + 2, DATA + 5);
    assert_eq!(process.run().unwrap(), Stop::Fault(DATA + 5));
}

#[test]
fn what_would_tell_of_the_host_or_trap_is_left_to_others() {
    // rdtsc; int3; int1; hlt; div by zero
    for (code, at) in [
        (&[0x0f, 0x31][..], 0),
        (&[0x90, 0xcc], 1),
        (&[0x90, 0xf1], 1),
        (&[0xf4], 0),
        (&[0x31, 0xc9, 0xf7, 0xf1], 2),
    ] {
        let (mut process, _ram) = process(code);
        assert_eq!(process.run().unwrap(), Stop::Instruction, "{code:x?}");
        assert_eq!(process.registers.rip, CODE + at, "{code:x?}");
    }
}

#[test]
fn a_program_cannot_read_where_its_pages_are() {
    // mov rax, [rbx]; ud2
    let (mut process, _ram) = process(&[0x48, 0x8b, 0x03, 0x0f, 0x0b]);
    for offset in (0..256).step_by(8) {
        (process.registers.rip, process.registers.general[3]) = (CODE, OWN.start + offset);
        assert_eq!(process.run().unwrap(), Stop::Instruction);
        let word = process.registers.general[0];
        assert!(word == 0 || word == 1 << 63, "{word:#x} at {offset:#x}");
    }
}

#[test]
fn vectors_come_and_go() {
    // vaddps ymm0, ymm1, ymm1; ud2
    let (mut process, _ram) = process(&[0xc5, 0xf4, 0x58, 0xc1, 0x0f, 0x0b]);
    let mut image = vec![0; cpu::XSAVE_LEN];
    image[..2].copy_from_slice(&0x37fu16.to_le_bytes());
    image[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
    let (low, high) = (176, 576 + 16);
    for part in [low, high] {
        image[part..part + 16].copy_from_slice(&[1.5f32.to_le_bytes(); 4].concat());
    }
    process.set_vectors(&image).unwrap();
    assert_eq!(process.run().unwrap(), Stop::Instruction);
    let after = process.vectors().unwrap();
    for part in [160, 576] {
        assert_eq!(after[part..part + 16], [3f32.to_le_bytes(); 4].concat());
    }
    assert_eq!(after[low..low + 16], image[low..low + 16]);
}

#[test]
fn it_stops_before_instructions_that_it_is_told_of() {
    // inc rax; cpuid; inc rax; cpuid; ud2
    let (mut process, _ram) =
        process(&[0x48, 0xff, 0xc0, 0x0f, 0xa2, 0x48, 0xff, 0xc0, 0x0f, 0xa2, 0x0f, 0x0b]);
    assert!(process.can_stop());
    let runs = |process: &mut Process, rip: u64| {
        (process.registers.rip, process.registers.general[0]) = (rip, 0);
        process.flush().unwrap();
        assert_eq!(process.run().unwrap(), Stop::Instruction);
        process.registers.rip
    };
    process.stop_at(0, CODE + 3);
    process.stop_at(3, CODE + 8);
    assert_eq!(runs(&mut process, CODE), CODE + 3);
    assert_eq!(process.registers.general[0], 1);
    assert_eq!(runs(&mut process, CODE + 5), CODE + 8);
    process.stop_at(0, 0);
    assert_eq!(runs(&mut process, CODE), CODE + 8, "the first is gone");
    process.registers.flags |= 1 << 16; // RF
    assert_eq!(runs(&mut process, CODE + 8), CODE + 8, "even after a fault there");
    process.stop_at(3, CODE + 10);
    assert_eq!(runs(&mut process, CODE), CODE + 10, "the other is elsewhere");
}

//! Instructions done in Rust, against the host CPU: the x87 environment, masked stores, gathers.

use super::differential::{compare_one, random_machine};
use super::generate::Random;
use super::guest::{ABSENT, DATA, Guest};

const MASKS: u32 = 0x1f80;

fn memory(random: &mut Random) -> [u8; 128] {
    let mut memory = [0; 128];
    for part in memory.chunks_exact_mut(16) {
        part.copy_from_slice(&random.lanes());
    }
    memory
}

#[test]
fn the_x87_environment() {
    let mut guest = Guest::new();
    let mut random = Random::new(3);
    // Instruction and operand pointers differ, and so do bits that are reserved: fields 3 to 6.
    let cases: [(&[u8], std::ops::Range<usize>); 12] = [
        (&[0xd9, 0x2b], 0..0),        // fldcw [rbx]
        (&[0xd9, 0x3b], 0..0),        // fnstcw [rbx]
        (&[0xdd, 0x3b], 0..0),        // fnstsw [rbx]
        (&[0xdf, 0xe0], 0..0),        // fnstsw ax
        (&[0xd9, 0x23], 0..0),        // fldenv [rbx]
        (&[0x66, 0xd9, 0x23], 0..0),  // fldenvw [rbx]
        (&[0xd9, 0x33], 12..26),      // fnstenv [rbx]
        (&[0x66, 0xd9, 0x33], 6..14), // fnstenvw [rbx]
        (&[0xdd, 0x23], 0..0),        // frstor [rbx]
        (&[0x66, 0xdd, 0x23], 0..0),  // frstorw [rbx]
        (&[0xdd, 0x33], 12..26),      // fnsave [rbx]
        (&[0x66, 0xdd, 0x33], 6..14), // fnsavew [rbx]
    ];
    for _ in 0..300 {
        for (bytes, ignored) in &cases {
            let fcw = random.next() as u16 & 0x3f;
            let machine = random_machine(&mut random, MASKS, fcw);
            let memory = memory(&mut random);
            let outcome = compare_one(&mut guest, &machine, bytes, memory, std::slice::from_ref(ignored));
            assert_eq!(outcome, Ok(()));
        }
    }
}

#[test]
fn the_x87_environment_in_real_mode() {
    let mut guest = Guest::new();
    let mut state = Guest::state();
    state.cr0 = cpu::x86::cr0::ET;
    state.efer = 0;
    for segment in &mut state.segments {
        *segment = cpu::Segment { selector: 0, base: 0, limit: u32::MAX, attr: 0x93 };
    }
    state.segments[cpu::x86::seg::CS].attr = 0x9b;
    state.segments[cpu::x86::seg::DS].selector = 0x1000;
    state.segments[cpu::x86::seg::DS].base = 0x1_0000;
    guest.cpu.load_state(&state);
    guest.cpu.regs[3] = 0xf000;
    guest.complete(&[0xd8, 0x47, 0x10]); // fadd dword [bx + 16], at 0000:(1)0000
    guest.complete(&[0xd9, 0x37]); // fnstenv [bx]
    let word = |guest: &Guest, n: u64| guest.ram.load_u16(0x1_f000 + n * 2).unwrap();
    // An empty register was popped up by the addition: a stack fault, and ST(0) is in use now.
    assert_eq!((0..3).map(|n| word(&guest, n)).collect::<Vec<_>>(), [0x37f, 0x41, 0xfffe]);
    assert_eq!(word(&guest, 4), 0x1047, "bits 16-19 of the address and the opcode");
    assert_eq!((word(&guest, 5), word(&guest, 6)), (0xf010, 0x1000));
    guest.complete(&[0x66, 0xd9, 0x37]); // fnstenvd [bx]
    let fields: Vec<_> = (0..7).map(|n| guest.ram.load_u32(0x1_f000 + n * 4).unwrap()).collect();
    assert_eq!(fields[4..], [0x1047, 0xffff_f010, 0x1000]);
    guest.cpu.host.pointers = Default::default();
    guest.complete(&[0x66, 0xd9, 0x27]); // fldenvd [bx]
    assert_eq!((guest.cpu.host.pointers.opcode, guest.cpu.host.pointers.dp), (0x47, 0x1_f010));
}

#[test]
fn masked_byte_stores() {
    let mut guest = Guest::new();
    let mut random = Random::new(4);
    for bytes in [&[0x66, 0x0f, 0xf7, 0xca][..], &[0xc5, 0xf9, 0xf7, 0xca], &[0x0f, 0xf7, 0xca]] {
        for _ in 0..200 {
            let machine = random_machine(&mut random, MASKS, 0x3f);
            let memory = memory(&mut random);
            let outcome = compare_with_rdi(&mut guest, &machine, bytes, memory);
            assert_eq!(outcome, Ok(()));
        }
    }
}

/// Like `compare_one`, for instructions that address memory by RDI.
fn compare_with_rdi(
    guest: &mut Guest,
    machine: &super::native::Machine,
    bytes: &[u8],
    memory: [u8; 128],
) -> Result<(), String> {
    let mut native = machine.clone();
    let mut buffer = memory;
    native.gpr[7] = buffer.as_mut_ptr() as u64 + 5;
    assert!(!super::native::run(&mut native, bytes));
    super::differential::load(guest, machine, &memory);
    guest.cpu.regs[7] = DATA + 5;
    guest.complete(bytes);
    let mut ours = [0; 128];
    guest.ram.read(DATA, &mut ours).unwrap();
    let mut image = [0; 512];
    guest.cpu.host.write_legacy(&mut image, true);
    match ours == buffer && image[..5] == native.fx[..5] && image[32..160] == native.fx[32..160] {
        true => Ok(()),
        false => Err(format!(
            "{bytes:02x?}\n{ours:02x?}\n{buffer:02x?}\n{:x?}\n{:x?}",
            &image[..160],
            &native.fx[..160]
        )),
    }
}

/// VGATHER and VPGATHER in all combinations: opcode, W, L; xmm1/ymm1 from [rbx + xmm2 * 4], mask xmm3.
#[test]
fn gathers() {
    let mut guest = Guest::new();
    let mut random = Random::new(5);
    for opcode in 0x90..=0x93u8 {
        for w_l in 0..4u8 {
            let third = 0x61 | (w_l & 1) << 7 | (w_l & 2) << 1;
            let bytes = [0xc4, 0xe2, third, opcode, 0x0c, 0x93];
            for _ in 0..100 {
                let mut machine = random_machine(&mut random, MASKS, 0x3f);
                let width = if opcode & 1 == 0 { 4 } else { 8 };
                for lane in machine.ymm[2].chunks_exact_mut(width) {
                    let index = (random.below(30) as i64 - 2).max(0) as u64;
                    lane.copy_from_slice(&index.to_le_bytes()[..width]);
                }
                let outcome = compare_one(&mut guest, &machine, &bytes, memory(&mut random), &[]);
                assert_eq!(outcome, Ok(()));
            }
        }
    }
}

#[test]
fn a_gather_goes_on_where_it_faulted() {
    let mut guest = Guest::new();
    guest.ram.store_u32(DATA, 11).unwrap();
    guest.ram.store_u32(DATA + 4, 12).unwrap();
    guest.cpu.regs[3] = DATA;
    let far = (ABSENT - DATA) as u128 / 4;
    guest.cpu.host.ymm[2].lo = 1 << 32 | far << 64;
    guest.cpu.host.ymm[3].lo = 0x8000_0000_8000_0000_8000_0000_8000_0000;
    guest.cpu.host.ymm[1].lo = u128::MAX;
    let vpgatherdd = [0xc4, 0xe2, 0x61, 0x90, 0x0c, 0x93];
    assert_eq!(guest.fault(&vpgatherdd).payload, ABSENT);
    assert_eq!(guest.cpu.host.ymm[1].lo, u128::MAX << 64 | 12 << 32 | 11);
    assert_eq!(guest.cpu.host.ymm[3].lo, u128::MAX << 64);
    guest.cpu.host.ymm[2].lo = 0;
    guest.complete(&vpgatherdd);
    assert_eq!(guest.cpu.host.ymm[1].lo, 11 << 96 | 11 << 64 | 12 << 32 | 11);
    assert_eq!(guest.cpu.host.ymm[3].lo, 0);
    let same_registers = [0xc4, 0xe2, 0x71, 0x90, 0x0c, 0x93]; // mask xmm1
    assert_eq!(guest.fault(&same_registers), cpu::x86::Exception::ud());
}

#[test]
fn elements_masked_off_do_not_fault() {
    let mut guest = Guest::new();
    guest.cpu.regs[3] = ABSENT - 8;
    guest.ram.store_u64(ABSENT - 8, 0x0000_0002_0000_0001).unwrap();
    guest.cpu.host.ymm[2].lo = 1 << 63 | 1 << 31;
    guest.complete(&[0xc4, 0xe2, 0x69, 0x2c, 0x0b]); // vmaskmovps xmm1, xmm2, [rbx]
    assert_eq!(guest.cpu.host.ymm[1].lo, 0x0000_0002_0000_0001);
    guest.cpu.host.ymm[1].lo = 0x4_0000_0003;
    guest.complete(&[0xc4, 0xe2, 0x69, 0x8e, 0x0b]); // vpmaskmovd [rbx], xmm2, xmm1
    assert_eq!(guest.ram.load_u64(ABSENT - 8), Some(0x4_0000_0003));
    guest.cpu.host.ymm[2].lo |= 1 << 95;
    guest.cpu.host.ymm[1].lo = 0;
    assert_eq!(guest.fault(&[0xc4, 0xe2, 0x69, 0x8e, 0x0b]).payload, ABSENT);
    assert_eq!(guest.ram.load_u64(ABSENT - 8), Some(0x4_0000_0003), "nothing was stored");
}

use super::*;
use crate::layout::{CODE, DATA, READ_ONLY, STACK, offset, selector};

fn case(code: &[u8]) -> Input {
    let mut input = Input::zeroed();
    input.regs.rip = CODE + 64;
    input.regs.selectors = [selector::DATA, selector::CODE64, selector::DATA, selector::DATA, 0, 0];
    input.regs.gpr[4] = STACK + 2048;
    input.fp[0..2].copy_from_slice(&0x37fu16.to_le_bytes());
    input.fp[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
    input.code[..code.len()].copy_from_slice(code);
    input.code_len = code.len() as u32;
    input
}

fn run(inputs: &[Input]) -> Vec<Outcome> {
    let mut oracle = Oracle::new().unwrap();
    oracle.start(inputs).unwrap();
    oracle.finish().unwrap().to_vec()
}

#[test]
fn registers_flags_and_memory_come_back() {
    let mut add = case(&[0x48, 0x01, 0x18]); // add [rax], rbx
    add.regs.gpr[0] = DATA + 16;
    add.regs.gpr[3] = 1;
    add.patch_count = 1;
    add.patches[0].addr = DATA + 16;
    add.patches[0].len = 8;
    add.patches[0].bytes[..8].fill(0xff);
    let out = run(&[add])[0];
    assert_eq!((out.vector, out.regs.rip), (3, CODE + 64 + 4));
    assert_eq!(out.regs.rflags & 0x8d5, 0x55); // CF PF AF ZF
    let at = offset(DATA + 16).unwrap();
    assert_eq!(out.memory[at..at + 8], [0; 8]);
    assert_eq!(out.regs.gpr[0], DATA + 16);
    assert_eq!(out.regs.selectors, add.regs.selectors);
}

#[test]
fn faults_come_with_vector_code_and_address() {
    let mut store = case(&[0x48, 0x89, 0x18]); // mov [rax], rbx
    store.regs.gpr[0] = READ_ONLY + 8;
    let mut load = case(&[0x48, 0x8b, 0x18]);
    load.regs.gpr[0] = DATA - 4;
    let mut wild = load;
    wild.regs.gpr[0] = 1 << 63;
    let divide = case(&[0x48, 0xf7, 0xf0]);
    let out = run(&[store, load, wild, divide, case(&[0x0f, 0x0b]), case(&[0xf4])]);
    let seen: Vec<_> = out.iter().map(|o| (o.vector, o.code)).collect();
    assert_eq!(seen, [(14, 7), (14, 4), (13, 0), (0, 0), (6, 0), (13, 0)]);
    assert_eq!((out[0].cr2, out[1].cr2), (READ_ONLY + 8, DATA - 4));
}

#[test]
fn compatibility_mode_and_segment_bases() {
    let mut compat = case(&[0x40]); // inc eax; in 64-bit mode a prefix
    compat.regs.selectors = [selector::DATA, selector::CODE32, selector::DATA, selector::DATA, 0x2b, 0x2b];
    let mut fs = case(&[0x64, 0x8a, 0x00]); // mov al, fs:[rax]
    fs.regs.fs_base = DATA;
    fs.patch_count = 1;
    fs.patches[0].addr = DATA;
    fs.patches[0].len = 1;
    fs.patches[0].bytes[0] = 0x5a;
    let out = run(&[compat, fs, compat]);
    assert_eq!([out[0].regs.gpr[0], out[1].regs.gpr[0], out[2].regs.gpr[0]], [1, 0x5a, 1]);
    assert_eq!((out[0].vector, out[1].vector), (3, 3));
    assert_eq!((out[1].regs.fs_base, out[0].regs.selectors[1]), (DATA, selector::CODE32));
}

#[test]
fn vector_state_goes_in_and_out() {
    let mut add = case(&[0x66, 0x0f, 0xfe, 0xc1]); // paddd xmm0, xmm1
    add.fp[160] = 7;
    add.fp[176] = 8;
    add.fp[592] = 9; // upper half of ymm1
    let mut sticky = case(&[0x9d]); // popfq: alignment checks, NT and ID on
    sticky.patch_count = 1;
    sticky.patches[0].addr = STACK + 2048;
    sticky.patches[0].len = 8;
    sticky.patches[0].bytes[..4].copy_from_slice(&0x0024_4202u32.to_le_bytes());
    let out = run(&[sticky, add, case(&[0x9c])]);
    assert_eq!((out[1].fp[160], out[1].fp[592]), (15, 9));
    assert_eq!(out[0].regs.rflags & 0x0024_4000, 0x0024_4000);
    assert_eq!(out[2].regs.rflags & 0x0024_4000, 0);
}

#[test]
fn a_batch_can_be_followed_by_another() {
    let mut oracle = Oracle::new().unwrap();
    for round in 0..100 {
        let inputs: Vec<Input> = (0..BATCH).map(|_| case(&[0x48, 0xff, 0xc0])).collect();
        oracle.start(&inputs).unwrap();
        let out = oracle.finish().unwrap();
        assert!(out.iter().all(|o| o.regs.gpr[0] == 1), "{round}");
    }
}

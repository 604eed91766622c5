//! Saving and restoring: FXSAVE, XSAVE, the x87 environment, MXCSR.

use cpu::x86::{Exception, vector, xcr0};

use super::super::HostState;
use super::super::state::Ymm;
use super::guest::{ABSENT, DATA, Guest};

const FXSAVE64: [u8; 4] = [0x48, 0x0f, 0xae, 0x00];
const FXRSTOR64: [u8; 4] = [0x48, 0x0f, 0xae, 0x08];
const XSAVE64: [u8; 4] = [0x48, 0x0f, 0xae, 0x20];
const XRSTOR64: [u8; 4] = [0x48, 0x0f, 0xae, 0x28];
const XSAVEOPT64: [u8; 4] = [0x48, 0x0f, 0xae, 0x30];
const XSAVEC64: [u8; 4] = [0x48, 0x0f, 0xc7, 0x20];

fn filled() -> Guest {
    let mut guest = Guest::new();
    for (n, register) in guest.cpu.host.ymm.iter_mut().enumerate() {
        *register = Ymm { lo: n as u128 + 1, hi: (n as u128) << 100 | 5 };
    }
    guest.cpu.host.mxcsr = 0x7f80;
    guest.complete(&[0xd9, 0xe8]); // fld1
    guest.complete(&[0xd9, 0xeb]); // fldpi
    guest.cpu.regs[0] = DATA;
    guest.cpu.regs[2] = 0;
    guest
}

fn memory(guest: &Guest, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    guest.ram.read(at, &mut bytes).unwrap();
    bytes
}

/// The same instruction on [rbx], since RAX selects components.
fn with_rbx(bytes: [u8; 4]) -> [u8; 4] {
    [bytes[0], bytes[1], bytes[2], bytes[3] | 3]
}

fn request(guest: &mut Guest, components: u64) {
    guest.cpu.regs[0] = components;
    guest.cpu.regs[3] = DATA;
}

#[test]
fn an_image_survives_a_round_trip() {
    let mut guest = filled();
    (guest.cpu.host.pointers.cs, guest.cpu.host.pointers.ds) = (0x33, 0x2b);
    let image = guest.cpu.host.to_xsave();
    assert_eq!(image.len(), cpu::XSAVE_LEN);
    assert_eq!(image[512], 7);
    let mut copy = HostState::default();
    copy.from_xsave(&image);
    assert_eq!(copy.to_xsave(), image);
    assert_eq!(copy.pointers, guest.cpu.host.pointers);
}

#[test]
fn components_that_are_absent_are_initial() {
    let mut image = filled().cpu.host.to_xsave();
    image[512] = 0;
    let mut state = HostState::default();
    state.ymm[3].lo = 9;
    state.from_xsave(&image);
    assert_eq!(state.ymm[3], Ymm::default());
    assert_eq!(state.mxcsr, 0x7f80);
    assert_eq!(state.x87().fcw, 0x37f);
}

#[test]
fn fxsave_and_fxrstor() {
    let mut guest = filled();
    guest.ram.write(DATA, &[0xaa; 512]).unwrap();
    guest.complete(&FXSAVE64);
    let image = memory(&guest, DATA, 512);
    assert_eq!(image[4], 0xc0, "two registers are in use");
    assert_eq!(image[28..32], 0xffffu32.to_le_bytes());
    assert_eq!(image[160], 1);
    assert!(image[416..].iter().all(|b| *b == 0xaa), "the rest belongs to software");
    let before = guest.cpu.host.to_xsave();
    let upper = guest.cpu.host.ymm[4].hi;
    *guest.cpu.host = HostState::default();
    guest.cpu.host.ymm[4].hi = upper;
    guest.complete(&FXRSTOR64);
    assert_eq!(guest.cpu.host.to_xsave()[..416], before[..416]);
    assert_eq!(guest.cpu.host.ymm[4], Ymm { lo: 5, hi: upper });
    guest.ram.store_u32(DATA + 24, 0x1_0000).unwrap();
    assert_eq!(guest.fault(&FXRSTOR64), Exception::gp(0));
    guest.cpu.regs[0] = DATA + 8;
    assert_eq!(guest.fault(&FXSAVE64), Exception::gp(0));
}

#[test]
fn xsave_writes_what_is_asked() {
    let mut guest = filled();
    guest.ram.write(DATA, &[0xaa; 832]).unwrap();
    request(&mut guest, xcr0::AVX);
    guest.complete(&with_rbx(XSAVE64));
    let image = memory(&guest, DATA, 832);
    assert!(image[..24].iter().all(|b| *b == 0xaa));
    assert_eq!(image[24..28], 0x7f80u32.to_le_bytes(), "MXCSR goes with AVX too");
    assert!(image[32..512].iter().all(|b| *b == 0xaa));
    assert_eq!(image[512], 0xaa & !4 | 4);
    assert_eq!(image[576], 5);
    assert_eq!(guest.fault(&[0x48, 0x0f, 0xae, 0x63, 0x20]), Exception::gp(0), "64-byte alignment");
}

#[test]
fn xrstor_initialises_what_is_absent() {
    let mut guest = filled();
    guest.ram.write(DATA, &[0; 832]).unwrap();
    guest.ram.store_u32(DATA + 24, 0x1f80).unwrap();
    request(&mut guest, 7);
    guest.complete(&with_rbx(XSAVE64));
    let full = guest.cpu.host.to_xsave();
    guest.ram.store_u64(DATA + 512, xcr0::SSE).unwrap();
    guest.complete(&with_rbx(XRSTOR64));
    assert_eq!(guest.cpu.host.ymm[2], Ymm { lo: 3, hi: 0 });
    assert_eq!(guest.cpu.host.x87().ftw, 0);
    assert_eq!(guest.cpu.host.mxcsr, 0x7f80);
    guest.ram.store_u64(DATA + 512, 7).unwrap();
    guest.complete(&with_rbx(XRSTOR64));
    // The 64-bit form has no room for FCS and FDS: they are zero now.
    let mut expected = full;
    expected[cpu::XSAVE_SELECTORS..cpu::XSAVE_SELECTORS + 4].fill(0);
    assert_eq!(guest.cpu.host.to_xsave(), expected);
}

#[test]
fn xrstor_checks_its_header() {
    let mut guest = filled();
    guest.ram.write(DATA, &[0; 832]).unwrap();
    request(&mut guest, 7);
    let bad = |guest: &mut Guest, offset: u64, value: u64| {
        guest.ram.store_u64(DATA + offset, value).unwrap();
        let fault = guest.fault(&with_rbx(XRSTOR64));
        guest.ram.store_u64(DATA + offset, 0).unwrap();
        assert_eq!(fault, Exception::gp(0), "{offset} {value:#x}");
    };
    bad(&mut guest, 512, 8); // a component that XCR0 lacks
    bad(&mut guest, 520, 1); // XCOMP_BV in the standard form
    bad(&mut guest, 528, 1); // reserved
    bad(&mut guest, 24, 0x1_0000); // MXCSR
    guest.ram.store_u64(DATA + 520, 1 << 63 | 3).unwrap();
    bad(&mut guest, 512, 4); // a component that the layout lacks
    bad(&mut guest, 536, 1); // reserved in the compacted form
    guest.complete(&with_rbx(XRSTOR64));
    assert_eq!(guest.cpu.host.mxcsr, 0x1f80);
}

#[test]
fn xsavec_writes_only_what_is_in_use() {
    let mut guest = Guest::new();
    guest.ram.write(DATA, &[0xaa; 832]).unwrap();
    guest.cpu.host.ymm[1].hi = 6;
    request(&mut guest, 7);
    guest.complete(&with_rbx(XSAVEC64));
    let image = memory(&guest, DATA, 832);
    assert_eq!(image[512..520], 4u64.to_le_bytes());
    assert_eq!(image[520..528], (1u64 << 63 | 7).to_le_bytes());
    assert!(image[..512].iter().all(|b| *b == 0xaa));
    assert_eq!(image[592], 6);
    guest.cpu.host.ymm[1].hi = 0;
    guest.cpu.host.mxcsr = 0x3f80;
    guest.complete(&with_rbx(XSAVEC64));
    assert_eq!(memory(&guest, DATA + 512, 1), [2], "MXCSR counts as SSE state");
    guest.cpu.host.mxcsr = 0x1f80;
    guest.ram.write(DATA + 528, &[0; 48]).unwrap();
    guest.complete(&with_rbx(XRSTOR64));
    assert_eq!(guest.cpu.host.mxcsr, 0x3f80);
}

#[test]
fn xsaveopt_skips_initial_components() {
    let mut guest = Guest::new();
    guest.ram.write(DATA, &[0xaa; 832]).unwrap();
    guest.ram.store_u64(DATA + 512, 7).unwrap();
    guest.cpu.host.ymm[0].lo = 1;
    request(&mut guest, 7);
    guest.complete(&with_rbx(XSAVEOPT64));
    let image = memory(&guest, DATA, 832);
    assert_eq!(image[512], 2);
    assert!(image[..24].iter().all(|b| *b == 0xaa));
    assert!(image[576..].iter().all(|b| *b == 0xaa));
    assert_eq!(image[160], 1);
}

#[test]
fn a_fault_writes_nothing() {
    let mut guest = filled();
    guest.cpu.regs[3] = ABSENT - 576;
    guest.ram.write(ABSENT - 576, &[0xaa; 576]).unwrap();
    guest.cpu.regs[0] = 7;
    let fault = guest.fault(&with_rbx(XSAVE64));
    assert_eq!((fault.vector, fault.payload), (vector::PF, ABSENT));
    assert_eq!(memory(&guest, ABSENT - 576, 576), vec![0xaa; 576]);
    guest.cpu.regs[0] = 3;
    guest.complete(&with_rbx(XSAVE64));
}

#[test]
fn mxcsr_has_reserved_bits() {
    let mut guest = Guest::new();
    guest.cpu.regs[0] = DATA;
    guest.ram.store_u32(DATA, 0xffff).unwrap();
    guest.complete(&[0x0f, 0xae, 0x10]); // ldmxcsr [rax]
    guest.ram.store_u32(DATA, 0x1_1f80).unwrap();
    assert_eq!(guest.fault(&[0x0f, 0xae, 0x10]), Exception::gp(0));
    assert_eq!(guest.cpu.host.mxcsr, 0xffff);
    guest.complete(&[0xc5, 0xf8, 0xae, 0x18]); // vstmxcsr [rax]
    assert_eq!(guest.ram.load_u32(DATA), Some(0xffff));
}

#[test]
fn x87_pointers_are_the_guests() {
    let mut guest = Guest::new();
    guest.cpu.regs[0] = DATA;
    guest.complete(&[0xd8, 0x40, 0x10]); // fadd dword [rax + 16]
    guest.complete(&[0xdb, 0xe2]); // fnclex changes no pointer
    guest.complete(&FXSAVE64);
    let image = memory(&guest, DATA, 32);
    assert_eq!(image[6..8], 0x040u16.to_le_bytes());
    assert_eq!(image[8..16], super::guest::CODE.to_le_bytes());
    assert_eq!(image[16..24], (DATA + 16).to_le_bytes());
    guest.complete(&[0xd9, 0x30]); // fnstenv [rax]
    let image = memory(&guest, DATA, 28);
    assert_eq!(image[12..16], (super::guest::CODE as u32).to_le_bytes());
    assert_eq!(image[20..24], (DATA as u32 + 16).to_le_bytes());
    assert_eq!(guest.cpu.host.x87().fcw & 0x3f, 0x3f);
}

#[test]
fn the_random_numbers_are_not_constant() {
    let mut guest = Guest::new();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..20 {
        guest.complete(&[0x48, 0x0f, 0xc7, 0xf0]); // rdrand rax
        if guest.cpu.flags.cf() {
            seen.insert(guest.cpu.regs[0]);
        }
    }
    assert!(seen.len() > 2, "{seen:?}");
}

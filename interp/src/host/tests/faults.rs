//! What must fault, with which exception, and that nothing has changed then.

use cpu::x86::{CpuModel, Exception, cr0, cr4, efer, seg, seg_attr, vector};
use iced_x86::Code;

use super::super::state::Ymm;
use super::guest::{ABSENT, DATA, Guest, READ_ONLY};

const PXOR: [u8; 4] = [0x66, 0x0f, 0xef, 0xc1]; // pxor xmm0, xmm1
const PADDB: [u8; 4] = [0x66, 0x0f, 0xfc, 0xc1];
const VPADDB: [u8; 4] = [0xc5, 0xf1, 0xfc, 0xc1];
const PADDB_MMX: [u8; 3] = [0x0f, 0xfc, 0xc1];
const FADD: [u8; 2] = [0xd8, 0xc1];
const ANDN: [u8; 5] = [0xc4, 0xe2, 0x78, 0xf2, 0xc1];
const CRC32: [u8; 5] = [0xf2, 0x0f, 0x38, 0xf1, 0xc1];
const FNSTSW_AX: [u8; 2] = [0xdf, 0xe0];
const FWAIT: [u8; 1] = [0x9b];

fn nm() -> Exception {
    Exception::new(vector::NM)
}

#[test]
fn control_registers_decide_what_runs() {
    let mut guest = Guest::new();
    let (cr0, cr4) = (guest.cpu.cr0, guest.cpu.cr4);
    guest.cpu.cr0 = cr0 | cr0::TS;
    for bytes in [&PXOR[..], &PADDB, &VPADDB, &PADDB_MMX, &FADD, &FNSTSW_AX, &FWAIT] {
        assert_eq!(guest.fault(bytes), nm(), "TS {bytes:02x?}");
    }
    guest.complete(&ANDN);
    guest.complete(&CRC32);
    guest.cpu.cr0 = (cr0 | cr0::TS) & !cr0::MP;
    guest.complete(&FWAIT);
    guest.cpu.cr0 = cr0 | cr0::EM;
    for bytes in [&PXOR[..], &PADDB, &PADDB_MMX] {
        assert_eq!(guest.fault(bytes), Exception::ud(), "EM {bytes:02x?}");
    }
    assert_eq!(guest.fault(&FADD), nm());
    guest.complete(&FWAIT);
    guest.complete(&VPADDB);
    guest.cpu.cr0 = cr0;
    guest.cpu.cr4 = cr4 & !cr4::OSFXSR;
    assert_eq!(guest.fault(&PXOR), Exception::ud());
    assert_eq!(guest.fault(&PADDB), Exception::ud());
    guest.complete(&VPADDB);
    guest.complete(&PADDB_MMX);
    guest.cpu.cr4 = cr4 & !cr4::OSXSAVE;
    assert_eq!(guest.fault(&VPADDB), Exception::ud());
    guest.cpu.cr4 = cr4;
    guest.cpu.xcr0 = 3;
    assert_eq!(guest.fault(&VPADDB), Exception::ud());
    guest.complete(&PADDB);
}

#[test]
fn undefined_comes_before_device_not_available() {
    let mut guest = Guest::new();
    guest.cpu.cr0 |= cr0::TS | cr0::EM;
    assert_eq!(guest.fault(&PADDB), Exception::ud());
    assert_eq!(guest.fault(&PADDB_MMX), Exception::ud());
}

#[test]
fn vex_needs_protected_mode() {
    let mut guest = Guest::new();
    let mut state = Guest::state();
    state.cr0 = cr0::ET;
    state.efer = 0;
    for segment in &mut state.segments {
        *segment = cpu::Segment { selector: 0, base: 0, limit: u32::MAX, attr: 0x93 };
    }
    state.segments[seg::CS].attr = 0x9b;
    guest.cpu.load_state(&state);
    assert_eq!(guest.fault(&VPADDB), Exception::ud());
    assert_eq!(guest.fault(&ANDN), Exception::ud());
    guest.complete(&PADDB);
}

#[test]
fn a_model_without_a_feature_lacks_its_instructions() {
    let mut guest = Guest::with_model(CpuModel::named(Some("x86-64-v1")).unwrap());
    assert_eq!(guest.fault(&VPADDB), Exception::ud());
    assert_eq!(guest.fault(&CRC32), Exception::ud());
    assert_eq!(guest.fault(&ANDN), Exception::ud());
    guest.complete(&PADDB);
    // TZCNT and LZCNT are BSF and BSR there.
    guest.cpu.regs[1] = 0x50;
    guest.complete(&[0xf3, 0x0f, 0xbc, 0xc1]);
    assert_eq!(guest.cpu.regs[0], 4);
    guest.complete(&[0xf3, 0x0f, 0xbd, 0xc1]);
    assert_eq!(guest.cpu.regs[0], 6);
}

#[test]
fn aligned_operands_must_be_aligned() {
    let mut guest = Guest::new();
    guest.cpu.regs[0] = DATA + 8;
    let faulting: [&[u8]; 6] = [
        &[0x0f, 0x28, 0x00],             // movaps xmm0, [rax]
        &[0x0f, 0x29, 0x00],             // movaps [rax], xmm0
        &[0x66, 0x0f, 0xfc, 0x00],       // paddb xmm0, [rax]
        &[0xc5, 0xf8, 0x28, 0x00],       // vmovaps xmm0, [rax]
        &[0xc5, 0xfd, 0xe7, 0x00],       // vmovntdq [rax], ymm0
        &[0x66, 0x0f, 0x38, 0x2a, 0x00], // movntdqa xmm0, [rax]
    ];
    for bytes in faulting {
        assert_eq!(guest.fault(bytes), Exception::gp(0), "{bytes:02x?}");
    }
    let completing: [&[u8]; 6] = [
        &[0x0f, 0x10, 0x00],                   // movups
        &[0xf3, 0x0f, 0x7f, 0x00],             // movdqu store
        &[0xc5, 0xf9, 0xfc, 0x00],             // vpaddb
        &[0x66, 0x0f, 0x3a, 0x63, 0x00, 0x00], // pcmpistri
        &[0xf2, 0x0f, 0xf0, 0x00],             // lddqu
        &[0xf3, 0x0f, 0x58, 0x00],             // addss
    ];
    for bytes in completing {
        guest.complete(bytes);
    }
    guest.cpu.regs[0] = DATA + 16;
    guest.complete(&[0x0f, 0x28, 0x00]);
    assert_eq!(guest.fault(&[0xc5, 0xfd, 0xe7, 0x00]), Exception::gp(0));
}

/// CPUs of Intel raise #GP: it must be the guest's and not this process's.
#[test]
fn operands_of_sha_instructions_must_be_aligned() {
    let mut guest = Guest::new();
    if !CpuModel::named(Some("host")).unwrap().allows(Code::Sha1nexte_xmm_xmmm128) {
        return;
    }
    let instructions: [&[u8]; 7] = [
        &[0x0f, 0x38, 0xc8, 0x00],       // sha1nexte xmm0, [rax]
        &[0x0f, 0x38, 0xc9, 0x00],       // sha1msg1
        &[0x0f, 0x38, 0xca, 0x00],       // sha1msg2
        &[0x0f, 0x38, 0xcb, 0x00],       // sha256rnds2
        &[0x0f, 0x38, 0xcc, 0x00],       // sha256msg1
        &[0x0f, 0x38, 0xcd, 0x00],       // sha256msg2
        &[0x0f, 0x3a, 0xcc, 0x00, 0x00], // sha1rnds4 xmm0, [rax], 0
    ];
    for bytes in instructions {
        guest.cpu.regs[0] = DATA + 8;
        assert_eq!(guest.fault(bytes), Exception::gp(0), "{bytes:02x?}");
        guest.cpu.regs[0] = DATA + 16;
        guest.complete(bytes);
    }
}

#[test]
fn addresses_that_are_not_canonical() {
    let mut guest = Guest::new();
    guest.cpu.regs[0] = 1 << 47;
    guest.cpu.regs[4] = 1 << 47;
    assert_eq!(guest.fault(&[0x0f, 0x10, 0x00]), Exception::gp(0));
    assert_eq!(guest.fault(&[0x0f, 0x10, 0x04, 0x24]), Exception::with_code(vector::SS, 0));
    guest.cpu.regs[0] = (1 << 47) - 8;
    assert_eq!(guest.fault(&[0x0f, 0x11, 0x00]), Exception::gp(0));
}

#[test]
fn a_page_fault_changes_nothing() {
    let mut guest = Guest::new();
    let filled = Ymm { lo: 7, hi: 9 };
    guest.cpu.host.ymm = [filled; 16];
    guest.cpu.host.x87_mut().ftw = 0xff;
    let before = guest.cpu.host.to_xsave();
    guest.cpu.regs[0] = ABSENT - 8;
    let faulting: [&[u8]; 9] = [
        &[0x0f, 0x10, 0x00],                   // movups xmm0, [rax]
        &[0x0f, 0x11, 0x00],                   // movups [rax], xmm0
        &[0xc5, 0xfe, 0x6f, 0x00],             // vmovdqu ymm0, [rax]
        &[0xc5, 0xfd, 0xfc, 0x00],             // vpaddb ymm0, ymm0, [rax]
        &[0xdb, 0x38],                         // fstp tbyte [rax]
        &[0xdb, 0x28],                         // fld tbyte [rax]
        &[0xdd, 0x70, 0x04],                   // fnsave [rax + 4]
        &[0xd9, 0x20],                         // fldenv [rax]
        &[0xc4, 0xe3, 0x7d, 0x39, 0x00, 0x01], // vextracti128 [rax], ymm0, 1
    ];
    for bytes in faulting {
        let write = guest.fault(bytes);
        assert_eq!((write.vector, write.payload & !0xfff), (vector::PF, ABSENT), "{bytes:02x?}");
        assert_eq!(guest.cpu.host.to_xsave(), before, "{bytes:02x?}");
    }
    guest.cpu.regs[0] = READ_ONLY;
    for bytes in [&[0x0f, 0x11, 0x00][..], &[0xdd, 0x18], &[0x0f, 0x7f, 0x00], &[0x66, 0x0f, 0xd6, 0x00]] {
        let fault = guest.fault(bytes);
        assert_eq!(
            (fault.vector, fault.code, fault.payload),
            (vector::PF, Some(3), READ_ONLY),
            "{bytes:02x?}"
        );
        assert_eq!(guest.cpu.host.to_xsave(), before, "{bytes:02x?}");
    }
}

#[test]
fn a_page_crossing_operand_is_whole() {
    let mut guest = Guest::new();
    let data: Vec<u8> = (0..32).collect();
    guest.ram.write(DATA + 0xff4, &data).unwrap();
    guest.cpu.regs[0] = DATA + 0xff4;
    guest.complete(&[0xc5, 0xfe, 0x6f, 0x00]); // vmovdqu ymm0, [rax]
    guest.cpu.regs[0] = DATA + 0x1ff4;
    guest.complete(&[0xc5, 0xfe, 0x7f, 0x00]); // vmovdqu [rax], ymm0
    let mut copy = vec![0; 32];
    guest.ram.read(DATA + 0x1ff4, &mut copy).unwrap();
    assert_eq!(copy, data);
    guest.cpu.regs[0] = DATA + 0xff4;
    guest.complete(&[0xc5, 0xf5, 0xef, 0x08]); // vpxor ymm1, ymm1, [rax]
    assert_eq!(guest.cpu.host.ymm[1], guest.cpu.host.ymm[0]);
}

#[test]
fn unmasked_simd_exceptions() {
    let mut guest = Guest::new();
    guest.cpu.host.ymm[1].lo = 1f32.to_bits().into();
    guest.cpu.host.mxcsr = 0x1f80 & !(1 << 9); // division by zero is unmasked
    let divss = [0xf3, 0x0f, 0x5e, 0xc8]; // divss xmm1, xmm0
    assert_eq!(guest.fault(&divss), Exception::new(vector::XM));
    assert_eq!(guest.cpu.host.mxcsr, 0x1d84);
    assert_eq!(guest.cpu.host.ymm[1].lo, 1f32.to_bits().into());
    guest.cpu.cr4 &= !cr4::OSXMMEXCPT;
    assert_eq!(guest.fault(&divss), Exception::ud());
    guest.cpu.host.mxcsr = 0x1f80;
    guest.complete(&divss);
    assert_eq!(guest.cpu.host.ymm[1].lo, f32::INFINITY.to_bits().into());
    assert_eq!(guest.cpu.host.mxcsr, 0x1f84);
}

#[test]
fn pending_x87_exceptions() {
    let mut guest = Guest::new();
    let mf = Exception::new(vector::MF);
    guest.complete(&[0xdb, 0xe3]); // fninit
    guest.ram.store_u16(DATA, 0x37b).unwrap(); // division by zero is unmasked
    guest.cpu.regs[0] = DATA;
    guest.complete(&[0xd9, 0x28]); // fldcw [rax]
    guest.complete(&[0xd9, 0xe8]); // fld1
    guest.complete(&[0xd9, 0xee]); // fldz
    guest.complete(&[0xdc, 0xf9]); // fdiv st(1), st: reported by the next waiting instruction
    for bytes in [&FWAIT[..], &FADD, &PADDB_MMX, &[0xd9, 0x28], &[0x0f, 0x77], &[0xd9, 0xd0]] {
        assert_eq!(guest.fault(bytes), mf, "{bytes:02x?}");
    }
    guest.complete(&FNSTSW_AX);
    assert_eq!(guest.cpu.regs[0] as u16 & 0x80ff, 0x8084);
    guest.cpu.cr0 &= !cr0::NE; // no IRQ 13 is wired: execution goes on
    guest.complete(&FWAIT);
    guest.complete(&[0xd9, 0xe8]);
    assert!(guest.cpu.host.x87().pending());
    guest.cpu.cr0 |= cr0::NE;
    assert_eq!(guest.fault(&FWAIT), mf);
    guest.complete(&[0xdb, 0xe2]); // fnclex
    guest.complete(&FWAIT);
}

#[test]
fn outside_64_bit_mode_segments_are_checked() {
    let mut guest = Guest::new();
    let mut state = Guest::state();
    state.efer &= !(efer::LMA | efer::LME);
    state.cr0 &= !cr0::PG;
    state.segments[seg::CS].attr = (state.segments[seg::CS].attr & !seg_attr::L) | seg_attr::DB;
    state.segments[seg::DS].limit = DATA as u32 + 15;
    guest.cpu.load_state(&state);
    guest.cpu.regs[0] = DATA;
    guest.complete(&[0x0f, 0x10, 0x00]); // movups xmm0, [eax]
    assert_eq!(guest.fault(&[0x0f, 0x10, 0x40, 0x01]), Exception::gp(0));
    assert_eq!(guest.fault(&[0xdb, 0x68, 0x07]), Exception::gp(0)); // fld tbyte [eax + 7]
    guest.complete(&[0xdb, 0x68, 0x06]);
    guest.complete(&[0xc5, 0xf9, 0xfc, 0x00]); // vpaddb xmm0, xmm0, [eax]
}

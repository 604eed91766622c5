//! Paging: what faults with which code, accessed and dirty bits, page sizes, the TLB, code that changes.

use cpu::x86::gpr::*;
use cpu::x86::{cr0, cr4, rflags, vector};
use iced_x86::code_asm::*;

use crate::layout::{self, PAGE, sel};
use crate::{Case, Expect, Mode};

const NX: u64 = 1 << 63;
/// The first address of the upper half.
pub(super) const UPPER: u64 = 0xffff_8000_0000_0000;

const fn pf(code: u32) -> Expect {
    Expect::Fault(vector::PF, code)
}

pub(super) const CASES: &[Case] = &[
    Case {
        name: "a load from an absent page",
        mode: Mode::Long,
        build: |g| {
            g.map(PAGE, 0);
            g.mark()?;
            g.asm.mov(eax, dword_ptr(PAGE + 8))
        },
        expect: &[pf(0), Expect::FaultAtMark, Expect::Cr2(PAGE + 8)],
    },
    Case {
        name: "a store to an absent page, 32-bit paging",
        mode: Mode::Paged32,
        build: |g| {
            g.map(PAGE, 0);
            g.mark()?;
            g.asm.mov(dword_ptr(PAGE + 8), eax)
        },
        expect: &[pf(2), Expect::FaultAtMark, Expect::Cr2(PAGE + 8)],
    },
    Case {
        name: "a load of ring 3 from a supervisor page, PAE paging",
        mode: Mode::Pae,
        build: |g| {
            g.map(PAGE, PAGE | 3);
            g.user(2, |a| {
                a.mov(ebx, i32::from(sel::USER_DATA))?;
                a.mov(ds, ebx)?;
                a.mov(eax, dword_ptr(PAGE + 8))
            })
        },
        expect: &[pf(5), Expect::Cr2(PAGE + 8)],
    },
    Case {
        name: "a store of ring 3 to a read-only page",
        mode: Mode::Long,
        build: |g| {
            g.map(PAGE, PAGE | 5);
            g.user(2, |a| {
                a.mov(ebx, dword_ptr(PAGE))?;
                a.mov(dword_ptr(PAGE), ebx)
            })
        },
        expect: &[pf(7), Expect::Cr2(PAGE), Expect::FaultRip(layout::CODE + 0x2007)],
    },
    Case {
        name: "a fetch of ring 3 from a supervisor page",
        mode: Mode::Long,
        build: |g| {
            g.map(PAGE, PAGE | 3);
            g.user(2, |a| {
                a.mov(eax, PAGE as u32)?;
                a.jmp(rax)
            })
        },
        expect: &[pf(0x15), Expect::Cr2(PAGE), Expect::FaultRip(PAGE)],
    },
    Case {
        name: "ring 0 may not write a read-only page with CR0.WP",
        mode: Mode::Long,
        build: |g| {
            g.map(PAGE, PAGE | 5);
            g.mark()?;
            g.asm.mov(dword_ptr(PAGE), eax)
        },
        expect: &[pf(3), Expect::FaultAtMark],
    },
    Case {
        name: "ring 0 may write a read-only page without CR0.WP",
        mode: Mode::Long,
        build: |g| {
            g.map(PAGE, PAGE | 5);
            g.asm.mov(rax, cr0)?;
            g.asm.and(eax, !(cr0::WP as u32))?;
            g.asm.mov(cr0, rax)?;
            g.asm.mov(dword_ptr(PAGE), 0x77)?;
            g.asm.or(eax, cr0::WP as u32)?;
            g.asm.mov(cr0, rax)?;
            g.mark()?;
            g.asm.mov(dword_ptr(PAGE), 0x78)
        },
        expect: &[pf(3), Expect::FaultAtMark, Expect::Mem32(PAGE, 0x77)],
    },
    Case {
        name: "a fetch from a no-execute page",
        mode: Mode::Long,
        build: |g| {
            g.map(PAGE, PAGE | 7 | NX);
            g.asm.mov(eax, PAGE as u32)?;
            g.asm.jmp(rax)
        },
        expect: &[pf(0x11), Expect::Cr2(PAGE), Expect::FaultRip(PAGE)],
    },
    Case {
        name: "NX is reserved without EFER.NXE",
        mode: Mode::Pae,
        build: |g| {
            g.state.efer = 0;
            g.map(PAGE, PAGE | 7 | NX);
            g.mark()?;
            g.asm.mov(eax, dword_ptr(PAGE))
        },
        expect: &[pf(9), Expect::FaultAtMark],
    },
    Case {
        name: "address bits beyond the CPU's are reserved",
        mode: Mode::Long,
        build: |g| {
            g.map(PAGE, PAGE | 7 | 1 << 46);
            g.mark()?;
            g.asm.mov(eax, dword_ptr(PAGE))
        },
        expect: &[pf(9), Expect::FaultAtMark],
    },
    Case {
        name: "an absent entry has no reserved bits",
        mode: Mode::Long,
        build: |g| {
            g.map(PAGE, !1);
            g.mark()?;
            g.asm.mov(eax, dword_ptr(PAGE))
        },
        expect: &[pf(0), Expect::FaultAtMark],
    },
    Case {
        name: "a load sets the accessed bit, a store the dirty bit",
        mode: Mode::Long,
        build: |g| {
            g.asm.mov(eax, dword_ptr(PAGE))?;
            g.asm.mov(dword_ptr(PAGE + 0x1000), eax)?;
            g.asm.mov(eax, dword_ptr(PAGE + 0x2000))?;
            g.asm.mov(dword_ptr(PAGE + 0x2000), eax)?;
            g.asm.hlt()
        },
        expect: &[
            Expect::Mem(layout::PT + (PAGE >> 9), PAGE | 0x27),
            Expect::Mem(layout::PT + (PAGE >> 9) + 8, (PAGE + 0x1000) | 0x67),
            Expect::Mem(layout::PT + (PAGE >> 9) + 16, (PAGE + 0x2000) | 0x67),
            Expect::Mem(layout::PT + (PAGE >> 9) + 24, (PAGE + 0x3000) | 7),
            Expect::Mem(layout::PD, layout::PT | 0x27),
        ],
    },
    Case {
        name: "a store that faults on its second page changes nothing",
        mode: Mode::Long,
        build: |g| {
            g.map(PAGE + 0x1000, 0);
            g.write_u32(PAGE + 0xffc, 0x1111_1111);
            g.mark()?;
            g.asm.mov(qword_ptr(PAGE + 0xffc), rsp)
        },
        expect: &[
            pf(2),
            Expect::FaultAtMark,
            Expect::Cr2(PAGE + 0x1000),
            Expect::Mem32(PAGE + 0xffc, 0x1111_1111),
        ],
    },
    Case {
        name: "a read-modify-write of a read-only page faults as a store",
        mode: Mode::Long,
        build: |g| {
            g.map(PAGE, PAGE | 5);
            g.mark()?;
            g.asm.lock().add(dword_ptr(PAGE), 1)
        },
        expect: &[pf(3), Expect::FaultAtMark],
    },
    Case {
        name: "an instruction across pages faults with the second page",
        mode: Mode::Long,
        build: |g| {
            g.map(PAGE + 0x1000, (PAGE + 0x1000) | 7 | NX);
            g.write(PAGE + 0xffe, &[0xb8, 1]); // MOV EAX, imm32
            g.asm.mov(eax, PAGE as u32 + 0xffe)?;
            g.asm.jmp(rax)
        },
        expect: &[pf(0x11), Expect::Cr2(PAGE + 0x1000), Expect::FaultRip(PAGE + 0xffe)],
    },
    Case {
        name: "a repeated store stops at the absent page with its progress",
        mode: Mode::Long,
        build: |g| {
            g.map(PAGE + 0x1000, 0);
            g.asm.mov(ecx, 0x20)?;
            g.asm.mov(edi, PAGE as u32 + 0xff0)?;
            g.asm.mov(eax, 0x5a)?;
            g.mark()?;
            g.asm.rep().stosb()
        },
        expect: &[
            pf(2),
            Expect::FaultAtMark,
            Expect::Reg(RCX, 0x10),
            Expect::Reg(RDI, PAGE + 0x1000),
            Expect::Mem(PAGE + 0xff8, 0x5a5a_5a5a_5a5a_5a5a),
        ],
    },
    Case {
        name: "a push that faults leaves the stack pointer",
        mode: Mode::Long,
        build: |g| {
            g.map(PAGE, 0);
            g.idt(vector::PF, sel::CODE64, layout::STUBS + 14 * 16, 0x8e, 1);
            g.asm.mov(esp, PAGE as u32 + 0x800)?;
            g.mark()?;
            g.asm.push(rax)
        },
        expect: &[pf(2), Expect::FaultAtMark, Expect::FaultSp(PAGE + 0x800)],
    },
    Case {
        name: "SMEP: ring 0 may not run user pages",
        mode: Mode::Long,
        build: |g| {
            // Everything ring 0 needs becomes a supervisor page.
            for page in 0..0x40 {
                g.map(page << 12, page << 12 | 3);
            }
            g.state.cr4 |= cr4::SMEP;
            g.asm.mov(eax, PAGE as u32)?;
            g.asm.jmp(rax)
        },
        expect: &[pf(0x11), Expect::Cr2(PAGE)],
    },
    Case {
        name: "SMAP: ring 0 may not read user pages unless AC is set",
        mode: Mode::Long,
        build: |g| {
            for page in 0..0x40 {
                g.map(page << 12, page << 12 | 3);
            }
            g.state.cr4 |= cr4::SMAP;
            g.write_u32(PAGE, 0x77);
            g.asm.stac()?;
            g.asm.mov(ebx, dword_ptr(PAGE))?;
            g.asm.clac()?;
            g.mark()?;
            g.asm.mov(eax, dword_ptr(PAGE))
        },
        expect: &[pf(1), Expect::FaultAtMark, Expect::Reg(RBX, 0x77)],
    },
    Case {
        name: "SMAP does not look at AC in ring 3's accesses to descriptors",
        mode: Mode::Long,
        build: |g| {
            for page in 0..0x40 {
                g.map(page << 12, page << 12 | 3);
            }
            g.state.cr4 |= cr4::SMAP;
            // A descriptor table in a user page cannot be read, AC or not.
            g.state.ldtr = cpu::Segment { selector: 8, base: PAGE, limit: 0xff, attr: 0x82 };
            g.asm.stac()?;
            g.asm.mov(eax, 0xc)?;
            g.mark()?;
            g.asm.mov(fs, eax)
        },
        expect: &[
            pf(1),
            Expect::FaultAtMark,
            Expect::Cr2(PAGE + 8),
            Expect::FaultFlags(rflags::AC, rflags::AC),
        ],
    },
    Case {
        name: "stac is #UD in ring 3",
        mode: Mode::Long,
        build: |g| g.user(2, |a| a.stac()),
        expect: &[Expect::Fault(vector::UD, 0)],
    },
    Case {
        name: "invlpg makes a changed entry count",
        mode: Mode::Long,
        build: |g| {
            g.write_u32(PAGE, 0x11);
            g.write_u32(PAGE + 0x1000, 0x22);
            g.asm.mov(eax, dword_ptr(PAGE))?;
            g.asm.mov(qword_ptr(layout::PT + (PAGE >> 9)), (PAGE as i32 + 0x1000) | 7)?;
            g.asm.invlpg(byte_ptr(PAGE))?;
            g.asm.mov(ebx, dword_ptr(PAGE))?;
            g.asm.hlt()
        },
        expect: &[Expect::Reg(RAX, 0x11), Expect::Reg(RBX, 0x22)],
    },
    Case {
        name: "loading CR3 makes changed entries count",
        mode: Mode::Paged32,
        build: |g| {
            g.write_u32(PAGE, 0x11);
            g.write_u32(PAGE + 0x1000, 0x22);
            g.asm.mov(eax, dword_ptr(PAGE))?;
            g.asm.mov(dword_ptr(layout::PT + (PAGE >> 10)), (PAGE as i32 + 0x1000) | 7)?;
            g.asm.mov(ecx, cr3)?;
            g.asm.mov(cr3, ecx)?;
            g.asm.mov(ebx, dword_ptr(PAGE))?;
            g.asm.hlt()
        },
        expect: &[Expect::Reg(RAX, 0x11), Expect::Reg(RBX, 0x22)],
    },
    Case {
        name: "loading CR3 drops data of the upper half that is not global",
        mode: Mode::Long,
        build: |g| {
            g.write_u64(layout::PML4 + 256 * 8, layout::PDPT | 7);
            g.write_u32(PAGE, 0x11);
            g.write_u32(PAGE + 0x1000, 0x22);
            g.asm.mov(r8, UPPER + PAGE)?;
            g.asm.mov(eax, dword_ptr(r8))?;
            g.asm.mov(qword_ptr(layout::PT + (PAGE >> 9)), (PAGE as i32 + 0x1000) | 7)?;
            g.asm.mov(rcx, cr3)?;
            g.asm.mov(cr3, rcx)?;
            g.asm.mov(ebx, dword_ptr(r8))?;
            g.asm.hlt()
        },
        expect: &[Expect::Reg(RAX, 0x11), Expect::Reg(RBX, 0x22)],
    },
    Case {
        name: "loading CR3 drops code of the upper half that is not global",
        mode: Mode::Long,
        build: |g| {
            g.write_u64(layout::PML4 + 256 * 8, layout::PDPT | 7);
            g.write(PAGE, &[0xbe, 1, 0, 0, 0, 0xc3]); // mov esi, 1; ret
            g.write(PAGE + 0x1000, &[0xbe, 2, 0, 0, 0, 0xc3]);
            g.asm.mov(r8, UPPER + PAGE)?;
            g.asm.call(r8)?;
            g.asm.mov(edi, esi)?;
            g.asm.mov(qword_ptr(layout::PT + (PAGE >> 9)), (PAGE as i32 + 0x1000) | 7)?;
            g.asm.mov(rcx, cr3)?;
            g.asm.mov(cr3, rcx)?;
            g.asm.call(r8)?;
            g.asm.hlt()
        },
        expect: &[Expect::Reg(RDI, 1), Expect::Reg(RSI, 2)],
    },
    Case {
        name: "toggling CR4.PGE drops global pages",
        mode: Mode::Long,
        build: |g| {
            g.map(PAGE, PAGE | 0x107);
            g.write_u32(PAGE, 0x11);
            g.write_u32(PAGE + 0x1000, 0x22);
            g.asm.mov(eax, dword_ptr(PAGE))?;
            g.asm.mov(qword_ptr(layout::PT + (PAGE >> 9)), (PAGE as i32 + 0x1000) | 7)?;
            g.asm.mov(rcx, cr4)?;
            g.asm.btc(ecx, 7)?;
            g.asm.mov(cr4, rcx)?;
            g.asm.mov(ebx, dword_ptr(PAGE))?;
            g.asm.hlt()
        },
        expect: &[Expect::Reg(RAX, 0x11), Expect::Reg(RBX, 0x22)],
    },
    Case {
        name: "invpcid for one address space and for all",
        mode: Mode::Long,
        build: |g| {
            g.state.cr4 |= cr4::PCIDE;
            g.write_u32(PAGE, 0x11);
            g.write_u32(PAGE + 0x1000, 0x22);
            g.asm.mov(eax, dword_ptr(PAGE))?;
            g.asm.mov(qword_ptr(layout::PT + (PAGE >> 9)), (PAGE as i32 + 0x1000) | 7)?;
            g.asm.mov(ecx, 1)?;
            g.asm.invpcid(rcx, xmmword_ptr(layout::DATA))?; // zeros: PCID 0
            g.asm.mov(ebx, dword_ptr(PAGE))?;
            g.asm.mov(qword_ptr(layout::PT + (PAGE >> 9)), PAGE as i32 | 7)?;
            g.asm.mov(ecx, 2)?;
            g.asm.invpcid(rcx, xmmword_ptr(layout::DATA))?;
            g.asm.mov(esi, dword_ptr(PAGE))?;
            g.asm.mov(ecx, 4)?;
            g.mark()?;
            g.asm.invpcid(rcx, xmmword_ptr(layout::DATA))
        },
        expect: &[
            Expect::Fault(vector::GP, 0),
            Expect::FaultAtMark,
            Expect::Reg(RAX, 0x11),
            Expect::Reg(RBX, 0x22),
            Expect::Reg(RSI, 0x11),
        ],
    },
    Case {
        name: "a page of 2 MiB",
        mode: Mode::Long,
        build: |g| {
            g.write_u64(layout::PD + 8, 0xe7);
            g.write_u32(layout::DATA, 0x77);
            g.asm.mov(eax, dword_ptr(0x20_0000 + layout::DATA))?;
            g.asm.hlt()
        },
        expect: &[Expect::Reg(RAX, 0x77)],
    },
    Case {
        name: "a page of 1 GiB",
        mode: Mode::Long,
        build: |g| {
            g.write_u64(layout::PDPT + 8, 0xe7);
            g.write_u32(layout::DATA, 0x77);
            g.asm.mov(eax, dword_ptr(0x4000_0000 + layout::DATA))?;
            g.asm.hlt()
        },
        expect: &[Expect::Reg(RAX, 0x77)],
    },
    Case {
        name: "reserved bits of a page of 2 MiB",
        mode: Mode::Long,
        build: |g| {
            g.write_u64(layout::PD + 8, 0x2_00e7);
            g.mark()?;
            g.asm.mov(eax, dword_ptr(0x20_0000 + layout::DATA))
        },
        expect: &[pf(9), Expect::FaultAtMark],
    },
    Case {
        name: "a page of 4 MiB with CR4.PSE",
        mode: Mode::Paged32,
        build: |g| {
            g.state.cr4 |= cr4::PSE;
            g.write_u32(layout::PD + 4, 0xe7);
            g.write_u32(layout::DATA, 0x77);
            g.asm.mov(eax, dword_ptr(0x40_0000 + layout::DATA))?;
            g.asm.hlt()
        },
        expect: &[Expect::Reg(RAX, 0x77)],
    },
    Case {
        name: "reserved bits of a page-directory-pointer entry are #GP(0) when CR3 is loaded",
        mode: Mode::Pae,
        build: |g| {
            g.write_u64(layout::PDPT + 0x20 + 8, layout::PD | 0x21);
            g.asm.mov(eax, layout::PDPT as u32 + 0x20)?;
            g.mark()?;
            g.asm.mov(cr3, eax)
        },
        expect: &[Expect::Fault(vector::GP, 0), Expect::FaultAtMark],
    },
    Case {
        name: "code that overwrites what follows runs the new bytes",
        mode: Mode::Long,
        build: |g| {
            g.asm.xor(ebx, ebx)?;
            let mut patched = g.asm.create_label();
            g.asm.mov(dword_ptr(patched), 0x00c3_ff48)?; // INC RBX, and the first byte of ADD [RAX], AL
            g.asm.set_label(&mut patched)?;
            g.asm.db(&[0x0f, 0x0b, 0x90, 0x90])?;
            g.asm.db(&[0x00])?; // its second byte
            g.asm.hlt()?;
            g.state.gpr[RAX] = layout::DATA;
            Ok(())
        },
        expect: &[Expect::Reg(RBX, 1)],
    },
    Case {
        name: "code is rewritten whose old bytes made flags worthless",
        mode: Mode::Long,
        build: |g| {
            let (mut target, mut template) = (g.asm.create_label(), g.asm.create_label());
            g.asm.lea(rdi, ptr(target))?;
            g.asm.lea(rsi, ptr(template))?;
            g.asm.mov(ecx, 3)?;
            g.asm.stc()?;
            g.asm.rep().movsb()?;
            g.asm.mov(rax, qword_ptr(rbx))?; // an access before which flags seemed dead
            g.asm.jmp(target)?;
            g.asm.set_label(&mut template)?;
            g.asm.sbb(edx, edx)?;
            g.asm.hlt()?;
            g.asm.db(&[0x90; 128])?;
            g.asm.set_label(&mut target)?;
            g.asm.xor(edx, edx)?;
            g.asm.hlt()?;
            g.state.gpr[RBX] = layout::DATA;
            Ok(())
        },
        expect: &[Expect::Reg(RDX, 0xffff_ffff)],
    },
    Case {
        name: "code on a page that is mapped anew is the new code",
        mode: Mode::Long,
        build: |g| {
            g.code_at(PAGE, 64, |a| {
                a.mov(ebx, 1)?;
                a.jmp(rsi)
            })?;
            g.code_at(PAGE + 0x1000, 64, |a| {
                a.mov(ebx, 2)?;
                a.hlt()
            })?;
            let mut back = g.asm.create_label();
            g.asm.lea(rsi, ptr(back))?;
            g.asm.mov(eax, PAGE as u32)?;
            g.asm.jmp(rax)?;
            g.asm.set_label(&mut back)?;
            g.asm.mov(qword_ptr(layout::PT + (PAGE >> 9)), (PAGE as i32 + 0x1000) | 7)?;
            g.asm.invlpg(byte_ptr(PAGE))?;
            g.asm.jmp(rax)
        },
        expect: &[Expect::Reg(RBX, 2)],
    },
    Case {
        name: "a load from a device",
        mode: Mode::Long,
        build: |g| {
            g.map(PAGE, 0xfed0_0007);
            g.asm.mov(eax, dword_ptr(PAGE + 0x10))?;
            g.asm.mov(dword_ptr(PAGE + 0x20), 0x1234)?;
            g.asm.hlt()
        },
        expect: &[Expect::Reg(RAX, 0x1312_1110), Expect::Out(0x20, 0x1234)],
    },
];

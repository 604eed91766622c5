//! The code around translated code: entry, exits, and the first-level TLB look-up behind the sites.

use crate::cache::arena::Arena;
use crate::cache::site::Pair;
use crate::cache::tlb::{self, TABLES};
use crate::emit::asm::{Asm, Mem, Place, Section, Target, at, cond, reg};
use crate::runtime::context::{Left, field};
use reg::{R9, R10, R11, RAX, RSP};

/// Sizes of accesses that have a stub of their own, as powers of two.
pub const SIZES: usize = 6;

/// Addresses of the stubs.
#[derive(Debug, Clone, Default)]
pub struct Stubs {
    /// Called by the engine.
    pub enter: u64,
    /// A single RET: entered with a return address on the return stack.
    pub ret: u64,
    /// One per [`Left`].
    pub exits: [u64; 7],
    /// Look-ups by `[keeps flags][table][log2 of the size]`.
    pub access: [[[u64; SIZES]; TABLES]; 2],
    /// Bytes of all of them.
    pub len: usize,
}

const CALLEE_SAVED: [u8; 6] = [3, 5, 12, 13, 14, 15];

impl Stubs {
    /// Writes the stubs to the beginning of an arena.
    pub fn new(arena: &mut Arena, avx: bool) -> Self {
        let mut asm = Asm::default();
        let mut places = Vec::new();
        let common = common_exit(&mut asm, avx);
        let mut exits = Vec::new();
        for left in 0..7 {
            exits.push(asm.here());
            asm.store_imm32(Mem::Gs(field::LEFT), left);
            let _ = asm.jmp(Target::Here(common));
        }
        let enter = asm.here();
        entry(&mut asm, avx);
        let ret = asm.here();
        asm.bytes(&[0xc3]);
        for live in [false, true] {
            for table in 0..TABLES {
                for size in 0..SIZES {
                    places.push(asm.here());
                    look_up(&mut asm, live, field::table(table), 1 << size, exits[Left::Access as usize]);
                }
            }
        }
        asm.switch(Section::Hot);
        let bases = arena.next();
        arena.add(asm.finish(bases));
        let address = |place: Place| asm.address(place, bases);
        let mut stubs =
            Self { enter: address(enter), ret: address(ret), len: arena.used(), ..Self::default() };
        for (slot, place) in stubs.exits.iter_mut().zip(exits) {
            *slot = address(place);
        }
        for (slot, place) in stubs.access.iter_mut().flatten().flatten().zip(places) {
            *slot = address(place);
        }
        stubs
    }
}

fn vectors(asm: &mut Asm, avx: bool, store: bool) {
    for n in 0..16 {
        let mem = at(R9, i32::from(n) * 32);
        if avx {
            asm.ymm(n, mem, store);
        } else {
            asm.xmm(n, mem, store);
        }
    }
}

/// Saves the guest's registers and returns to the engine.
fn common_exit(asm: &mut Asm, avx: bool) -> Place {
    let here = asm.here();
    asm.store(Mem::Gs(field::R9), R9);
    asm.store(Mem::Gs(field::R10), R10);
    asm.store(Mem::Gs(field::reg(RAX)), RAX);
    asm.save_flags();
    asm.store16(Mem::Gs(field::FLAGS), RAX);
    for n in (1..16).filter(|n| !matches!(n, 4 | 9..=11)) {
        asm.store(Mem::Gs(field::reg(n)), n);
    }
    asm.store(Mem::Gs(field::reg(RSP)), R11);
    asm.load(R9, Mem::Gs(field::VECTORS));
    vectors(asm, avx, true);
    asm.mxcsr(Mem::Gs(field::MXCSR), true);
    asm.mxcsr(Mem::Gs(field::HOST_MXCSR), false);
    if avx {
        asm.bytes(&[0xc5, 0xf8, 0x77]); // vzeroupper
    }
    asm.store(Mem::Gs(field::RETURNS), RSP);
    asm.load(RSP, Mem::Gs(field::STACK));
    for n in CALLEE_SAVED.into_iter().rev() {
        asm.pop(n);
    }
    asm.bytes(&[0xc3]);
    here
}

/// Called by the engine as a function without arguments: loads the guest's registers and jumps to the target.
fn entry(asm: &mut Asm, avx: bool) {
    for n in CALLEE_SAVED {
        asm.push(n);
    }
    asm.store(Mem::Gs(field::STACK), RSP);
    asm.mxcsr(Mem::Gs(field::HOST_MXCSR), true);
    asm.load(RSP, Mem::Gs(field::RETURNS));
    asm.mxcsr(Mem::Gs(field::MXCSR), false);
    asm.load(R9, Mem::Gs(field::VECTORS));
    vectors(asm, avx, false);
    asm.load32(RAX, Mem::Gs(field::FLAGS));
    asm.restore_flags();
    for n in (0..16).filter(|n| !matches!(n, 4 | 9..=11)) {
        asm.load(n, Mem::Gs(field::reg(n)));
    }
    asm.load(R11, Mem::Gs(field::reg(RSP)));
    asm.load(R9, Mem::Gs(field::R9));
    asm.load(R10, Mem::Gs(field::R10));
    asm.jmp_mem(Mem::Gs(field::TARGET));
}

/// Called from a site that has missed: R9 is the site's pair, R10 the linear address less the site's page. Comes back with
/// the host address as the sum of R9 and R10, or leaves.
fn look_up(asm: &mut Asm, live: bool, table: u32, size: u32, exit: Place) {
    let most = 4096 - size as i32;
    asm.push(RAX);
    if live {
        asm.save_flags();
        asm.push(RAX);
        // The check that keeps flags lets only multiples of the size pass: it may be the site's page all the same.
        asm.cmp_imm(R10, most);
        let other = asm.jcc(cond::ABOVE, Target::Fixed(0));
        asm.load(R9, at(R9, Pair::HOST));
        restore(asm, live);
        asm.bytes(&[0xc3]);
        asm.bind(other);
    }
    asm.sub(R10, at(R9, Pair::NEG_PAGE));
    // Now and then the engine is asked to fill the site that comes along: those that stay on a page do come along, and the
    // others are best served here.
    asm.dec32(Mem::Gs(field::TICKS));
    let spent = asm.jcc(cond::SIGN, Target::Fixed(0));
    asm.mov(RAX, R10);
    asm.shr(RAX, 8);
    asm.and_imm32(RAX, tlb::INDEX);
    asm.add(R10, Mem::GsAt(RAX, table + Pair::NEG_PAGE as u32));
    asm.cmp_imm(R10, most);
    let miss = asm.jcc(cond::ABOVE, Target::Fixed(0));
    asm.load(R9, Mem::GsAt(RAX, table + Pair::HOST as u32));
    restore(asm, live);
    asm.bytes(&[0xc3]);
    asm.bind(miss);
    asm.sub(R10, Mem::GsAt(RAX, table + Pair::NEG_PAGE as u32));
    asm.bind(spent);
    restore(asm, live);
    let _ = asm.jmp(Target::Here(exit));
}

/// The end of a look-up: the registers that it has used.
fn restore(asm: &mut Asm, live: bool) {
    if live {
        asm.pop(RAX);
        asm.restore_flags();
    }
    asm.pop(RAX);
}

//! The code around translated code: entry, exits, and the first-level TLB look-up behind the sites.

use crate::cache::arena::Arena;
use crate::cache::site::Pair;
use crate::cache::tlb::{self, TABLES};
use crate::emit::asm::{Asm, Mem, Place, Target, at, cond, reg, sum};
use crate::runtime::context::{Left, MODES, field};
use crate::runtime::{bell, pieces};
use reg::{R9, R10, R11, RAX, RCX, RSP};

/// Sizes of accesses that have a stub of their own, as powers of two.
pub const SIZES: usize = 6;
/// Bytes of the largest access.
const LARGEST: i32 = 1 << (SIZES - 1);

/// Addresses of the stubs.
#[derive(Debug, Clone, Default)]
pub struct Stubs {
    /// Called by the engine.
    pub enter: u64,
    /// A single RET: entered with a return address on the return stack.
    pub ret: u64,
    /// One per [`Left`].
    pub exits: [u64; Left::COUNT],
    /// The same, called with the argument in the four bytes behind the call. Clobbers R9.
    pub leave: [u64; Left::COUNT],
    /// Called for a site that has missed its page, `[table][log2 of the size]`.
    pub access: [[u64; SIZES]; TABLES],
    /// Called where a look-up in line has missed; see [`Asm::call_noting`].
    pub miss: [u64; TABLES],
    /// Called to move the stack's window, `[0: 64-bit code, 1: 32-bit code]`, by the table for stores.
    pub window: [[u64; TABLES]; 2],
    /// Called for a piece of a repeated string instruction, `[0: 64-bit code, 1: 32-bit code][0: STOS, 1: MOVS][log2 of the size]`.
    pub pieces: [[[u64; pieces::SIZES]; 2]; 2],
    /// Where returns go that are not what the host's stack says: to the target in R10, by a mode's jump table.
    pub elsewhere: [u64; MODES],
    /// The last return address of a mode's return stack: the same, and it stays there.
    pub bottom: [u64; MODES],
    /// Bytes of all of them.
    pub len: usize,
}

const CALLEE_SAVED: [u8; 6] = [3, 5, 12, 13, 14, 15];

impl Stubs {
    /// Writes the stubs to the beginning of an arena.
    pub fn new(arena: &mut Arena, avx: bool) -> Self {
        let mut asm = Asm::default();
        let common = common_exit(&mut asm, avx);
        let (mut exits, mut leave) = (Vec::new(), Vec::new());
        for left in 0..Left::COUNT as u32 {
            exits.push(asm.here());
            asm.store_imm32(Mem::Gs(field::LEFT), left);
            let _ = asm.jmp(Target::Here(common));
        }
        for exit in &exits {
            leave.push(asm.here());
            asm.pop(R9);
            asm.load32(R9, at(R9, 0));
            asm.store32(Mem::Gs(field::ARGUMENT), R9);
            let _ = asm.jmp(Target::Here(*exit));
        }
        let enter = asm.here();
        entry(&mut asm, avx);
        let ret = asm.here();
        asm.bytes(&[0xc3]);
        let (mut access, mut miss) = (Vec::new(), Vec::new());
        for table in 0..TABLES {
            for size in 0..SIZES {
                access.push(asm.here());
                look_up(&mut asm, field::table(table), 1 << size, exits[Left::Access as usize]);
            }
            miss.push(asm.here());
            missed(&mut asm, field::table(table), exits[Left::Miss as usize]);
        }
        let (mut window, mut strings) = (Vec::new(), Vec::new());
        for code32 in [false, true] {
            for table in 0..TABLES {
                window.push(asm.here());
                move_window(&mut asm, field::table(table), code32);
            }
            for copies in [false, true] {
                for size in 0..pieces::SIZES as u8 {
                    strings.push(asm.here());
                    pieces::piece(&mut asm, copies, size, code32);
                }
            }
        }
        let mask = Mem::Data(bell::mask(arena.data() as u64));
        let (mut elsewhere, mut bottom) = (Vec::new(), Vec::new());
        for mode in 0..MODES {
            bottom.push(asm.here());
            asm.lea(RSP, at(RSP, -8));
            elsewhere.push(asm.here());
            asm.pext_mem(R9, R10, mask);
            asm.jmp_table(R9, field::jumps(mode));
        }
        let bases = arena.next();
        arena.add(asm.finish(bases));
        let address = |place: Place| asm.address(place, bases);
        let mut stubs =
            Self { enter: address(enter), ret: address(ret), len: arena.used(), ..Self::default() };
        let slots = stubs.exits.iter_mut().chain(&mut stubs.leave).chain(stubs.access.iter_mut().flatten());
        let slots = slots.chain(&mut stubs.miss).chain(stubs.window.iter_mut().flatten());
        let slots = slots.chain(stubs.pieces.iter_mut().flatten().flatten());
        let slots = slots.chain(&mut stubs.elsewhere).chain(&mut stubs.bottom);
        let places = [exits, leave, access, miss, window, strings, elsewhere, bottom];
        for (slot, place) in slots.zip(places.concat()) {
            *slot = address(place);
        }
        stubs
    }
}

/// Where a vector is, R9 pointing to them, or its upper half.
fn vector(n: u8) -> Mem {
    at(R9, i32::from(n) * 32)
}

fn upper(n: u8) -> Mem {
    at(R9, i32::from(n) * 32 + 16)
}

fn save_vectors(asm: &mut Asm, avx: bool) {
    for n in 0..16 {
        if avx {
            asm.ymm(n, vector(n), true);
        } else {
            asm.xmm(n, vector(n), true);
        }
    }
    if avx {
        asm.clear_uppers();
    }
}

/// Upper halves that are all zero are loaded as such: an SSE instruction that changes the lower half of a register whose upper
/// half may be anything has to wait for whoever wrote it before, which makes chains of independent instructions.
fn load_vectors(asm: &mut Asm, avx: bool) {
    if !avx {
        (0..16).for_each(|n| asm.xmm(n, vector(n), false));
        return;
    }
    asm.load_vector(0, upper(0));
    (1..16).for_each(|n| asm.or_vector(upper(n)));
    asm.test_vector();
    let wide = asm.jcc(cond::NOT_EQUAL, Target::Fixed(0));
    (0..16).for_each(|n| asm.load_vector(n, vector(n)));
    let done = asm.jmp(Target::Fixed(0));
    asm.bind(wide);
    (0..16).for_each(|n| asm.ymm(n, vector(n), false));
    asm.bind(done);
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
    asm.add(R11, Mem::Gs(field::STACK_NEG));
    asm.store(Mem::Gs(field::reg(RSP)), R11);
    asm.load(R9, Mem::Gs(field::VECTORS));
    save_vectors(asm, avx);
    asm.mxcsr(Mem::Gs(field::MXCSR), true);
    asm.mxcsr(Mem::Gs(field::HOST_MXCSR), false);
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
    load_vectors(asm, avx);
    asm.load32(RAX, Mem::Gs(field::FLAGS));
    asm.restore_flags();
    for n in (0..16).filter(|n| !matches!(n, 4 | 9..=11)) {
        asm.load(n, Mem::Gs(field::reg(n)));
    }
    asm.load(R9, Mem::Gs(field::reg(RSP)));
    asm.load(R11, Mem::Gs(field::STACK_ADDEND));
    asm.lea(R11, sum(R11, R9));
    asm.load(R9, Mem::Gs(field::R9));
    asm.load(R10, Mem::Gs(field::R10));
    asm.jmp_mem(Mem::Gs(field::TARGET));
}

/// Called from a site that has missed: R9 is the site's pair, R10 the linear address less the site's page. Comes back with
/// the host address as the sum of R9 and R10, or leaves. Clobbers flags.
fn look_up(asm: &mut Asm, table: u32, size: u32, exit: Place) {
    let most = 4096 - size as i32;
    asm.push(RAX);
    asm.sub(R10, at(R9, Pair::NEG_PAGE));
    // Now and then the engine is asked to fill the site that comes along: those that stay on a page do come along, and the
    // others are best served here.
    asm.dec32(Mem::Gs(field::TICKS));
    let spent = asm.jcc(cond::SIGN, Target::Fixed(0));
    index(asm, RAX, R10);
    asm.add(R10, Mem::GsAt(RAX, table + Pair::NEG_PAGE as u32));
    asm.cmp_imm(R10, most);
    let miss = asm.jcc(cond::ABOVE, Target::Fixed(0));
    asm.load(R9, Mem::GsAt(RAX, table + Pair::HOST as u32));
    asm.pop(RAX);
    asm.bytes(&[0xc3]);
    asm.bind(miss);
    asm.sub(R10, Mem::GsAt(RAX, table + Pair::NEG_PAGE as u32));
    asm.bind(spent);
    asm.pop(RAX);
    let _ = asm.jmp(Target::Here(exit));
}

/// `to` becomes the offset in a table of the entry for the address in `from`.
fn index(asm: &mut Asm, to: u8, from: u8) {
    asm.rorx32(to, from, 8);
    asm.and_imm32(to, tlb::INDEX);
}

/// Called where a look-up in line has missed: R9 is the offset in the table, R10 what was compared. An instruction that does
/// nothing follows the call, and has the site's number. Comes back as from a look-up, by an entry that was replaced, which is
/// put back, or by way of the engine. Clobbers flags.
fn missed(asm: &mut Asm, table: u32, exit: Place) {
    let entry = |at: u8, offset: i32| Mem::GsAt(at, table + offset as u32);
    let victim = |offset: i32| entry(RAX, tlb::VICTIMS_AT as i32 + offset);
    let (neg_page, host) = (Pair::NEG_PAGE, Pair::HOST);
    asm.sub(R10, entry(R9, neg_page));
    asm.push(RAX);
    asm.mov(RAX, R9);
    asm.and_imm32(RAX, tlb::VICTIM_INDEX);
    asm.add(R10, victim(neg_page));
    asm.cmp_imm(R10, 4096 - LARGEST);
    let miss = asm.jcc(cond::ABOVE, Target::Fixed(0));
    asm.push(RCX);
    for field in [neg_page, host] {
        asm.load(RCX, entry(R9, field));
        asm.push(RCX);
        asm.load(RCX, victim(field));
        asm.store(entry(R9, field), RCX);
    }
    for field in [host, neg_page] {
        asm.pop(R9);
        asm.store(victim(field), R9);
    }
    asm.mov(R9, RCX);
    asm.pop(RCX);
    asm.pop(RAX);
    asm.bytes(&[0xc3]);
    asm.bind(miss);
    asm.sub(R10, victim(neg_page));
    asm.pop(RAX);
    asm.pop(R9);
    asm.push(R9);
    asm.push(RAX);
    asm.load32(RAX, at(R9, 1));
    asm.store32(Mem::Gs(field::ARGUMENT), RAX);
    asm.pop(RAX);
    let _ = asm.jmp(Target::Here(exit));
}

/// Called to move the stack's window to the page of `[r10]`, a host address by the window in force; the offset there may be
/// at most R9. Comes back with flags that say "above" if that page may not be accessed directly, or ends before, or if the
/// address is none of 32-bit code.
fn move_window(asm: &mut Asm, table: u32, code32: bool) {
    let host = Mem::GsAt(RAX, table + Pair::HOST as u32);
    asm.push(RAX);
    asm.add(R10, Mem::Gs(field::STACK_NEG));
    let beyond = code32.then(|| {
        asm.mov32(RAX, R10);
        asm.cmp_reg(R10, RAX, true);
        asm.jcc(cond::ABOVE, Target::Fixed(0))
    });
    index(asm, RAX, R10);
    asm.add(R10, Mem::GsAt(RAX, table + Pair::NEG_PAGE as u32));
    asm.cmp_reg(R10, R9, true);
    let miss = asm.jcc(cond::ABOVE, Target::Fixed(0));
    asm.load(R9, host);
    asm.mov(R10, R9);
    asm.neg(R10);
    asm.store(Mem::Gs(field::STACK_WINDOW), R10);
    asm.add(R9, Mem::GsAt(RAX, table + Pair::NEG_PAGE as u32));
    asm.add(R11, Mem::Gs(field::STACK_NEG));
    asm.lea(R11, sum(R11, R9));
    asm.store(Mem::Gs(field::STACK_ADDEND), R9);
    asm.neg(R9);
    asm.store(Mem::Gs(field::STACK_NEG), R9);
    asm.cmp_reg(R9, R9, true);
    asm.bind(miss);
    beyond.into_iter().for_each(|jump| asm.bind(jump));
    asm.pop(RAX);
    asm.bytes(&[0xc3]);
}

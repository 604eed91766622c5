//! From guest bytes to operations: block discovery, and the choice of the family that lowers an instruction.

pub(crate) mod liveness;
mod lowering;

use iced_x86::{DecoderError, DecoderOptions, Instruction, Mnemonic, OpKind};

pub(crate) use lowering::{Lowering, register, segment};

pub(crate) use self::liveness::FlagUse;
use self::liveness::drop_dead_flags;
use crate::cache::{Copy, Decoded, Origin, Restless, Source};
use crate::code::Code;
use crate::cpu::{CodeSize, Cpu};
use crate::exec::fused::Comparison;
use crate::mmu::Access;
use crate::op::{Done, Op, Stop, op_flag, slot, threaded};
use crate::{exec, host, system};

/// Guest instructions per block at most.
pub(crate) const MAX_INSNS: usize = 64;
/// Bytes looked at per block; what an average block needs, several times over.
const WINDOW: usize = 512;
/// Attempts to decode bytes that change under the decoder.
const MAX_RETRIES: usize = 8;
/// No instruction is longer.
const MAX_INSN_LEN: usize = 15;

/// Decodes blocks. Its buffers are reused.
#[derive(Default)]
pub(crate) struct Decoder {
    ops: Vec<Op>,
    uses: Vec<FlagUse>,
    /// A block ends behind what may store, and before what is no instruction.
    copied: bool,
}

/// What ended the decoding of a run of bytes.
#[derive(PartialEq)]
enum End {
    Complete,
    /// The bytes end within an instruction.
    Truncated,
}

impl Decoder {
    /// The operations of the block decoded last.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// Decodes the block at `lin`, which `phys` backs. `None` if the code lies outside RAM, or the instruction has to be
    /// stepped.
    pub fn block(
        &mut self,
        cpu: &mut Cpu,
        restless: &mut Restless,
        lin: u64,
        phys: u64,
    ) -> Result<Option<Decoded>, Stop> {
        let offset = (phys & 0xfff) as usize;
        let window = WINDOW.min(4096 - offset);
        let Some(page) = cpu.ram.page(phys) else { return Ok(None) };
        if restless.note(phys, page.info.generation()) {
            let copy = Copy::read(&page, offset);
            return Ok(self.copied_block(cpu, phys, copy));
        }
        let ram = cpu.ram.clone();
        let Some(page) = ram.page(phys) else { return Ok(None) };
        // Another vCPU may rewrite the bytes meanwhile. One that never stops does not hold this one up for ever.
        for _ in 0..MAX_RETRIES {
            let mut bytes = [0; WINDOW + MAX_INSN_LEN];
            cpu.read_phys(phys, &mut bytes[..window]);
            let (mut insns, mut len, end) = self.decode(cpu, &bytes[..window]);
            let mut second = None;
            if insns == 0 && end == End::Truncated {
                // The very first instruction crosses into the next page.
                let next = cpu.fetch_address(cpu.wrap_linear((lin | 0xfff).wrapping_add(1)))?;
                let Some(next_page) = ram.page(next) else { return Ok(None) };
                cpu.read_phys(next, &mut bytes[window..window + MAX_INSN_LEN]);
                let all = bytes;
                let first = self.decode_first(cpu, &all[..window + MAX_INSN_LEN]);
                (insns, len) = (1, first);
                let tail = (len.max(window) - window).max(1) as u16;
                cpu.claim(&next_page, 0, tail);
                second = Some(Source {
                    phys: next & !0xfff,
                    info: next_page.info,
                    generation: next_page.info.generation(),
                });
                let mut again = [0; MAX_INSN_LEN];
                cpu.read_phys(next, &mut again);
                if again != all[window..window + MAX_INSN_LEN] || !next_page.info.is_marked(0, tail) {
                    continue;
                }
            }
            let here = len.min(window).max(1);
            cpu.claim(&page, offset as u16, here as u16);
            let generation = page.info.generation();
            let mut again = [0; WINDOW];
            cpu.read_phys(phys, &mut again[..here]);
            if again[..here] != bytes[..here] || !page.info.is_marked(offset as u16, here as u16) {
                continue;
            }
            let source = Source { phys: phys & !0xfff, info: page.info, generation };
            return Ok(Some(Decoded {
                phys,
                key: cpu.mode_key(),
                insns: insns as u16,
                bytes: len as u16,
                origin: Origin::Marked(source, second),
            }));
        }
        Ok(None)
    }

    /// The same for a page that is overwritten often: a block that is to be compared with its bytes.
    fn copied_block(&mut self, cpu: &mut Cpu, phys: u64, copy: Copy) -> Option<Decoded> {
        let (bytes, at) = copy.bytes();
        self.copied = true;
        let (insns, len, _) = self.decode(cpu, &bytes[at..at + Copy::room((phys & 0xfff) as usize)]);
        self.copied = false;
        let origin = Origin::Copied(copy.shorten(len));
        let decoded = Decoded { phys, key: cpu.mode_key(), insns: insns as u16, bytes: len as u16, origin };
        (insns > 0).then_some(decoded)
    }

    /// Decodes the one instruction at RIP into `code`, checking the CS limit: its length.
    pub fn single(&mut self, cpu: &mut Cpu, code: &mut Code) -> Result<u64, Stop> {
        let mut bytes = [0; MAX_INSN_LEN];
        let available = cpu.fetch_bytes(&mut bytes)?;
        let (insns, ..) = self.decode_limited(cpu, &bytes[..available], 1);
        if insns == 0 {
            // What is missing lies beyond the CS limit or on a page that cannot be fetched: find out by asking.
            cpu.fetch_beyond(available)?;
        }
        // What follows the instruction in a block is not wanted.
        let own = self.ops.iter().take_while(|op| op.off == 0).count();
        let own = &self.ops[..own];
        code.clear();
        code.push(own);
        Ok(own.last().map_or(0, Op::next))
    }

    fn decode(&mut self, cpu: &mut Cpu, bytes: &[u8]) -> (usize, usize, End) {
        let decoded = self.decode_limited(cpu, bytes, MAX_INSNS);
        drop_dead_flags(&mut self.ops, &self.uses);
        decoded
    }

    fn decode_first(&mut self, cpu: &mut Cpu, bytes: &[u8]) -> usize {
        self.decode_limited(cpu, bytes, 1).1
    }

    /// Fills `self.ops` from `bytes`: number of instructions, bytes used, and why it ended.
    fn decode_limited(&mut self, cpu: &mut Cpu, bytes: &[u8], max: usize) -> (usize, usize, End) {
        self.ops.clear();
        self.uses.clear();
        let bitness = match cpu.code_size {
            CodeSize::Bits64 => 64,
            CodeSize::Bits32 => 32,
            CodeSize::Bits16 => 16,
        };
        // Addresses are relative to the block, which makes its operations independent of where it is mapped.
        let mut decoder = iced_x86::Decoder::with_ip(bitness, bytes, 0, DecoderOptions::NONE);
        let mut insn = Instruction::default();
        let mut insns = 0;
        let mut comparison = None;
        while insns < max {
            let start = decoder.position();
            decoder.decode_out(&mut insn);
            if insn.is_invalid() && self.copied {
                if insns > 0 {
                    self.ops.push(system::next_block(start, insns));
                }
                return (insns, start, End::Truncated);
            }
            if insn.is_invalid() {
                if decoder.last_error() == DecoderError::NoMoreBytes && bytes.len() - start < MAX_INSN_LEN {
                    if insns > 0 {
                        self.ops.push(system::next_block(start, insns));
                    }
                    return (insns, start, End::Truncated);
                }
                let overlong = overlong(&bytes[start..], cpu.code_size);
                let plain = if overlong { system::overlong } else { system::undefined };
                self.ops.push(Op { plain, ..Op::template(start as u16, 1) });
                // Which of the bytes make it no instruction is not known.
                return (insns + 1, bytes.len().min(start + MAX_INSN_LEN), End::Complete);
            }
            if bitness == 64 && fuse(self.ops.last_mut(), comparison.take(), &insn, insns + 1) {
                insns += 1;
                if ends_at(&insn) {
                    break;
                }
                continue;
            }
            // Filled where it is: to move what was just written in parts is slow.
            let mut at = self.ops.len();
            self.ops.push(Op::template(start as u16, insn.len() as u8));
            let uses = self.uses.len();
            self.uses.push(FlagUse::UNKNOWN);
            let mut lowering = Lowering::new(cpu, &insn, &mut self.ops[at], &mut self.uses[uses]);
            lower(&mut lowering);
            let ends = lowering.ends;
            comparison = lowering.comparison;
            if let Some(first) = prelude(&self.ops[at]) {
                self.uses.insert(uses, FlagUse::NEUTRAL);
                self.ops.insert(at, first);
                at += 1;
            }
            insns += 1;
            let branches = self.ops[at].has(op_flag::LINK);
            if branches {
                self.ops[at].aux = insns as u8;
            }
            if ends {
                return (insns, decoder.position(), End::Complete);
            }
            if branches && ends_at(&insn) || self.copied && may_store(&insn) {
                break;
            }
        }
        self.ops.push(system::next_block(decoder.position(), insns));
        (insns, decoder.position(), End::Complete)
    }
}

/// What has to go before an operation.
pub(crate) fn prelude(op: &Op) -> Option<Op> {
    (op.base == slot::BLOCK_PLUS_PAGE)
        .then(|| Op { run: threaded(set_block_plus_page), ..Op::template(op.off, 0) })
}

/// Makes the base for a displacement that is out of reach from the block's start.
fn set_block_plus_page(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.regs[usize::from(slot::BLOCK_PLUS_PAGE)] = cpu.regs[usize::from(slot::BLOCK)].wrapping_add(4096);
    Ok(())
}

/// A block goes on behind a forward branch, which is often not taken, and ends at a backward one, which is a loop.
fn ends_at(branch: &Instruction) -> bool {
    (branch.near_branch_target() as i64) < branch.next_ip() as i64
}

/// True unless the instruction is known to write to no memory. Its destination is its first operand; what pushes has a
/// destination that is not named, what loads a segment may mark its descriptor.
fn may_store(insn: &Instruction) -> bool {
    let first_is_memory = match insn.try_op_kind(0) {
        Ok(OpKind::Register) => insn.op0_register().is_segment_register(),
        Ok(kind) => kind >= OpKind::MemorySegSI,
        Err(_) => false,
    };
    first_is_memory || insn.stack_pointer_increment() < 0
}

/// Makes one operation of a comparison and the conditional branch `insn` behind it, the block's `insns`th instruction,
/// if both offsets fit.
fn fuse(last: Option<&mut Op>, comparison: Option<Comparison>, insn: &Instruction, insns: usize) -> bool {
    let (Some(op), Some(comparison)) = (last, comparison) else { return false };
    let Some(condition) =
        exec::condition::encoding(insn.condition_code()).filter(|_| insn.is_jcc_short_or_near())
    else {
        return false;
    };
    let Ok(target) = i32::try_from(insn.near_branch_target() as i64) else { return false };
    op.run = comparison.with_branch(condition);
    op.imm = u64::from(target as u32) << 32 | op.imm & 0xffff_ffff;
    op.len += insn.len() as u8;
    op.aux = insns as u8;
    op.flags |= op_flag::FUSED | op_flag::LINK;
    true
}

/// True if the bytes, which are no instruction, are the beginning of one of more than 15 bytes (#GP), rather than
/// undefined (#UD): 14 bytes are too few, and the fifteenth is no help.
fn overlong(bytes: &[u8], size: CodeSize) -> bool {
    let bitness = match size {
        CodeSize::Bits64 => 64,
        CodeSize::Bits32 => 32,
        CodeSize::Bits16 => 16,
    };
    let Some(all) = bytes.get(..MAX_INSN_LEN) else { return false };
    let decoder = |bytes| iced_x86::Decoder::new(bitness, bytes, DecoderOptions::NO_INVALID_CHECK);
    let mut short = decoder(&all[..MAX_INSN_LEN - 1]);
    let _ = short.decode();
    short.last_error() == DecoderError::NoMoreBytes && decoder(all).decode().is_invalid()
}

/// Chooses the family by mnemonic. Whatever is left goes to the host CPU.
pub(crate) fn lower(l: &mut Lowering) {
    use Mnemonic as M;
    let taken = match l.insn.mnemonic() {
        M::Add
        | M::Or
        | M::Adc
        | M::Sbb
        | M::And
        | M::Sub
        | M::Xor
        | M::Cmp
        | M::Test
        | M::Inc
        | M::Dec
        | M::Neg
        | M::Not => exec::arith::lower(l),
        M::Xadd | M::Cmpxchg | M::Cmpxchg8b | M::Cmpxchg16b | M::Xchg => exec::exchange::lower(l),
        M::Mov
        | M::Movzx
        | M::Movsx
        | M::Movsxd
        | M::Lea
        | M::Bswap
        | M::Movbe
        | M::Movnti
        | M::Cbw
        | M::Cwde
        | M::Cdqe
        | M::Cwd
        | M::Cdq
        | M::Cqo
        | M::Xlatb
        | M::Lahf
        | M::Sahf
        | M::Clc
        | M::Stc
        | M::Cmc
        | M::Cld
        | M::Std
        | M::Salc => exec::mov::lower(l),
        M::Shl | M::Sal | M::Shr | M::Sar | M::Rol | M::Ror | M::Rcl | M::Rcr | M::Shld | M::Shrd => {
            exec::shift::lower(l)
        }
        M::Mul | M::Imul | M::Div | M::Idiv | M::Daa | M::Das | M::Aaa | M::Aas | M::Aam | M::Aad => {
            exec::muldiv::lower(l)
        }
        M::Bt | M::Bts | M::Btr | M::Btc | M::Bsf | M::Bsr => exec::bits::lower(l),
        M::Push | M::Pop | M::Pusha | M::Pushad | M::Popa | M::Popad | M::Enter | M::Leave => {
            exec::stack::lower(l)
        }
        M::Jmp | M::Call | M::Ret | M::Loop | M::Loope | M::Loopne | M::Jcxz | M::Jecxz | M::Jrcxz => {
            exec::branch::lower(l)
        }
        M::Movsb
        | M::Movsw
        | M::Movsd
        | M::Movsq
        | M::Stosb
        | M::Stosw
        | M::Stosd
        | M::Stosq
        | M::Lodsb
        | M::Lodsw
        | M::Lodsd
        | M::Lodsq
        | M::Scasb
        | M::Scasw
        | M::Scasd
        | M::Scasq
        | M::Cmpsb
        | M::Cmpsw
        | M::Cmpsd
        | M::Cmpsq
        | M::Insb
        | M::Insw
        | M::Insd
        | M::Outsb
        | M::Outsw
        | M::Outsd
            if l.insn.is_string_instruction() =>
        {
            exec::string::lower(l)
        }
        _ if l.insn.is_jcc_short_or_near() => exec::branch::lower(l),
        _ => exec::condition::lower(l),
    };
    if !(taken || system::lower(l) || host::lower(l)) {
        l.end_with(system::unimplemented);
    }
}

impl Cpu {
    /// Where code at a linear address is; #GP if that is not canonical, #PF if it may not be fetched.
    pub fn fetch_address(&mut self, lin: u64) -> Result<u64, Stop> {
        if self.code_size == CodeSize::Bits64 && !Self::canonical(lin) {
            return Err(self.raise(cpu::x86::Exception::gp(0)));
        }
        self.page(lin, Access::Execute, self.privilege())
    }

    /// Copies the bytes at RIP, at most to where the CS limit, or a page that cannot be fetched, ends them.
    fn fetch_bytes(&mut self, bytes: &mut [u8; MAX_INSN_LEN]) -> Result<usize, Stop> {
        for (i, slot) in bytes.iter_mut().enumerate() {
            match self.fetch_byte(i) {
                Ok(byte) => *slot = byte,
                Err(stop) if i == 0 => return Err(stop),
                Err(_) => return Ok(i),
            }
        }
        Ok(MAX_INSN_LEN)
    }

    /// The fault of the byte behind the first `available` ones.
    fn fetch_beyond(&mut self, available: usize) -> Result<(), Stop> {
        self.fetch_byte(available).map(|_| ())
    }

    fn fetch_byte(&mut self, index: usize) -> Result<u8, Stop> {
        let ip = self.rip.wrapping_add(index as u64);
        let cs = self.segments[cpu::x86::seg::CS];
        let flat = self.code_size == CodeSize::Bits64;
        if !flat && ip > u64::from(cs.limit) {
            return Err(self.raise(cpu::x86::Exception::gp(0)));
        }
        let lin = if flat { ip } else { self.wrap_linear(cs.base.wrapping_add(ip) & 0xffff_ffff) };
        let phys = self.fetch_address(lin)?;
        let mut byte = [0];
        self.read_phys(phys, &mut byte);
        Ok(byte[0])
    }
}

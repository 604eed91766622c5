//! Which instructions make a block.

use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, OpKind};

use super::code32;
use crate::analysis::flags;

/// Instructions of a block at most.
pub const MAX: usize = 24;

/// Instructions that follow one another in a page, with the flags live before each of them.
#[derive(Default)]
pub struct Block {
    pub insns: Vec<Instruction>,
    /// Flags live before each instruction.
    pub live: Vec<u32>,
    /// Flags are live at each instruction's branch target.
    pub live_ahead: Vec<bool>,
    /// Flags are live behind the last instruction, if control gets there.
    pub live_end: bool,
    /// Bytes beside the block that this depends on.
    pub seen: Vec<Range<usize>>,
    /// Offset behind the last instruction; within the page, or just behind it.
    pub end: usize,
    /// It is 32-bit code.
    pub code32: bool,
}

impl Block {
    /// Decodes the block at `offset` of a page's bytes. It ends at a jump, and before what is no instruction or crosses
    /// into the next page. So it does where another block `begins` already.
    pub fn decode(&mut self, page: &[u8], offset: usize, begins: impl Fn(u16) -> bool) {
        self.decode_some(page, offset, MAX, begins);
    }

    /// Decodes the one instruction at `offset`, which goes on behind the page in the next one's first bytes.
    pub fn decode_crossing(&mut self, bytes: &[u8], offset: usize) {
        self.decode_some(bytes, offset, 1, |_| false);
    }

    fn decode_some(&mut self, page: &[u8], offset: usize, max: usize, begins: impl Fn(u16) -> bool) {
        self.insns.clear();
        self.live.clear();
        let bits = code32::bits(self.code32);
        let mut decoder = Decoder::with_ip(bits, &page[offset..], offset as u64, DecoderOptions::NONE);
        let mut insn = Instruction::default();
        self.end = offset;
        while self.insns.len() < max && decoder.can_decode() {
            if !self.insns.is_empty() && begins(self.end as u16) {
                break;
            }
            decoder.decode_out(&mut insn);
            if insn.is_invalid() {
                break;
            }
            self.insns.push(insn);
            self.end = insn.next_ip() as usize;
            let last = match insn.flow_control() {
                FlowControl::UnconditionalBranch | FlowControl::IndirectBranch | FlowControl::Return => true,
                // A loop: what follows it is another block.
                FlowControl::ConditionalBranch => insn.near_branch_target() <= insn.ip(),
                FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall => false,
                _ => true,
            };
            if last {
                break;
            }
        }
        self.find_live(page);
    }

    fn find_live(&mut self, page: &[u8]) {
        let mut seen = std::mem::take(&mut self.seen);
        seen.clear();
        let (code32, insns) = (self.code32, &self.insns);
        let mut ahead = |target: u64| match usize::try_from(target) {
            // A loop.
            Ok(_) if let Ok(i) = insns.binary_search_by_key(&target, Instruction::ip) => {
                flags::live_before(&insns[i..])
            }
            Ok(target) if target < page.len() => {
                let (live, len) = flags::live_at(&page[target..], code32);
                if len > 0 {
                    seen.push(target..target + len);
                }
                live
            }
            _ => flags::ALL,
        };
        let mut live = ahead(self.end as u64);
        self.live_end = live != 0;
        self.live.resize(self.insns.len(), 0);
        self.live_ahead.clear();
        self.live_ahead.resize(self.insns.len(), true);
        for (i, insn) in self.insns.iter().enumerate().rev() {
            live = match insn.flow_control() {
                FlowControl::Next => flags::before(insn, live),
                FlowControl::ConditionalBranch if insn.is_jcc_short_or_near() && near(insn) => {
                    let there = ahead(insn.near_branch_target());
                    self.live_ahead[i] = there != 0;
                    flags::before(insn, live | there)
                }
                FlowControl::UnconditionalBranch | FlowControl::Call if near(insn) => {
                    let there = ahead(insn.near_branch_target());
                    self.live_ahead[i] = there != 0;
                    there
                }
                _ => flags::ALL,
            };
            self.live[i] = live;
        }
        self.seen = seen;
    }
}

/// It is a direct branch whose target has as many bits as the code.
fn near(insn: &Instruction) -> bool {
    matches!(insn.op0_kind(), OpKind::NearBranch64 | OpKind::NearBranch32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Flags are dead at the branch back to a loop that overwrites them far behind its head: the look ahead is as long as
    /// the block.
    #[test]
    fn a_loop_is_looked_at_as_a_whole() {
        // Twelve times MOV EAX, EBX; then ADD EAX, 1 or nothing; JNE to the start; HLT.
        let flags_at_the_head = |add: &[u8]| {
            let mut code = [0x89, 0xd8].repeat(12);
            code.extend_from_slice(add);
            let back = -(code.len() as i8 + 2);
            code.extend_from_slice(&[0x75, back as u8, 0xf4]);
            code.resize(4096, 0xf4);
            let mut block = Block::default();
            block.decode(&code, 0, |_| false);
            block.live_ahead.last().copied()
        };
        assert_eq!(flags_at_the_head(&[0x83, 0xc0, 0x01]), Some(false));
        assert_eq!(flags_at_the_head(&[]), Some(true));
    }
}

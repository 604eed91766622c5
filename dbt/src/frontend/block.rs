//! Which instructions make a block.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction};

use crate::analysis::flags;

/// Instructions of a block at most.
pub const MAX: usize = 96;

/// Instructions that follow one another in a page, with the flags live before each of them.
#[derive(Default)]
pub struct Block {
    pub insns: Vec<Instruction>,
    /// Flags live before each instruction.
    pub live: Vec<u32>,
    /// Offset behind the last instruction; within the page, or just behind it.
    pub end: usize,
}

impl Block {
    /// Decodes the block at `offset` of a page's bytes. It ends at a jump, and before what is no instruction or crosses
    /// into the next page.
    pub fn decode(&mut self, page: &[u8], offset: usize) {
        self.decode_some(page, offset, MAX);
    }

    /// Decodes the one instruction at `offset`, which goes on behind the page in the next one's first bytes.
    pub fn decode_crossing(&mut self, bytes: &[u8], offset: usize) {
        self.decode_some(bytes, offset, 1);
    }

    fn decode_some(&mut self, page: &[u8], offset: usize, max: usize) {
        self.insns.clear();
        self.live.clear();
        let mut decoder = Decoder::with_ip(64, &page[offset..], offset as u64, DecoderOptions::NONE);
        let mut insn = Instruction::default();
        self.end = offset;
        while self.insns.len() < max && decoder.can_decode() {
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
        let ahead = |target: u64| match usize::try_from(target) {
            Ok(target) if target < page.len() => flags::live_at(&page[target..]),
            _ => flags::ALL,
        };
        let mut live = ahead(self.end as u64);
        self.live.resize(self.insns.len(), 0);
        for (insn, slot) in self.insns.iter().zip(&mut self.live).rev() {
            live = match insn.flow_control() {
                FlowControl::Next => flags::before(insn, live),
                FlowControl::ConditionalBranch if insn.is_jcc_short_or_near() => {
                    flags::before(insn, live | ahead(insn.near_branch_target()))
                }
                FlowControl::UnconditionalBranch => ahead(insn.near_branch_target()),
                _ => flags::ALL,
            };
            *slot = live;
        }
    }
}

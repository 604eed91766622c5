//! What addresses in host code mean.

use std::collections::HashMap;
use std::ops::Range;

use iced_x86::{Instruction, OpKind};

use crate::cache::arena::DATA;
use crate::cache::pages::Pages;
use crate::cache::site::Pair;
use crate::runtime::bell;
use crate::runtime::context::{Left, field};
use crate::runtime::stubs::Stubs;

/// The stubs and their names, by address.
pub fn stubs(stubs: &Stubs) -> Vec<(u64, String)> {
    let mut names = vec![(stubs.enter, "enter".to_owned()), (stubs.ret, "ret".to_owned())];
    for left in (0..Left::COUNT).map(|left| Left::from_raw(left as u32)) {
        let name = format!("{left:?}").to_lowercase();
        names.push((stubs.exits[left as usize], format!("exit_{name}")));
        names.push((stubs.leave[left as usize], format!("leave_{name}")));
    }
    for (table, sizes) in stubs.access.iter().enumerate() {
        let sizes = sizes.iter().enumerate();
        names.extend(sizes.map(|(size, &stub)| (stub, format!("table{table}_{}bits", 8 << size))));
        names.push((stubs.miss[table], format!("miss_table{table}")));
        for (window, code) in stubs.window.iter().zip(["", "_code32"]) {
            names.push((window[table], format!("window_table{table}{code}")));
        }
    }
    for (pieces, code) in stubs.pieces.iter().zip(["", "_code32"]) {
        for (pieces, name) in pieces.iter().zip(["stos", "movs"]) {
            let sizes = pieces.iter().enumerate();
            names.extend(sizes.map(|(size, &stub)| (stub, format!("{name}_{}bits{code}", 8 << size))));
        }
    }
    for (mode, (&elsewhere, &bottom)) in stubs.elsewhere.iter().zip(&stubs.bottom).enumerate() {
        names.push((elsewhere, format!("elsewhere{mode}")));
        names.push((bottom, format!("bottom{mode}")));
    }
    names.sort();
    names
}

/// Names of a vCPU's stubs, its context and its data.
pub struct Names {
    known: HashMap<u64, String>,
    words: Range<u64>,
    sites: Range<u64>,
    /// Stubs that are called with an argument in the four bytes behind the call.
    with_argument: Vec<u64>,
}

impl Names {
    /// `data`: address of the arena's data.
    pub fn new(of: &Stubs, data: u64) -> Self {
        let mut known: HashMap<_, _> = stubs(of).into_iter().collect();
        let fields = [
            (field::ARGUMENT, "argument"),
            (field::SIGNALS, "signals"),
            (field::ATTENTION, "attention"),
            (field::FS_BASE, "fs_base"),
            (field::GS_BASE, "gs_base"),
            (field::INTERRUPTS, "interrupts"),
            (field::SYSTEM_FLAGS + 1, "direction"),
            (field::SYSTEM_FLAGS, "system_flags"),
            (field::CALLED, "called"),
            (field::OVERWRITTEN, "overwritten"),
            (field::X87_AWAY, "x87_away"),
            (field::X87_NOTE, "x87_note"),
            (field::X87_SEGMENT, "x87_segment"),
            (field::X87_OPERAND, "x87_operand"),
            (field::X87_WORD, "x87_word"),
            (field::SELECTORS + 8, "ss"),
            (field::STACK_WINDOW, "minus_window"),
            (field::PAGE_MASK, "page_mask"),
            (field::WORD_MASK, "word_mask"),
            (field::WORD32_MASK, "word32_mask"),
            (field::STACK_ADDEND, "stack_addend"),
            (field::STACK_NEG, "minus_stack_addend"),
            (field::PAUSES, "pauses"),
            (field::ENTRIES, "entries"),
            (field::KERNEL_GS_BASE, "kernel_gs_base"),
            (field::TSC_OFFSET, "tsc_offset"),
            (field::TSC_AUX, "tsc_aux"),
            (field::CR2, "cr2"),
            (field::CR3, "cr3"),
            (field::GATE_TARGET, "gate_target"),
            (field::PASSED, "passed"),
            (field::NO_WINDOW, "no_window"),
            (field::PARKED, "parked"),
            (field::reg(9), "r9"),
            (field::reg(10), "r10"),
            (field::reg(11), "r11"),
            (field::jumps(0), "jumps"),
        ];
        known.extend(fields.map(|(offset, name)| (u64::from(offset), format!("guest_{name}"))));
        known.insert(bell::rung(data), "rung".to_owned());
        known.insert(bell::mask(data), "jump_mask".to_owned());
        let words = data + bell::BYTES as u64;
        let sites = words + Pages::BYTES as u64;
        let with_argument = of.leave.to_vec();
        Self { known, words: words..sites, sites: sites..data + DATA as u64, with_argument }
    }

    /// What an operand of an instruction means, if it is an address that is known.
    pub fn of(&self, insn: &Instruction, operand: Option<u32>, address: u64) -> Option<String> {
        let kind = operand.filter(|&n| n < insn.op_count()).map(|n| insn.op_kind(n));
        if kind.is_some_and(|kind| kind != OpKind::Memory && kind != OpKind::NearBranch64) {
            return None;
        }
        if let Some(name) = self.known.get(&address) {
            return Some(name.clone());
        }
        if self.words.contains(&address) {
            let own = (address - self.words.start).is_multiple_of(16);
            return Some(if own { "page" } else { "minus_page" }.to_owned());
        }
        if !self.sites.contains(&address) {
            return None;
        }
        let at = (address - self.sites.start) as usize;
        let (number, field) = (at / size_of::<Pair>(), (at % size_of::<Pair>()) as i32);
        let field = match field {
            Pair::NEG_PAGE => "minus_page",
            Pair::HOST => "host",
            _ => "end",
        };
        Some(format!("site{number}_{field}"))
    }

    /// The instruction has four more bytes that are an argument.
    pub fn has_argument(&self, insn: &Instruction) -> bool {
        insn.is_call_near() && self.with_argument.contains(&insn.near_branch_target())
    }
}

//! Host code as text.

use std::fmt::Write;
use std::ops::Range;
use std::sync::Arc;

use iced_x86::{Decoder, DecoderOptions, Formatter, GasFormatter, Instruction, SymbolResolver, SymbolResult};

pub use super::names::Names;

/// Writes the code of one translation.
pub struct Listing {
    names: Arc<Names>,
    formatter: GasFormatter,
}

impl Listing {
    /// For code whose hot and cold parts are executed at these addresses.
    pub fn new(names: &Arc<Names>, parts: [Range<u64>; 2]) -> Self {
        let resolver = Resolver { names: names.clone(), parts };
        let mut formatter = GasFormatter::with_options(Some(Box::new(resolver)), None);
        formatter.options_mut().set_rip_relative_addresses(false);
        Self { names: names.clone(), formatter }
    }

    /// Hands over the address and the text of every instruction of `code`, which is executed at `at`.
    pub fn lines(&mut self, code: &[u8], at: u64, mut line: impl FnMut(u64, &str)) {
        let mut decoder = Decoder::with_ip(64, code, at, DecoderOptions::NONE);
        let mut text = String::new();
        while decoder.can_decode() {
            let insn = decoder.decode();
            text.clear();
            self.formatter.format(&insn, &mut text);
            let behind = decoder.position();
            if self.names.has_argument(&insn)
                && let Some(argument) = code.get(behind..).and_then(|rest| rest.first_chunk())
            {
                let _ = write!(text, ", {}", u32::from_le_bytes(*argument));
                let _ = decoder.set_position(behind + argument.len());
                decoder.set_ip(insn.next_ip() + argument.len() as u64);
            }
            line(insn.ip(), &text);
        }
    }
}

struct Resolver {
    names: Arc<Names>,
    parts: [Range<u64>; 2],
}

impl SymbolResolver for Resolver {
    fn symbol(
        &mut self,
        insn: &Instruction,
        _: u32,
        operand: Option<u32>,
        address: u64,
        _: u32,
    ) -> Option<SymbolResult<'_>> {
        let inside = || {
            let part = self.parts.iter().position(|part| part.contains(&address))?;
            Some(format!("{}{:x}", ["", "cold_"][part], address - self.parts[part].start))
        };
        let name = self.names.of(insn, operand, address).or_else(inside)?;
        Some(SymbolResult::with_string(address, name))
    }
}

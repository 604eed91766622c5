//! What translated code is left for, and where the vCPU goes on.
// UNSAFETY: reads the word of signals, and puts back a word of the guest's stack that code has overwritten.
#![allow(unsafe_code)]

use interp::core::Session;

use super::super::context::{ASIDE, JUMP_MASK, Left};
use super::super::x87;
use super::{Engine, Next};
use crate::cache::site::PARKED;
use crate::cache::tlb::{store_is_free, table};
use crate::translator::{Link, Translator};

/// How often a page that is not known to take stores is left to the interpreter.
const REFUSALS: u32 = 8;

impl Engine {
    pub(super) fn left(&mut self, s: &mut Session, mode: usize) -> Next {
        let argument = self.context.argument;
        let left = Left::from_raw(self.context.left);
        let counter = match left {
            Left::Lookup => &mut self.counters.lookups,
            Left::Link => &mut self.counters.links,
            Left::Signalled | Left::Stale | Left::Exhausted => &mut self.counters.signals,
            Left::Operation => &mut self.counters.operations,
            Left::Access | Left::Miss => &mut self.counters.accesses,
            Left::Straddle => &mut self.counters.straddles,
            Left::X87 => &mut self.counters.lent,
        };
        *counter += 1;
        match left {
            Left::Lookup => self.look_up(s, mode, argument),
            Left::Link => {
                let Some((_, rip)) = self.link(argument) else { return Next::Around };
                let generation = self.translator.generation;
                match self.translator.find(s, rip, mode) {
                    Some(block) if generation == self.translator.generation => {
                        if let Some(page) = self.translator.pages.mapped_at(rip, mode as u8) {
                            self.translator.link(argument, page, block);
                        }
                        Next::Enter(block.entry)
                    }
                    _ => {
                        self.store(s, rip);
                        // The caller has looked for signals; cold code follows.
                        s.block().map_or(Next::Around, Next::End)
                    }
                }
            }
            Left::Signalled => {
                if let Some((_, rip)) = self.link(argument) {
                    self.store(s, rip);
                }
                Next::Around
            }
            Left::Stale => {
                let Some((link, rip)) = self.link(argument) else { return Next::Around };
                self.translator.pages.remove(link.page, link.target as u16);
                self.store(s, rip);
                s.block().map_or(Next::Around, Next::End)
            }
            Left::Operation => self.operate(s, mode, argument),
            Left::Access => {
                let pair = self.translator.sites.by_pair(self.context.r9);
                self.access(s, mode, argument, Some(pair))
            }
            Left::Miss => self.access(s, mode, argument, None),
            Left::X87 => {
                x87::lend(&mut self.context, s);
                let rip = self.link(argument).map_or(0, |(_, rip)| rip);
                Next::Resume { target: self.translator.stubs.ret, rip, answers: true }
            }
            Left::Straddle => self.straddle(s, mode, argument),
            Left::Exhausted => {
                let call = self.context.exhausted;
                match self.translator.call_at(call).and_then(|number| self.link(number)) {
                    Some((_, rip)) => {
                        self.store(s, rip);
                        Next::Around
                    }
                    None => Next::Enter(call),
                }
            }
        }
    }

    /// A link that emitted code has named, and where it leads.
    pub(super) fn link(&self, number: u32) -> Option<(Link, u64)> {
        let link = *self.translator.links.get(number as usize)?;
        let target = self.translator.pages.lin(link.page).wrapping_add(link.target as u64);
        Some((link, target & self.address))
    }

    /// An indirect branch, or a return that did not go where the host's stack says.
    pub(super) fn look_up(&mut self, s: &mut Session, mode: usize, argument: u32) -> Next {
        let rip = self.context.r10;
        if argument & ASIDE != 0 && self.translator.mode_of(mode).code32.is_none() {
            self.context.flags = self.context.parked;
        }
        let origin = argument & !ASIDE;
        if (rip as i64) << 16 >> 16 != rip as i64 {
            // The branch itself faults: undo what it did to the stack and let the interpreter do it.
            if let Some(operation) = self.translator.operations.get(origin as usize) {
                let origin =
                    self.translator.pages.lin(operation.page).wrapping_add(u64::from(operation.offset));
                let pushed = operation.popped < 0;
                let stack = self.context.regs[4];
                self.context.regs[4] = stack.wrapping_sub(operation.popped as u64);
                self.store(s, origin);
                if pushed && let Some(page) = s.map(stack, true) {
                    // SAFETY: within a page of RAM that code has just written these bytes to.
                    unsafe {
                        let slot = page.host.add((stack & 0xfff) as usize).cast::<u64>();
                        slot.write_unaligned(self.context.overwritten);
                    }
                }
                return s.step(0).map_or_else(Next::End, |_| Next::Around);
            }
        }
        if self.signalled() {
            self.store(s, rip);
            return Next::Around;
        }
        // Signals that nobody attends to now: the table was not asked.
        let unasked = self.bell.is_rung();
        if unasked {
            self.bell.reset(self.context.attention as u32);
        }
        if let Some(block) = self.translator.find(s, rip, mode)
            && self.generation == self.translator.generation
        {
            let index = (rip & u64::from(JUMP_MASK)) >> JUMP_MASK.trailing_zeros();
            // The first entry stays the engine's.
            if index != 0 && !unasked {
                let slot = &mut self.context.jumps[mode][index as usize];
                if let Some(checked) = self.translator.checked(rip, mode, block, *slot) {
                    *slot = checked;
                }
            }
            return Next::Enter(block.entry);
        }
        self.store(s, rip);
        s.block().map_or(Next::Around, Next::End)
    }

    /// An instruction for the interpreter.
    pub(super) fn operate(&mut self, s: &mut Session, mode: usize, argument: u32) -> Next {
        let Some(operation) = self.translator.operations.get_mut(argument as usize) else {
            return Next::Around;
        };
        operation.count += 1;
        let (page, offset, after) = (operation.page, operation.offset, operation.after);
        let windowed = operation.windowed;
        if operation.parked {
            self.context.flags = self.context.parked;
        }
        let lin = self.translator.pages.lin(page);
        self.store(s, lin.wrapping_add(u64::from(offset)));
        let operation = &self.translator.operations[argument as usize];
        let complete = match s.execute(&operation.lowered, lin) {
            Ok(complete) => complete,
            Err(end) => return Next::End(end),
        };
        self.go_on(s, mode, page, complete, after, windowed)
    }

    /// After an instruction was interpreted: goes on behind it if nothing stands against that. `windowed`: what is there
    /// relies on the stack's window.
    pub(super) fn go_on(
        &mut self,
        s: &mut Session,
        mode: usize,
        page: u32,
        complete: bool,
        after: u64,
        windowed: bool,
    ) -> Next {
        let generation = self.translator.generation;
        self.translator.sync(s);
        // SAFETY: the word lives as long as the vCPU.
        let quiet = unsafe { self.context.signals.read_volatile() } & s.attention() == 0;
        let same = || s.mode() == Some(self.translator.mode_of(mode));
        if complete
            && after != 0
            && quiet
            && generation == self.translator.generation
            && same()
            && self.translator.pages.lin(page) == s.rip() & !0xfff
        {
            let window = self.window();
            self.load(s);
            self.aim_sysret(s);
            if !windowed {
                self.open_window(s, mode, s.registers()[4]);
                return Next::Enter(after);
            }
            if self.open_window(s, mode, window) {
                return Next::Resume { target: after, rip: s.rip(), answers: false };
            }
        }
        Next::Around
    }

    /// The return stack in force is as code has left it, but for so many bytes.
    pub(super) fn set_returns(&mut self, mode: usize, popped: u64) {
        let pointer = self.context.returns.wrapping_add(popped);
        self.context.stacks[mode] = self.returns.settle(mode, pointer);
    }

    /// Something wants to be looked at between two instructions.
    pub(super) fn signalled(&self) -> bool {
        // SAFETY: the word lives as long as the vCPU.
        let signals = unsafe { self.context.signals.read_volatile() };
        signals & (self.context.attention as u32 | 0xffff_ff00) != 0
    }

    /// An access whose page no table has. `pair`: the site whose pair wants to name the page.
    pub(super) fn access(&mut self, s: &mut Session, mode: usize, number: u32, pair: Option<u32>) -> Next {
        let lin = self.context.r10;
        let site = self.translator.sites.get(number);
        if site.len & PARKED != 0 {
            // Code of ours has clobbered them since; whoever goes on from here may want them.
            self.context.flags = self.context.parked;
        }
        let (store, size) = (site.size < 0, u64::from(site.size.unsigned_abs()));
        let rip = self.translator.pages.lin(site.code).wrapping_add(u64::from(site.offset));
        if (lin & 0xfff) + size <= 4096 {
            let table = table(self.translator.mode_of(mode), store);
            let Translator { tlb, sites, .. } = &mut self.translator;
            if !tlb.has(table, lin)
                && let Some(page) = s.map(lin, store)
                && (!store || store_is_free(page.info))
            {
                self.counters.fills += 1;
                tlb.fill(sites, table, lin, page);
            }
            if let Some(host) = tlb.page(table, lin) {
                if let Some(pair) = pair {
                    self.counters.promotions += 1;
                    // An odd number of changing size, so that no loop of the guest's always offers the same site.
                    self.context.ticks = 17 + (self.counters.promotions & 31) * 2;
                    tlb.promote(sites, table, lin, pair);
                }
                // The site's code expects the host address in two parts, of which the second is no offset in a page: the page
                // is not known to take all that code behind this may do there.
                self.context.r10 = lin ^ 1 << 63;
                self.context.r9 = host.wrapping_add(lin & 0xfff).wrapping_sub(self.context.r10);
                return Next::Resume { target: self.translator.stubs.ret, rip, answers: true };
            }
        }
        self.counters.interpreted_accesses += 1;
        // Its return address is not needed.
        self.set_returns(mode, 8);
        self.store(s, rip);
        let lent = s.x87_lent();
        match s.step(u64::from(site.len & !PARKED)) {
            Ok(complete) => {
                if lent && complete {
                    // If it was an x87 instruction, code goes on with others.
                    s.lend_x87();
                }
                self.go_on(s, mode, site.code, complete, site.after, true)
            }
            Err(end) => Next::End(end),
        }
    }

    /// Bytes of the stack are not in the window, and could not be put there by what the tables have.
    pub(super) fn straddle(&mut self, s: &mut Session, mode: usize, number: u32) -> Next {
        let Some(segment) = self.translator.segments.get_mut(number as usize) else { return Next::Around };
        let rip = self.translator.pages.lin(segment.page).wrapping_add(u64::from(segment.offset));
        let first = self.context.regs[4].wrapping_add(segment.range.start as u64) & self.address;
        let len = (segment.range.end - segment.range.start) as u64;
        let check = segment.check;
        segment.refused += 1;
        let refused = segment.refused;
        let one_page = (first & 0xfff) + len <= 4096;
        if one_page && self.open_window(s, mode, first) {
            return Next::Enter(check);
        }
        if !one_page || refused > REFUSALS {
            let generation = self.translator.generation;
            if let Some(entry) = self.translator.without_window(s, number, mode)
                && generation == self.translator.generation
            {
                return Next::Enter(entry);
            }
        }
        // The interpreter's stores show whether the page is one for the window.
        self.store(s, rip);
        s.block().map_or(Next::Around, Next::End)
    }
}

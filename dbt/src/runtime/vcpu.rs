//! The loop of a vCPU: translated code where there is some, the interpreter where there is none.
// UNSAFETY: enters translated code, and points the thread's GS base to its context.
#![allow(unsafe_code)]

use std::sync::Arc;

use cpu::{CpuFault, CpuIo, CpuState, EngineError, Signals, Vcpu, VcpuExit, VmConfig};
use interp::core::{Core, End, Session};

use super::bell::Bell;
use super::context::{Context, JUMP_MASK, Left, from_rflags, to_rflags};
use super::exhausted::{Area, Watch};
use super::returns::Returns;
use super::{transition, x87};
use crate::cache::pages::nowhere;
use crate::cache::site::PARKED;
use crate::cache::tlb::{store_is_free, table};
use crate::peers::Peers;
use crate::ticker::Ticket;
use crate::trace::Tracer;
use crate::translator::{Link, Translator};

/// How often a page that is not known to take stores is left to the interpreter.
const REFUSALS: u32 = 8;
/// The interrupt flag in RFLAGS.
const IF: u64 = 1 << 9;

/// A vCPU of the translating engine.
pub struct DbtVcpu {
    core: Core,
    engine: Box<Engine>,
    area: Box<Area>,
    ticket: Ticket,
}

// SAFETY: the area names parts of this vCPU.
unsafe impl Send for DbtVcpu {}

/// Everything but the guest's state.
struct Engine {
    /// Its words are in the translator's arena: it goes first.
    bell: Bell,
    context: Box<Context>,
    translator: Translator,
    returns: Returns,
    /// Of the translator, when return stacks and jump tables were emptied.
    generation: u64,
    /// Modes that have a jump table since.
    modes: usize,
    counters: Counters,
}

// SAFETY: the raw pointers of the context name parts of this vCPU.
unsafe impl Send for Engine {}

/// How often translated code was left, and why.
#[derive(Debug, Default)]
struct Counters {
    lookups: u64,
    links: u64,
    operations: u64,
    accesses: u64,
    fills: u64,
    promotions: u64,
    signals: u64,
    /// Stack accesses outside the window.
    straddles: u64,
    /// x87 states put into the host's registers.
    lent: u64,
    /// Accesses interpreted: devices, page crossings, code pages, faults.
    interpreted_accesses: u64,
    /// Blocks interpreted.
    interpreted_blocks: u64,
}

/// What to do after translated code was left.
enum Next {
    /// Enter it again at an address where nothing is relied on.
    Enter(u64),
    /// The same where the stack's window is relied on. Should it be gone, the instruction at `rip` is where to go on. With
    /// `answers` the address to come back to is on the return stack.
    Resume { target: u64, rip: u64, answers: bool },
    /// Look around: RIP and all state are stored.
    Around,
    /// Leave the session.
    End(End),
}

impl DbtVcpu {
    /// A vCPU in the power-on state.
    ///
    /// # Errors
    /// The host refuses executable memory.
    pub fn new(
        config: &VmConfig,
        index: u32,
        signals: Arc<Signals>,
        threshold: u8,
        ticket: Ticket,
        peers: &Arc<Peers>,
        tracer: Option<Box<Tracer>>,
    ) -> Result<Self, EngineError> {
        let refused = |error| EngineError::Unusable {
            engine: "dbt",
            reason: format!(
                "the host refuses executable memory ({error}): allow memfd_create and executable shared mappings, or take --engine interp"
            ),
        };
        let own = peers.join(signals.clone());
        let mut context = Context::boxed();
        let translator = Translator::new(threshold, &mut context.tables, peers.clone(), own.clone(), tracer)
            .map_err(refused)?;
        let lookup = translator.stubs.exits[Left::Lookup as usize];
        let returns = Returns::new(translator.stubs.bottom).map_err(refused)?;
        context.signals = signals.word();
        context.stacks = returns.empty();
        context.no_window = nowhere();
        context.mxcsr = 0x1f80;
        // SAFETY: the place is kept for this, in an arena that is dropped after the bell.
        let bell = unsafe { Bell::new(translator.bell(), signals.clone()) };
        let engine = Engine {
            bell,
            context,
            translator,
            returns,
            generation: 0,
            modes: 0,
            counters: Counters::default(),
        };
        let mut engine = Box::new(engine);
        let area = Box::new(Area {
            code: engine.translator.code(),
            stubs: engine.translator.stubs(),
            below: engine.returns.below(),
            context: &raw mut *engine.context,
            exhausted: engine.translator.stubs.exits[Left::Exhausted as usize],
            lookup,
        });
        let mut core = Core::new(config, index, signals);
        let peers = peers.clone();
        core.set_sealer(Arc::new(move |host| peers.protect(&own, host)));
        Ok(Self { core, engine, area, ticket })
    }
}

impl Vcpu for DbtVcpu {
    fn run(&mut self, io: &dyn CpuIo) -> Result<VcpuExit, CpuFault> {
        let engine = &mut *self.engine;
        // SAFETY: nothing else in this process uses the GS base; the context outlives the session.
        unsafe { set_gs_base(&raw const *engine.context as u64) };
        let _watch = Watch::new(&self.area);
        let _running = self.ticket.running();
        let outcome = self.core.session(io, |mut session| engine.run(&mut session));
        tracing::debug!(
            counters = ?engine.counters,
            operations = ?engine.translator.frequent_operations(),
            "left the guest"
        );
        if let Some(tracer) = &mut engine.translator.tracer {
            tracer.idle();
        }
        outcome
    }

    fn run_limited(&mut self, io: &dyn CpuIo, _: u64) -> Result<VcpuExit, CpuFault> {
        self.run(io)
    }

    fn state(&self) -> CpuState {
        self.core.state()
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), EngineError> {
        self.core.set_state(state)
    }

    fn finish(&mut self) {
        let Engine { translator, counters, .. } = &mut *self.engine;
        let operations = translator.frequent_operations();
        if let Some(tracer) = translator.tracer.take() {
            tracer.finish(counters, &operations);
        }
    }
}

impl Drop for DbtVcpu {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Engine {
    fn run(&mut self, s: &mut Session) -> End {
        loop {
            if let Some(end) = s.boundary() {
                return end;
            }
            self.translator.sync(s);
            let end = match self.translation(s) {
                Some((mode, entry)) => self.translated(s, mode, entry),
                None => {
                    self.counters.interpreted_blocks += 1;
                    s.block()
                }
            };
            if let Some(end) = end {
                return end;
            }
        }
    }

    /// The mode in force and the translation at RIP.
    fn translation(&mut self, s: &mut Session) -> Option<(usize, u64)> {
        let mode = s.mode()?;
        let mode = self.translator.mode(mode);
        let block = self.translator.find(s, s.rip(), mode)?;
        Some((mode, block.entry))
    }

    fn load(&mut self, s: &mut Session) {
        if self.generation != self.translator.generation {
            self.generation = self.translator.generation;
            self.modes = 0;
            self.context.stacks = self.returns.empty();
        }
        let context = &mut *self.context;
        context.regs.copy_from_slice(s.registers());
        context.kernel_gs_base = s.kernel_gs_base();
        [context.cr2, context.cr3] = s.cr2_and_cr3();
        context.flags = from_rflags(s.flags());
        context.fs_base = s.segment_base(4);
        context.gs_base = s.segment_base(5);
        context.vectors = s.vectors();
        context.mxcsr = s.mxcsr();
        let system = s.system_flags();
        context.system_flags = system & !IF;
        context.interrupts = u64::from(system & IF != 0);
        context.selectors = s.selectors();
        context.attention = u64::from(s.attention());
        self.bell.reset(s.attention());
        x87::load(context, s);
    }

    /// Puts the stack's window on the page of `lin`, if stores to that go to the host directly.
    fn open_window(&mut self, s: &mut Session, mode: usize, lin: u64) -> bool {
        let table = table(self.translator.mode_of(mode), true);
        let Translator { tlb, sites, .. } = &mut self.translator;
        if !tlb.has(table, lin)
            && let Some(page) = s.mapped(lin, true)
            && store_is_free(page.info)
        {
            tlb.fill(sites, table, lin, page);
        }
        let page = tlb.page(table, lin);
        let context = &mut *self.context;
        (context.stack_window, context.stack_addend) = match page {
            Some(host) => (host.wrapping_neg(), host.wrapping_sub(lin & !0xfff)),
            None => (nowhere(), 0),
        };
        context.stack_neg = context.stack_addend.wrapping_neg();
        page.is_some()
    }

    /// The guest's page in the window.
    fn window(&self) -> u64 {
        self.context.stack_neg.wrapping_sub(self.context.stack_window)
    }

    fn store(&mut self, s: &mut Session, rip: u64) {
        s.registers_mut().copy_from_slice(&self.context.regs);
        s.set_flags(to_rflags(self.context.flags));
        s.set_mxcsr(self.context.mxcsr);
        s.set_interrupt_flag(self.context.interrupts & 0xff != 0);
        s.set_gs_bases(self.context.gs_base, self.context.kernel_gs_base);
        s.set_rip(rip);
    }

    /// Runs translated code until something else has to run. State is the session's before and afterwards.
    fn translated(&mut self, s: &mut Session, mut mode: usize, entry: u64) -> Option<End> {
        self.load(s);
        transition::load(&mut self.context, s);
        self.open_window(s, mode, s.registers()[4]);
        let mut next = Next::Enter(entry);
        loop {
            let (target, relies, answers) = match next {
                Next::Enter(target) => (target, None, false),
                Next::Resume { target, rip, answers } => (target, Some(rip), answers),
                Next::Around => return None,
                Next::End(end) => return Some(end),
            };
            // Code made meanwhile may lead to a mode that is new.
            while self.modes < self.translator.modes() {
                let lookup = self.translator.stubs.exits[Left::Lookup as usize];
                self.context.jumps[self.modes].fill(lookup);
                self.modes += 1;
            }
            self.context.target = target;
            if !answers {
                self.context.returns = self.context.stacks[mode];
            }
            if self.translator.enter(self.context.stack_window.wrapping_neg()) {
                self.context.stack_window = nowhere();
                if let Some(rip) = relies {
                    self.translator.leave();
                    self.set_returns(mode, if answers { 8 } else { 0 });
                    self.store(s, rip);
                    return None;
                }
            }
            // SAFETY: the stub is a function without arguments that keeps callee-saved registers; the GS base and the
            // context are set up, and `target` is code of this vCPU for the mode in force.
            unsafe {
                let enter: extern "sysv64" fn() =
                    std::mem::transmute(self.translator.stubs.enter as *const ());
                enter();
            }
            self.translator.leave();
            x87::take_pointers(&mut self.context, &self.translator, s);
            mode = transition::take(&mut self.context, s).unwrap_or(mode);
            self.set_returns(mode, 0);
            next = self.left(s, mode);
        }
    }

    fn left(&mut self, s: &mut Session, mode: usize) -> Next {
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
                let number = self.translator.sites.by_pair(self.context.r9);
                self.access(s, mode, number, true)
            }
            Left::Miss => self.access(s, mode, argument, false),
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
    fn link(&self, number: u32) -> Option<(Link, u64)> {
        let link = *self.translator.links.get(number as usize)?;
        Some((link, self.translator.pages.lin(link.page).wrapping_add(link.target as u64)))
    }

    /// An indirect branch, or a return that did not go where the host's stack says.
    fn look_up(&mut self, s: &mut Session, mode: usize, argument: u32) -> Next {
        let rip = self.context.r10;
        if (rip as i64) << 16 >> 16 != rip as i64 {
            // The branch itself faults: undo what it did to the stack and let the interpreter do it.
            if let Some(operation) = self.translator.operations.get(argument as usize) {
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
    fn operate(&mut self, s: &mut Session, mode: usize, argument: u32) -> Next {
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
    fn go_on(
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
    fn set_returns(&mut self, mode: usize, popped: u64) {
        let pointer = self.context.returns.wrapping_add(popped);
        self.context.stacks[mode] = self.returns.settle(mode, pointer);
    }

    /// Something wants to be looked at between two instructions.
    fn signalled(&self) -> bool {
        // SAFETY: the word lives as long as the vCPU.
        let signals = unsafe { self.context.signals.read_volatile() };
        signals & (self.context.attention as u32 | 0xffff_ff00) != 0
    }

    /// An access whose page no table has. `pair`: the site wants to name its page.
    fn access(&mut self, s: &mut Session, mode: usize, number: u32, pair: bool) -> Next {
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
                if pair {
                    self.counters.promotions += 1;
                    // An odd number of changing size, so that no loop of the guest's always offers the same site.
                    self.context.ticks = 17 + (self.counters.promotions & 31) * 2;
                    tlb.promote(sites, table, lin, number);
                }
                // The site's code expects the host address in two parts.
                self.context.r9 = host.wrapping_sub(lin & !0xfff);
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
    fn straddle(&mut self, s: &mut Session, mode: usize, number: u32) -> Next {
        let Some(segment) = self.translator.segments.get_mut(number as usize) else { return Next::Around };
        let rip = self.translator.pages.lin(segment.page).wrapping_add(u64::from(segment.offset));
        let first = self.context.regs[4].wrapping_add(segment.range.start as u64);
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

/// # Safety
/// Nothing else of the process may use the GS base of this thread while translated code runs.
unsafe fn set_gs_base(base: u64) {
    const ARCH_SET_GS: libc::c_int = 0x1001;
    // SAFETY: sets a register of this thread that neither Rust nor the C library uses.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, base) };
}

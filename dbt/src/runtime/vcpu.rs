//! The loop of a vCPU: translated code where there is some, the interpreter where there is none.
// UNSAFETY: enters translated code, and points the thread's GS base to its context.
#![allow(unsafe_code)]

mod exits;

use std::sync::Arc;

use cpu::{CpuFault, CpuIo, CpuState, EngineError, Signals, Vcpu, VcpuExit, VmConfig};
use interp::core::{Core, End, Session};

use super::bell::Bell;
use super::context::{Left, Mapped, from_rflags, to_rflags};
use super::exhausted::{Area, Watch};
use super::returns::Returns;
use super::{transition, x87};
use crate::cache::pages::nowhere;
use crate::cache::tlb::{store_is_free, table};
use crate::direct::{self, Direct};
use crate::engine::Options;
use crate::peers::Peers;
use crate::ticker::Ticket;
use crate::trace::Tracer;
use crate::translator::Translator;

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
    context: Mapped,
    translator: Translator,
    returns: Returns,
    /// Of the translator, when return stacks and jump tables were emptied.
    generation: u64,
    /// Modes that have a jump table since.
    modes: usize,
    /// The bits of an address in the mode in force.
    address: u64,
    counters: Counters,
    direct: Direct,
    /// What SYSRET compares when it does not lead to code that runs directly.
    outer_flags: u32,
    /// Why the guest cannot go on.
    lost: Option<&'static str>,
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

impl Counters {
    /// For those who watch.
    fn named(&self) -> Vec<(&'static str, u64)> {
        let Self { lookups, links, operations, accesses, fills, promotions, .. } = *self;
        let Self { signals, straddles, lent, interpreted_accesses, interpreted_blocks, .. } = *self;
        vec![
            ("lookups", lookups),
            ("links", links),
            ("operations", operations),
            ("accesses", accesses),
            ("fills", fills),
            ("promotions", promotions),
            ("signals", signals),
            ("straddles", straddles),
            ("lent", lent),
            ("interpreted_accesses", interpreted_accesses),
            ("interpreted_blocks", interpreted_blocks),
        ]
    }
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
        options: Options,
        ticket: Ticket,
        peers: &Arc<Peers>,
        tracer: Option<Box<Tracer>>,
    ) -> Result<Self, EngineError> {
        let refused = |error| EngineError::Unusable {
            engine: "dbt",
            reason: format!(
                "the host refuses executable memory ({error}): allow memfd_create and executable shared mappings"
            ),
        };
        let own = peers.join(signals.clone());
        let mut context = Mapped::new().map_err(|error| EngineError::Unusable {
            engine: "dbt",
            reason: format!("the host refuses memory ({error}): free some, or take fewer vCPUs"),
        })?;
        let translator = Translator::new(options, &mut context.tables, peers.clone(), own.clone(), tracer)
            .map_err(refused)?;
        let lookup = translator.stubs.exits[Left::Lookup as usize];
        let returns = Returns::new(translator.stubs.bottom).map_err(refused)?;
        context.signals = signals.word();
        context.stacks = returns.empty();
        context.no_window = nowhere();
        context.mxcsr = 0x1f80;
        let direct = Direct::new(options.direct, ticket.pulse());
        // SAFETY: the place is kept for this, in an arena that is dropped after the bell.
        let bell = unsafe { Bell::new(translator.bell(), signals.clone(), direct.running()) };
        let engine = Engine {
            bell,
            context,
            translator,
            returns,
            generation: 0,
            modes: 0,
            address: u64::MAX,
            counters: Counters::default(),
            direct,
            outer_flags: 0,
            lost: None,
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
            direct = ?engine.direct.counts,
            operations = ?engine.translator.frequent_operations(),
            "left the guest"
        );
        if let Some(tracer) = &mut engine.translator.tracer {
            tracer.idle();
        }
        if let Some(reason) = engine.lost {
            let bytes = Vec::new();
            return Err(CpuFault {
                reason: reason.to_owned(),
                rip: self.core.state().rip,
                bytes,
                mode: "direct",
            });
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

    fn rest(&mut self) {
        direct::rest();
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let mut counters = self.engine.counters.named();
        counters.extend(self.engine.direct.counts.named());
        counters
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
            let polled = s.is_polled();
            if let Some(end) = s.boundary() {
                return end;
            }
            self.translator.sync(s);
            let entries = self.context.entries + s.entries();
            match self.direct.run(s, &mut self.translator, polled, entries) {
                None | Some(direct::Left::Translate) => {}
                Some(direct::Left::Around) => continue,
                Some(direct::Left::Step) => match s.step(0) {
                    Ok(_) => continue,
                    Err(end) => return end,
                },
                Some(direct::Left::Trap) => match s.single_stepped() {
                    None => continue,
                    Some(end) => return end,
                },
                Some(direct::Left::Lost) => {
                    self.lost = Some(
                        "the process that ran the guest's program has ended: the host may have killed it",
                    );
                    return End::Exit(VcpuExit::Kicked);
                }
            }
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

    /// SYSRET to code that runs directly is left to the interpreter, behind which the loop looks around.
    fn aim_sysret(&mut self, s: &Session) {
        self.context.gates.outer_flags = if self.direct.favours(s) { 0 } else { self.outer_flags };
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
        if self.address != u64::MAX {
            // As it is seen from the window: perhaps beyond 4 GiB, or below zero.
            let window = lin & !0xfff;
            let distance = context.regs[4].wrapping_sub(window) as i32;
            context.regs[4] = window.wrapping_add(distance as u64);
        }
        page.is_some()
    }

    /// The guest's page in the window.
    fn window(&self) -> u64 {
        self.context.stack_neg.wrapping_sub(self.context.stack_window)
    }

    fn store(&mut self, s: &mut Session, rip: u64) {
        s.registers_mut().copy_from_slice(&self.context.regs);
        s.registers_mut()[4] &= self.address;
        s.set_flags(to_rflags(self.context.flags));
        s.set_mxcsr(self.context.mxcsr);
        s.set_interrupt_flag(self.context.interrupts & 0xff != 0);
        s.set_bases(self.context.fs_base, self.context.gs_base, self.context.kernel_gs_base);
        s.set_rip(rip & self.address);
    }

    /// Runs translated code until something else has to run. State is the session's before and afterwards.
    fn translated(&mut self, s: &mut Session, mut mode: usize, entry: u64) -> Option<End> {
        let code32 = self.translator.mode_of(mode).code32.is_some();
        self.address = if code32 { u64::from(u32::MAX) } else { u64::MAX };
        self.load(s);
        transition::load(&mut self.context, s);
        self.outer_flags = self.context.gates.outer_flags;
        self.aim_sysret(s);
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
}

/// # Safety
/// Nothing else of the process may use the GS base of this thread while translated code runs.
unsafe fn set_gs_base(base: u64) {
    const ARCH_SET_GS: libc::c_int = 0x1001;
    // SAFETY: sets a register of this thread that neither Rust nor the C library uses.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, base) };
}

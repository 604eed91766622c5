//! Return stacks that are used up: a call or push of translated code runs into the inaccessible memory below its stack. The
//! signal's handler empties the stack and has the instruction executed again. Nothing is lost but predictions; so deep
//! calls cost nothing until then. If the vCPU has signals by now, a guest's call leaves for the engine instead: a guest
//! that does nothing but call polls here.
// UNSAFETY: a signal handler, which reads and changes the interrupted thread's registers.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ops::Range;
use std::ptr::{null, null_mut};
use std::sync::OnceLock;

use super::context::Context;
use super::returns::Below;

/// What the handler has to know of the vCPU that runs on its thread.
#[derive(Debug, Clone)]
pub struct Area {
    pub code: Range<u64>,
    /// The stubs among it.
    pub stubs: Range<u64>,
    pub below: Below,
    pub context: *mut Context,
    /// Where to go with a direct call's address in the context, and with an indirect one's target in R10.
    pub exhausted: u64,
    pub lookup: u64,
}

thread_local! {
    static AREA: Cell<*const Area> = const { Cell::new(null()) };
    /// A stack for the handler, since that of the interrupted code is used up.
    static STACK: Cell<*mut u8> = const { Cell::new(null_mut()) };
}

const STACK_BYTES: usize = 64 << 10;

/// The action that was there before.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// The handler knows the area until this is dropped.
#[derive(Debug)]
pub struct Watch<'a>(#[allow(dead_code)] &'a Area);

impl<'a> Watch<'a> {
    /// Lets the handler answer for this thread.
    pub fn new(area: &'a Area) -> Self {
        install();
        give_stack();
        AREA.set(area);
        Self(area)
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        AREA.set(null());
    }
}

fn install() {
    BEFORE.get_or_init(|| {
        // SAFETY: an all-zero action is valid, and `handle` has the signature that SA_SIGINFO asks for.
        unsafe {
            let mut before: libc::sigaction = std::mem::zeroed();
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handle as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigaction(libc::SIGSEGV, null(), &raw mut before);
            libc::sigaction(libc::SIGSEGV, &raw const action, null_mut());
            before
        }
    });
}

/// A thread keeps its stack for signals until it ends; one that has none gets one for good.
fn give_stack() {
    if !STACK.get().is_null() {
        return;
    }
    // SAFETY: asks for, and sets, the signal stack of this thread; the memory is never freed.
    unsafe {
        let mut now: libc::stack_t = std::mem::zeroed();
        libc::sigaltstack(null(), &raw mut now);
        if now.ss_flags & libc::SS_DISABLE == 0 {
            return;
        }
        let memory = Box::leak(vec![0u8; STACK_BYTES].into_boxed_slice());
        STACK.set(memory.as_mut_ptr());
        let new = libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: STACK_BYTES };
        libc::sigaltstack(&raw const new, null_mut());
    }
}

extern "C" fn handle(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands a handler with SA_SIGINFO valid pointers; a fault has an address.
    let (address, state) = unsafe { ((*info).si_addr() as u64, &mut *context.cast::<libc::ucontext_t>()) };
    let registers = &mut state.uc_mcontext.gregs;
    let rip = registers[libc::REG_RIP as usize] as u64;
    // SAFETY: `Watch` keeps the area alive while the pointer is set, on this very thread.
    let area = unsafe { AREA.get().as_ref() };
    if let Some(area) = area
        && area.code.contains(&rip)
        && let Some(mode) = area.below.mode(address)
    {
        let rsp = &mut registers[libc::REG_RSP as usize];
        *rsp = area.below.begin_with(mode, *rsp as u64) as i64;
        // SAFETY: the context lives as long as the area; the interrupted code is the only other user. Bytes at RIP
        // are code of the arena.
        unsafe {
            let context = &mut *area.context;
            let pending = context.signals.read_volatile() & context.attention as u32 != 0;
            let relative = ((rip + 1) as *const i32).read_unaligned();
            let target = rip.wrapping_add(5).wrapping_add(relative as u64);
            match (rip as *const u8).read() {
                // A call of ours is in the middle of an instruction.
                0xe8 if pending && !area.stubs.contains(&target) => {
                    context.exhausted = rip;
                    registers[libc::REG_RIP as usize] = area.exhausted as i64;
                }
                // Only guests' indirect calls have a GS prefix.
                0x65 if pending => registers[libc::REG_RIP as usize] = area.lookup as i64,
                _ => {}
            }
        }
        return;
    }
    pass_on(signal, info, context);
}

/// A fault that is not ours goes to whoever was asked before, or comes again with the default action.
fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let before = BEFORE.get().filter(|a| a.sa_sigaction != libc::SIG_DFL && a.sa_sigaction != libc::SIG_IGN);
    // SAFETY: an action with SA_SIGINFO has a handler of that signature; one without takes the number alone.
    unsafe {
        match before {
            Some(action) if action.sa_flags & libc::SA_SIGINFO != 0 => {
                type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
                std::mem::transmute::<usize, Handler>(action.sa_sigaction)(signal, info, context);
            }
            Some(action) => {
                std::mem::transmute::<usize, extern "C" fn(libc::c_int)>(action.sa_sigaction)(signal)
            }
            None => {
                libc::signal(signal, libc::SIG_DFL);
            }
        }
    }
}

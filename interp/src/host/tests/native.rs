//! The oracle: executes an instruction's own bytes on the host CPU, with every register loaded from and saved to a
//! `Machine`. SIGFPE of the instruction is caught and reported.
// UNSAFETY: runs generated code and changes the context of a signal.
#![allow(unsafe_code)]

use std::mem::offset_of;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, Once};

use iced_x86::code_asm::*;
use iced_x86::{Code, Instruction, MemoryOperand, Register};

use super::super::arena::Arena;

/// Registers before and after.
#[derive(Clone)]
#[repr(C, align(64))]
pub(super) struct Machine {
    /// FXSAVE64 image; its XMM registers are not used.
    pub fx: [u8; 512],
    pub ymm: [[u8; 32]; 16],
    pub gpr: [u64; 16],
    pub flags: u64,
    host_mxcsr: u32,
}

impl Default for Machine {
    fn default() -> Self {
        Self { fx: [0; 512], ymm: [[0; 32]; 16], gpr: [0; 16], flags: 0, host_mxcsr: 0x1f80 }
    }
}

struct Host {
    arena: Arena,
}

static HOST: Mutex<Option<Host>> = Mutex::new(None);
static HANDLER: Once = Once::new();
/// Where to go on after SIGFPE; 0: nowhere, it is a real one.
static RECOVER: AtomicU64 = AtomicU64::new(0);
static FAULTED: AtomicBool = AtomicBool::new(false);

extern "C" fn on_sigfpe(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let recover = RECOVER.load(Ordering::SeqCst);
    if recover == 0 {
        std::process::abort();
    }
    FAULTED.store(true, Ordering::SeqCst);
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the kernel passes the context of this signal.
    unsafe { (*context).uc_mcontext.gregs[libc::REG_RIP as usize] = recover as i64 };
}

const GPRS: [AsmRegister64; 16] =
    [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15];
const SAVED: [AsmRegister64; 6] = [rbx, rbp, r12, r13, r14, r15];
const XMMS: [AsmRegisterXmm; 16] =
    [xmm0, xmm1, xmm2, xmm3, xmm4, xmm5, xmm6, xmm7, xmm8, xmm9, xmm10, xmm11, xmm12, xmm13, xmm14, xmm15];
const YMMS: [AsmRegisterYmm; 16] =
    [ymm0, ymm1, ymm2, ymm3, ymm4, ymm5, ymm6, ymm7, ymm8, ymm9, ymm10, ymm11, ymm12, ymm13, ymm14, ymm15];

/// Runs `bytes` on `machine`; true if the instruction raised SIGFPE. RSP is the host's own.
pub(super) fn run(machine: &mut Machine, bytes: &[u8]) -> bool {
    HANDLER.call_once(|| {
        // SAFETY: installs a handler that only touches atomics and its own context.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction =
                on_sigfpe as extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) as usize;
            action.sa_flags = libc::SA_SIGINFO;
            assert_eq!(libc::sigaction(libc::SIGFPE, &action, std::ptr::null_mut()), 0);
        }
    });
    let mut host = HOST.lock().unwrap_or_else(|p| p.into_inner());
    let mut own = Box::new(machine.clone());
    let (code, recover) = assemble(&mut own, bytes);
    let entry = loop {
        let arena = host.get_or_insert_with(|| Host { arena: Arena::new().unwrap() });
        match arena.arena.add(&code) {
            Ok(entry) => break entry,
            Err(_) => *host = None,
        }
    };
    FAULTED.store(false, Ordering::SeqCst);
    RECOVER.store(entry as u64 + recover as u64, Ordering::SeqCst);
    // SAFETY: `assemble` makes a function of this type that keeps the ABI around the instruction.
    unsafe {
        let function =
            std::mem::transmute::<*const std::ffi::c_void, unsafe extern "sysv64" fn(*mut Machine)>(entry);
        function(&raw mut *own);
    }
    RECOVER.store(0, Ordering::SeqCst);
    *machine = *own;
    FAULTED.load(Ordering::SeqCst)
}

/// The code, and the offset where it goes on after a fault.
fn assemble(machine: &mut Machine, bytes: &[u8]) -> (Vec<u8>, usize) {
    let avx = std::arch::is_x86_feature_detected!("avx");
    let mut a = CodeAssembler::new(64).unwrap();
    for register in SAVED {
        a.push(register).unwrap();
    }
    a.fxrstor64(ptr(rdi)).unwrap();
    for n in 0..16 {
        let at = rdi + (offset_of!(Machine, ymm) + 32 * n) as i32;
        if avx {
            a.vmovups(YMMS[n], ptr(at)).unwrap();
        } else {
            a.movups(XMMS[n], ptr(at)).unwrap();
        }
    }
    a.push(qword_ptr(rdi + offset_of!(Machine, flags) as i32)).unwrap();
    a.popfq().unwrap();
    for n in (0..16).filter(|n| ![4, 7].contains(n)).chain([7]) {
        a.mov(GPRS[n], qword_ptr(rdi + (offset_of!(Machine, gpr) + 8 * n) as i32)).unwrap();
    }
    let before = a.assemble(0).unwrap().len();
    a.db(bytes).unwrap();
    let base = &raw mut *machine as u64;
    let rax_at = base + offset_of!(Machine, gpr) as u64;
    let memory = MemoryOperand::with_displ(rax_at, 8);
    a.add_instruction(Instruction::with2(Code::Mov_moffs64_RAX, memory, Register::RAX).unwrap()).unwrap();
    a.mov(rax, base).unwrap();
    for n in (1..16).filter(|n| *n != 4) {
        a.mov(qword_ptr(rax + (offset_of!(Machine, gpr) + 8 * n) as i32), GPRS[n]).unwrap();
    }
    a.pushfq().unwrap();
    a.pop(qword_ptr(rax + offset_of!(Machine, flags) as i32)).unwrap();
    for n in 0..16 {
        let at = rax + (offset_of!(Machine, ymm) + 32 * n) as i32;
        if avx {
            a.vmovups(ptr(at), YMMS[n]).unwrap();
        } else {
            a.movups(ptr(at), XMMS[n]).unwrap();
        }
    }
    a.fxsave64(ptr(rax)).unwrap();
    a.fninit().unwrap();
    a.ldmxcsr(dword_ptr(rax + offset_of!(Machine, host_mxcsr) as i32)).unwrap();
    if avx {
        a.vzeroupper().unwrap();
    }
    for register in SAVED.into_iter().rev() {
        a.pop(register).unwrap();
    }
    a.ret().unwrap();
    (a.assemble(0).unwrap(), before + bytes.len())
}

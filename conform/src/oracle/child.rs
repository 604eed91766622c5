//! The child process: a signal handler that is the loop over the cases of a batch.
// UNSAFETY: signal handlers, fixed mappings and code written at run time are this file's purpose.
#![allow(unsafe_code)]

use std::arch::{asm, naked_asm};
use std::ptr::{addr_of, addr_of_mut, null_mut};

use cpu::XSAVE_LEN;
use libc::{MAP_FIXED_NOREPLACE, MAP_POPULATE, MAP_SHARED, PROT_EXEC, PROT_READ, PROT_WRITE, c_int, c_void};

use super::frame::{Frame, set_ds_es};
use super::shared::{Area, BATCH};
use crate::input::{Input, Regs};
use crate::layout::{CODE, CODE_LEN, DATA, INT3, MEMORY_LEN, PAGE, READ_ONLY, STACK, offset, selector};

/// Signals that exceptions become.
const SIGNALS: [c_int; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP];
const ALT_STACK: usize = 256 << 10;
/// RFLAGS bits that would break the handler: alignment checks.
const AC: u32 = 1 << 18;
/// NT and ID, which sigreturn takes from the handler's own flags.
const KEPT: u32 = (1 << 14) | (1 << 21);

/// What the handler knows. Only the child's one thread touches it.
struct Child {
    area: *mut Area,
    /// The test pages by another mapping that is writable throughout: code, then data.
    alias: *mut u8,
    pattern: *const u8,
    /// `main` has raised INT3 to start a batch, and this is where it stands.
    active: bool,
    main: Regs,
    main_fp: [u8; XSAVE_LEN],
}

static mut CHILD: Child = Child {
    area: null_mut(),
    alias: null_mut(),
    pattern: std::ptr::null(),
    active: false,
    main: Regs {
        gpr: [0; 16],
        rip: 0,
        rflags: 0,
        fs_base: 0,
        gs_base: 0,
        selectors: [0; 6],
        padding: [0; 2],
    },
    main_fp: [0; XSAVE_LEN],
};

/// Serves batches until the parent goes away.
pub(super) fn main(area: *mut Area, command: c_int, done: c_int) -> ! {
    // SAFETY: the process has one thread and its own copy of everything but `area`, which the parent leaves alone
    // until a byte is written to `done`.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::setrlimit(libc::RLIMIT_CORE, &none);
        close_others(command, done);
        (*area).setup = match set_up(area) {
            Ok(()) => 0,
            Err(what) => what,
        };
        let mut byte = [0u8];
        while libc::write(done, byte.as_ptr().cast(), 1) == 1
            && libc::read(command, byte.as_mut_ptr().cast(), 1) == 1
        {
            asm!("int3");
        }
        libc::_exit(0)
    }
}

/// Descriptors of other children: their parents' ends must close when those end.
unsafe fn close_others(a: c_int, b: c_int) {
    let (low, high) = (a.min(b) as u32, a.max(b) as u32);
    for (from, to) in [(3, low.wrapping_sub(1)), (low + 1, high.wrapping_sub(1)), (high + 1, u32::MAX)] {
        if from <= to {
            // SAFETY: closes descriptors that this process does not use.
            unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) };
        }
    }
}

/// The numbers of errors are indices of [`super::shared::SETUP`].
unsafe fn set_up(area: *mut Area) -> Result<(), u32> {
    let total = CODE_LEN as usize + MEMORY_LEN;
    // SAFETY: maps fresh memory, at fixed places only where nothing is; the alias has `total` bytes.
    unsafe {
        let fd = libc::memfd_create(c"conform".as_ptr(), libc::MFD_CLOEXEC);
        if fd < 0 || libc::ftruncate(fd, total as i64) != 0 {
            return Err(1);
        }
        let map = |addr: u64, len: u64, offset: u64, prot: c_int| {
            let fixed = if addr == 0 { 0 } else { MAP_FIXED_NOREPLACE };
            let flags = MAP_SHARED | MAP_POPULATE | fixed;
            let at = libc::mmap(addr as *mut c_void, len as usize, prot, flags, fd, offset as i64);
            let ok = at != libc::MAP_FAILED && (addr == 0 || at as u64 == addr);
            if ok { Ok(at.cast::<u8>()) } else { Err(1u32) }
        };
        let alias = map(0, total as u64, 0, PROT_READ | PROT_WRITE)?;
        map(CODE, CODE_LEN, 0, PROT_READ | PROT_EXEC)?;
        map(DATA, 2 * PAGE, CODE_LEN, PROT_READ | PROT_WRITE)?;
        map(READ_ONLY, PAGE, CODE_LEN + 2 * PAGE, PROT_READ)?;
        map(STACK, PAGE, CODE_LEN + 3 * PAGE, PROT_READ | PROT_WRITE)?;
        alias.write_bytes(INT3, CODE_LEN as usize);

        // The pattern is kept in shared pages too: the heap's locks may be held by threads that are not here.
        let image = libc::mmap(
            null_mut(),
            MEMORY_LEN + ALT_STACK,
            PROT_READ | PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        if image == libc::MAP_FAILED {
            return Err(1);
        }
        crate::layout::fill_pattern(&mut *image.cast::<[u8; MEMORY_LEN]>());

        let stack = libc::stack_t { ss_sp: image.byte_add(MEMORY_LEN), ss_flags: 0, ss_size: ALT_STACK };
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = entry as extern "C" fn() as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        if libc::sigaltstack(&stack, null_mut()) != 0
            || SIGNALS.iter().any(|&s| libc::sigaction(s, &action, null_mut()) != 0)
        {
            return Err(2);
        }
        let child = &mut *addr_of_mut!(CHILD);
        child.area = area;
        child.alias = alias;
        child.pattern = image.cast();
        set_ds_es(selector::DATA, selector::DATA);
        // A batch of none: does the frame have what is needed?
        (*area).count = 0;
        asm!("int3");
        if child.main_fp[512] == 0 && child.main_fp[0] == 0 { Err(3) } else { Ok(()) }
    }
}

/// Signal entry. The kernel leaves AC as the case had it, and sigreturn takes NT and ID from the handler's flags.
#[unsafe(naked)]
extern "C" fn entry() {
    naked_asm!(
        "pushfq",
        "and dword ptr [rsp], {not_ac}",
        "popfq",
        "sub rsp, 8",
        "call {handler}",
        "add rsp, 8",
        "pushfq",
        "and dword ptr [rsp], {not_kept}",
        "or dword ptr [rsp], eax",
        "popfq",
        "ret",
        not_ac = const !AC,
        not_kept = const !KEPT,
        handler = sym handler,
    )
}

/// Writes down how the running case ended and puts the next one, or `main`, into the frame. FS and GS are the case's:
/// no thread-local storage here.
unsafe extern "C" fn handler(_: c_int, _: *mut libc::siginfo_t, context: *mut libc::ucontext_t) -> u64 {
    // SAFETY: the one thread is in its signal handler, so nobody else uses CHILD, `area` or the frame; indices are
    // checked against BATCH.
    unsafe {
        let child = &mut *addr_of_mut!(CHILD);
        let area = child.area;
        let mut frame = Frame::new(&mut *context);
        if !child.active {
            child.active = true;
            child.main = frame.save();
            if let Some(fp) = frame.fp() {
                child.main_fp = *fp;
            }
        } else {
            let index = ((*area).current as usize).min(BATCH - 1);
            let out = addr_of_mut!((*area).outcomes[index]);
            [(*out).vector, (*out).code, (*out).cr2] = frame.cause();
            (*out).regs = frame.save();
            if let Some(fp) = frame.fp() {
                (*out).fp = *fp;
            }
            let data = child.alias.add(CODE_LEN as usize);
            std::ptr::copy_nonoverlapping(data, addr_of_mut!((*out).memory).cast::<u8>(), MEMORY_LEN);
            child.erase_code(&*addr_of!((*area).inputs[index]));
            (*area).current += 1;
        }
        let current = (*area).current as usize;
        if current >= ((*area).count as usize).min(BATCH) {
            child.active = false;
            if let Some(fp) = frame.fp() {
                *fp = child.main_fp;
            }
            return frame.load(&child.main);
        }
        let input = &*addr_of!((*area).inputs[current]);
        child.load_memory(input);
        if let Some(fp) = frame.fp() {
            fp[..464].copy_from_slice(&input.fp[..464]);
            // Components x87, SSE and AVX come from the image, all others are initial.
            fp[512..520].copy_from_slice(&7u64.to_le_bytes());
            fp[576..].copy_from_slice(&input.fp[576..]);
        }
        frame.load(&input.regs)
    }
}

impl Child {
    /// Offset in the alias of a byte of code.
    fn code_offset(input: &Input, index: usize) -> Option<usize> {
        let at = input.regs.rip.wrapping_add(index as u64).wrapping_sub(CODE);
        (at < CODE_LEN).then_some(at as usize)
    }

    unsafe fn erase_code(&self, input: &Input) {
        for at in (0..input.code().len()).filter_map(|i| Self::code_offset(input, i)) {
            // SAFETY: below CODE_LEN, so inside the alias.
            unsafe { self.alias.add(at).write(INT3) };
        }
    }

    unsafe fn load_memory(&self, input: &Input) {
        // SAFETY: the alias has MEMORY_LEN bytes behind the code, `pattern` as many; offsets are checked.
        unsafe {
            let data = self.alias.add(CODE_LEN as usize);
            std::ptr::copy_nonoverlapping(self.pattern, data, MEMORY_LEN);
            for patch in input.patches() {
                for (i, byte) in patch.bytes.iter().take(patch.len as usize).enumerate() {
                    if let Some(at) = offset(patch.addr.wrapping_add(i as u64)) {
                        data.add(at).write(*byte);
                    }
                }
            }
            for (i, byte) in input.code().iter().enumerate() {
                if let Some(at) = Self::code_offset(input, i) {
                    self.alias.add(at).write(*byte);
                }
            }
        }
    }
}

//! A process whose address space is a guest program's. While it runs the guest's code the kernel lets it make no system call;
//! what it is to map it is told by commands, which code in a page of its own carries out.
//!
//! It is a copy of this process that has unmapped everything and closed all but guest RAM, under its jail and a list of calls of
//! its own: mmap and munmap, from that page.
// UNSAFETY: shares a page with the process.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::fs::File;
use std::io::{Error, Result};
use std::ops::Range;
use std::os::fd::AsRawFd;

use cpu::x86::rflags;
use cpu::{XSAVE_LEN, XSAVE_SELECTORS};
use libc::{MAP_FIXED, MAP_SHARED, PROT_EXEC, PROT_READ};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::scan::PLACES;
use super::tracee::{Regs, Resume, Tracee, Vectors, current_cpu};

/// Its own pages, the last ones that a process may have but one: commands, and the code that carries them out.
pub const OWN: Range<u64> = 0x7fff_ffff_c000..CODE + PAGE;
const CODE: u64 = 0x7fff_ffff_d000;
/// The end of what a process may have.
const END: u64 = 0x7fff_ffff_f000;
const PAGE: u64 = 4096;
/// Commands that fit, beside one that ends them and the list of calls.
const MOST: usize = 56;
/// Where in the page that is.
const LIST: usize = 58;
/// The descriptor of guest RAM there.
const RAM: u64 = 0;
/// Selectors of programs.
const CS: u64 = 0x33;
const SS: u64 = 0x2b;
/// Arithmetic flags and IF as code begins with them.
const FLAGS: u64 = 0x202;
/// A flag that the kernel gives no other process the means to set.
const ID: u64 = rflags::ID;
/// `si_code`s of SIGSEGV for a page that is not mapped, or not so.
const UNMAPPED: c_int = 1;
const REFUSED: c_int = 2;
/// That of SIGTRAP for a single step.
const STEPPED: c_int = 2;
/// That of SIGTRAP for INT1, which has no other reason.
const INT1: c_int = 1;
/// That for INT3; of others that the kernel raises without a place.
const KERNEL: c_int = 0x80;
const TRACESYSGOOD: c_int = 0x80;
/// Components of the XSAVE image that guests have: x87, SSE, AVX. All others are as after reset.
const COMPONENTS: u8 = 7;

/// Where [`ROUTINE`] is done.
const DONE: u64 = CODE + ROUTINE.len() as u64 - 1;
/// The debug register that says which of the others are used.
const CONTROL: usize = 7;

/// A system call: number and arguments.
type Command = [u64; 8];

/// Behind the last one.
const LAST: u64 = 1 << 63;

/// Takes flags from where RSP points to, carries out the commands that RBX points to, and ends with INT3. RAX is [`LAST`] then, or what the kernel has answered to one
/// that it refuses.
#[rustfmt::skip]
const ROUTINE: [u8; 50] = [
    0x9d,                               //       popfq
    0x48, 0x8b, 0x03,                   // next: mov rax, [rbx]
    0x48, 0x85, 0xc0,                   //       test rax, rax
    0x78, 0x28,                         //       js done
    0x48, 0x8b, 0x7b, 0x08,             //       mov rdi, [rbx + 8]
    0x48, 0x8b, 0x73, 0x10,             //       mov rsi, [rbx + 16]
    0x48, 0x8b, 0x53, 0x18,             //       mov rdx, [rbx + 24]
    0x4c, 0x8b, 0x53, 0x20,             //       mov r10, [rbx + 32]
    0x4c, 0x8b, 0x43, 0x28,             //       mov r8, [rbx + 40]
    0x4c, 0x8b, 0x4b, 0x30,             //       mov r9, [rbx + 48]
    0x0f, 0x05,                         //       syscall
    0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff, //       cmp rax, -4096
    0x77, 0x06,                         //       ja done
    0x48, 0x83, 0xc3, 0x40,             //       add rbx, 64
    0xeb, 0xd0,                         //       jmp next
    0xcc,                               // done: int3
];

/// Allows mmap and munmap from the page [`CODE`] (seccomp(2)); anything else is a signal.
const CALLS: [libc::sock_filter; 9] = {
    const fn statement(code: u32, k: u32) -> libc::sock_filter {
        libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
    }
    const fn equal(k: u32, jt: u8, jf: u8) -> libc::sock_filter {
        libc::sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt, jf, k }
    }
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    [
        statement(LOAD, 0),
        equal(libc::SYS_mmap as u32, 1, 0),
        equal(libc::SYS_munmap as u32, 0, 5),
        statement(LOAD, 12),
        equal((CODE >> 32) as u32, 0, 3),
        statement(LOAD, 8),
        statement(AND, !(PAGE as u32 - 1)),
        equal(CODE as u32, 1, 0),
        statement(RETURN, libc::SECCOMP_RET_TRAP),
    ]
};
const ALLOW: libc::sock_filter = libc::sock_filter {
    code: (libc::BPF_RET | libc::BPF_K) as u16,
    jt: 0,
    jf: 0,
    k: libc::SECCOMP_RET_ALLOW,
};

/// Why it has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Somebody wants the vCPU to look around, or the process was sent a signal.
    Interrupted,
    /// The instruction at RIP is not for it: a system call, or one with a fault.
    Instruction,
    /// The instruction at RIP has touched an address that is not mapped, or not so.
    Fault(u64),
    /// The instruction before RIP was executed with TF set.
    Stepped,
}

/// What the program has in registers, but for vectors.
#[derive(Debug, Default)]
pub struct Registers {
    /// In the order of their numbers.
    pub general: [u64; 16],
    pub rip: u64,
    pub flags: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    /// ES, CS, SS, DS, FS, GS.
    pub selectors: [u16; 6],
}

/// See the module.
pub struct Process {
    /// Its time is the machine's. Before the process, whose time nobody knows when it is gone.
    _member: cpu::usage::Member,
    tracee: Tracee,
    pub registers: Registers,
    vectors: Vectors,
    /// They are those that it has.
    has_vectors: bool,
    commands: *mut Command,
    queue: Vec<Command>,
    /// [`ID`] as it has it.
    id: u64,
    /// The host's CPU that it is kept on.
    cpu: Option<usize>,
    /// Addresses that it stops at before the instruction there is executed, zero for none; and those that it has been told.
    stops: [u64; PLACES],
    told: [u64; PLACES],
    /// It does stop there, as far as is known.
    can_stop: Option<bool>,
}

// SAFETY: the pointer is to a mapping of its own.
unsafe impl Send for Process {}

fn command(number: libc::c_long, arguments: [u64; 6]) -> Command {
    let [a, b, c, d, e, f] = arguments;
    [number as u64, a, b, c, d, e, f, 0]
}

impl Process {
    /// A process without any memory, which can map parts of `ram`.
    ///
    /// # Errors
    /// The host lets no process be made or traced.
    pub fn new(ram: &File) -> Result<Self> {
        let own = memfd_create("direct", MemfdFlags::CLOEXEC)?;
        ftruncate(&own, 2 * PAGE)?;
        let flags = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping.
        let pages =
            unsafe { mmap(std::ptr::null_mut(), 2 * PAGE as usize, flags, MapFlags::SHARED, &own, 0) }?;
        let commands = pages.cast::<Command>();
        let list = OWN.start + (LIST * size_of::<Command>()) as u64;
        // SAFETY: inside the mapping, which nobody else has yet; the list fits behind where it begins, with room for its head.
        unsafe {
            pages.cast::<u8>().add(PAGE as usize).copy_from(ROUTINE.as_ptr(), ROUTINE.len());
            let head = commands.add(LIST).cast::<u64>();
            head.copy_from([CALLS.len() as u64 + 1, list + 16].as_ptr(), 2);
            let program = head.add(2).cast::<libc::sock_filter>();
            program.copy_from(CALLS.as_ptr(), CALLS.len());
            program.add(CALLS.len()).write(ALLOW);
        }
        let tracee = Tracee::fork()?;
        let mut process = Self {
            vectors: tracee.vectors()?,
            has_vectors: false,
            _member: cpu::usage::Member::new(tracee.pid),
            tracee,
            registers: Registers::default(),
            commands,
            queue: Vec::new(),
            id: 0,
            cpu: None,
            stops: [0; PLACES],
            told: [0; PLACES],
            can_stop: None,
        };
        let fd = own.as_raw_fd() as u64;
        let fixed = (MAP_SHARED | MAP_FIXED) as u64;
        if let Some([at, size, signature]) = process.tracee.rseq() {
            process.inject(command(libc::SYS_rseq, [at, size, 1, signature, 0, 0]))?;
        }
        process.inject(command(libc::SYS_mmap, [OWN.start, PAGE, PROT_READ as u64, fixed, fd, 0]))?;
        let executable = (PROT_READ | PROT_EXEC) as u64;
        process.inject(command(libc::SYS_mmap, [CODE, PAGE, executable, fixed, fd, PAGE]))?;
        let (tsc, refused) = (libc::PR_SET_TSC as u64, libc::PR_TSC_SIGSEGV as u64);
        process.queue.extend([
            command(libc::SYS_dup2, [ram.as_raw_fd() as u64, RAM, 0, 0, 0, 0]),
            command(libc::SYS_close_range, [RAM + 1, u64::from(u32::MAX), 0, 0, 0, 0]),
            command(libc::SYS_prctl, [tsc, refused, 0, 0, 0, 0]),
            command(libc::SYS_prctl, [libc::PR_SET_NO_NEW_PRIVS as u64, 1, 0, 0, 0, 0]),
            command(libc::SYS_seccomp, [u64::from(libc::SECCOMP_SET_MODE_FILTER), 0, list, 0, 0, 0]),
            command(libc::SYS_munmap, [0, OWN.start, 0, 0, 0, 0]),
            command(libc::SYS_munmap, [OWN.end, END - OWN.end, 0, 0, 0, 0]),
        ]);
        process.flush()?;
        Ok(process)
    }

    pub fn pid(&self) -> i32 {
        self.tracee.pid
    }

    /// Makes one system call with the instruction that has made its last one, before there is the routine.
    fn inject(&mut self, [number, a, b, c, d, e, f, _]: Command) -> Result<()> {
        let before = self.tracee.regs()?;
        let mut regs = before;
        (regs.rip, regs.orig_rax) = (before.rip - 2, u64::MAX);
        [regs.rax, regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9] = [number, a, b, c, d, e, f];
        self.tracee.set_regs(&regs)?;
        self.tracee.resume(Resume::Step)?;
        self.tracee.wait()?;
        answer(self.tracee.regs()?.rax)
    }

    /// A page of guest RAM, from `offset` there, is mapped at `at`.
    pub fn map(&mut self, at: u64, prot: c_int, offset: u64) {
        let (call, prot, fixed) = (libc::SYS_mmap as u64, prot as u64, (MAP_SHARED | MAP_FIXED) as u64);
        // Neighbours that are neighbours in RAM, too, are mapped together.
        if let Some([last, start, len, same, .., end, _]) = self.queue.last_mut()
            && (*last, *same) == (call, prot)
            && (*start + *len, *end + *len) == (at, offset)
        {
            *len += PAGE;
            return;
        }
        self.queue.push([call, at, PAGE, prot, fixed, RAM, offset, 0]);
    }

    /// Nothing is mapped there.
    pub fn unmap(&mut self, at: u64, len: u64) {
        if let Some([last, start, before, ..]) = self.queue.last_mut()
            && *last == libc::SYS_munmap as u64
            && *start + *before == at
        {
            *before += len;
            return;
        }
        self.queue.push(command(libc::SYS_munmap, [at, len, 0, 0, 0, 0]));
    }

    /// What was to be mapped or unmapped and is not yet stays as it is.
    pub fn forget(&mut self) {
        self.queue.clear();
    }

    /// Maps and unmaps what it was told to.
    ///
    /// # Errors
    /// The kernel refuses something; what comes behind that is left undone.
    pub fn flush(&mut self) -> Result<()> {
        let mut queue = std::mem::take(&mut self.queue);
        let outcome = queue.chunks(MOST).try_for_each(|commands| self.carry_out(commands));
        queue.clear();
        self.queue = queue;
        outcome.and_then(|()| self.tell_stops())
    }

    /// It stops before the instruction at an address, zero for none, from the next [`flush`](Self::flush) on.
    pub fn stop_at(&mut self, number: usize, address: u64) {
        self.stops[number] = address;
    }

    /// Where it is to stop.
    pub fn stops(&self) -> &[u64; PLACES] {
        &self.stops
    }

    /// It stops where it is told to. Tried once: there are hosts whose CPUs have no breakpoints for it, or none to be had.
    pub fn can_stop(&mut self) -> bool {
        if self.can_stop.is_none() {
            self.can_stop = Some(self.does_stop().unwrap_or(false));
        }
        self.can_stop == Some(true)
    }

    fn does_stop(&mut self) -> Result<bool> {
        let wanted = std::mem::replace(&mut self.stops, [DONE; PLACES]);
        let told = self.tell_stops();
        self.stops = wanted;
        told?;
        self.carry_out(&[])?;
        Ok(self.tracee.regs()?.rip == DONE)
    }

    fn tell_stops(&mut self) -> Result<()> {
        if self.stops == self.told {
            return Ok(());
        }
        for (number, &address) in self.stops.iter().enumerate() {
            if address != 0 && address != self.told[number] {
                self.tracee.set_debug(number, address)?;
            }
        }
        // Of this process alone, for instructions.
        let used = self.stops.iter().enumerate().filter(|(_, address)| **address != 0);
        self.tracee.set_debug(CONTROL, used.map(|(number, _)| 1 << (2 * number)).sum())?;
        self.told = self.stops;
        Ok(())
    }

    fn carry_out(&mut self, commands: &[Command]) -> Result<()> {
        let id = self.registers.flags & ID;
        // SAFETY: below the list of calls, in a page of our own that the process only reads.
        unsafe {
            self.commands.copy_from(commands.as_ptr(), commands.len());
            self.commands.add(commands.len()).write([LAST, FLAGS | id, 0, 0, 0, 0, 0, 0]);
        }
        self.id = id;
        self.stay_near();
        let mut regs = self.registers.to_kernel();
        regs.rsp = OWN.start + (size_of_val(commands) + size_of::<u64>()) as u64;
        (regs.rip, regs.rbx, regs.rax, regs.eflags) = (CODE, OWN.start, 0, FLAGS);
        (regs.cs, regs.ss) = (CS, SS);
        self.tracee.set_regs(&regs)?;
        loop {
            self.tracee.resume(Resume::Free)?;
            match self.tracee.wait()? {
                libc::SIGTRAP => break,
                signal @ (libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGSYS) => {
                    return Err(Error::other(format!("signal {signal} in its own code")));
                }
                // Somebody's: it is not meant for it.
                _ => {}
            }
        }
        // Programs can read the page: they are not to learn where in the guest's RAM they are.
        // SAFETY: as above.
        unsafe { self.commands.write_bytes(0, commands.len() + 1) };
        match self.tracee.regs()?.rax {
            LAST => Ok(()),
            refused => answer(refused),
        }
    }

    /// It and this thread wait for each other, which takes microseconds on one CPU and ten times as much on two.
    fn stay_near(&mut self) {
        let cpu = current_cpu();
        if self.cpu != Some(cpu) {
            self.cpu = Some(cpu);
            self.tracee.keep_on(cpu);
        }
    }

    /// Replaces vectors and x87 state by an XSAVE image.
    pub fn set_vectors(&mut self, image: &[u8]) -> Result<()> {
        let bytes = self.vectors.bytes();
        if bytes.len() < image.len() {
            return Err(Error::other("the host saves less than AVX"));
        }
        // The guest's kernel seldom touches them.
        if self.has_vectors && bytes[..512] == image[..512] && bytes[576..image.len()] == image[576..] {
            return Ok(());
        }
        self.has_vectors = true;
        bytes[..512].copy_from_slice(&image[..512]);
        bytes[512..576].fill(0);
        bytes[512] = COMPONENTS;
        bytes[576..image.len()].copy_from_slice(&image[576..]);
        self.tracee.set_vectors(&mut self.vectors)
    }

    /// The same, as it has become.
    pub fn vectors(&mut self) -> Result<&[u8]> {
        let before: [u8; 24] = std::array::from_fn(|i| self.vectors.bytes()[i]);
        let kept: [u8; 4] = std::array::from_fn(|i| self.vectors.bytes()[XSAVE_SELECTORS + i]);
        self.tracee.get_vectors(&mut self.vectors)?;
        let bytes = self.vectors.bytes();
        // What is left to software is the kernel's own there, and the selectors of x87's last instruction are lost.
        bytes[XSAVE_SELECTORS..512].fill(0);
        let [cs, ds] = [(8..16, CS as u16, 0), (16..24, SS as u16, 2)].map(|(pointer, own, at)| {
            if bytes[pointer.clone()] == before[pointer] {
                [kept[at], kept[at + 1]]
            } else {
                own.to_le_bytes()
            }
        });
        bytes[XSAVE_SELECTORS..][..4].copy_from_slice(&[cs, ds].concat());
        Ok(&bytes[..XSAVE_LEN])
    }

    /// Runs the program until something happens.
    ///
    /// # Errors
    /// The process has ended: nobody knows how far it came.
    pub fn run(&mut self) -> Result<Stop> {
        if self.registers.flags & ID != self.id {
            self.carry_out(&[])?;
        }
        self.stay_near();
        self.tracee.set_regs(&self.registers.to_kernel())?;
        self.tracee.resume(Resume::Confined)?;
        let signal = self.tracee.wait()?;
        let regs = self.tracee.regs()?;
        self.registers = Registers::of_kernel(&regs);
        self.id = regs.eflags & ID;
        if signal == libc::SIGTRAP | TRACESYSGOOD {
            self.registers.general[0] = regs.orig_rax;
            self.registers.rip = regs.rip.wrapping_sub(2);
            return Ok(Stop::Instruction);
        }
        let (code, addr) = self.tracee.signal()?;
        Ok(match signal {
            _ if code <= 0 => Stop::Interrupted,
            libc::SIGSEGV if matches!(code, UNMAPPED | REFUSED) => Stop::Fault(addr),
            libc::SIGTRAP if code == STEPPED => Stop::Stepped,
            libc::SIGTRAP if matches!(code, KERNEL | INT1) => {
                // It was executed, or INT3.
                self.registers.rip = regs.rip.wrapping_sub(1);
                Stop::Instruction
            }
            libc::SIGSYS => {
                // The host's vsyscall page was called: the kernel has returned from there.
                self.registers.rip = addr;
                self.registers.general[4] = regs.rsp.wrapping_sub(8);
                Stop::Instruction
            }
            _ => Stop::Instruction,
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own.
        let _ = unsafe { munmap(self.commands.cast(), 2 * PAGE as usize) };
    }
}

/// What a system call has returned.
fn answer(rax: u64) -> Result<()> {
    let error = rax.wrapping_neg();
    if (1..4096).contains(&error) { Err(Error::from_raw_os_error(error as i32)) } else { Ok(()) }
}

impl Registers {
    fn to_kernel(&self) -> Regs {
        let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] = self.general;
        let &Self { rip, fs_base, gs_base, .. } = self;
        // A fault sets RF, with which the process would not stop before the instruction.
        let eflags = self.flags & !rflags::RF;
        let [es, cs, ss, ds, fs, gs] = self.selectors.map(u64::from);
        let orig_rax = u64::MAX;
        #[rustfmt::skip]
        let regs = Regs {
            r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, orig_rax, rip, cs, eflags, rsp, ss,
            fs_base, gs_base, ds, es, fs, gs,
        };
        regs
    }

    fn of_kernel(regs: &Regs) -> Self {
        let &Regs { rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15, .. } = regs;
        Self {
            general: [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15],
            rip: regs.rip,
            flags: regs.eflags,
            fs_base: regs.fs_base,
            gs_base: regs.gs_base,
            selectors: [regs.es, regs.cs, regs.ss, regs.ds, regs.fs, regs.gs].map(|selector| selector as u16),
        }
    }
}

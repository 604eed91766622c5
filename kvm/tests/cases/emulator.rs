//! What KVMs without hardware virtualization get wrong without saying so, so that nobody can help. They run ring 0 by the
//! kernel's instruction emulator, which was made for little more than device accesses, and ring 3 on the host's CPU: some of
//! it depends on whose that is.

use std::arch::x86_64::__cpuid;

/// Each takes until the test's patience is over: not run.
pub const SPINS: &str = "the vCPU spins in the kernel";

/// Depends on whether the kernel had the vCPU's registers in the CPU meanwhile: not run.
pub const POINTERS: &str = "CPUs of AMD save x87 pointers only with an exception";

/// Reason, and the cases.
type Known = &'static [(&'static str, &'static [&'static str])];

/// Why a case goes wrong.
pub fn reason(case: &str, trusted: bool) -> Option<&'static str> {
    let intel = __cpuid(0).ebx == u32::from_le_bytes(*b"Genu");
    let lists = [ALWAYS, if trusted { TRUSTED } else { &[] }, if intel { INTEL } else { AMD }];
    lists.into_iter().flatten().find(|(_, cases)| cases.contains(&case)).map(|(why, _)| *why)
}

/// In 64-bit mode and its compatibility mode.
const ALWAYS: Known = &[
    (SPINS, &["an unknown hypercall is an error by either instruction"]),
    ("VMCALL in ring 3 is #GP", &["a hypercall of ring 3 is refused without a fault"]),
    (
        "SYSCALL enters at CPL 3",
        &[
            "syscall saves rip and rflags, masks flags and enters ring 0",
            "sysret goes back to 64-bit ring 3",
            "sysretl goes to compatibility mode",
            "sysret to a non-canonical address is #GP(0) in ring 0",
            "sysret with IF clear keeps interrupts out",
            "sysret loads no RF and no VM",
            "system calls in a loop keep flags, stack pointer and bases",
            "a page fault in a system call is one of ring 0",
            "a system call loses ring 3's way into the kernel's pages",
            "a system call with AC finds the kernel without it",
        ],
    ),
    (
        "INT and calls of gates in ring 3 are #UD",
        &[
            "an interrupt from ring 3 takes the stack of the TSS and a null SS",
            "int n through a gate of DPL 0 is #GP with the entry in ring 3",
            "a conforming handler runs at the level of its caller",
            "a stack pointer beyond the TSS limit is #TS with the TSS",
            "a 64-bit call gate pushes eight-byte words and a null SS",
            "popf in ring 3 changes neither IF nor IOPL",
            "sgdt works in ring 3 without UMIP",
            "lar, lsl, verr and verw heed the privilege",
        ],
    ),
    ("IOPL is 0 in ring 3", &["cli and sti work in ring 3 with IOPL 3", "with IOPL 3 every port is open"]),
    (
        "several instructions are emulated before events are looked at",
        &[
            "an interrupt is taken behind the instruction after sti",
            "popf opens interrupts at once",
            "an nmi ignores IF and blocks others until iret",
            "a repeated string instruction traps at every iteration",
            "mov ss holds the trap back for one instruction",
        ],
    ),
    (
        "the emulator knows no data breakpoints",
        &[
            "a write breakpoint traps behind a store that overlaps it",
            "an access breakpoint traps behind a load",
            "a push hits a breakpoint on the stack",
            "an I/O breakpoint traps behind out, with CR4.DE",
        ],
    ),
    (
        "the emulator looks less closely than a CPU",
        &[
            "a benign exception whose gate is absent is #NP with EXT set",
            "a page fault in the delivery of #GP is delivered as such",
            "iretq to a non-canonical address is #GP(0) at itself",
            "a repeated store faults in the middle, by elements of four bytes",
            "a store that faults on its second page changes nothing",
            "upper bits of CR0 are #GP(0)",
            "a memory type that does not exist is #GP(0) in PAT",
            "rdgsbase is #UD without CR4.FSGSBASE",
        ],
    ),
    (
        "the guest's TSC is the host's",
        &["rdtsc is #GP(0) in ring 3 with CR4.TSD", "writing the TSC moves TSC_ADJUST by as much"],
    ),
    (
        "CPUID has no such feature",
        &[
            "rdtscp gives TSC_AUX",
            "invpcid for one address space and for all",
            "invpcid drops all of another address space's page of 2 MiB",
            "address spaces that take turns have their own data and code",
            "code of an address space is overwritten in another one",
            "invpcid drops a page of an address space that is not loaded",
            "invpcid drops an address space that is not loaded",
            "an address space that is loaded without its translations",
            "invlpg drops a global page of every address space",
            "a page of 1 GiB",
            "invlpg drops all data of a page of 1 GiB",
            "invlpg drops all code of a global page of 1 GiB in the upper half",
        ],
    ),
];

/// On CPUs of AMD.
const AMD: Known = &[
    (
        POINTERS,
        &[
            "fnstenv names the last instruction that was no control instruction, and the last operand",
            "a page fault of an x87 store changes neither stack nor pointers",
            "the state has what x87 instructions left, with pointers",
        ],
    ),
    ("INT1 in ring 3 is #UD", &["int1 traps behind itself whatever the gate's DPL"]),
];

/// On CPUs of Intel.
const INTEL: Known = &[
    (
        "addresses in registers may have 57 bits where the CPU can do that",
        &["a non-canonical LSTAR is #GP(0)"],
    ),
    (
        "the CPU keeps no selectors with x87 pointers",
        &["fnstenv names the last instruction that was no control instruction, and the last operand"],
    ),
];

/// In the modes that are other engines' unless KVM is trusted.
const TRUSTED: Known = &[
    (
        SPINS,
        &[
            "an exception through a task gate pushes its error code in the new task",
            "a hypercall's answer has 32 bits outside 64-bit mode",
        ],
    ),
    (
        "INT and calls of gates in ring 3 are #UD",
        &[
            "an interrupt from ring 3 takes stack and segment of the 32-bit TSS",
            "a call gate goes to ring 0 with parameters",
            "a call gate of DPL 0 is #GP in ring 3",
            "a conforming segment is called at the caller's level",
            "a far return through the gate drops the parameters on both stacks",
            "a jump through a gate cannot go inward",
            "a return to ring 3 drops data segments of ring 0",
            "sysenter and sysexit between flat 32-bit segments",
        ],
    ),
    (
        "several instructions are emulated before events are looked at",
        &["mov ss holds interrupts back for one instruction"],
    ),
    (
        "the emulator looks less closely than a CPU",
        &[
            "a stack word at offset ffff is beyond the stack",
            "an entry beyond the table's limit is a double fault, then shutdown",
            "swapgs is #UD outside 64-bit mode",
        ],
    ),
    (
        "v8086 mode is not v8086 mode",
        &[
            "an exception in v8086 mode pushes the segments and nulls them",
            "an interrupt gate to a conforming segment is #GP with it in v8086 mode",
            "int n goes through the IDT in v8086 mode with IOPL 3",
            "int n is #GP(0) in v8086 mode below IOPL 3",
            "int3 does not depend on IOPL in v8086 mode",
            "iret within v8086 mode with IOPL 3",
            "segments are selectors times sixteen in v8086 mode",
            "str is #UD in v8086 mode",
            "with IOPL 3 popf changes IF but not IOPL",
        ],
    ),
];

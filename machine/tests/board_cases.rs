//! The table of guests that need a board, on every engine that runs here; one test per case and engine. Each runs
//! twice: as it is, and with the state of every CPU moved into a new one all the time.

use std::process::ExitCode;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use cases::board::{BoardCase, End, Outcome, layout};
use cpu::Engine;
use libtest_mimic::{Arguments, Failed, Trial};
use machine::{Backends, Irqchip, Machine, MachineSpec, NullBackend, Size, engine};

/// Instructions between two moves of CPU state; a prime, so that it falls on every place of a loop.
const RELOAD_EVERY: u64 = 1009;

/// Reason, and the cases.
type Known = &'static [(&'static str, &'static [&'static str])];

/// What a KVM without hardware virtualization under it gets wrong, and nobody can help: it emulates ring 0.
const NOT_EMULATED: Known = &[
    (
        "several instructions are emulated before interrupts are looked at",
        &["an interrupt never comes between STI and the instruction behind it"],
    ),
    (
        "emulation takes too long",
        &[
            "a one-shot timer counts down, ends HLT, and fires once",
            "a periodic timer ends HLT again and again, until its count is zero",
            "the 8254 in one-shot mode interrupts once",
            "long string instructions, interrupted, do all their work once",
        ],
    ),
    // The first half millisecond is the translator's.
    ("the emulator's CPUID has no RDTSCP", &["MSRs, CR2 and debug registers through a long loop"]),
    (
        "KVM does not tell of MOV to CR8 that it emulates",
        &["CR8 is the upper half of TPR", "TPR and CR8 are the same in x2apic mode"],
    ),
    ("a deadline is seen by the guest before it is looked at", &["a masked timer runs out unseen"]),
    ("the emulator knows no data breakpoints", &["a data breakpoint is hit in every round of a loop"]),
];

/// The same with local APICs in the kernel, whoever has the other controllers.
const NOT_IN_KERNEL: Known = &[
    (
        "an interrupt is in service no longer than its delivery",
        &[
            "an interrupt in service holds back its own class, not a higher one",
            "a self-interrupt waits in IRR for IF, is in ISR until EOI",
            "EOI ends the highest interrupt in service",
            "PPR is the higher of TPR and what is in service",
            "the self-interrupt register",
            "the 8254 interrupts through I/O APIC pin 2",
            "a level is delivered again after EOI while it lasts",
            "a level waits behind the mask, and is sent once until EOI",
            "without broadcast a level's EOI is told to the I/O APIC by software",
            "the power button is a level on the system control interrupt",
        ],
    ),
    (
        "KVM's local APIC knows no errors",
        &[
            "sending an illegal vector is an error, with its interrupt",
            "a register that does not exist is an error",
            "errors are latched in x2apic mode",
        ],
    ),
    (
        "KVM's local APIC looks less closely than one",
        &[
            "IA32_APIC_BASE takes every legal way through its modes, and no other",
            "a local apic that is off is gone: no registers, no CPUID bit, and its registers are fresh when it is back",
            "x2apic accesses that are #GP: wrong direction, no register, reserved bits",
        ],
    ),
    (
        "KVM's local APIC takes the 8259's interrupts by LINT0 alone",
        &["the 8254 interrupts through the 8259 and I/O APIC pin 0"],
    ),
    ("the guest's TSC is the host's", &["a deadline follows the TSC that software moves"]),
];

/// Cases of several CPUs that take no time with local APICs in the kernel.
const STARTED: &[&str] = &[
    "four CPUs come to long mode, each once and with an id of its own",
    "INIT ends a HLT with interrupts off",
    "INIT takes a CPU out of a loop in long mode, start-up begins it anew in real mode",
    "an NMI interrupts a CPU with interrupts off, and ends its HLT",
    "a token goes round by interrupts to halted CPUs",
    "every CPU has a timer of its own",
];

fn main() -> ExitCode {
    let mut trials = Vec::new();
    for engine in engine::all() {
        let capabilities = engine.capabilities();
        if let Some(why) = capabilities.unusable {
            eprintln!("{} cannot run here: {why}", engine.name());
            continue;
        }
        let emulates = engine.name() == "kvm" && engine.drawback().is_some();
        for case in cases::board::all() {
            let mut add = |kind: String, irqchip: Irqchip, reload: Option<u64>| {
                let known = if emulates { reason(&case, irqchip) } else { None };
                if let Some(why) = known {
                    let name = format!("{} (not on this KVM: {why})", case.name);
                    return trials.push(Trial::test(name, || Ok(())).with_kind(kind).with_ignored_flag(true));
                }
                let engine = engine.clone();
                let test = move || run(&case, engine.as_ref(), irqchip, reload);
                trials.push(Trial::test(case.name, test).with_kind(kind));
            };
            add(engine.name().to_owned(), Irqchip::Userspace, None);
            if engine.name() == "kvm" {
                add("kvm, split".to_owned(), Irqchip::Split, None);
                add("kvm, kernel".to_owned(), Irqchip::Kernel, None);
            }
            if capabilities.exact_limit {
                add(format!("{}, state moved", engine.name()), Irqchip::Userspace, Some(RELOAD_EVERY));
            }
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Why a KVM that emulates gets a case wrong, or takes too long for it.
fn reason(case: &BoardCase, irqchip: Irqchip) -> Option<&'static str> {
    let ours = irqchip == Irqchip::Userspace;
    let lists = [NOT_EMULATED, if ours { &[] } else { NOT_IN_KERNEL }];
    let known =
        lists.into_iter().flatten().find(|(_, cases)| cases.contains(&case.name)).map(|(why, _)| *why);
    let starts = !ours && STARTED.contains(&case.name);
    known.or((case.cpus > 1 && !starts).then_some("emulation of several CPUs takes too long"))
}

fn run(case: &BoardCase, engine: &dyn Engine, irqchip: Irqchip, reload: Option<u64>) -> Result<(), Failed> {
    let mut kernel = tempfile::NamedTempFile::new()?;
    std::io::Write::write_all(&mut kernel, &case.image()?)?;
    let spec = MachineSpec {
        kernel: kernel.path().to_owned(),
        memory: Size::bytes(layout::RAM),
        cpus: case.cpus,
        irqchip,
        ..MachineSpec::default()
    };
    let backend = Arc::new(NullBackend);
    let machine = Machine::new(
        spec,
        engine,
        Backends { console: backend.clone(), terminal: backend.clone(), debug: backend },
    )?;
    machine.reload_cpu_states_every(reload);
    machine.start()?;
    let outcome = end(case, &machine);
    let states = machine.cpu_states()?;
    let ram = &machine.pc().ram;
    Ok(case.check(&End { outcome, ram, states: &states })?)
}

/// Waits for the end, and does what the world outside does meanwhile.
fn end(case: &BoardCase, machine: &Machine) -> Result<Outcome, String> {
    let start = Instant::now();
    let mut button = case.power_button;
    while machine.outcome().is_none() && start.elapsed() < case.limit {
        if button && machine.pc().ram.load_u64(layout::READY).is_some_and(|ready| ready != 0) {
            machine.press_power_button();
            button = false;
        }
        sleep(Duration::from_millis(1));
    }
    machine.stop();
    match machine.wait() {
        machine::Outcome::DebugExit(value) => Ok(Outcome::Exit(value)),
        machine::Outcome::PowerOff => Ok(Outcome::PowerOff),
        machine::Outcome::TripleFault(report) => Ok(Outcome::TripleFault(report.vcpu)),
        machine::Outcome::Stopped => Err(format!("it runs on after {} s", case.limit.as_secs())),
        other => Err(other.to_string()),
    }
}

//! The table of guests that need a board, on every engine that runs here; one test per case and engine. Each runs
//! twice: as it is, and with the state of every CPU moved into a new one all the time.

use std::process::ExitCode;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use cases::board::{BoardCase, End, Outcome, layout};
use cpu::Engine;
use libtest_mimic::{Arguments, Failed, Trial};
use machine::{Backends, Machine, MachineSpec, NullBackend, Size, engine};

/// Instructions between two moves of CPU state; a prime, so that it falls on every place of a loop.
const RELOAD_EVERY: u64 = 1009;

/// What a KVM without hardware virtualization under it gets wrong, and nobody can help: it emulates ring 0.
const NOT_EMULATED: &[(&str, &[&str])] = &[
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
            let known =
                NOT_EMULATED.iter().find(|(_, cases)| cases.contains(&case.name)).map(|(why, _)| *why);
            let several = (case.cpus > 1).then_some("emulation of several CPUs takes too long");
            if let Some(why) = known.or(several).filter(|_| emulates) {
                let name = format!("{} (not on this KVM: {why})", case.name);
                trials.push(Trial::test(name, || Ok(())).with_kind("kvm").with_ignored_flag(true));
                continue;
            }
            let mut add = |kind: String, reload: Option<u64>| {
                let engine = engine.clone();
                let test = move || run(&case, engine.as_ref(), reload);
                trials.push(Trial::test(case.name, test).with_kind(kind));
            };
            add(engine.name().to_owned(), None);
            if capabilities.exact_limit {
                add(format!("{}, state moved", engine.name()), Some(RELOAD_EVERY));
            }
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn run(case: &BoardCase, engine: &dyn Engine, reload: Option<u64>) -> Result<(), Failed> {
    let mut kernel = tempfile::NamedTempFile::new()?;
    std::io::Write::write_all(&mut kernel, &case.image()?)?;
    let spec = MachineSpec {
        kernel: kernel.path().to_owned(),
        memory: Size::bytes(layout::RAM),
        cpus: case.cpus,
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

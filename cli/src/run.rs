//! `guesthouse run`.

mod plan;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use cpu::Observe;
use machine::{Backends, CharBackend, Machine, NullBackend, Outcome};

use crate::args::RunArguments;
use crate::console::{Console, Style};
use crate::exit;
use crate::signals::Signals;
use crate::terminal::RawMode;
use plan::Plan;

/// Why the machine was stopped from here.
#[derive(Default)]
struct Reasons {
    /// The user pressed the keys for it.
    quit: AtomicBool,
    /// Nobody reads the console.
    broken: AtomicBool,
}

/// Boots a machine and stays with it to its end; the exit status.
pub fn run(arguments: &RunArguments, signals: &Signals) -> anyhow::Result<u8> {
    // What is certainly wrong should not cost a download first.
    let choice = machine::engine::choose(arguments.engine)?;
    let observe = Observe { perf_map: arguments.perf_map, trace: arguments.dbt_trace.clone() };
    let engine = if observe.any() { choice.engine.observed(&observe)? } else { choice.engine };
    let plan = match Plan::new(arguments, signals) {
        Ok(plan) if signals.caught().is_none() => plan,
        other => return exit::after_signal(signals, other.map(|_| 0)),
    };
    tracing::info!("engine {}: {}; {:?}", engine.name(), choice.reason, plan.spec);

    let reasons = Arc::new(Reasons::default());
    let ended = Arc::clone(&reasons);
    let (broken, is_broken) = std::sync::mpsc::channel();
    let console = Console::new(plan.style, plan.spec.console, plan.raw, move || {
        ended.broken.store(true, Ordering::SeqCst);
        let _ = broken.send(());
    })
    .context("the host refuses a thread: raise its limit of tasks")?;
    let (serial, terminal) = (console.serial(), console.terminal());
    // The debug ports belong to kernels that use them in place of a serial port.
    let debug: Arc<dyn CharBackend> = match plan.style {
        Style::Plain { .. } => serial.clone(),
        Style::Command | Style::Shell => Arc::new(NullBackend),
    };
    let backends = Backends { console: serial, terminal, debug };
    let machine = Arc::new(Machine::new(plan.spec.clone(), engine.as_ref(), backends)?);

    let raw = if plan.raw { RawMode::enter().ok() } else { None };
    let stopped = Arc::clone(&machine);
    signals.on_signal(move || stopped.stop());
    signals.on_resize(console.resizer());
    let (uart, stopped, quit) = (Arc::clone(&machine.pc().uart), Arc::clone(&machine), Arc::clone(&reasons));
    let connected = console.connect(
        move |bytes| uart.push_input(bytes),
        move || {
            quit.quit.store(true, Ordering::SeqCst);
            stopped.stop();
        },
    );
    connected.context("the host refuses a thread: raise its limit of tasks")?;
    let stopped = Arc::clone(&machine);
    std::thread::spawn(move || {
        if is_broken.recv().is_ok() {
            stopped.stop();
        }
    });
    machine.start()?;
    let outcome = machine.wait();
    tracing::info!("{outcome}; {} exits", machine.exits());
    console.finish();
    drop(raw);
    let command = !arguments.command.is_empty();
    Ok(signals.caught().map(exit::signal).unwrap_or_else(|| status(&outcome, &reasons, command)))
}

/// The exit status, and what there is to say about it.
fn status(outcome: &Outcome, reasons: &Reasons, command: bool) -> u8 {
    let say = |text: &str| {
        let _ = writeln!(std::io::stderr(), "guesthouse: {text}");
    };
    match outcome {
        Outcome::PowerOff => 0,
        Outcome::Reset if command => {
            say(
                "the guest reset itself before the command had ended: its kernel may have panicked; give it more --memory, or see its messages with --append loglevel=7",
            );
            exit::HOST
        }
        Outcome::Reset => 0,
        Outcome::DebugExit(value) => *value,
        Outcome::TripleFault(report) | Outcome::EngineFault(report) => {
            say(&report.to_string());
            exit::CPU
        }
        Outcome::Failed(why) => {
            say(why);
            exit::HOST
        }
        Outcome::Stopped if reasons.broken.load(Ordering::SeqCst) => exit::signal(libc::SIGPIPE),
        Outcome::Stopped if reasons.quit.load(Ordering::SeqCst) && !command => 0,
        Outcome::Stopped => exit::signal(libc::SIGINT),
    }
}

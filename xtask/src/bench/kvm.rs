//! `cargo xtask bench kvm`: the engine on KVM beside a minimal loop on the same requests. Both run the same few instructions,
//! in real mode; what is compared is what the engine adds to an exit, and to the making of a VM, in time of the host's CPUs.

mod raw;

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use cpu::x86::CpuModel;
use cpu::{ApicState, Clock, CpuIo, CpuState, Doorbell, Engine, Irqchip, Signals, Vcpu, VcpuExit, VmConfig};
use kvm::{Helpers, Kvm};
use memory::GuestRam;
use rustix::event::{EventfdFlags, eventfd};

use super::figure::{self, Figure, Target};

/// Measure the engine on KVM beside a loop on the raw requests.
#[derive(Debug, Args)]
pub struct Arguments {
    /// How often; medians are shown.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Exits in each run.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..))]
    exits: u32,
    /// The result as JSON, with every sample.
    #[arg(long)]
    json: bool,
}

/// Bytes of RAM; what is behind is a device.
const RAM: u64 = 0x8000;
const START: u64 = 0x1000;
const STACK: u64 = 0x4000;
/// The interrupt that ends HLT; its handler is an IRET.
const VECTOR: u8 = 0x20;
const HANDLER: u64 = 0x2000;
/// Name, code: an exit and a jump back.
const LOOPS: [(&str, &[u8]); 3] = [
    ("OUT", &[0xe6, 0x10, 0xeb, 0xfc]),        // out 0x10, al
    ("MMIO", &[0xa2, 0x00, 0xc0, 0xeb, 0xfb]), // mov [0xc000], al
    ("HLT", &[0xfb, 0xf4, 0xeb, 0xfc]),        // sti; hlt
];

/// Notifications of a queue, and an exit behind each thousand: mov cx, 1000; mov [0xc000], al; loop; out 0x10, al.
const NOTIFY: &[u8] = &[0xb9, 0xe8, 0x03, 0xa2, 0x00, 0xc0, 0xe2, 0xfb, 0xe6, 0x10, 0xeb, 0xf4];
const NOTIFIED: u64 = 0xc000;
const ROUND: u32 = 1000;

/// An interrupt as a device writes it: address and data, for the first CPU.
const MESSAGE: (u64, u32) = (0xfee0_0000, 0x41);

/// Puts a loop and the handler where they belong.
fn place(ram: &GuestRam, code: &[u8]) -> Result<()> {
    ram.write(START, code)?;
    ram.write(HANDLER, &[0xcf])?;
    ram.write(u64::from(VECTOR) * 4, &(HANDLER as u32).to_le_bytes())?;
    Ok(())
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let engine = engine();
    if let Some(why) = engine.capabilities().unusable {
        bail!("kvm cannot be measured here: {why}");
    }
    // What is done once per process is not the VM's.
    exits(&engine, LOOPS[0].1, 1, None)?;
    let mut figures = Vec::new();
    for (name, code) in LOOPS {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..arguments.runs {
            theirs.push(
                1e6 * seconds(raw::Guest::new(code)?.exits(arguments.exits)?) / f64::from(arguments.exits),
            );
            ours.push(
                1e6 * seconds(exits(&engine, code, arguments.exits, None)?) / f64::from(arguments.exits),
            );
        }
        figures.push(figure(format!("an exit by {name}"), "us", ours, theirs, 1.05));
    }
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..arguments.runs {
        let start = used();
        raw::Guest::new(LOOPS[0].1)?.exits(1)?;
        theirs.push(1e3 * seconds(used() - start));
        let start = used();
        exits(&engine, LOOPS[0].1, 1, None)?;
        ours.push(1e3 * seconds(used() - start));
    }
    figures.push(figure("a VM, made, run for one instruction and ended".to_owned(), "ms", ours, theirs, 1.5));
    let event = eventfd(0, EventfdFlags::CLOEXEC)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..arguments.runs {
        let rounds = arguments.exits.div_ceil(ROUND);
        let each = |time: Duration| 1e6 * seconds(time) / f64::from(rounds * ROUND);
        theirs.push(each(exits(&engine, NOTIFY, rounds * (ROUND + 1), None)?));
        ours.push(each(exits(&engine, NOTIFY, rounds, Some(event.as_fd()))?));
    }
    let name = "a queue's notification by a doorbell, beside one by an exit";
    figures.push(figure(name.to_owned(), "us", ours, theirs, 0.95));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..arguments.runs {
        let each = |time: Duration| 1e6 * seconds(time) / f64::from(arguments.exits);
        theirs.push(each(raw::Irqfd::new()?.interrupts(arguments.exits)?));
        ours.push(each(messages(&engine, arguments.exits)?));
    }
    figures.push(figure("a device's message, beside one by an irqfd".to_owned(), "us", ours, theirs, 1.1));
    figure::conclude(&figures, arguments.json)
}

fn figure(name: String, unit: &'static str, guesthouse: Vec<f64>, native: Vec<f64>, most: f64) -> Figure {
    Figure { name, unit, guesthouse, native, target: Some(Target::TimesNative(most)), ..Figure::default() }
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

/// What this thread has used of the host's CPUs: others want them, too.
fn used() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// KVM in every mode that is not paged, whatever it is worth: the helpers have nothing to do here.
fn engine() -> Kvm {
    let helper: Arc<dyn Engine> = Arc::new(interp::Interp::new());
    Kvm::trusted(Helpers { step: helper.clone(), stretch: helper })
}

fn config(ram: Arc<GuestRam>, irqchip: Irqchip) -> VmConfig {
    let (clock, model) = (Arc::new(Clock::new()), Arc::new(CpuModel::best_for_host()));
    VmConfig { ram, clock, model, vcpus: 1, irqchip }
}

/// How long the engine takes for so many messages to a CPU that does not run.
fn messages(engine: &Kvm, count: u32) -> Result<Duration> {
    let vm = engine.create_vm(config(Arc::new(GuestRam::new(RAM)?), Irqchip::Split))?;
    let mut vcpu = vm.create_vcpu(0, Arc::new(Signals::new()))?;
    let lvt = [1 << 16; 6];
    vcpu.set_apic(&ApicState { apic_base: 0xfee0_0900, svr: 0x1ff, lvt, ..ApicState::default() })?;
    let apics = vm.apics().context("kvm has no local APICs")?;
    let start = used();
    for _ in 0..count {
        ensure!(apics.send(MESSAGE.0, MESSAGE.1), "the local APIC takes no message");
    }
    Ok(used() - start)
}

/// How long the engine takes for so many exits of `code`; a descriptor is rung by notifications.
fn exits(engine: &Kvm, code: &[u8], count: u32, event: Option<BorrowedFd<'_>>) -> Result<Duration> {
    let ram = Arc::new(GuestRam::new(RAM)?);
    place(&ram, code)?;
    let signals = Arc::new(Signals::new());
    let vm = engine.create_vm(config(ram, Irqchip::Userspace))?;
    if let Some(event) = event {
        let bell = Doorbell { addr: NOTIFIED, data: None, event };
        ensure!(vm.doorbell(&bell, true), "kvm takes no doorbell");
    }
    let mut vcpu = vm.create_vcpu(0, signals.clone())?;
    let mut state = CpuState::reset();
    (state.segments[1].selector, state.segments[1].base, state.rip) = (0, 0, START);
    state.gpr[4] = STACK;
    vcpu.set_state(&state)?;
    let device = Device { left: Cell::new(count), signals };
    let start = used();
    until_enough(vcpu.as_mut(), &device)?;
    Ok(used() - start)
}

fn until_enough(vcpu: &mut dyn Vcpu, device: &Device) -> Result<()> {
    while device.left.get() > 0 {
        match vcpu.run(device).context("the guest of the benchmark")? {
            VcpuExit::Halt => {
                device.count();
                device.signals.set(Signals::INTR);
            }
            exit => ensure!(exit == VcpuExit::Kicked, "the guest of the benchmark ended: {exit:?}"),
        }
    }
    Ok(())
}

/// Counts accesses, and has the guest left when there were enough.
struct Device {
    left: Cell<u32>,
    signals: Arc<Signals>,
}

impl Device {
    fn count(&self) {
        self.left.set(self.left.get().saturating_sub(1));
        if self.left.get() == 0 {
            self.signals.set(Signals::EXIT);
        }
    }
}

impl CpuIo for Device {
    fn port_write(&self, _: u16, _: &[u8]) {
        self.count();
    }
    fn mmio_write(&self, _: u64, _: &[u8]) {
        self.count();
    }
    fn take_interrupt(&self) -> Option<u8> {
        self.signals.clear(Signals::INTR).then_some(VECTOR)
    }
}

//! The PC: which parts it has, where they are and how they are wired. `boot::acpi` tells the guest the same.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use boot::acpi;
use cpu::{Clock, Signals};
use device::acpi::{AcpiPower, ResetControl, S5_SLEEP_TYPE};
use device::input::I8042;
use device::interrupt::{I8259, InterruptFabric, Ioapic, LocalApic};
use device::legacy::{DebugConsole, DebugExit, Port92, PostCodes};
use device::pci::{ConfigPorts, Ecam, HostBridge, PciBus, PciMemory, PciWindows};
use device::serial::Uart16550;
use device::time::{I8254, Rtc};
use device::{
    BusError, CharBackend, Device, MmioBus, Pollable, PortBus, PortWindow, Registers, SharedLine, Timers,
};
use memory::GuestRam;
use virtio::{PortBackend, Transport, VirtioDevice, VirtioMmio, VirtioPci};

use crate::snapshot::SavedPart;
use crate::{BoardKind, Hypercalls, MachineError, VmGenId};

/// First port of the power-management block.
const PM_BASE: u16 = 0x600;
/// ISA interrupts.
mod irq {
    pub const PIT: u32 = 0;
    pub const KEYBOARD: u32 = 1;
    pub const RTC: u32 = 8;
    pub const SCI: u32 = 9;
    /// The guest has become another one.
    pub const GENERATION: u32 = 10;
    /// Interrupt pins of PCI slots, or devices where there is no PCI: number `n` on line `n % VIRTIO_LINES`. They
    /// reach the I/O APIC alone.
    pub const VIRTIO: u32 = 16;
    pub const VIRTIO_LINES: u32 = 8;
}
/// Where the local APICs are after a reset.
const LAPIC: u32 = 0xfee0_0000;
/// PCI configuration space, and the windows for what guests place: below 4 GiB and above all RAM.
const ECAM: u64 = 0xe000_0000;
const PCI_LOW: std::ops::Range<u64> = memory::LOW_RAM_END..ECAM;
const PCI_HIGH: std::ops::Range<u64> = 1 << 44..1 << 45;
/// Registers of virtio devices where there is no PCI.
const VIRTIO: u64 = 0xd000_0000;
/// COM1: first port and ISA interrupt.
const COM1: (u16, u32) = Uart16550::COM[0];
const SERIAL: [(u16, u8); 1] = [(COM1.0, COM1.1 as u8)];

/// Where characters from the guest go.
#[derive(Clone)]
pub struct Backends {
    /// COM1.
    pub console: Arc<dyn CharBackend>,
    /// Port 0 of the virtio console, in machines that have the user's terminal there.
    pub terminal: Arc<dyn PortBackend>,
    /// The debug console, ports 0xe9 and 0x402.
    pub debug: Arc<dyn CharBackend>,
}

/// Where a driver notifies a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notification {
    /// Which of the virtio devices.
    pub transport: u32,
    /// Guest-physical address.
    pub addr: u64,
    /// Only writes of this value.
    pub data: Option<u32>,
}

/// The board and everything on it but the CPUs.
pub struct Pc {
    /// Guest RAM.
    pub ram: Arc<GuestRam>,
    /// Guest time.
    pub clock: Arc<Clock>,
    /// Port space.
    pub ports: PortBus,
    /// Memory-mapped registers, the local APICs' excepted.
    pub mmio: MmioBus,
    /// Deadlines of the parts.
    pub timers: Timers,
    /// Interrupt controllers.
    pub fabric: Arc<InterruptFabric>,
    /// COM1.
    pub uart: Arc<Uart16550>,
    /// Keyboard controller.
    pub keyboard: Arc<I8042>,
    /// Power button and timer.
    pub power: Arc<AcpiPower>,
    /// The guest's identity.
    pub generation: Arc<VmGenId>,
    /// Calls of the guest's kernel.
    pub hypercalls: Arc<Hypercalls>,
    kind: BoardKind,
    /// Virtio devices that are not in PCI slots.
    virtio: u32,
    rtc: Arc<Rtc>,
    parts: Vec<Arc<dyn Device>>,
    /// Parts with a state, interrupt controllers aside.
    saved: Vec<Arc<dyn SavedPart>>,
    transports: Vec<Arc<dyn Transport>>,
    pci: Option<Arc<PciBus>>,
}

impl Pc {
    /// Builds the board. `signals` are the vCPUs'; the first is the boot processor. `devices` are put into PCI
    /// slots from 1 on, or one after the other where there is no PCI.
    pub fn new(
        kind: BoardKind,
        ram: Arc<GuestRam>,
        clock: Arc<Clock>,
        signals: &[Arc<Signals>],
        backends: Backends,
        devices: Vec<Arc<dyn VirtioDevice>>,
    ) -> Result<Self, MachineError> {
        let fabric = InterruptFabric::new(&clock, signals.iter().cloned());
        let timers = Timers::new(clock.clone());
        let notifier = || timers.notifier();
        let pit = Arc::new(I8254::new(clock.clone(), fabric.line(irq::PIT), notifier()));
        let rtc = Arc::new(Rtc::new(clock.clone(), fabric.line(irq::RTC), notifier()));
        let power = Arc::new(AcpiPower::new(clock.clone(), fabric.line(irq::SCI), notifier()));
        let uart = Arc::new(Uart16550::new(fabric.line(COM1.1), backends.console.clone()));
        let keyboard = Arc::new(I8042::new(fabric.line(irq::KEYBOARD)));
        for part in [pit.clone() as Arc<dyn Pollable>, rtc.clone(), power.clone()] {
            timers.add(part);
        }

        let generation = Arc::new(VmGenId::new(ram.clone(), acpi::GENERATION, fabric.line(irq::GENERATION)));
        let hypercalls =
            Arc::new(Hypercalls::new(ram.clone(), backends.console, fabric.clone(), signals.len()));

        let mut parts = Parts::default();
        parts.parts.push(generation.clone());
        parts.parts.push(hypercalls.clone());
        parts.keep(hypercalls.clone());
        parts.add(I8042::PORTS, keyboard.clone())?;
        parts.add(&[window(COM1.0, Uart16550::LEN)], uart.clone())?;
        parts.add(&[window(PM_BASE, AcpiPower::LEN)], power.clone())?;
        parts.add(Rtc::PORTS, rtc.clone())?;
        parts.add(DebugExit::PORTS, Arc::new(DebugExit))?;
        parts.add(DebugConsole::PORTS, Arc::new(DebugConsole::new(backends.debug)))?;
        parts.mmio.map(Ioapic::BASE, Ioapic::LEN, fabric.ioapic().clone(), 0)?;
        let lines: Vec<_> =
            (0..irq::VIRTIO_LINES).map(|line| SharedLine::new(fabric.line(irq::VIRTIO + line))).collect();
        let reset_control = Arc::new(ResetControl::new());
        let mut virtio = 0;
        match kind {
            BoardKind::Pc => {
                parts.ports.map_windows(I8259::PORTS, fabric.pic().clone())?;
                parts.add(I8254::PORTS, pit)?;
                parts.add(Port92::PORTS, Arc::new(Port92::new()))?;
                parts.add(PostCodes::PORTS, Arc::new(PostCodes::new()))?;
                let bus = parts.pci_bus(&ram, &fabric, &lines, devices)?;
                parts.add_pci(reset_control, bus)?;
            }
            BoardKind::Microvm => {
                parts.add(ResetControl::PORTS, reset_control)?;
                for device in devices {
                    let line = lines[(virtio % irq::VIRTIO_LINES) as usize].input(virtio);
                    let part = Arc::new(VirtioMmio::new(device, ram.clone(), line));
                    parts.keep(part.clone());
                    parts.transports.push(part.clone());
                    parts.add_mmio(VIRTIO + u64::from(virtio) * VirtioMmio::LEN, VirtioMmio::LEN, part)?;
                    virtio += 1;
                }
            }
        }
        let Parts { ports, mmio, parts, saved, transports, pci } = parts;
        Ok(Self {
            ram,
            clock,
            ports,
            mmio,
            timers,
            fabric,
            uart,
            keyboard,
            power,
            generation,
            hypercalls,
            kind,
            virtio,
            rtc,
            parts,
            saved,
            transports,
            pci,
        })
    }

    /// Where the guest notifies devices that can be woken by a descriptor.
    pub fn notifications(&self) -> Vec<Notification> {
        let mut all = Vec::new();
        for (transport, index) in self.transports.iter().zip(0..).filter(|(t, _)| t.event().is_some()) {
            for (at, data) in transport.notifications() {
                let addr = match &self.pci {
                    // Slot 0 is the host bridge's.
                    Some(bus) => Some(at)
                        .filter(|&at| bus.slot_at(at).is_some_and(|slot| u32::from(slot) == index + 1)),
                    None => Some(VIRTIO + u64::from(index) * VirtioMmio::LEN + at),
                };
                all.extend(addr.map(|addr| Notification { transport: index, addr, data }));
            }
        }
        all
    }

    /// What wakes such a device.
    pub fn event(&self, transport: u32) -> Option<BorrowedFd<'_>> {
        self.transports.get(transport as usize)?.event()
    }

    /// `watcher` is called whenever notifications may have moved. Once.
    pub fn watch_registers(&self, watcher: Box<dyn Fn() + Send + Sync>) {
        if let Some(bus) = &self.pci {
            bus.watch(watcher);
        }
    }

    /// Has the virtio devices stand still, whatever the guest thinks, or go on.
    pub fn hold(&self, held: bool) {
        self.transports.iter().for_each(|transport| transport.hold(held));
    }

    /// All devices can say what they are doing.
    pub fn can_be_kept(&self) -> bool {
        self.transports.iter().all(|transport| transport.can_be_kept())
    }

    /// Everything with a state, and which of its kind it is, in the order in which states are to be replaced: what lines did
    /// meanwhile is forgotten by the interrupt controllers.
    pub fn saved(&self) -> Vec<(Arc<dyn SavedPart>, u16)> {
        let mut saved = self.saved.clone();
        saved.push(self.fabric.pic().clone());
        saved.push(self.fabric.ioapic().clone());
        saved.extend((0..).map_while(|index| Some(Arc::new(self.lapic(index)?) as Arc<dyn SavedPart>)));
        let before = |parts: &[Arc<dyn SavedPart>], kind: &str| {
            parts.iter().filter(|part| part.section_kind() == kind).count() as u16
        };
        let number = |index: usize| before(&saved[..index], saved[index].section_kind());
        (0..saved.len()).map(|index| (saved[index].clone(), number(index))).collect()
    }

    /// All states were replaced.
    pub fn restored(&self) {
        self.pci.iter().for_each(|bus| bus.remap());
        self.timers.kick();
    }

    /// Every part back to power-on, then what firmware would have done: the boot processor's APIC passes on
    /// the 8259's interrupts, CMOS knows the memory size.
    pub fn reset(&self) {
        for part in &self.parts {
            part.reset();
        }
        self.fabric.reset();
        if let Some(lapic) = self.lapic(0) {
            lapic.set_virtual_wire();
        }
        let mut sizes = self.ram.ranges().map(|range| range.len);
        self.rtc.set_memory_size(sizes.next().unwrap_or(0), sizes.next().unwrap_or(0));
        self.timers.kick();
    }

    /// The local APIC of a vCPU.
    pub fn lapic(&self, index: u32) -> Option<LocalApic> {
        self.fabric.lapic(index)
    }

    /// The board for the ACPI tables.
    pub fn acpi(&self, cpus: u32) -> acpi::Board {
        let (first_gsi, lines) = (irq::VIRTIO as u8, irq::VIRTIO_LINES as u8);
        let pci = acpi::PciRoot {
            ecam: ECAM as u32,
            ecam_len: Ecam::LEN as u32,
            low: (PCI_LOW.start as u32, (PCI_LOW.end - 1) as u32),
            high: (PCI_HIGH.start, PCI_HIGH.end - 1),
            first_gsi,
            lines,
        };
        let (base, len) = (VIRTIO as u32, VirtioMmio::LEN as u32);
        let virtio = acpi::VirtioMmio { base, len, count: self.virtio, first_gsi, lines };
        let legacy = self.kind == BoardKind::Pc;
        acpi::Board {
            cpus,
            lapic: LAPIC,
            ioapic: Ioapic::BASE as u32,
            pm_base: PM_BASE,
            pm_timer_32bit: true,
            power_button: true,
            sci: irq::SCI as u8,
            s5_type: S5_SLEEP_TYPE,
            reset: (ResetControl::PORTS[0].port, ResetControl::RESET),
            serial: &SERIAL,
            i8042: true,
            pci: legacy.then_some(pci),
            virtio: Some(virtio).filter(|v| v.count > 0),
            generation: Some(acpi::Generation { address: acpi::GENERATION, gsi: irq::GENERATION as u8 }),
            legacy,
        }
    }
}

fn window(port: u16, len: u16) -> PortWindow {
    PortWindow { port, len, offset: 0 }
}

/// Parts and where they are, each of which is reset with the board.
#[derive(Default)]
struct Parts {
    ports: PortBus,
    mmio: MmioBus,
    parts: Vec<Arc<dyn Device>>,
    saved: Vec<Arc<dyn SavedPart>>,
    transports: Vec<Arc<dyn Transport>>,
    pci: Option<Arc<PciBus>>,
}

impl Parts {
    fn add<T: Registers + SavedPart + 'static>(
        &mut self,
        windows: &[PortWindow],
        part: Arc<T>,
    ) -> Result<(), BusError> {
        self.keep(part.clone());
        self.parts.push(part.clone());
        self.ports.map_windows(windows, part)
    }

    /// The part has a state.
    fn keep(&mut self, part: Arc<dyn SavedPart>) {
        self.saved.push(part);
    }

    fn add_mmio<T: Registers + 'static>(&mut self, at: u64, len: u64, part: Arc<T>) -> Result<(), BusError> {
        self.parts.push(part.clone());
        self.mmio.map(at, len, part, 0)
    }

    /// The root bus with its host bridge and the devices.
    fn pci_bus(
        &mut self,
        ram: &Arc<GuestRam>,
        fabric: &Arc<InterruptFabric>,
        lines: &[Arc<SharedLine>],
        devices: Vec<Arc<dyn VirtioDevice>>,
    ) -> Result<PciBus, MachineError> {
        let bridge = Arc::new(HostBridge::new());
        self.keep(bridge.clone());
        let mut bus = PciBus::new(PciWindows { low: PCI_LOW, high: PCI_HIGH }, bridge);
        for device in devices {
            let slot = u32::from(bus.next_slot());
            let line = slot % irq::VIRTIO_LINES;
            let pin = lines[line as usize].input(slot);
            let number = (irq::VIRTIO + line) as u8;
            let function = Arc::new(VirtioPci::new(device, ram.clone(), pin, number, fabric.clone()));
            self.keep(function.clone());
            self.transports.push(function.clone());
            bus.add(function)?;
        }
        Ok(bus)
    }

    /// The ways into the bus: ports, configuration space, windows.
    fn add_pci(&mut self, reset_control: Arc<ResetControl>, bus: PciBus) -> Result<(), BusError> {
        let bus = Arc::new(bus);
        self.pci = Some(bus.clone());
        self.keep(reset_control.clone());
        self.add(ConfigPorts::PORTS, Arc::new(ConfigPorts::new(bus.clone(), reset_control)))?;
        self.add_mmio(ECAM, Ecam::LEN, Arc::new(Ecam::new(bus.clone())))?;
        let windows = Arc::new(PciMemory::new(bus));
        self.parts.push(windows.clone());
        for window in [PCI_LOW, PCI_HIGH] {
            self.mmio.map(window.start, window.end - window.start, windows.clone(), window.start)?;
        }
        Ok(())
    }
}

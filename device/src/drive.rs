//! Drives parts with bytes, for fuzz targets and property tests: whatever the bytes say, no part may panic,
//! hang or grow.

use std::sync::Arc;

use cpu::{Clock, Signals};

use crate::acpi::{AcpiPower, ResetControl};
use crate::input::I8042;
use crate::interrupt::{I8259, InterruptFabric, Ioapic, LocalApic};
use crate::legacy::{DebugConsole, DebugExit, Port92, PostCodes};
use crate::serial::Uart16550;
use crate::time::{I8254, Rtc};
use crate::{
    Action, BusError, MmioBus, NullBackend, Pollable, PortBus, PortWindow, Registers, RestoreError,
    SaveRestore, Timers,
};

/// Bytes as a series of accesses.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    fn size(selector: u8) -> usize {
        1 << (selector & 3)
    }
}

/// Performs the accesses that `script` spells on one part: each is a selector (bit 7 write, bits 0-1 log2 of
/// the size), an offset below `span` and, for writes, eight bytes of data.
pub fn drive(part: &dyn Registers, span: u16, script: &[u8]) {
    let mut script = Script(script);
    while let Some([selector, low, high]) = script.bytes() {
        let offset = u64::from(u16::from_le_bytes([low, high]) % span.max(1));
        let size = Script::size(selector);
        if selector & 0x80 == 0 {
            part.read(offset, &mut [0; 8][..size]);
        } else if let Some(data) = script.bytes::<8>() {
            let _ = part.write(offset, &data[..size]);
        }
    }
}

/// All parts of a PC, wired, for bytes to play on.
pub struct Board {
    /// Machine clock.
    pub clock: Arc<Clock>,
    /// What the two vCPUs would see.
    pub signals: Vec<Arc<Signals>>,
    /// Interrupt controllers.
    pub fabric: Arc<InterruptFabric>,
    /// Local APICs.
    pub lapics: Vec<LocalApic>,
    /// Port space.
    pub ports: PortBus,
    /// Memory-mapped registers.
    pub mmio: MmioBus,
    /// Deadlines.
    pub timers: Timers,
    /// COM1.
    pub uart: Arc<Uart16550>,
    /// Keyboard controller.
    pub keyboard: Arc<I8042>,
    /// ACPI fixed hardware, at port [`Board::POWER_BASE`].
    pub power: Arc<AcpiPower>,
    /// Interval timer.
    pub pit: Arc<I8254>,
    /// Real-time clock.
    pub rtc: Arc<Rtc>,
}

impl Board {
    /// Base port of the ACPI fixed hardware.
    pub const POWER_BASE: u16 = 0x600;

    /// A board with two processors.
    pub fn new() -> Result<Self, BusError> {
        let clock = Arc::new(Clock::new());
        let signals: Vec<_> = (0..2).map(|_| Arc::new(Signals::new())).collect();
        let fabric = InterruptFabric::new(&clock, signals.iter().cloned());
        let timers = Timers::new(clock.clone());
        let (mut ports, mut mmio) = (PortBus::new(), MmioBus::new());
        let backend = Arc::new(NullBackend);

        let uart = Arc::new(Uart16550::new(fabric.line(4), backend.clone()));
        let keyboard = Arc::new(I8042::new(fabric.line(1)));
        let power = Arc::new(AcpiPower::new(clock.clone(), fabric.line(9), timers.notifier()));
        let pit = Arc::new(I8254::new(clock.clone(), fabric.line(0), timers.notifier()));
        let rtc = Arc::new(Rtc::new(clock.clone(), fabric.line(8), timers.notifier()));
        for part in [pit.clone() as Arc<dyn Pollable>, rtc.clone(), power.clone()] {
            timers.add(part);
        }
        let parts: [(&[PortWindow], Arc<dyn Registers>); 9] = [
            (I8259::PORTS, fabric.pic().clone()),
            (I8254::PORTS, pit.clone()),
            (Rtc::PORTS, rtc.clone()),
            (I8042::PORTS, keyboard.clone()),
            (ResetControl::PORTS, Arc::new(ResetControl::new())),
            (Port92::PORTS, Arc::new(Port92::new())),
            (PostCodes::PORTS, Arc::new(PostCodes::new())),
            (DebugExit::PORTS, Arc::new(DebugExit)),
            (DebugConsole::PORTS, Arc::new(DebugConsole::new(backend))),
        ];
        for (windows, part) in parts {
            ports.map_windows(windows, part)?;
        }
        ports.map(Uart16550::COM[0].0, Uart16550::LEN, uart.clone(), 0)?;
        ports.map(Self::POWER_BASE, AcpiPower::LEN, power.clone(), 0)?;
        mmio.map(Ioapic::BASE, Ioapic::LEN, fabric.ioapic().clone(), 0)?;
        let lapics = (0..2).filter_map(|i| fabric.lapic(i)).collect();
        Ok(Self { clock, signals, fabric, lapics, ports, mmio, timers, uart, keyboard, power, pit, rtc })
    }

    /// Plays `script` on the whole board: accesses as a vCPU makes them, and the world outside.
    pub fn play(&self, script: &[u8]) {
        let mut script = Script(script);
        while let Some([selector, low, high]) = script.bytes() {
            let lapic = &self.lapics[usize::from(selector >> 4 & 1)];
            let (word, size) = (u16::from_le_bytes([low, high]), Script::size(selector));
            let mut data = [0; 8];
            match selector >> 5 {
                0 => self.ports.read(word, &mut data[..size.min(4)]),
                1 => {
                    let Some(data) = script.bytes::<4>() else { return };
                    let _: Action = self.ports.write(word, &data[..size.min(4)]);
                }
                2 if selector & 4 == 0 => {
                    self.mmio.read(Ioapic::BASE + u64::from(word & 0xff), &mut data[..size])
                }
                2 => lapic.mmio_read(u64::from(word & 0xfff), &mut data[..size]),
                3 => {
                    let Some(data) = script.bytes::<8>() else { return };
                    if selector & 4 == 0 {
                        let _: Action = self.mmio.write(Ioapic::BASE + u64::from(word & 0x7f), &data[..size]);
                    } else {
                        lapic.mmio_write(u64::from(word & 0xff0), &data[..size]);
                    }
                }
                4 => {
                    lapic.msr_read(Self::msr(word));
                }
                5 => {
                    let Some(data) = script.bytes::<8>() else { return };
                    lapic.msr_write(Self::msr(word), u64::from_le_bytes(data));
                }
                6 => self.outside(selector & 0xf, low, high),
                _ => {
                    lapic.poll();
                    self.timers.poll();
                    lapic.take_interrupt();
                    lapic.set_task_priority(low);
                    if lapic.take_init() {
                        lapic.take_sipi();
                    }
                }
            }
        }
    }

    fn msr(word: u16) -> u32 {
        match word >> 8 & 7 {
            0 => 0x1b,
            1 => 0x6e0,
            _ => 0x800 + u32::from(word & 0xff),
        }
    }

    fn outside(&self, what: u8, a: u8, b: u8) {
        match what {
            0..=3 => self.fabric.line(a.into()).set(b & 1 != 0),
            4 | 5 => {
                self.uart.push_input(&[a, b]);
            }
            6 => {
                self.uart.push_break();
            }
            7 | 8 => {
                self.keyboard.push_scancodes(&[a, b]);
            }
            9 => self.power.press_power_button(),
            10 => self.fabric.nmi(),
            11 | 12 => {
                self.fabric.deliver_msi(0xfee0_0000 | u64::from(a) << 12 | u64::from(b & 0xc), u32::from(b));
            }
            _ => {
                let _: Result<(), RestoreError> = self.round_trip();
            }
        }
    }

    /// Saves and restores every part, controllers last.
    pub fn round_trip(&self) -> Result<(), RestoreError> {
        fn part<T: SaveRestore>(part: &T) -> Result<(), RestoreError> {
            part.restore(&part.save())
        }
        part(self.pit.as_ref())?;
        part(self.rtc.as_ref())?;
        part(self.power.as_ref())?;
        part(self.uart.as_ref())?;
        part(self.keyboard.as_ref())?;
        part(self.fabric.pic().as_ref())?;
        part(self.fabric.ioapic().as_ref())?;
        self.lapics.iter().try_for_each(part)
    }
}

#[cfg(test)]
mod tests;

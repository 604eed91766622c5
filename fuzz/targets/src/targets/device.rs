//! The parts of a PC: any accesses to their registers, in any order and width, while time jumps about; and saved
//! states that no part has written.

use ::device::drive::Board;
use ::device::interrupt::LocalApic;
use ::device::legacy::{DebugConsole, DebugExit, Port92, PostCodes};
use ::device::{Action, Device, NullBackend, Registers, RestoreError, SaveRestore};
use cpu::Signals;

use super::one_line;
use crate::Target;
use crate::input::Input;

/// All parts, wired.
pub const BOARD: Target = Target {
    name: "board",
    about: "all parts of a PC, wired: ports, memory, MSRs, and the world outside",
    seeds: board_seeds,
    words: &[],
    run: |data| {
        let board = board();
        for part in data.chunks(97) {
            board.play(part);
            warp(&board, part[0]);
        }
        check(&board);
    },
};

macro_rules! part {
    ($id:ident, $name:literal, $about:literal, $span:expr, $part:expr) => {
        #[doc = concat!($about, ".")]
        pub const $id: Target = Target {
            name: $name,
            about: $about,
            seeds: || registers_seeds($span),
            words: &[],
            run: |data| {
                let board = board();
                let part: fn(&Board) -> &dyn Registers = $part;
                registers(&board, part(&board), $span, data);
                check(&board);
            },
        };
    };
}

part!(UART16550, "uart16550", "registers of the serial port", 8, |b| b.uart.as_ref());
part!(I8042, "i8042", "registers of the keyboard controller", 2, |b| b.keyboard.as_ref());
part!(ACPI_POWER, "acpi-power", "registers of the power-management block", 16, |b| b.power.as_ref());
part!(I8254, "i8254", "registers of the interval timer", 5, |b| b.pit.as_ref());
part!(MC146818, "mc146818", "registers of the real-time clock", 2, |b| b.rtc.as_ref());
part!(I8259, "i8259", "registers of the interrupt controller pair", 6, |b| b.fabric.pic().as_ref());
part!(IOAPIC, "ioapic", "registers of the I/O APIC", 0x44, |b| b.fabric.ioapic().as_ref());

/// The local APIC.
pub const LAPIC: Target = Target {
    name: "lapic",
    about: "registers and MSRs of the local APIC",
    seeds: || registers_seeds(0x400),
    words: &[],
    run: |data| {
        let board = board();
        lapic(&board, data);
        check(&board);
    },
};

/// The small parts.
pub const LEGACY: Target = Target {
    name: "legacy-ports",
    about: "registers of the small parts: port 0x92, reset control, POST codes, debug ports",
    seeds: || registers_seeds(4),
    words: &[],
    run: |data| {
        let board = board();
        let console = DebugConsole::new(std::sync::Arc::new(NullBackend));
        let (gate, reset, post) = (Port92::new(), ::device::acpi::ResetControl::new(), PostCodes::new());
        let parts: [&dyn Registers; 5] = [&gate, &reset, &post, &DebugExit, &console];
        for part in parts {
            registers(&board, part, 4, data);
        }
    },
};

/// Saved states.
pub const SAVED: Target = Target {
    name: "device-state",
    about: "saved states of the parts, as JSON, and then some accesses",
    seeds: saved_seeds,
    words: &[
        "0",
        "1",
        "-1",
        "255",
        "256",
        "65535",
        "65536",
        "4294967295",
        "4294967296",
        "18446744073709551615",
        "1e400",
        "true",
        "false",
        "null",
        "[]",
        "{}",
        "\"\"",
        "[0,0]",
        ",",
        ":",
    ],
    run: saved,
};

fn board() -> Board {
    match Board::new() {
        Ok(board) => board,
        Err(error) => panic!("{error}"),
    }
}

/// Time jumps, backward too (a snapshot may do that), and what is due happens.
fn warp(board: &Board, by: u8) {
    let now = board.clock.tsc();
    let step = 1u64 << (by & 0x3f);
    board.clock.set_tsc(if by & 0x40 == 0 { now.wrapping_add(step) } else { now.wrapping_sub(step) });
    board.timers.poll();
    board.lapics.iter().for_each(LocalApic::poll);
}

/// Accesses to one part, as bytes say.
fn registers(board: &Board, part: &dyn Registers, span: u16, data: &[u8]) {
    let mut input = Input::new(data);
    while !input.is_empty() {
        let what = input.u8();
        let mut bytes = [0; 8];
        let size = 1usize << (what & 3);
        match what >> 4 {
            0..=3 => part.read(u64::from(input.u16() % span), &mut bytes[..size]),
            4..=11 => {
                let offset = u64::from(input.u16() % span);
                bytes[..size].copy_from_slice(&input.array::<8>()[..size]);
                let _: Action = part.write(offset, &bytes[..size]);
            }
            12 | 13 => warp(board, input.u8()),
            14 => outside(board, input.u8()),
            _ if what & 8 != 0 => part.reset(),
            _ => check(board),
        }
    }
}

fn lapic(board: &Board, data: &[u8]) {
    let mut input = Input::new(data);
    while !input.is_empty() {
        let what = input.u8();
        let lapic = &board.lapics[usize::from(what >> 3 & 1)];
        let mut bytes = [0; 8];
        let size = 1usize << (what & 3);
        match what >> 4 {
            0 | 1 => lapic.mmio_read(u64::from(input.u16() & 0xfff), &mut bytes[..size]),
            2..=4 => {
                let offset = u64::from(input.u16() & 0xff0);
                bytes[..4].copy_from_slice(&input.array::<4>());
                lapic.mmio_write(offset, &bytes[..size]);
            }
            5 => drop(lapic.msr_read(msr(input.u8()))),
            6..=8 => {
                let msr = msr(input.u8());
                lapic.msr_write(msr, input.u64());
            }
            9 => lapic.set_task_priority(input.u8()),
            10 => lapic.set_tsc_adjust(input.u64()),
            11 => drop(lapic.take_interrupt()),
            12 | 13 => warp(board, input.u8()),
            14 => {
                let (address, message) = (input.u32(), input.u32());
                board.fabric.deliver_msi(0xfee0_0000 | u64::from(address & 0xf_ffff), message);
            }
            _ if what & 4 != 0 => {
                if lapic.take_init() {
                    lapic.take_sipi();
                }
            }
            _ if what & 8 != 0 => lapic.reset(),
            _ => check(board),
        }
    }
}

fn msr(byte: u8) -> u32 {
    match byte {
        0xfe => 0x1b,
        0xff => 0x6e0,
        _ => 0x800 + u32::from(byte),
    }
}

/// What comes from outside: lines, input, buttons.
fn outside(board: &Board, what: u8) {
    let value = what >> 4;
    match what & 0xf {
        line @ 0..=3 => board.fabric.line(line.into()).set(value & 1 != 0),
        line @ 4..=5 => board.fabric.line(u32::from(line) + 10).set(value & 1 != 0),
        6 | 7 => drop(board.uart.push_input(&[what; 5])),
        8 => drop(board.uart.push_break()),
        9 | 10 => drop(board.keyboard.push_scancodes(&[what, 0xe0, value])),
        11 => board.power.press_power_button(),
        12 => board.fabric.nmi(),
        _ => board.lapics.iter().for_each(|lapic| {
            lapic.take_interrupt();
        }),
    }
}

/// What must hold whatever happened: an interrupt is announced exactly while there is one, and every part can be
/// saved and restored.
fn check(board: &Board) {
    for (signals, lapic) in board.signals.iter().zip(&board.lapics) {
        let announced = signals.load() & Signals::INTR != 0;
        assert_eq!(lapic.take_interrupt().is_some(), announced, "INTR of CPU {}", lapic.id());
    }
    if let Err(error) = board.round_trip() {
        panic!("a part refuses its own state: {error}");
    }
    same(board.uart.as_ref());
    same(board.keyboard.as_ref());
    same(board.fabric.pic().as_ref());
    same(board.fabric.ioapic().as_ref());
    board.lapics.iter().for_each(same);
}

/// A part that is restored is as it was (parts with a clock in them move on meanwhile).
fn same<T: SaveRestore>(part: &T) {
    let json = |part: &T| serde_json::to_value(part.save()).ok();
    let before = json(part);
    let restored = before.clone().and_then(|v| serde_json::from_value(v).ok()).map(|s| part.restore(&s));
    assert_eq!(restored, Some(Ok(())), "{}", T::KIND);
    assert_eq!(json(part), before, "{}", T::KIND);
}

/// JSON, then a zero byte, then a script for the board.
fn saved(data: &[u8]) {
    let at = data.iter().position(|&b| b == 0).unwrap_or(data.len());
    let (json, script) = (&data[..at], data.get(at + 1..).unwrap_or_default());
    let Ok(states) = serde_json::from_slice::<serde_json::Map<_, _>>(json) else { return };
    let board = board();
    for (kind, value) in &states {
        restore(&board, kind, value);
    }
    board.play(script);
    warp(&board, 34);
    check(&board);
}

/// Calls `$do` with every part of the board.
macro_rules! every_part {
    ($board:ident, $do:ident $(, $argument:expr)*) => {
        $do($board.pit.as_ref() $(, $argument)*);
        $do($board.rtc.as_ref() $(, $argument)*);
        $do($board.power.as_ref() $(, $argument)*);
        $do($board.uart.as_ref() $(, $argument)*);
        $do($board.keyboard.as_ref() $(, $argument)*);
        $do($board.fabric.pic().as_ref() $(, $argument)*);
        $do($board.fabric.ioapic().as_ref() $(, $argument)*);
        $do(&$board.lapics[0] $(, $argument)*);
    };
}

fn restore(board: &Board, kind: &str, value: &serde_json::Value) {
    fn part<T: SaveRestore>(part: &T, kind: &str, value: &serde_json::Value) {
        if kind != T::KIND {
            return;
        }
        let Ok(state) = serde_json::from_value::<T::State>(value.clone()) else { return };
        let refused: Result<(), RestoreError> = part.restore(&state);
        if let Err(error) = refused {
            one_line(&error);
        }
    }
    every_part!(board, part, kind, value);
}

fn saved_seeds() -> Vec<Vec<u8>> {
    fn add<T: SaveRestore>(part: &T, states: &mut serde_json::Map<String, serde_json::Value>) {
        states.insert(T::KIND.to_owned(), serde_json::to_value(part.save()).unwrap_or_default());
    }
    let mut seeds = Vec::new();
    let scripts = [vec![], board_seeds().concat()];
    for script in scripts {
        let board = board();
        board.play(&script);
        let mut states = serde_json::Map::new();
        every_part!(board, add, &mut states);
        let mut whole = serde_json::to_vec(&states).unwrap_or_default();
        whole.push(0);
        whole.extend(&script[..script.len().min(64)]);
        seeds.push(whole);
        for (kind, state) in states {
            seeds.push(format!("{{\"{kind}\":{state}}}").into_bytes());
        }
    }
    seeds
}

/// How systems program a board: mode words, vectors, redirections, then the clock.
fn board_seeds() -> Vec<Vec<u8>> {
    let port = |port: u16, value: u8| {
        let [low, high] = port.to_le_bytes();
        [0x20, low, high, value, 0, 0, 0]
    };
    let pic =
        [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0xa0, 0x11), (0xa1, 0x28), (0xa1, 2), (0xa1, 1)];
    let pit = [(0x43, 0x34), (0x40, 0xa9), (0x40, 4), (0x43, 0xc2), (0x61, 1)];
    let rtc = [(0x70, 0x0b), (0x71, 0x42), (0x70, 0x0a), (0x71, 0x26), (0x70, 0x0c)];
    let uart = [(0x3fb, 0x83), (0x3f8, 1), (0x3f9, 0), (0x3fb, 3), (0x3fa, 7), (0x3f9, 0xf), (0x3f8, b'x')];
    let keyboard = [(0x64, 0x60), (0x60, 0x47), (0x60, 0xff), (0x64, 0xd4), (0x60, 0xf4), (0x64, 0x20)];
    let power = [(0x602, 0x21), (0x604, 1)];
    let mut seeds: Vec<Vec<u8>> = [&pic[..], &pit, &rtc, &uart, &keyboard, &power]
        .iter()
        .map(|list| list.iter().flat_map(|&(p, v)| port(p, v)).chain([0xe0, 3, 0, 0xc9, 0, 0]).collect())
        .collect();
    let mut apic = Vec::new();
    // LAPIC: software enable, timer periodic with vector 0x40, initial count; then MSRs, MSI and polls.
    for (register, value) in [(0xf0u16, 0x1ffu32), (0x320, 0x2_0040), (0x3e0, 0xb), (0x380, 1000)] {
        apic.extend([0x66, register as u8, (register >> 8) as u8]);
        apic.extend(u64::from(value).to_le_bytes());
    }
    for (select, value) in [(0x10u32, 0x31u32), (0x11, 0), (0x14, 0x1_0032)] {
        for (offset, word) in [(0u8, select), (0x10, value)] {
            apic.extend([0x62, offset, 0]);
            apic.extend(u64::from(word).to_le_bytes());
        }
    }
    apic.extend([0xa0, 0, 0]);
    apic.extend(0xfee0_0c00u64.to_le_bytes());
    apic.extend([0xcb, 0, 0x41, 0xc0, 4, 1, 0xe0, 0, 0]);
    seeds.push(apic);
    seeds
}

/// Writes and reads of every register, with time going on.
fn registers_seeds(span: u16) -> Vec<Vec<u8>> {
    let span = span.min(64);
    [0x40u8, 0x42]
        .iter()
        .flat_map(|&write| {
            [0u8, 0x34, 0xff].map(|value| {
                let mut seed = Vec::new();
                for offset in 0..span {
                    seed.push(write);
                    seed.extend(offset.to_le_bytes());
                    seed.extend([value, 1, 0, 0, 0, 0, 0, 0]);
                    seed.extend([0xc0, 30, 0xe0, (offset as u8) << 4 | offset as u8 & 0xf]);
                    seed.push(0);
                    seed.extend(offset.to_le_bytes());
                }
                seed.push(0xf0);
                seed
            })
        })
        .collect()
}

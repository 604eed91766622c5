//! The host code of a table of guest instructions, as a snapshot that is read when it changes. Addresses are replaced by
//! what is there.

use std::fmt::Write;
use std::sync::Arc;

use cpu::x86::{CpuModel, cr0, cr4, efer};
use cpu::{Clock, CpuIo, CpuState, Irqchip, Segment, Signals, VcpuExit, VmConfig};
use iced_x86::{Decoder, DecoderOptions, FlowControl, Formatter, GasFormatter};
use interp::core::{Core, End, Session};
use memory::GuestRam;

use super::Translator;
use crate::engine::Options;
use crate::peers::Peers;
use crate::runtime::context::Mapped;
use crate::trace::listing::{Listing, Names};

/// Where the instructions are.
const CODE: u64 = 0x10_0000;
/// What is behind the instruction: ADC EAX, EAX, which reads a flag, or CMP EAX, EAX, before which all are dead; HLT.
const LIVE: &[u8] = &[0x11, 0xc0, 0xf4];
const DEAD: &[u8] = &[0x39, 0xc0, 0xf4];

/// Guest instructions.
const TABLE: &[&[u8]] = &[
    // Registers that are where they belong, and others.
    &[0x48, 0x01, 0xd8],
    &[0x4d, 0x01, 0xda],
    &[0x49, 0x01, 0xc3],
    &[0x4c, 0x01, 0xd4],
    &[0x48, 0x89, 0xe5],
    &[0x48, 0x83, 0xec, 0x28],
    &[0x41, 0xb9, 1, 0, 0, 0],
    &[0x49, 0xba, 8, 7, 6, 5, 4, 3, 2, 1],
    &[0x88, 0xe0],
    &[0x44, 0x88, 0xd1],
    &[0x66, 0x41, 0xff, 0xc3],
    &[0x4d, 0x0f, 0xaf, 0xca],
    &[0x48, 0x0f, 0x44, 0xc4],
    &[0x41, 0x0f, 0x92, 0xc1],
    &[0x49, 0xd3, 0xe3],
    &[0x49, 0xf7, 0xe2],
    &[0xc4, 0x42, 0xb0, 0xf2, 0xd3],
    // LEA.
    &[0x48, 0x8d, 0x04, 0x8b],
    &[0x4e, 0x8d, 0x4c, 0x94, 0x10],
    &[0x44, 0x8d, 0x5f, 0xff],
    &[0x48, 0x8d, 0x05, 0x10, 0, 0, 0],
    // Loads and stores, flags dead and live.
    &[0x48, 0x8b, 0x03],
    &[0x48, 0x8b, 0x04, 0x24],
    &[0x4e, 0x8b, 0x54, 0xcb, 0x08],
    &[0x48, 0x8b, 0x05, 0x20, 0, 0, 0],
    &[0x65, 0x48, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0],
    &[0x64, 0x8b, 0x00],
    &[0x67, 0x8b, 0x03],
    &[0x8a, 0x23],
    &[0x0f, 0xb6, 0x07],
    &[0x88, 0x07],
    &[0x88, 0x27],
    &[0x66, 0x89, 0x47, 0x02],
    &[0x4c, 0x89, 0x4d, 0xf8],
    &[0xc7, 0x45, 0xfc, 1, 0, 0, 0],
    &[0x48, 0x83, 0x03, 0x01],
    &[0xf0, 0x0f, 0xc1, 0x03],
    &[0xf0, 0x4d, 0x0f, 0xb1, 0x13],
    &[0x87, 0x03],
    &[0x48, 0x3b, 0x47, 0x08],
    &[0x0f, 0xba, 0x2b, 0x03],
    &[0x48, 0x0f, 0xa3, 0x03],
    &[0xf0, 0x44, 0x0f, 0xab, 0x0b],
    &[0x66, 0x0f, 0xb3, 0x23],
    &[0xf0, 0x48, 0x0f, 0xc7, 0x0b],
    // A hint, and one at the stack.
    &[0x0f, 0x18, 0x4b, 0x40],
    &[0x0f, 0x0d, 0x4c, 0x24, 0x08],
    // Vectors.
    &[0x0f, 0x28, 0xc1],
    &[0x66, 0x0f, 0x6f, 0x03],
    &[0x66, 0x0f, 0xef, 0x03],
    &[0xf3, 0x0f, 0x7f, 0x07],
    &[0xc5, 0xfd, 0x6f, 0x03],
    &[0xc5, 0xfe, 0x7f, 0x07],
    &[0xf2, 0x4c, 0x0f, 0x2a, 0xca],
    &[0x66, 0x49, 0x0f, 0x7e, 0xc1],
    // The x87 unit and MMX.
    &[0xdd, 0x03],
    &[0xd8, 0xc1],
    &[0xdb, 0x3f],
    &[0xd9, 0x2f],
    &[0xdf, 0xe0],
    &[0xd9, 0x37],
    &[0x0f, 0x6f, 0x03],
    &[0x0f, 0xfd, 0xc1],
    // The stack.
    &[0x55],
    &[0x41, 0x52],
    &[0x6a, 0xff],
    &[0x5d],
    &[0x41, 0x5b],
    &[0x5c],
    &[0xc9],
    &[0x9c],
    &[0xff, 0x73, 0x08],
    &[0xff, 0x74, 0x24, 0x08],
    &[0x8f, 0x03],
    // Divisions, system instructions.
    &[0x48, 0xf7, 0xf3],
    &[0xf7, 0x3b],
    &[0xfa],
    &[0xfb],
    &[0x8c, 0xd0],
    &[0xf3, 0x90],
    &[0x0f, 0xa2],
    &[0xfc],
    // Strings.
    &[0xf3, 0xa4],
    &[0xf3, 0x48, 0xab],
    &[0x65, 0xf3, 0xa4],
    &[0xf3, 0xa6],
    &[0x66, 0xa5],
    &[0xaa],
    &[0x48, 0xad],
    &[0xae],
    &[0xa7],
    // Branches.
    &[0x74, 0x10],
    &[0x74, 0xfe],
    &[0xeb, 0x10],
    &[0xeb, 0xfe],
    &[0xe9, 0, 0x10, 0, 0],
    &[0xe8, 0x10, 0, 0, 0],
    &[0xff, 0xe0],
    &[0xff, 0x24, 0xc7],
    &[0x41, 0xff, 0xd1],
    &[0xc3],
    &[0xc2, 0x08, 0],
];

/// Those of 32-bit code whose host code is another.
const TABLE32: &[&[u8]] = &[
    // Encodings that 64-bit code has not.
    &[0x40],
    &[0x66, 0x4c],
    &[0xa1, 0x10, 0, 0, 0xc0],
    &[0xa2, 0x10, 0, 0, 0],
    &[0x82, 0xc3, 0x01],
    &[0xc5, 0xfc, 0x77],
    // Addresses.
    &[0x8b, 0x03],
    &[0x8b, 0x44, 0x8b, 0xfc],
    &[0x8b, 0x44, 0x8c, 0x08],
    &[0x89, 0x0d, 0x10, 0, 0, 0],
    &[0x65, 0xa1, 0x14, 0, 0, 0],
    &[0x64, 0x8b, 0x00],
    &[0x2e, 0x8b, 0x00],
    &[0x67, 0x8b, 0x07],
    &[0x8d, 0x44, 0x24, 0x08],
    &[0x0f, 0xa3, 0x03],
    // The stack.
    &[0x55],
    &[0x6a, 0xff],
    &[0x5d],
    &[0x5c],
    &[0xc9],
    &[0x9c],
    &[0x60],
    &[0xff, 0x73, 0x08],
    &[0x8f, 0x03],
    &[0x89, 0xe5],
    &[0x89, 0xec],
    &[0x83, 0xec, 0x1c],
    &[0x83, 0xe4, 0xf0],
    &[0x01, 0xc4],
    // Strings and branches.
    &[0xf3, 0xa5],
    &[0xac],
    &[0x74, 0xfe],
    &[0xe8, 0x10, 0, 0, 0],
    &[0xff, 0xe0],
    &[0xff, 0x14, 0x85, 0, 0, 0, 0xc0],
    &[0xc3],
    &[0x66, 0xe9, 0x10, 0],
    &[0xcd, 0x80],
];

#[test]
fn host_code_of_guest_instructions() {
    insta::assert_snapshot!("host_code", host_code(64, TABLE));
}

#[test]
fn host_code_of_guest_instructions_of_32_bit_code() {
    insta::assert_snapshot!("host_code_of_32_bit_code", host_code(32, TABLE32));
}

fn host_code(bits: u32, table: &[&[u8]]) -> String {
    let mut bench = Bench::new(bits);
    let mut text = String::new();
    for insn in table {
        let guest = Decoder::with_ip(bits, insn, 0, DecoderOptions::NONE).decode();
        let mut name = String::new();
        GasFormatter::new().format(&guest, &mut name);
        // Where flags make no difference to the code, once is enough.
        let [live, dead] = [LIVE, DEAD].map(|behind| bench.code(insn, behind));
        if live == dead {
            let _ = writeln!(text, "{name}\n{live}");
        } else {
            let _ = writeln!(text, "{name}  (flags live)\n{live}\n{name}  (flags dead)\n{dead}");
        }
    }
    text
}

/// A translator and what it needs, in 64-bit mode or compatibility mode at CPL 0.
struct Bench {
    bits: u32,
    core: Core,
    ram: Arc<GuestRam>,
    peers: Arc<Peers>,
    signals: Arc<Signals>,
}

impl Bench {
    fn new(bits: u32) -> Self {
        let ram = Arc::new(GuestRam::new(2 << 20).unwrap());
        for (at, entry) in [(0x1000, 0x2007u64), (0x2000, 0x3007), (0x3000, 0xe7)] {
            ram.write(at, &entry.to_le_bytes()).unwrap();
        }
        let model = Arc::new(CpuModel::named(Some("x86-64-v3")).unwrap());
        let config = VmConfig {
            ram: ram.clone(),
            clock: Arc::new(Clock::new()),
            model,
            vcpus: 1,
            irqchip: Irqchip::Userspace,
        };
        let signals = Arc::new(Signals::new());
        let mut core = Core::new(&config, 0, signals.clone());
        core.set_state(&state(bits)).unwrap();
        Self { bits, core, ram, peers: Arc::default(), signals }
    }

    /// The host code of `insn` with `behind` behind it, without what belongs to `behind`.
    fn code(&mut self, insn: &[u8], behind: &[u8]) -> String {
        let own = self.peers.join(self.signals.clone());
        let mut context = Mapped::new().unwrap();
        let options = Options { threshold: 0, ..Options::default() };
        let mut translator =
            Translator::new(options, &mut context.tables, self.peers.clone(), own, None).unwrap();
        let mut text = String::new();
        let (bits, ram) = (self.bits, self.ram.clone());
        let outcome = self.core.session(&NoDevices, |mut session| {
            let mut length = |code: &[u8]| {
                translator.clear();
                ram.write(CODE, &[code, &[0x90; 16]].concat()).unwrap();
                let bases = translator.arena.next();
                let entry = translate(&mut translator, &mut session);
                (entry, bases, translator.asm.finish(bases)[0].len())
            };
            let tail = if ends(bits, insn) { 0 } else { length(behind).2 };
            let (entry, bases, len) = length(&[insn, behind].concat());
            text = listing(&mut translator, entry, bases, len - tail.min(len));
            End::Exit(VcpuExit::Kicked)
        });
        assert!(matches!(outcome, Ok(VcpuExit::Kicked)));
        text
    }
}

/// Nothing behind the instruction belongs to its block.
fn ends(bits: u32, insn: &[u8]) -> bool {
    let insn = Decoder::with_ip(bits, insn, 0, DecoderOptions::NONE).decode();
    match insn.flow_control() {
        FlowControl::UnconditionalBranch | FlowControl::IndirectBranch | FlowControl::Return => true,
        FlowControl::ConditionalBranch => insn.near_branch_target() == 0,
        _ => false,
    }
}

fn translate(translator: &mut Translator, session: &mut Session) -> super::Entry {
    translator.sync(session);
    let mode = session.mode().unwrap();
    let mode = translator.mode(mode);
    translator.find(session, CODE, mode).unwrap()
}

/// Both sections, the hot one for `len` bytes.
fn listing(translator: &mut Translator, entry: super::Entry, bases: [u64; 2], len: usize) -> String {
    let names = Arc::new(Names::new(&translator.stubs, translator.bell() as u64));
    let [hot, cold] = translator.asm.finish(bases);
    let starts = [entry.entry, bases[1]];
    let mut listing = Listing::new(&names, starts.map(|start| start..start + 0x1000));
    let mut text = String::new();
    for (code, start, indent) in [(&hot[..len], starts[0], "    "), (cold, starts[1], "  cold  ")] {
        listing.lines(code, start, |at, line| {
            let _ = writeln!(text, "{indent}{:3x}  {line}", at - start);
        });
    }
    text
}

fn state(bits: u32) -> CpuState {
    let mut state = CpuState::reset();
    state.cr0 = cr0::PE | cr0::PG | cr0::MP | cr0::NE | cr0::ET | cr0::WP;
    state.cr3 = 0x1000;
    state.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXSAVE | cr4::OSXMMEXCPT;
    state.efer = efer::LME | efer::LMA;
    state.xcr0 = 7;
    state.rip = CODE;
    for (i, segment) in state.segments.iter_mut().enumerate() {
        let attr = match (i, bits) {
            (1, 64) => 0xa09b,
            (1, _) => 0xc09b,
            _ => 0xc093,
        };
        *segment = Segment { selector: if i == 1 { 8 } else { 16 }, base: 0, limit: u32::MAX, attr };
    }
    state
}

struct NoDevices;

impl CpuIo for NoDevices {}

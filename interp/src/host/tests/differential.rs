//! Every form, random operands: the interpreter's handlers against the instruction executed natively.

use cpu::x86::{CpuModel, rflags, vector};
use iced_x86::{Code, Instruction};

use super::generate::{Random, forms, instance};
use super::guest::{DATA, Guest};
use super::native::{self, Machine};
use crate::flags::Flags;
use crate::op::Stop;

const MEMORY: usize = 128;

#[repr(align(64))]
struct Buffer([u8; MEMORY]);

/// A random state with all x87 exceptions quiet; MXCSR and FCW masks as asked.
pub(super) fn random_machine(random: &mut Random, mxcsr_masks: u32, fcw_masks: u16) -> Machine {
    let mut machine = Machine::default();
    for register in &mut machine.ymm {
        register[..16].copy_from_slice(&random.lanes());
        register[16..].copy_from_slice(&random.lanes());
    }
    for register in &mut machine.gpr {
        *register = match random.below(4) {
            0 => random.below(40),
            1 => random.next() >> random.below(64),
            _ => random.next(),
        };
    }
    machine.flags = (random.next() & rflags::STATUS) | rflags::FIXED;
    let control = (random.next() as u16 & 0x0f00) | 0x40 | fcw_masks;
    let status = (random.next() as u16 & 0x7f3f) & !(!control & 0x3f);
    machine.fx[0..2].copy_from_slice(&control.to_le_bytes());
    machine.fx[2..4].copy_from_slice(&status.to_le_bytes());
    machine.fx[4] = if random.below(3) == 0 { random.next() as u8 } else { 0xff };
    for st in machine.fx[32..160].chunks_exact_mut(16) {
        st[..10].copy_from_slice(&random.extended());
    }
    let mxcsr =
        (random.next() as u32 & 0xe040) | mxcsr_masks | (random.next() as u32 & 0x3f & (mxcsr_masks >> 7));
    machine.fx[24..28].copy_from_slice(&mxcsr.to_le_bytes());
    machine
}

pub(super) fn load(guest: &mut Guest, machine: &Machine, memory: &[u8]) {
    let cpu = &mut guest.cpu;
    cpu.regs[..16].copy_from_slice(&machine.gpr);
    cpu.regs[3] = DATA;
    cpu.flags = Flags::from_bits(machine.flags);
    let host = &mut *cpu.host;
    let mut legacy = [0; 512];
    legacy.copy_from_slice(&machine.fx);
    host.read_x87(&legacy, true);
    host.mxcsr = super::super::xsave::mxcsr_of(&legacy);
    for (register, bytes) in host.ymm.iter_mut().zip(&machine.ymm) {
        register.lo = u128::from_le_bytes(*bytes.first_chunk().unwrap());
        register.hi = u128::from_le_bytes(*bytes.last_chunk().unwrap());
    }
    guest.ram.write(DATA, memory).unwrap();
}

/// The parts of the x87 image that are compared: FCW, FSW, tags, registers.
fn x87_of(image: &[u8]) -> Vec<u8> {
    let mut parts = image[..5].to_vec();
    parts.extend(image[32..160].chunks_exact(16).flat_map(|st| st[..10].to_vec()));
    parts
}

/// Runs a random instance on both; a description of what differs.
fn compare(guest: &mut Guest, random: &mut Random, code: Code, machine: &Machine) -> Result<(), String> {
    let use_memory = random.below(2) == 0;
    let (bytes, insn) = instance(code, random, use_memory);
    let mut memory = [0; MEMORY];
    for part in memory.chunks_exact_mut(16) {
        part.copy_from_slice(&random.lanes());
    }
    if insn.code().cpuid_features().iter().any(|f| matches!(f, iced_x86::CpuidFeature::FPU))
        && random.below(2) == 0
    {
        memory[..10].copy_from_slice(&random.extended());
    }
    compare_one(guest, machine, &bytes, memory, &[])
}

/// Runs one instruction on both, with RBX pointing to `memory`; bytes of it in `ignored` are not compared.
pub(super) fn compare_one(
    guest: &mut Guest,
    machine: &Machine,
    bytes: &[u8],
    memory: [u8; MEMORY],
    ignored_memory: &[std::ops::Range<usize>],
) -> Result<(), String> {
    let insn = iced_x86::Decoder::new(64, bytes, iced_x86::DecoderOptions::NONE).decode();
    let code = insn.code();
    let mut buffer = Buffer(memory);
    load(guest, machine, &buffer.0);
    let mut native = machine.clone();
    native.gpr[3] = buffer.0.as_mut_ptr() as u64;
    let address = native.gpr[3];
    let faulted = native::run(&mut native, bytes);
    let stop = guest.run(bytes);
    let what = |part: &str| format!("{part}: {} {bytes:02x?}", describe(&insn));
    if faulted {
        if stop != Stop::Fault || guest.cpu.exception.vector != vector::XM {
            return Err(what("host raised SIGFPE, guest did not raise #XM"));
        }
    } else if stop != Stop::End {
        return Err(what(&format!("{stop:?} {:?}", guest.cpu.exception)));
    }
    let mut memory = [0; MEMORY];
    guest.ram.read(DATA, &mut memory).unwrap();
    for range in ignored_memory {
        memory[range.clone()].fill(0);
        buffer.0[range.clone()].fill(0);
    }
    if memory != buffer.0 {
        return Err(what(&format!("memory {memory:02x?} instead of {:02x?}", buffer.0)));
    }
    let mut image = [0; 512];
    guest.cpu.host.write_legacy(&mut image, true);
    // Which flags come with an unmasked overflow or underflow depends on a rounding that a masked execution does not
    // do; dot products round twice.
    let ignored = match faulted {
        true if format!("{code:?}").to_lowercase().contains("dpp") => 0x3f,
        true if native.fx[24] & 0x18 & !(native.fx[24] >> 7 | native.fx[25] << 1) != 0 => 0x20,
        _ => 0,
    };
    image[24] |= ignored;
    native.fx[24] |= ignored;
    if native.fx[24..28] != image[24..28] {
        return Err(what(&format!("mxcsr {:02x?} instead of {:02x?}", &image[24..28], &native.fx[24..28])));
    }
    if x87_of(&native.fx) != x87_of(&image) {
        return Err(what(&format!("x87\n{:02x?} instead of\n{:02x?}", x87_of(&image), x87_of(&native.fx))));
    }
    for n in 0..16 {
        let mine = guest.cpu.host.ymm[n];
        let (lo, hi) = (mine.lo.to_le_bytes(), mine.hi.to_le_bytes());
        if native.ymm[n][..16] != lo || native.ymm[n][16..] != hi {
            return Err(what(&format!("ymm{n} {lo:02x?} {hi:02x?} instead of {:02x?}", native.ymm[n])));
        }
        let expected = if n == 3 && native.gpr[3] == address { DATA } else { native.gpr[n] };
        if n != 4 && guest.cpu.regs[n] != expected {
            return Err(what(&format!("gpr {n} {:x} instead of {expected:x}", guest.cpu.regs[n])));
        }
    }
    let defined = rflags::STATUS & !undefined(&insn);
    let flags = guest.cpu.flags.bits();
    if (flags ^ native.flags) & defined != 0 {
        return Err(what(&format!("flags {flags:x} instead of {:x}", native.flags & rflags::STATUS)));
    }
    Ok(())
}

fn undefined(insn: &Instruction) -> u64 {
    use iced_x86::RflagsBits as B;
    let bits = insn.rflags_undefined();
    [
        (B::CF, rflags::CF),
        (B::PF, rflags::PF),
        (B::AF, rflags::AF),
        (B::ZF, rflags::ZF),
        (B::SF, rflags::SF),
        (B::OF, rflags::OF),
    ]
    .into_iter()
    .filter(|(theirs, _)| bits & theirs != 0)
    .fold(0, |all, (_, ours)| all | ours)
}

fn describe(insn: &Instruction) -> String {
    format!("{insn} ({:?})", insn.code())
}

/// Instances of each form per test.
fn rounds() -> u64 {
    std::env::var("HOST_TEST_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(12)
}

fn sweep(
    seed: u64,
    rounds: u64,
    mxcsr_masks: impl Fn(&mut Random) -> u32,
    fcw_masks: impl Fn(&mut Random) -> u16,
) {
    let mut random = Random::new(seed);
    let mut guest = Guest::new();
    let model = CpuModel::named(Some("host")).unwrap();
    let forms: Vec<_> = forms().into_iter().filter(|&code| model.allows(code)).collect();
    assert!(forms.len() > 500, "{} forms", forms.len());
    let mut failures = std::collections::BTreeMap::<String, (u64, String)>::new();
    for code in forms {
        for _ in 0..rounds {
            let (mxcsr, fcw) = (mxcsr_masks(&mut random), fcw_masks(&mut random));
            let machine = random_machine(&mut random, mxcsr, fcw);
            if let Err(text) = compare(&mut guest, &mut random, code, &machine) {
                failures.entry(format!("{code:?}")).or_insert((0, text)).0 += 1;
            }
        }
    }
    let report: Vec<_> = failures.values().map(|(count, text)| format!("{count}x {text}")).collect();
    assert!(report.is_empty(), "{} forms differ:\n{}", report.len(), report.join("\n"));
}

#[test]
fn masked_exceptions() {
    sweep(1, rounds(), |_| 0x1f80, |_| 0x3f);
}

#[test]
fn unmasked_exceptions() {
    sweep(2, rounds(), |r| r.next() as u32 & 0x1f80, |r| r.next() as u16 & 0x3f);
}

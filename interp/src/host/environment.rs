//! FLDENV, FNSTENV, FRSTOR and FNSAVE: the x87 environment in its four formats (Intel SDM volume 1, figures 8-9
//! to 8-12).

use iced_x86::{Code, Mnemonic};

use super::state::{FxImage, Pointers};
use super::x87::control_word;
use crate::cpu::Cpu;
use crate::decode::Lowering;
use crate::mmu::{Access, Stored};
use crate::op::{Done, Op, Stop};

/// Size of eight registers of ten bytes.
const REGISTERS: usize = 80;

/// Lowers these instructions. `aux` is the operand size: 2 or 4.
pub(super) fn lower(l: &mut Lowering) -> bool {
    let short = matches!(
        l.insn.code(),
        Code::Fldenv_m14byte | Code::Fnstenv_m14byte | Code::Frstor_m94byte | Code::Fnsave_m94byte
    );
    l.op.aux = if short { 2 } else { 4 };
    l.run(match l.insn.mnemonic() {
        Mnemonic::Fldenv => load_environment,
        Mnemonic::Fnstenv => store_environment,
        Mnemonic::Frstor => restore,
        _ => save,
    })
}

fn load_environment(cpu: &mut Cpu, op: &Op) -> Done {
    load(cpu, op, 0)
}

fn restore(cpu: &mut Cpu, op: &Op) -> Done {
    load(cpu, op, REGISTERS)
}

fn store_environment(cpu: &mut Cpu, op: &Op) -> Done {
    let stored = store(cpu, op, 0)?;
    let image = cpu.host.x87_mut();
    image.fcw |= 0x3f;
    image.summarise();
    stored.done()
}

fn save(cpu: &mut Cpu, op: &Op) -> Done {
    let stored = store(cpu, op, REGISTERS)?;
    cpu.host.init_x87();
    stored.done()
}

fn load(cpu: &mut Cpu, op: &Op, registers: usize) -> Done {
    cpu.waiting_x87()?;
    let word = usize::from(op.aux);
    let len = 7 * word + registers;
    let lin = cpu.source_address(op, len)?;
    cpu.probe_end(lin, op.seg, 1, Access::Read)?;
    cpu.probe_end(lin, op.seg, len, Access::Read)?;
    let mut bytes = [0; 7 * 4 + REGISTERS];
    cpu.read_operand(lin, op.seg, &mut bytes[..len])?;
    let real = cpu.real_segments();
    let field = |n: usize| {
        let at = &bytes[n * word..];
        let low = u32::from(u16::from_le_bytes([at[0], at[1]]));
        if word == 4 { low | u32::from(u16::from_le_bytes([at[2], at[3]])) << 16 } else { low }
    };
    cpu.host.pointers = pointers_from(real, word, [field(3), field(4), field(5), field(6)]);
    let image = cpu.host.x87_mut();
    // The registers keep their physical numbers while TOP moves.
    let top = image.top();
    image.st.rotate_right(top);
    image.fcw = control_word(field(0) as u16);
    image.fsw = field(1) as u16;
    image.ftw = abridged(field(2) as u16);
    image.summarise();
    let top = image.top();
    image.st.rotate_left(top);
    if registers != 0 {
        for (st, from) in image.st.iter_mut().zip(bytes[7 * word..].chunks_exact(10)) {
            *st = [0; 16];
            st[..10].copy_from_slice(from);
        }
    }
    Ok(())
}

fn store(cpu: &mut Cpu, op: &Op, registers: usize) -> Result<Stored, Stop> {
    cpu.x87()?;
    let word = usize::from(op.aux);
    let len = 7 * word + registers;
    let lin = cpu.vector_target(op, len, 0)?;
    cpu.probe_target(lin, op.seg, 1)?;
    cpu.probe_end(lin, op.seg, len, Access::Write)?;
    let image = *cpu.host.x87();
    let pointers = pointers_into(cpu.real_segments(), word, &cpu.host.pointers);
    let upper = 0xffff_0000;
    let fields = [
        u32::from(image.fcw) | upper,
        u32::from(image.fsw) | upper,
        u32::from(tags(&image)) | upper,
        pointers[0],
        pointers[1],
        pointers[2],
        pointers[3],
    ];
    let mut bytes = [0; 7 * 4 + REGISTERS];
    for (at, field) in bytes.chunks_exact_mut(word).zip(fields) {
        at.copy_from_slice(&field.to_le_bytes()[..word]);
    }
    if registers != 0 {
        for (to, st) in bytes[7 * word..].chunks_exact_mut(10).zip(&image.st) {
            to.copy_from_slice(&st[..10]);
        }
    }
    cpu.write_operand(lin, op.seg, &bytes[..len])
}

/// The four fields that hold instruction and operand pointer.
fn pointers_into(real: bool, word: usize, p: &Pointers) -> [u32; 4] {
    let opcode = u32::from(p.opcode & 0x7ff);
    if real {
        let ip = (u32::from(p.cs) << 4).wrapping_add(p.ip as u32);
        let dp = (u32::from(p.ds) << 4).wrapping_add(p.dp as u32);
        let upper = 0xffff_0000;
        if word == 2 {
            return [ip, (ip >> 16 & 0xf) << 12 | opcode, dp, (dp >> 16 & 0xf) << 12];
        }
        return [ip | upper, (ip >> 16) << 12 | opcode, dp | upper, (dp >> 16) << 12];
    }
    if word == 2 {
        return [p.ip as u32, u32::from(p.cs), p.dp as u32, u32::from(p.ds)];
    }
    [p.ip as u32, u32::from(p.cs) | opcode << 16, p.dp as u32, u32::from(p.ds) | 0xffff_0000]
}

fn pointers_from(real: bool, word: usize, fields: [u32; 4]) -> Pointers {
    let [ip, ip_high, dp, dp_high] = fields;
    if real {
        let high_mask = if word == 2 { 0xf } else { 0xffff };
        let join = |low: u32, high: u32| u64::from((low & 0xffff) | (high >> 12 & high_mask) << 16);
        let opcode = ip_high as u16 & 0x7ff;
        return Pointers { opcode, ip: join(ip, ip_high), cs: 0, dp: join(dp, dp_high), ds: 0 };
    }
    let opcode = if word == 4 { (ip_high >> 16) as u16 & 0x7ff } else { 0 };
    Pointers { opcode, ip: u64::from(ip), cs: ip_high as u16, dp: u64::from(dp), ds: dp_high as u16 }
}

/// The full tag word: two bits per physical register.
fn tags(image: &FxImage) -> u16 {
    (0..8).map(|physical| tag(image, physical) << (physical * 2)).fold(0, |all, tag| all | tag)
}

/// 0 valid, 1 zero, 2 special, 3 empty.
fn tag(image: &FxImage, physical: usize) -> u16 {
    if image.ftw >> physical & 1 == 0 {
        return 3;
    }
    let st = &image.st[physical.wrapping_sub(image.top()) & 7];
    let exponent = u16::from_le_bytes([st[8], st[9]]) & 0x7fff;
    let integer_bit = st[7] & 0x80 != 0;
    let zero = st[..8].iter().all(|b| *b == 0);
    match (exponent, integer_bit) {
        (0, _) if zero => 1,
        (0 | 0x7fff, _) | (_, false) => 2,
        _ => 0,
    }
}

fn abridged(tags: u16) -> u8 {
    (0..8).filter(|n| tags >> (n * 2) & 3 != 3).map(|n| 1 << n).fold(0, |all, bit: u8| all | bit)
}

//! IN and OUT, and who may use which port (Intel SDM volume 1, chapter 19).

use cpu::x86::gpr;
use iced_x86::{Mnemonic, OpKind};

use super::descriptor::kind;
use crate::cpu::Cpu;
use crate::decode::Lowering;
use crate::op::{Done, Op, Stop};

/// In [`Op::dst`]: the port is in DX, not in `imm`.
const DX: u8 = 1;

pub(super) fn lower(l: &mut Lowering) -> bool {
    let input = l.insn.mnemonic() == Mnemonic::In;
    let (data, port) = if input { (0, 1) } else { (1, 0) };
    let size = l.size(data);
    if l.insn.op_kind(port) == OpKind::Immediate8 {
        l.op.imm = u64::from(l.insn.immediate8());
        l.op.dst = 0;
    } else {
        l.op.dst = DX;
    }
    // A device may have raised an interrupt or stopped the machine: look before the next instruction.
    l.end_with(match (input, size) {
        (true, 1) => input_port::<1>,
        (true, 2) => input_port::<2>,
        (true, _) => input_port::<4>,
        (false, 1) => output_port::<1>,
        (false, 2) => output_port::<2>,
        (false, _) => output_port::<4>,
    })
}

fn port(cpu: &Cpu, op: &Op) -> u16 {
    if op.dst == DX { cpu.regs[gpr::RDX] as u16 } else { op.imm as u16 }
}

fn input_port<const SIZE: usize>(cpu: &mut Cpu, op: &Op) -> Done {
    let port = port(cpu, op);
    cpu.check_io(port, SIZE as u16)?;
    let mut bytes = [0; 4];
    cpu.io().port_read(port, &mut bytes[..SIZE]);
    let value = u32::from_le_bytes(bytes);
    match SIZE {
        1 => cpu.set_gpr(gpr::RAX, value as u8),
        2 => cpu.set_gpr(gpr::RAX, value as u16),
        _ => cpu.set_gpr(gpr::RAX, value),
    }
    cpu.rip = cpu.next_ip(op);
    Err(Stop::Jump)
}

fn output_port<const SIZE: usize>(cpu: &mut Cpu, op: &Op) -> Done {
    let port = port(cpu, op);
    cpu.check_io(port, SIZE as u16)?;
    let bytes = (cpu.regs[gpr::RAX] as u32).to_le_bytes();
    cpu.io().port_write(port, &bytes[..SIZE]);
    cpu.rip = cpu.next_ip(op);
    Err(Stop::Jump)
}

impl Cpu {
    /// IN and OUT are allowed for `size` bytes at `port` (IOPL, TSS bitmap), else #GP(0). Notes I/O breakpoints.
    pub fn check_io(&mut self, port: u16, size: u16) -> Result<(), Stop> {
        if self.protected() && (self.cpl > self.iopl() || self.v8086()) {
            self.check_io_bitmap(port, size)?;
        }
        self.watch_io(port, size);
        Ok(())
    }

    fn check_io_bitmap(&mut self, port: u16, size: u16) -> Result<(), Stop> {
        let (base, limit) = (self.tr.base, u64::from(self.tr.limit));
        if self.tr.attr & 0xf != kind::TSS32_BUSY || limit < 0x67 {
            return Err(self.gp0());
        }
        let bitmap = self.as_system(|cpu| cpu.table::<u16>(base.wrapping_add(0x66)))?;
        let at = u64::from(bitmap) + u64::from(port / 8);
        // Two bytes are read always, since the ports may span them.
        if at + 1 > limit {
            return Err(self.gp0());
        }
        let bits = self.as_system(|cpu| cpu.table::<u16>(base.wrapping_add(at)))?;
        let mask = ((1u16 << size) - 1) << (port % 8);
        if bits & mask != 0 { Err(self.gp0()) } else { Ok(()) }
    }
}

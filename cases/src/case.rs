//! A case and how it is run.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use cpu::x86::CpuModel;
use cpu::{Clock, CpuState, Engine, Irqchip, Signals, VcpuExit, VmConfig};
use iced_x86::IcedError;
use memory::GuestRam;

use crate::guest::{Guest, Mode};
use crate::io::Io;
use crate::layout;
use crate::record::Record;

/// One case: data but for the assembly, which is written by a function.
#[derive(Clone, Copy)]
pub struct Case {
    /// What it shows.
    pub name: &'static str,
    /// Where it starts.
    pub mode: Mode,
    /// Writes the code and changes the initial state. The code ends with HLT or with an exception.
    pub build: fn(&mut Guest) -> Result<(), IcedError>,
    /// What must be seen. Without a [`Expect::Fault`] no exception may have happened.
    pub expect: &'static [Expect],
}

/// Something that must hold when the guest has halted.
#[derive(Debug, Clone, Copy)]
pub enum Expect {
    /// A general register, by number.
    Reg(usize, u64),
    /// The low 32 bits of a general register.
    Reg32(usize, u32),
    /// The last event: vector and error code (0 where there is none).
    Fault(u8, u32),
    /// RIP in the last event's frame is the marked place ([`Guest::mark`]).
    FaultAtMark,
    /// RIP in the last event's frame.
    FaultRip(u64),
    /// Bits of RFLAGS in the last event's frame: mask and value.
    FaultFlags(u64, u64),
    /// CS in the last event's frame.
    FaultCs(u16),
    /// Stack segment in the last event's frame.
    FaultSs(u16),
    /// Stack pointer in the last event's frame.
    FaultSp(u64),
    /// How many events were recorded.
    Faults(u64),
    /// RFLAGS at the end: mask and value.
    Flags(u64, u64),
    /// A 64-bit word of memory.
    Mem(u64, u64),
    /// A 32-bit word of memory.
    Mem32(u64, u32),
    /// A 16-bit word of memory.
    Mem16(u64, u16),
    /// Selector of a segment register.
    Selector(usize, u16),
    /// Base of a segment register.
    Base(usize, u64),
    /// CR2.
    Cr2(u64),
    /// A debug register: index into [`CpuState::dr`].
    Dr(usize, u64),
    /// Value written to a port, at any time.
    Out(u16, u32),
    /// The engine reports a triple fault.
    Shutdown,
    /// Anything else about the state.
    State(&'static str, fn(&CpuState) -> bool),
}

/// A case that runs longer is stuck.
const PATIENCE: Duration = Duration::from_secs(10);
const INSTRUCTIONS: u64 = 1_000_000;

/// What is left of a run.
struct End {
    mark: Option<u64>,
    ram: Arc<GuestRam>,
    state: CpuState,
    exit: VcpuExit,
    written: Vec<(u16, u32)>,
}

impl Case {
    /// Runs the case.
    ///
    /// # Errors
    /// A line per expectation that did not hold, or why it could not be run.
    pub fn run(&self, engine: &dyn Engine) -> Result<(), String> {
        let end = self.execute(engine).map_err(|e| format!("{}: {e}", self.name))?;
        let record = Record::read(&end.ram);
        let mut wrong: Vec<String> = self.expect.iter().filter_map(|e| e.check(&end, &record)).collect();
        let shutdown = self.expect.iter().any(|e| matches!(e, Expect::Shutdown));
        if !shutdown && end.exit != VcpuExit::Halt {
            wrong.push(format!("ended with {:?}", end.exit));
        }
        let faults = self.expect.iter().any(|e| matches!(e, Expect::Fault(..) | Expect::Faults(_)));
        if !faults && record.count != 0 {
            wrong.push("an exception happened".to_owned());
        }
        if wrong.is_empty() {
            return Ok(());
        }
        Err(format!(
            "{}: {}\n  rip {:#x} regs {:x?}\n  {record:x?}",
            self.name,
            wrong.join("; "),
            end.state.rip,
            end.state.gpr
        ))
    }

    fn execute(&self, engine: &dyn Engine) -> Result<End, String> {
        let ram = Arc::new(GuestRam::new(layout::RAM).map_err(|e| e.to_string())?);
        let mut guest = Guest::new(self.mode, ram.clone()).map_err(|e| e.to_string())?;
        (self.build)(&mut guest).map_err(|e| format!("code of the case: {e}"))?;
        let mark = guest.finish().map_err(|e| format!("code of the case: {e}"))?;
        let config = VmConfig {
            ram: ram.clone(),
            clock: Arc::new(Clock::new()),
            model: Arc::new(CpuModel::best_for_host()),
            vcpus: 1,
            irqchip: Irqchip::Userspace,
        };
        let signals = Arc::new(Signals::new());
        let vm = engine.create_vm(config).map_err(|e| e.to_string())?;
        let mut vcpu = vm.create_vcpu(0, signals.clone()).map_err(|e| e.to_string())?;
        vcpu.set_state(&guest.state).map_err(|e| e.to_string())?;
        let io = Io::new(signals.clone());
        let (done, watch) = channel::<()>();
        let exit = std::thread::scope(|scope| {
            scope.spawn(move || {
                if watch.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                    signals.set(Signals::EXIT);
                }
            });
            let exit = vcpu.run_limited(&io, INSTRUCTIONS);
            drop(done);
            exit
        });
        let exit = exit.map_err(|e| e.to_string())?;
        Ok(End { mark, ram, state: vcpu.state(), exit, written: io.written.into_inner() })
    }
}

/// A little-endian word at any address; all ones where there is no RAM.
fn word<const SIZE: usize>(ram: &GuestRam, at: u64) -> u64 {
    let mut bytes = [0; 8];
    if ram.read(at, &mut bytes[..SIZE]).is_err() {
        return u64::MAX;
    }
    u64::from_le_bytes(bytes)
}

impl Expect {
    /// What is wrong, if something is.
    fn check(&self, end: &End, record: &Record) -> Option<String> {
        let hex = |what: String, seen: u64, wanted: u64| {
            (seen != wanted).then(|| format!("{what} is {seen:#x}, not {wanted:#x}"))
        };
        let (state, ram) = (&end.state, &end.ram);
        match *self {
            Self::Reg(n, value) => hex(format!("register {n}"), state.gpr[n], value),
            Self::Reg32(n, value) => {
                hex(format!("register {n}"), state.gpr[n] & 0xffff_ffff, u64::from(value))
            }
            Self::Fault(vector, code) => {
                if record.count == 0 {
                    return Some(format!("exception {vector} did not happen"));
                }
                hex("vector".into(), record.vector & 0xff, u64::from(vector))
                    .or_else(|| hex("error code".into(), record.code & 0xffff_ffff, u64::from(code)))
            }
            Self::FaultAtMark => {
                hex("rip in the frame".into(), record.rip & 0xffff_ffff, end.mark.unwrap_or(u64::MAX))
            }
            Self::FaultRip(rip) => hex("rip in the frame".into(), record.rip, rip),
            Self::FaultFlags(mask, value) => hex("saved rflags".into(), record.rflags & mask, value),
            Self::FaultCs(cs) => hex("saved cs".into(), record.cs & 0xffff, u64::from(cs)),
            Self::FaultSs(ss) => hex("saved ss".into(), record.ss & 0xffff, u64::from(ss)),
            Self::FaultSp(sp) => hex("saved rsp".into(), record.rsp, sp),
            Self::Faults(count) => hex("number of events".into(), record.count, count),
            Self::Flags(mask, value) => hex("rflags".into(), state.rflags & mask, value),
            Self::Mem(at, value) => hex(format!("[{at:#x}]"), word::<8>(ram, at), value),
            Self::Mem32(at, value) => hex(format!("[{at:#x}]"), word::<4>(ram, at), value.into()),
            Self::Mem16(at, value) => hex(format!("[{at:#x}]"), word::<2>(ram, at), value.into()),
            Self::Selector(n, value) => {
                hex(format!("segment {n}"), state.segments[n].selector.into(), value.into())
            }
            Self::Base(n, value) => hex(format!("base of segment {n}"), state.segments[n].base, value),
            Self::Cr2(value) => hex("cr2".into(), state.cr2, value),
            Self::Dr(n, value) => hex(format!("dr[{n}]"), state.dr[n], value),
            Self::Out(port, value) => (!end.written.contains(&(port, value)))
                .then(|| format!("port {port:#x} did not get {value:#x} but {:x?}", end.written)),
            Self::Shutdown => {
                (end.exit != VcpuExit::Shutdown).then(|| format!("ended with {:?}, not shutdown", end.exit))
            }
            Self::State(what, holds) => (!holds(state)).then(|| what.to_owned()),
        }
    }
}

//! Small guests on whole machines: a flat 32-bit kernel in a file, loaded by multiboot, run by the
//! interpreter.

mod doorbells;
mod hypercalls;
mod life;
mod moving;
mod parts;
mod smp;
mod snapshot;
mod stolen;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use device::{CharBackend, NullBackend};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use parking_lot::{Condvar, Mutex};

use crate::pc::Backends;
use crate::{EngineKind, Machine, MachineSpec, Size, engine};

/// Where the kernel is loaded; the multiboot header takes the first 32 bytes.
const LOAD: u32 = 0x10_0000;
const ENTRY: u32 = LOAD + 32;
/// Memory that no loader touches: what is there survives a reset.
const SCRATCH: u32 = 0x20_0000;
/// Top of the stack.
const STACK: u32 = 0x30_0000;
const DEBUG_EXIT: u32 = 0xf4;

/// A kernel in a file that goes away with it.
struct Kernel(PathBuf);

impl Kernel {
    fn new(code: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Self {
        let mut asm = CodeAssembler::new(32).unwrap();
        asm.mov(esp, STACK).unwrap();
        code(&mut asm).unwrap();
        let code = asm.assemble(ENTRY.into()).unwrap();
        const MAGIC: u32 = 0x1bad_b002;
        const FLAGS: u32 = 1 << 16;
        let header = [MAGIC, FLAGS, 0u32.wrapping_sub(MAGIC + FLAGS), LOAD, LOAD, 0, 0, ENTRY];
        let image: Vec<u8> = header.iter().flat_map(|field| field.to_le_bytes()).chain(code).collect();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("machine-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, image).unwrap();
        Self(path)
    }

    fn spec(&self) -> MachineSpec {
        MachineSpec { kernel: self.0.clone(), memory: Size::mib(8), ..MachineSpec::default() }
    }

    fn machine(&self) -> Machine {
        machine(self.spec(), Arc::new(NullBackend))
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn machine(spec: MachineSpec, console: Arc<dyn CharBackend>) -> Machine {
    machine_on(EngineKind::Interp, spec, console)
}

fn machine_on(engine: EngineKind, spec: MachineSpec, console: Arc<dyn CharBackend>) -> Machine {
    let engine = engine::choose(engine).unwrap().engine;
    Machine::new(
        spec,
        engine.as_ref(),
        Backends { console, terminal: Arc::new(NullBackend), debug: Arc::new(NullBackend) },
    )
    .unwrap()
}

/// A console that keeps what was written.
#[derive(Default)]
struct Screen {
    text: Mutex<Vec<u8>>,
    written: Condvar,
}

impl CharBackend for Screen {
    fn write(&self, bytes: &[u8]) {
        self.text.lock().extend(bytes);
        self.written.notify_all();
    }
}

impl Screen {
    fn wait_for(&self, end: &str) {
        let mut text = self.text.lock();
        while !text.ends_with(end.as_bytes()) {
            self.written.wait(&mut text);
        }
    }
}

/// Ends the run with the value in AL.
fn exit_al(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.out(DEBUG_EXIT, al)?;
    halt(a)
}

/// Ends the run with a value.
fn exit(a: &mut CodeAssembler, value: u32) -> Result<(), IcedError> {
    a.mov(al, value)?;
    exit_al(a)
}

/// Halts for good, interrupts off.
fn halt(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut forever = a.create_label();
    a.set_label(&mut forever)?;
    a.cli()?;
    a.hlt()?;
    a.jmp(forever)
}

/// Writes a byte to a port.
fn out(a: &mut CodeAssembler, port: u32, value: u32) -> Result<(), IcedError> {
    a.mov(edx, port)?;
    a.mov(al, value)?;
    a.out(dx, al)
}

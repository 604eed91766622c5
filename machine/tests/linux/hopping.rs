//! An engine whose CPUs move between interpreter and translator at random instants, and programs to processes of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use cpu::{
    Capabilities, CpuFault, CpuIo, CpuState, Engine, EngineError, Signals, Vcpu, VcpuExit, Vm, VmConfig,
};
use dbt::{Dbt, Directness, Options};
use interp::Interp;
use parking_lot::Mutex;

#[derive(Default)]
pub struct Hopping {
    pub hops: Arc<AtomicU64>,
}

struct HoppingVm {
    engines: [Box<dyn Vm>; 2],
    hops: Arc<AtomicU64>,
    vcpus: Arc<Mutex<Vec<Arc<Signals>>>>,
    ended: Arc<AtomicBool>,
    kicker: Option<JoinHandle<()>>,
}

struct HoppingVcpu {
    /// Interpreter and translator.
    vcpus: [Box<dyn Vcpu>; 2],
    /// The one that has the state.
    current: usize,
    random: Random,
    hops: Arc<AtomicU64>,
}

/// Xorshift (Marsaglia 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

impl Engine for Hopping {
    fn name(&self) -> &'static str {
        "hopping"
    }

    fn shares_ram(&self) -> bool {
        true
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { exact_limit: false, ..Interp::new().capabilities() }
    }

    fn create_vm(&self, config: VmConfig) -> Result<Box<dyn Vm>, EngineError> {
        let options = Options { threshold: 4, direct: Directness::Always, ..Options::default() };
        let engines =
            [Interp::new().create_vm(config.clone())?, Dbt::with_options(options).create_vm(config)?];
        let (vcpus, ended) = (Arc::new(Mutex::new(Vec::<Arc<Signals>>::new())), Arc::default());
        let (theirs, end) = (vcpus.clone(), Arc::clone(&ended));
        let kicker = spawn(move || {
            let mut random = Random(0x9e37_79b9);
            while !AtomicBool::load(&end, Ordering::Relaxed) {
                sleep(Duration::from_micros(50 + random.below(1500)));
                let vcpus = theirs.lock();
                let count = vcpus.len() as u64;
                if count > 0 {
                    vcpus[random.below(count) as usize].set(Signals::EXIT);
                }
            }
        });
        Ok(Box::new(HoppingVm { engines, hops: self.hops.clone(), vcpus, ended, kicker: Some(kicker) }))
    }
}

impl Drop for HoppingVm {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let _ = self.kicker.take().map(JoinHandle::join);
    }
}

impl Vm for HoppingVm {
    fn enter_thread(&self) {
        self.engines[1].enter_thread();
    }

    fn create_vcpu(&self, index: u32, signals: Arc<Signals>) -> Result<Box<dyn Vcpu>, EngineError> {
        let [a, b] = &self.engines;
        let vcpus = [a.create_vcpu(index, signals.clone())?, b.create_vcpu(index, signals.clone())?];
        self.vcpus.lock().push(signals);
        let random = Random(u64::from(index) + 88_172_645_463_325_252);
        Ok(Box::new(HoppingVcpu { vcpus, current: 0, random, hops: self.hops.clone() }))
    }
}

impl Vcpu for HoppingVcpu {
    /// The machine calls again after every kick.
    fn run(&mut self, io: &dyn CpuIo) -> Result<VcpuExit, CpuFault> {
        let next = self.random.below(2) as usize;
        if next != self.current {
            let state = self.state();
            self.vcpus[next].set_state(&state).expect("one engine refuses the state of the other");
            self.current = next;
            self.hops.fetch_add(1, Ordering::Relaxed);
        }
        let vcpu = &mut self.vcpus[next];
        if next == 1 {
            return vcpu.run(io);
        }
        // Here the instant can be any instruction.
        let exit = vcpu.run_limited(io, 1 + self.random.below(30_000))?;
        Ok(if exit == VcpuExit::Limit { VcpuExit::Kicked } else { exit })
    }

    fn run_limited(&mut self, io: &dyn CpuIo, _: u64) -> Result<VcpuExit, CpuFault> {
        self.run(io)
    }

    fn state(&self) -> CpuState {
        self.vcpus[self.current].state()
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), EngineError> {
        self.vcpus[self.current].set_state(state)
    }
}

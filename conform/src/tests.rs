//! The comparison itself: a slice of it in every test run, and that it notices what is wrong.

use std::sync::Arc;

use cpu::x86::CpuModel;
use cpu::{
    Capabilities, CpuFault, CpuIo, CpuState, Engine, EngineError, Signals, Vcpu, VcpuExit, Vm, VmConfig,
};
use dbt::{Dbt, Directness};
use interp::Interp;

use crate::{Counters, Options, Summary, run, run_blocks};

fn options(seed: u64, cases: u64) -> Options {
    let model = CpuModel::named(Some("host")).unwrap();
    Options { seed, first: 0, cases, jobs: 2, model, only: Vec::new(), dead_flags: false, code32: false }
}

fn told(summary: &Summary) -> String {
    let samples: Vec<String> = summary.samples.iter().map(ToString::to_string).collect();
    samples.join("\n")
}

fn translator(threshold: u8, direct: Directness) -> Dbt {
    Dbt::with_options(dbt::Options { threshold, direct, ..dbt::Options::default() })
}

#[test]
fn a_slice_of_all_forms_agrees() {
    let summary = run(&Interp::new(), &options(7, 100_000), &|_| ()).unwrap();
    assert!(summary.passed(), "{}", told(&summary));
    assert!(
        summary.cases == 100_000 + crate::named_cases().len() as u64 && summary.forms > 3000,
        "{} {}",
        summary.cases,
        summary.forms
    );
    // Faults and completed instructions both, in some proportion.
    assert!((summary.cases / 20..summary.cases / 2).contains(&summary.faulted), "{}", summary.faulted);
}

#[test]
fn a_slice_of_all_forms_agrees_when_everything_is_translated() {
    let options = Options { dead_flags: true, ..options(8, 40_000) };
    let summary = run(&translator(0, Directness::Never), &options, &|_| ()).unwrap();
    assert!(summary.passed(), "{}", told(&summary));
    assert!(summary.dead_flags < summary.faulted / 10, "{} of {}", summary.dead_flags, summary.faulted);
}

/// How often programs ran as they are.
fn ran(counters: &Counters) -> u64 {
    counters["direct_stays"] - counters["direct_refused"]
}

#[test]
fn a_slice_of_all_forms_agrees_when_programs_run_as_they_are() {
    let options = Options { dead_flags: true, ..options(9, 20_000) };
    let summary = run(&translator(0, Directness::Always), &options, &|_| ()).unwrap();
    assert!(summary.passed(), "{}", told(&summary));
    assert!(ran(&summary.counters) > summary.cases / 4, "{:?}", summary.counters);
}

#[test]
fn a_slice_of_blocks_agrees_between_interpreter_and_translator() {
    let [all, warm] = [0, 2].map(|threshold| translator(threshold, Directness::Never));
    let direct = translator(0, Directness::Always);
    let summary = run_blocks(&Interp::new(), &[&all, &warm, &direct], &options(5, 12_000), &|_| ()).unwrap();
    let samples: Vec<String> = summary.samples.iter().map(ToString::to_string).collect();
    assert!(summary.differ == 0, "{}", samples.join("\n"));
    assert!(summary.cases > 11_000 && summary.endless > 0, "{summary:?}");
    assert!((summary.cases / 4..summary.cases * 3 / 4).contains(&summary.faulted), "{summary:?}");
    assert!(ran(&summary.counters) > summary.cases / 6, "{summary:?}");
}

/// Found by 2,100,000 blocks: a page of code whose neighbour wanted breakpoints was mapped and unmapped for ever.
#[test]
fn blocks_that_differed_agree() {
    let direct = translator(0, Directness::Always);
    for case in [86_975, 415_619, 499_361, 783_461, 1_043_195, 1_166_522, 1_397_669] {
        let options = Options { first: case, ..options(20_261_122, 1) };
        let summary = run_blocks(&Interp::new(), &[&direct], &options, &|_| ()).unwrap();
        let samples: Vec<String> = summary.samples.iter().map(ToString::to_string).collect();
        assert!(
            summary.differ == 0 && ran(&summary.counters) > 0,
            "{case}: {summary:?} {}",
            samples.join("\n")
        );
    }
}

#[test]
fn a_slice_of_blocks_of_32_bit_code_agrees_too() {
    let [all, warm] = [0, 2].map(|threshold| translator(threshold, Directness::Never));
    let options = Options { code32: true, ..options(6, 12_000) };
    let summary = run_blocks(&Interp::new(), &[&all, &warm], &options, &|_| ()).unwrap();
    let samples: Vec<String> = summary.samples.iter().map(ToString::to_string).collect();
    assert!(summary.differ == 0, "{}", samples.join("\n"));
    assert!(summary.cases > 11_000 && summary.endless > 0, "{summary:?}");
    assert!((summary.cases / 4..summary.cases * 3 / 4).contains(&summary.faulted), "{summary:?}");
}

#[test]
fn mistakes_are_noticed_in_blocks() {
    for mistake in [Mistake::Register, Mistake::Vector, Mistake::Memory] {
        let summary = run_blocks(&Interp::new(), &[&Broken(mistake)], &options(1, 100), &|_| ()).unwrap();
        assert!(summary.differ > summary.cases * 9 / 10, "{summary:?}");
        assert!(!summary.samples[0].to_string().is_empty());
    }
}

#[test]
fn a_form_that_does_not_exist_is_an_error() {
    let options = Options { only: vec!["Add_everything".into()], ..options(1, 10) };
    let error = run(&Interp::new(), &options, &|_| ()).unwrap_err().to_string();
    assert!(error.contains("Add_everything"), "{error}");
}

/// The interpreter with one mistake: after every run a register, a vector register or a byte of memory is another.
#[derive(Clone, Copy)]
enum Mistake {
    Register,
    Vector,
    Memory,
}

struct Broken(Mistake);
struct BrokenVm(Mistake, Box<dyn Vm>, Arc<memory::GuestRam>);
struct BrokenVcpu(Mistake, Box<dyn Vcpu>, Arc<memory::GuestRam>);

impl Engine for Broken {
    fn name(&self) -> &'static str {
        "broken"
    }
    fn capabilities(&self) -> Capabilities {
        Interp::new().capabilities()
    }
    fn create_vm(&self, config: VmConfig) -> Result<Box<dyn Vm>, EngineError> {
        let ram = config.ram.clone();
        Ok(Box::new(BrokenVm(self.0, Interp::new().create_vm(config)?, ram)))
    }
}

impl Vm for BrokenVm {
    fn create_vcpu(&self, index: u32, signals: Arc<Signals>) -> Result<Box<dyn Vcpu>, EngineError> {
        Ok(Box::new(BrokenVcpu(self.0, self.1.create_vcpu(index, signals)?, self.2.clone())))
    }
}

impl Vcpu for BrokenVcpu {
    fn run(&mut self, io: &dyn CpuIo) -> Result<VcpuExit, CpuFault> {
        self.1.run(io)
    }
    fn run_limited(&mut self, io: &dyn CpuIo, instructions: u64) -> Result<VcpuExit, CpuFault> {
        let exit = self.1.run_limited(io, instructions);
        if matches!(self.0, Mistake::Memory) {
            // The first byte of data, behind two pages of code.
            self.2.write(0x1_2000, &[0xa5]).unwrap();
        }
        exit
    }
    fn state(&self) -> CpuState {
        let mut state = self.1.state();
        match self.0 {
            Mistake::Register => state.gpr[3] ^= 1,
            Mistake::Vector => state.xsave[160] ^= 1,
            Mistake::Memory => {}
        }
        state
    }
    fn set_state(&mut self, state: &CpuState) -> Result<(), EngineError> {
        self.1.set_state(state)
    }
}

#[test]
fn mistakes_are_noticed() {
    for mistake in [Mistake::Register, Mistake::Vector, Mistake::Memory] {
        let summary = run(&Broken(mistake), &options(1, 400), &|_| ()).unwrap();
        let wrong: u64 = summary.failing.values().sum();
        assert!(wrong > summary.cases * 9 / 10, "{wrong} of {}", summary.cases);
        assert!(summary.samples.iter().all(|s| s.to_string().contains("engine")));
    }
}

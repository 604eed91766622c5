//! The translator behind the engine contract.

use std::sync::Arc;

use cpu::{Capabilities, Engine, EngineError, Observe, Signals, Vcpu, Vm, VmConfig};

use crate::cache::arena::CODE;
use crate::peers::Peers;
use crate::runtime::vcpu::DbtVcpu;
use crate::ticker::Ticker;
use crate::trace::Reports;

/// Executions after which code is translated.
const WARM: u8 = 6;

/// The translating engine: x86-64 hosts with BMI2, no hardware virtualization, no privileges.
#[derive(Clone)]
pub struct Dbt {
    options: Options,
    reports: Option<Arc<Reports>>,
}

/// How a vCPU translates.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Executions after which code is translated.
    pub threshold: u8,
    /// Bytes of translated code at most.
    pub room: usize,
    /// Which programs run directly, on threads that were made ready for it ([`Vm::enter_thread`]).
    pub direct: Directness,
}

/// Which programs of the guest run as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Directness {
    /// Those that run for long without the guest's kernel.
    #[default]
    Paying,
    /// All, from their first instruction on.
    Always,
    /// None.
    Never,
}

impl Default for Options {
    fn default() -> Self {
        Self { threshold: WARM, room: CODE, direct: Directness::default() }
    }
}

impl Default for Dbt {
    fn default() -> Self {
        Self::with_options(Options::default())
    }
}

impl Dbt {
    /// The engine.
    pub fn new() -> Self {
        Self::default()
    }

    /// The engine, with everything translated that was executed more than `threshold` times.
    pub fn with_threshold(threshold: u8) -> Self {
        Self::with_options(Options { threshold, ..Options::default() })
    }

    /// The engine with other limits than it has by itself.
    pub fn with_options(options: Options) -> Self {
        Self { options, reports: None }
    }
}

impl Engine for Dbt {
    fn name(&self) -> &'static str {
        "dbt"
    }

    fn capabilities(&self) -> Capabilities {
        let unusable = (!std::arch::is_x86_feature_detected!("bmi2"))
            .then(|| "the host CPU has no BMI2: take --engine interp".to_owned())
            .or_else(interp::refusal);
        Capabilities { unusable, max_vcpus: 255, full_virtualization: true, exact_limit: false }
    }

    fn shares_ram(&self) -> bool {
        self.options.direct != Directness::Never
    }

    fn create_vm(&self, config: VmConfig) -> Result<Box<dyn Vm>, EngineError> {
        let ticker = Ticker::new().map_err(|e| EngineError::Unusable {
            engine: "dbt",
            reason: format!("no thread can be started ({e}): raise the limit of processes"),
        })?;
        Ok(Box::new(DbtVm {
            config,
            options: self.options,
            reports: self.reports.clone(),
            ticker: Arc::new(ticker),
            peers: Arc::default(),
        }))
    }

    fn observed(&self, observe: &Observe) -> Result<Arc<dyn Engine>, EngineError> {
        let reports = Some(Arc::new(Reports::open(observe)?));
        Ok(Arc::new(Self { options: self.options, reports }))
    }
}

struct DbtVm {
    config: VmConfig,
    options: Options,
    reports: Option<Arc<Reports>>,
    ticker: Arc<Ticker>,
    peers: Arc<Peers>,
}

impl Vm for DbtVm {
    fn create_vcpu(&self, index: u32, signals: Arc<Signals>) -> Result<Box<dyn Vcpu>, EngineError> {
        let ticket = self.ticker.ticket(signals.clone());
        let tracer = self.reports.as_ref().map(|reports| reports.tracer(index));
        let vcpu = DbtVcpu::new(&self.config, index, signals, self.options, ticket, &self.peers, tracer)?;
        Ok(Box::new(vcpu))
    }

    fn enter_thread(&self) {
        if self.options.direct != Directness::Never {
            crate::direct::enter_thread(&self.config.ram);
        }
    }
}

//! What the engine tells of its translations when it is asked: names for profilers, and a line for each.

pub mod listing;
mod names;
mod output;
mod perf_map;
#[cfg(test)]
mod tests;
mod tracer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cpu::{EngineError, Observe};
use parking_lot::Mutex;

use output::Output;
use perf_map::PerfMap;
pub use tracer::{Marks, Place, Tracer, Translation};

/// The first lines of a trace.
const HEADER: &str = "\
# A line for every translation: its vCPU and mode (32: 32-bit code; +fs, +gs: with such a segment without a limit; +ac: supervisor with EFLAGS.AC; -sse, -avx, -x87, -tsc: such
# instructions are not translated; -smap: SMAP is off), linear and guest-physical address, bytes and instructions of the guest's, bytes of host code in the
# hot and the cold part; window=no: its stack accesses do without the stack's window; left: what the interpreter does.
";

/// The files, for all vCPUs of an engine.
pub struct Reports {
    map: Option<Mutex<PerfMap>>,
    trace: Option<Mutex<Output>>,
    /// Code is part of the trace.
    code: bool,
}

impl Reports {
    /// Opens what is asked for.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn open(observe: &Observe) -> Result<Self, EngineError> {
        let refused = |path: &Path| {
            let path = path.to_owned();
            |source| EngineError::Write { path, source }
        };
        let mut reports = Self { map: None, trace: None, code: false };
        if let Some(file) = &observe.trace {
            let mut output = Output::create(&file.path).map_err(refused(&file.path))?;
            output.write(HEADER);
            reports.trace = Some(Mutex::new(output));
            reports.code = file.code;
        }
        if observe.perf_map {
            let path = PathBuf::from(format!("/tmp/perf-{}.map", std::process::id()));
            reports.map = Some(Mutex::new(PerfMap::create(&path).map_err(refused(&path))?));
        }
        Ok(reports)
    }

    /// A vCPU's part.
    pub fn tracer(self: &Arc<Self>, vcpu: u32) -> Box<Tracer> {
        Box::new(Tracer::new(self.clone(), vcpu))
    }

    /// Profilers are to find names for code.
    pub fn names_code(&self) -> bool {
        self.map.is_some()
    }

    fn flush(&self) {
        if let Some(map) = &self.map {
            map.lock().flush();
        }
        if let Some(trace) = &self.trace {
            trace.lock().flush();
        }
    }
}

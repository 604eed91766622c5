//! What an engine that translates is asked to tell of its translations.

use std::path::PathBuf;

/// What to tell; nothing by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observe {
    /// Names for profilers: `/tmp/perf-PID.map`, as `perf` looks for them.
    pub perf_map: bool,
    /// A line for every translation.
    pub trace: Option<TraceFile>,
}

/// Where the lines go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TraceFile {
    /// The file; `-` is standard error.
    pub path: PathBuf,
    /// With guest instructions and host code side by side.
    pub code: bool,
}

impl Observe {
    /// True if there is something to tell.
    pub fn any(&self) -> bool {
        self.perf_map || self.trace.is_some()
    }
}

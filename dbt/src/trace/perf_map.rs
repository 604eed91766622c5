//! Names of code for `perf` and whoever else reads its maps (tools/perf/Documentation/jit-interface.txt of Linux): a
//! line `START SIZE NAME`, numbers in hexadecimal, for every piece of code.
//!
//! Which line counts where several overlap is not defined, so that lines of code that is gone are removed. Samples taken
//! before that are named as what is there now.

use std::fmt::{self, Write};
use std::io;
use std::ops::Range;
use std::path::Path;

use super::output::Output;

/// The file.
pub struct PerfMap(Output);

impl PerfMap {
    /// Makes the file anew.
    ///
    /// # Errors
    /// The host's.
    pub fn create(path: &Path) -> io::Result<Self> {
        Output::create_new(path).map(Self)
    }

    /// Names code of `len` bytes.
    pub fn add(&mut self, at: u64, len: usize, name: impl fmt::Display) {
        if len > 0 {
            let mut line = String::new();
            let _ = writeln!(line, "{at:x} {len:x} {name}");
            self.0.write(&line);
        }
    }

    /// Code that begins at these addresses has no names any more.
    pub fn forget(&mut self, code: &Range<u64>) {
        self.0.retain(|line| start(line).is_some_and(|at| !code.contains(&at)));
    }

    /// Hands what was kept back to the host.
    pub fn flush(&mut self) {
        self.0.flush();
    }
}

fn start(line: &str) -> Option<u64> {
    u64::from_str_radix(line.split(' ').next()?, 16).ok()
}

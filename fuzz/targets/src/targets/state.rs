//! Saved CPU states from files nobody vouches for.

use cpu::CpuState;

use super::execute;
use crate::Target;

/// A CPU state as JSON: refused, or it runs.
pub const CPU_STATE: Target = Target {
    name: "cpu-state",
    about: "a saved CPU state as JSON, which is refused or runs",
    seeds: || {
        let modes = (0..execute::MODES).map(execute::sample_state);
        modes
            .chain([CpuState::reset(), CpuState::startup(0x9a)])
            .filter_map(|state| serde_json::to_vec(&state).ok())
            .collect()
    },
    words: &[
        "0",
        "1",
        "-1",
        "255",
        "4096",
        "65535",
        "65536",
        "4294967295",
        "4294967296",
        "18446744073709551615",
        "9223372036854775808",
        "140737488355328",
        "65792",
        "1e400",
        "null",
        "true",
        "[]",
        "{}",
        "\"\"",
        ",",
        "\"rip\":",
        "\"cr0\":",
        "\"cr4\":",
        "\"efer\":",
        "\"attr\":",
        "\"xsave\":",
    ],
    run: |data| {
        if let Ok(state) = serde_json::from_slice::<CpuState>(data) {
            execute::resume(&state);
        }
    },
};

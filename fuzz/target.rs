//! Every target of `fuzz-targets` under cargo-fuzz: the name of the binary is the name of the target.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<&fuzz_targets::Target> = LazyLock::new(|| {
    let name = env!("CARGO_BIN_NAME");
    fuzz_targets::find(name).unwrap_or_else(|| panic!("no target {name}: correct fuzz/Cargo.toml"))
});

fuzz_target!(|data: &[u8]| (TARGET.run)(data));

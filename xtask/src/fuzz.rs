//! `cargo xtask fuzz-smoke`.

use anyhow::Result;

use crate::process::cargo;

/// Fuzz every target for a few seconds on mutated seeds; fuzz/README.md says how to fuzz for longer.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// `--seconds N`, `--seed S`, `--target NAME`, `--input FILE`, `--list` and what else `--help` tells.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    options: Vec<String>,
}

/// Builds the targets with all checks on and runs them.
pub fn smoke(arguments: &Arguments) -> Result<()> {
    let options: Vec<&str> = arguments.options.iter().map(String::as_str).collect();
    let run = [
        "run",
        "--quiet",
        "--profile",
        "fuzz",
        "--locked",
        "-p",
        "fuzz-targets",
        "--bin",
        "fuzz-smoke",
        "--",
    ];
    cargo(&run, &options)
}

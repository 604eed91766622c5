//! The project's own commands: `cargo xtask test` and its parts.

mod bench;
mod conform;
mod deps;
mod fuzz;
mod guests;
mod machines;
mod posix;
mod process;
mod soak;
mod system;

use anyhow::Result;
use clap::{Parser, Subcommand};

use process::{cargo, installed};

/// Commands of the Guesthouse project.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Format the code, or with --check only say whether it is.
    Fmt {
        /// Change nothing.
        #[arg(long)]
        check: bool,
    },
    /// Clippy on everything; warnings are errors.
    Lint,
    /// Check that crates depend on each other only as the design says, and, if cargo-deny is installed, on
    /// nothing of a forbidden licence or with a known hole.
    Deps,
    /// Build the default guest into the user's cache.
    Guests,
    Bench(bench::Arguments),
    Conform(conform::Arguments),
    FuzzSmoke(fuzz::Arguments),
    Soak(soak::Arguments),
    Posix(posix::Arguments),
    /// Everything that has to pass: fmt, lint, deps, build, guests, and all tests.
    Test {
        /// Arguments for the test runner, after `--`: for example a test's name.
        #[arg(last = true)]
        filter: Vec<String>,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().task {
        Task::Fmt { check } => fmt(check),
        Task::Lint => lint(),
        Task::Deps => deps::check(),
        Task::Guests => guests::build(),
        Task::Bench(arguments) => bench::run(&arguments),
        Task::Conform(arguments) => conform::run(&arguments),
        Task::FuzzSmoke(arguments) => fuzz::smoke(&arguments),
        Task::Soak(arguments) => soak::run(&arguments),
        Task::Posix(arguments) => posix::run(&arguments),
        Task::Test { filter } => test(&filter),
    }
}

fn fmt(check: bool) -> Result<()> {
    cargo(&["fmt", "--all"], if check { &["--check"] } else { &[] })
}

fn lint() -> Result<()> {
    cargo(&["clippy", "--workspace", "--all-targets", "--locked"], &["--", "-D", "warnings"])
}

fn test(filter: &[String]) -> Result<()> {
    fmt(true)?;
    lint()?;
    deps::check()?;
    // Tests run a build of their own; what users run has to build as well.
    cargo(&["build", "--release", "--locked"], &[])?;
    guests::build()?;
    let filter: Vec<&str> = filter.iter().map(String::as_str).collect();
    if installed("cargo-nextest") {
        cargo(&["nextest", "run", "--workspace", "--locked"], &filter)?;
        cargo(&["test", "--workspace", "--locked", "--doc"], &[])
    } else {
        cargo(&["test", "--workspace", "--locked"], &filter)
    }
}

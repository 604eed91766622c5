//! What a guest, a file or a saved state can reach, as functions of bytes: fuzz targets.
//!
//! A target takes any bytes and returns; a panic, an abort, a hang or unbounded memory is a bug. Two drivers share
//! them: `cargo xtask fuzz-smoke` (mutations of the seeds, stable Rust, part of the tests) and cargo-fuzz (guided by
//! coverage, for long runs; see `fuzz/README.md`). Inputs that once broke something are kept in `regressions/`.

mod corpus;
mod input;
mod mutate;
mod smoke;
mod targets;

pub use corpus::{regressions, write_seeds};
pub use smoke::{Options, one_input, run, worker};

/// Something that takes hostile bytes.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Name on the command line and of its folders.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// Small valid inputs to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Words that its inputs are made of, for the mutator to put in.
    pub words: &'static [&'static str],
    /// Takes the bytes.
    pub run: fn(&[u8]),
}

pub use targets::TARGETS;

/// The target of that name; [`SELF_TEST`] too.
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().chain([&SELF_TEST]).find(|t| t.name == name)
}

/// Misbehaves on request, so that the drivers can be tested.
pub const SELF_TEST: Target = Target {
    name: "self-test",
    about: "misbehaves on request",
    seeds: || vec![b"harmless".to_vec()],
    words: &[],
    run: |data| match data {
        b"panic" => panic!("as asked"),
        b"abort" => std::process::abort(),
        b"hang" => loop {
            std::thread::sleep(std::time::Duration::from_secs(1));
        },
        b"memory" => drop(std::hint::black_box(vec![1u8; 64 << 30])),
        _ => {}
    },
};

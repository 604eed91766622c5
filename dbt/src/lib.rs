//! The binary translator: unmodified x86-64 guest code at near host speed, without hardware virtualization.
//!
//! Guest and host have the same instruction set, so most instructions are copied, with checked addresses in the place
//! of their memory operands (`frontend`, `analysis`, `emit`). Translations are keyed by physical page and mode (`cache`)
//! and run by a loop that interprets what is cold or rare (`runtime`, on [`interp::core`]). Programs that pay for it run as they are
//! (`direct`).

mod analysis;
mod cache;
mod direct;
mod emit;
mod engine;
mod frontend;
mod peers;
mod runtime;
mod ticker;
mod trace;
mod translator;

pub use engine::{Dbt, Directness, Options};

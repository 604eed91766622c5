//! The host CPU against an engine: the same instruction, registers and memory on both, and everything that user code
//! can see afterwards compared.

mod blocks;
mod cases;
mod compare;
mod contested;
mod dead;
mod forms;
mod generate;
mod guest;
mod input;
mod layout;
mod oracle;
mod report;
mod rng;
mod run;
mod undefined;
mod vendor;

pub use blocks::{BlockMismatch, BlockSummary, run_blocks};
pub use cases::named_cases;
pub use compare::{Difference, differences};
pub use forms::{Form, excluded, forms};
pub use generate::{Case, Generator};
pub use guest::{Guest, GuestError, Trouble};
pub use input::{Input, Outcome, Regs, canonical};
pub use oracle::{Oracle, OracleError};
pub use report::{Counters, Mismatch, Summary};
pub use run::{Options, RunError, run};

#[cfg(test)]
mod tests;

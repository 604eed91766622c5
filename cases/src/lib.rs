//! Guest-mode test cases as data: a machine state, a piece of guest code, and what must be seen when it has run.
//! Every engine runs the same table; every bug found becomes a case.

pub mod board;
mod case;
mod guest;
mod io;
mod layout;
mod record;
mod table;

pub use case::{Case, Expect};
pub use guest::{Guest, Mode};

/// The whole table.
pub fn all() -> Vec<Case> {
    table::all()
}

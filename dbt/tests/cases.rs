//! The table of guest-mode cases on the translator, once with everything translated at once and once with what is executed
//! twice; one test per case.

use std::process::ExitCode;

use cases::Case;
use dbt::Dbt;
use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let trial = |case: Case, kind, threshold| {
        Trial::test(case.name, move || case.run(&Dbt::with_threshold(threshold)).map_err(Into::into))
            .with_kind(kind)
    };
    let trials = cases::all()
        .into_iter()
        .flat_map(|case| [trial(case, "at once", 0), trial(case, "warm", 1)])
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

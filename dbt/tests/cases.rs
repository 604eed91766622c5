//! The table of guest-mode cases on the translator, which translates everything at once; one test per case.

use std::process::ExitCode;

use dbt::Dbt;
use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let trials = cases::all()
        .into_iter()
        .map(|case| Trial::test(case.name, move || case.run(&Dbt::with_threshold(0)).map_err(Into::into)))
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

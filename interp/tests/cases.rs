//! The table of guest-mode cases on the interpreter; one test per case.

use std::process::ExitCode;

use interp::Interp;
use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let trials = cases::all()
        .into_iter()
        .map(|case| Trial::test(case.name, move || case.run(&Interp::new()).map_err(Into::into)))
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

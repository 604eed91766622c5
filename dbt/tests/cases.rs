//! The table of guest-mode cases on the translator: with everything translated at once, with what is executed twice, and with
//! so little room that translations are dropped every few blocks; one test per case. None runs directly: their code of CPL 3 has
//! interrupts off, or no vectors, as no program has; `conform` compares what does.

use std::process::ExitCode;

use cases::Case;
use dbt::{Dbt, Directness, Options};
use libtest_mimic::{Arguments, Trial};

/// Bytes of code behind which there is room for little more than one block.
const CROWDED: usize = 200 << 10;

fn main() -> ExitCode {
    let trial = |case: Case, kind, options| {
        Trial::test(case.name, move || case.run(&Dbt::with_options(options)).map_err(Into::into))
            .with_kind(kind)
    };
    let usual = Options { direct: Directness::Never, ..Options::default() };
    let trials = cases::all()
        .into_iter()
        .flat_map(|case| {
            [
                trial(case, "at once", Options { threshold: 0, ..usual }),
                trial(case, "warm", Options { threshold: 1, ..usual }),
                trial(case, "crowded", Options { threshold: 0, room: CROWDED, ..usual }),
            ]
        })
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

//! The table of guest-mode cases on KVM, as users get it, and with KVM trusted as far as it goes; one test per case. On a KVM
//! that emulates, what it is known to get wrong has to go wrong still: the list of that stays true.

mod emulator;

use std::process::ExitCode;
use std::sync::Arc;

use cases::Case;
use cpu::Engine;
use interp::Interp;
use kvm::{Helpers, Kvm};
use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let interp: Arc<dyn Engine> = Arc::new(Interp::new());
    let helpers = Helpers { step: interp.clone(), stretch: interp };
    let (usual, trusted) = (Kvm::new(helpers.clone()), Kvm::trusted(helpers));
    // The machines of the project's CI have one.
    let unusable = usual.capabilities().unusable;
    let mut trials = vec![Trial::test("kvm can be used here", move || match unusable {
        None => Ok(()),
        Some(why) => Err(why.into()),
    })];
    let emulates = usual.capabilities().unusable.is_none() && !usual.is_complete();
    for case in cases::all() {
        let known = |is_trusted| if emulates { emulator::reason(case.name, is_trusted) } else { None };
        trials.push(trial(case, "usual", usual.clone(), known(false)));
        trials.push(trial(case, "trusted", trusted.clone(), known(true)));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn trial(case: Case, kind: &str, engine: Kvm, known: Option<&'static str>) -> Trial {
    let Some(why) = known else {
        return Trial::test(case.name, move || case.run(&engine).map_err(Into::into)).with_kind(kind);
    };
    let run = move || match case.run(&engine) {
        Err(_) => Ok(()),
        Ok(()) => Err(format!("this KVM has learnt it: take it from the list ({why})").into()),
    };
    Trial::test(format!("{} (not on this KVM: {why})", case.name), run)
        .with_kind(kind)
        .with_ignored_flag([emulator::SPINS, emulator::POINTERS].contains(&why))
}

//! Lists of calls become programs for the kernel (seccomp(2)).
//!
//! A thread is under several programs at once, and the strictest answer counts: the process's list and the kind's list, whose
//! answer to other calls is a trap (see `refused.rs`), and small ones that answer some calls with an error instead.

use std::collections::BTreeMap;
use std::process;

use libc::{EACCES, ENOSYS, SYS_clone3};
use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, apply_filter, apply_filter_all_threads,
};

use crate::Kind;
use crate::calls::{self, Call};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Programs that are installed together, in this order.
pub struct Filter(Vec<BpfProgram>);

impl Filter {
    /// For a process with threads of these kinds.
    pub fn of_process(kinds: &[Kind]) -> Result<Self, Error> {
        let lists = kinds.iter().flat_map(|kind| kind.lists()).chain(calls::MAIN).copied();
        let clone3 = Rules::from([(SYS_clone3, Vec::new())]);
        Ok(Self(vec![answer(clone3, ENOSYS)?, allow(rules(lists)?)?]))
    }

    /// For a thread of this kind.
    pub fn of_thread(kind: Kind) -> Result<Self, Error> {
        let mut rules = rules(kind.lists().iter().copied())?;
        let mut told = Rules::new();
        for &call in calls::OPENS {
            rules.entry(call).or_insert_with(|| {
                told.insert(call, Vec::new());
                Vec::new()
            });
        }
        let mut programs = vec![allow(rules)?];
        if !told.is_empty() {
            programs.insert(0, answer(told, EACCES)?);
        }
        Ok(Self(programs))
    }

    /// From now on, for the calling thread.
    pub fn install(&self) -> Result<(), Error> {
        self.0.iter().try_for_each(|program| apply_filter(program))
    }

    /// From now on, for every thread.
    pub fn install_for_all(&self) -> Result<(), Error> {
        self.0.iter().try_for_each(|program| apply_filter_all_threads(program))
    }
}

fn rules(lists: impl Iterator<Item = &'static [Call]>) -> Result<Rules, BackendError> {
    let mut rules = Rules::new();
    let mut whole = Vec::new();
    for call in lists.chain([calls::EVERY]).flatten() {
        let (number, more) = match *call {
            Call::Any(number) => {
                whole.push(number);
                continue;
            }
            Call::Value(number, argument, values) => {
                let values = values.iter().map(|&value| when(argument, SeccompCmpOp::Eq, value));
                (number, values.collect::<Result<Vec<_>, _>>()?)
            }
            Call::Bits(number, argument, mask, value) => {
                (number, vec![when(argument, SeccompCmpOp::MaskedEq(mask), value)?])
            }
            Call::Own(number) => (number, vec![when(0, SeccompCmpOp::Eq, process::id().into())?]),
        };
        let known = rules.entry(number).or_default();
        known.extend(more.into_iter().filter(|rule| !known.contains(rule)).collect::<Vec<_>>());
    }
    // No rule is any argument.
    rules.extend(whole.into_iter().map(|number| (number, Vec::new())));
    Ok(rules)
}

fn when(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?])
}

/// These calls, and no others.
fn allow(rules: Rules) -> Result<BpfProgram, BackendError> {
    program(rules, SeccompAction::Trap, SeccompAction::Allow)
}

/// This error for these calls.
fn answer(rules: Rules, errno: i32) -> Result<BpfProgram, BackendError> {
    program(rules, SeccompAction::Allow, SeccompAction::Errno(errno.unsigned_abs()))
}

fn program(rules: Rules, other: SeccompAction, matched: SeccompAction) -> Result<BpfProgram, BackendError> {
    SeccompFilter::new(rules, other, matched, std::env::consts::ARCH.try_into()?)?.try_into()
}

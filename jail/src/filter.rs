//! Lists of calls become programs for the kernel (seccomp(2)).
//!
//! A thread is under two programs at once, and the stricter answer counts: the process's list and the kind's list. Their
//! answer to other calls is a trap (see `refused.rs`), to some an error.

use std::collections::BTreeMap;
use std::process;

use libc::{BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
use libc::{EACCES, ENOSYS, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SYS_clone3};
use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, apply_filter, apply_filter_all_threads, sock_filter,
};

use crate::Kind;
use crate::calls::{self, Call};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// A program.
pub struct Filter(BpfProgram);

impl Filter {
    /// For a process with threads of these kinds, which it makes.
    pub fn of_process(kinds: &[Kind]) -> Result<Self, Error> {
        let more: &[_] = match kinds.contains(&Kind::DirectVcpu) {
            true => &[calls::THREADS, calls::CHILDREN, calls::CALL_PROCESSES],
            false => &[calls::THREADS],
        };
        let lists: Vec<_> = kinds.iter().flat_map(|kind| kind.lists()).chain(more).copied().collect();
        Ok(Self(program(&lists, &[&[(SYS_clone3, ENOSYS)][..], &denied()].concat())?))
    }

    /// For a thread of this kind. `direct`: in a process with a [`Kind::DirectVcpu`].
    pub fn of_thread(kind: Kind, direct: bool) -> Result<Self, Error> {
        let more: &[_] = if direct { &[calls::CALL_PROCESSES] } else { &[] };
        Ok(Self(program(&[kind.lists(), more].concat(), &denied())?))
    }

    /// From now on, for the calling thread.
    pub fn install(&self) -> Result<(), Error> {
        apply_filter(&self.0)
    }

    /// From now on, for every thread.
    pub fn install_for_all(&self) -> Result<(), Error> {
        apply_filter_all_threads(&self.0)
    }
}

fn denied() -> Vec<(i64, i32)> {
    calls::OPENS.iter().map(|&call| (call, EACCES)).collect()
}

/// Allows these calls, and answers those that are `told` with an error, if they are in no list or may not be.
fn program(lists: &[&'static [Call]], told: &[(i64, i32)]) -> Result<BpfProgram, BackendError> {
    let rules = rules(lists)?;
    let refused = |(call, _): &(i64, i32)| *call == SYS_clone3 || !rules.contains_key(call);
    let told: Vec<_> = told.iter().copied().filter(refused).collect();
    let often = lists.iter().copied().flatten().find_map(|call| match *call {
        Call::Bits(number, argument, mask, value) if call.is_often() => Some((number, argument, mask, value)),
        _ => None,
    });
    let arch = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(rules, SeccompAction::Trap, SeccompAction::Allow, arch)?;
    let rest: BpfProgram = filter.try_into()?;
    Ok(start(often, &told).into_iter().chain(rest).collect())
}

/// What is looked at first: the call that a vCPU on KVM makes for each of its exits, then those that are told. Fields of
/// `seccomp_data`: 0 the number, 4 the architecture, 16 the arguments.
fn start(often: Option<(i64, u8, u64, u64)>, told: &[(i64, i32)]) -> Vec<sock_filter> {
    let step = |code: u32, k: u32, jt: u8, jf: u8| sock_filter { code: code as u16, jt, jf, k };
    let load = |at| step(BPF_LD | BPF_W | BPF_ABS, at, 0, 0);
    // Goes on if it is so, and otherwise leaves that many out.
    let test = |value, out| step(BPF_JMP | BPF_JEQ | BPF_K, value, 0, out);
    let give = |what| step(BPF_RET | BPF_K, what, 0, 0);
    let mut steps = vec![load(0)];
    if let Some((number, argument, mask, value)) = often {
        steps.extend([
            test(number as u32, 5),
            load(16 + 8 * u32::from(argument)),
            step(BPF_ALU | BPF_AND | BPF_K, mask as u32, 0, 0),
            test(value as u32, 1),
            give(SECCOMP_RET_ALLOW),
            load(0),
        ]);
    }
    for &(number, errno) in told {
        steps.extend([test(number as u32, 1), give(SECCOMP_RET_ERRNO | errno.unsigned_abs())]);
    }
    // Numbers mean something else elsewhere: what follows looks at that itself.
    /// AUDIT_ARCH_X86_64
    const HERE: u32 = 0xc000_003e;
    let len = u8::try_from(steps.len()).unwrap_or(u8::MAX);
    [load(4), test(HERE, len)].into_iter().chain(steps).collect()
}

fn rules(lists: &[&'static [Call]]) -> Result<Rules, BackendError> {
    let mut rules = Rules::new();
    let mut whole = Vec::new();
    for call in lists.iter().copied().chain([calls::EVERY]).flatten() {
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

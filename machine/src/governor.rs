//! CPU time of a machine: a budget that grows with time and that the process's CPU time is taken from. Whoever uses it up has
//! its vCPUs sleep until it is positive again; the rest of the process, which works for the guest too, is counted and goes
//! on. Weights are the host scheduler's nice values.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jail::Kind;
use parking_lot::{Condvar, Mutex};
use rustix::process::{Pid, getpid, getpriority_process, setpriority_process};
use rustix::thread::gettid;

use crate::cgroup::Cgroup;
use crate::machine::Shared;
use crate::{Limits, Machine, MachineError};

/// How often the budget is looked at while it is used, and while it is not.
const TICK: Duration = Duration::from_millis(4);
const IDLE_TICK: Duration = Duration::from_millis(20);
/// Time whose budget is kept at most by those who do not use it.
const KEPT: f64 = 0.02;
/// Weight of a thread with nice value 0, and the factor from one value to the next (sched(7)).
const NORMAL: f64 = 100.0;
const STEP: f64 = 1.25;

/// What keeps the limits of CPU time.
pub struct Governor {
    state: Mutex<State>,
    changed: Condvar,
    holds: AtomicBool,
    /// The group that the user has given, which has cap and weight too.
    cgroup: Option<Cgroup>,
    /// The process's nice value when the machine was made.
    nice: i32,
}

struct State {
    limits: Limits,
    end: bool,
    thread: Option<JoinHandle<()>>,
    vcpus: Vec<Pid>,
}

impl Governor {
    /// Joins the control group, if there is one.
    ///
    /// # Errors
    /// The group cannot be used.
    pub fn new(limits: Limits) -> Result<Self, MachineError> {
        let cgroup = limits.cgroup.as_ref().map(|path| Cgroup::join(path, &limits)).transpose()?;
        let state = State { limits, end: false, thread: None, vcpus: Vec::new() };
        let nice = getpriority_process(None).unwrap_or(0);
        let (state, changed) = (Mutex::new(state), Condvar::new());
        Ok(Self { state, changed, holds: AtomicBool::new(false), cgroup, nice })
    }

    pub fn limits(&self) -> Limits {
        self.state.lock().limits.clone()
    }

    /// A vCPU's thread begins.
    pub fn enter(&self) {
        let mut state = self.state.lock();
        state.vcpus.push(gettid());
        if let Err(error) = self.weigh(&state) {
            tracing::warn!("{error}");
        }
    }

    /// It has made processes that run guest code for it.
    pub fn enter_helpers(&self) {
        let mut state = self.state.lock();
        for helper in cpu::usage::members().into_iter().filter_map(Pid::from_raw) {
            if !state.vcpus.contains(&helper) {
                state.vcpus.push(helper);
            }
        }
    }

    /// The machine has used up its time: vCPUs stand back, and are called when that or anything else changes.
    pub fn holds(&self) -> bool {
        self.holds.load(Ordering::SeqCst)
    }

    /// No vCPU runs any more.
    pub fn end(&self) {
        let thread = {
            let mut state = self.state.lock();
            state.end = true;
            state.vcpus.clear();
            state.thread.take()
        };
        self.changed.notify_all();
        if let Some(thread) = thread {
            // A panic was reported where it happened.
            let _ = thread.join();
        }
    }

    /// Gives the vCPUs' threads the nice value of the weight.
    fn weigh(&self, state: &State) -> Result<(), MachineError> {
        // In a group, it is the group's weight that counts.
        let Some(weight) = state.limits.weight.filter(|_| self.cgroup.is_none()) else { return Ok(()) };
        let nice = (self.nice - (f64::from(weight) / NORMAL).log(STEP).round() as i32).clamp(-20, 19);
        // With autogroups, sessions are weighed against each other before their threads are. A machine in the background
        // is a session of its own.
        let leader = std::fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(session);
        if leader == Some(getpid().as_raw_pid()) {
            let _ = std::fs::write("/proc/self/autogroup", nice.to_string());
        }
        let refused = |source: rustix::io::Errno| MachineError::CpuPriority { weight, source: source.into() };
        state.vcpus.iter().try_for_each(|&thread| setpriority_process(Some(thread), nice)).map_err(refused)
    }

    fn run(&self, shared: &Shared) {
        let (mut budget, mut then, mut used) = (0.0, Instant::now(), cpu_time());
        let mut state = self.state.lock();
        while !state.end {
            let Some(cpus) = state.limits.cpus else {
                self.hold(shared, false);
                self.changed.wait(&mut state);
                (then, used, budget) = (Instant::now(), cpu_time(), 0.0);
                continue;
            };
            let (now, total) = (Instant::now(), cpu_time());
            let (passed, spent) = (now.duration_since(then).as_secs_f64(), total - used);
            (then, used) = (now, total);
            budget = (budget + cpus * passed - spent).min(cpus * KEPT);
            self.hold(shared, budget < 0.0);
            let idle = budget > 0.0 && spent < passed * cpus / 4.0;
            let tick = if budget < 0.0 {
                Duration::from_secs_f64((-budget / cpus).clamp(TICK.as_secs_f64(), 1.0))
            } else if idle {
                IDLE_TICK
            } else {
                TICK
            };
            self.changed.wait_until(&mut state, now + tick);
        }
        self.hold(shared, false);
    }

    fn hold(&self, shared: &Shared, holds: bool) {
        if self.holds.swap(holds, Ordering::SeqCst) != holds {
            shared.wake_vcpus();
        }
    }
}

/// The session in a line of /proc/PID/stat (proc_pid_stat(5)); 0 if its leader is outside the process's PID namespace, for
/// which a `Pid` has no value.
fn session(stat: &str) -> Option<i32> {
    // The name, in parentheses, may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(3)?.parse().ok()
}

/// CPU time of the process in seconds.
fn cpu_time() -> f64 {
    cpu::usage::cpu_time().as_secs_f64()
}

impl Machine {
    /// Keeps these limits from now on, if the machine runs, or from its start.
    pub(crate) fn govern(&self, limits: Limits) -> Result<(), MachineError> {
        let governor = self.governor();
        let weighed = {
            let mut state = governor.state.lock();
            let written = governor.cgroup.as_ref().map(|group| group.set(&state.limits, &limits));
            state.limits = limits;
            written.unwrap_or(Ok(())).and(governor.weigh(&state))
        };
        governor.changed.notify_all();
        self.start_governor()?;
        weighed
    }

    /// Starts what keeps the limit, if there is one and the machine runs.
    pub(crate) fn start_governor(&self) -> Result<(), MachineError> {
        let mut state = self.governor().state.lock();
        if state.thread.is_some() || state.end || state.limits.cpus.is_none() || !self.is_started() {
            return Ok(());
        }
        let shared = self.shared().clone();
        let body = move || shared.governor.run(&shared);
        state.thread = Some(jail::spawn(Kind::Timer, "governor", body).map_err(MachineError::Thread)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::session;

    #[test]
    fn a_session_may_begin_outside_the_namespace() {
        assert_eq!(session("12 (a) b) S 11 12 0 0 -1 4194560"), Some(0));
        assert_eq!(session("12 (sh) S 11 12 9 0 -1 4194560"), Some(9));
        assert_eq!(session(""), None);
    }
}

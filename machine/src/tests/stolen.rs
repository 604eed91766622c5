//! What a guest is told of the time that it loses.

use std::time::{Duration, Instant};

use cpu::x86::msr;

use super::*;
use crate::Limits;

/// Nanoseconds that were taken from a guest that does nothing but compute, of those that passed.
fn taken(engine: EngineKind) -> f64 {
    let kernel = Kernel::new(|a| {
        let mut forever = a.create_label();
        a.mov(ecx, msr::KVM_STEAL_TIME)?;
        a.mov(eax, SCRATCH | 1)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        a.set_label(&mut forever)?;
        a.inc(ebx)?;
        a.jmp(forever)
    });
    let limits = Limits { cpus: Some(0.2), ..Limits::default() };
    let machine = machine_on(engine, MachineSpec { limits, ..kernel.spec() }, Arc::new(NullBackend));
    machine.start().unwrap();
    let word = |offset: u64| machine.pc().ram.load_u64(u64::from(SCRATCH) + offset).unwrap();
    while word(8) == 0 {
        // What this thread uses counts, too.
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_millis(300));
    let (start, before) = (Instant::now(), word(0));
    std::thread::sleep(Duration::from_secs(1));
    let share = (word(0) - before) as f64 / start.elapsed().as_nanos() as f64;
    // Its state has the place, on whatever engine it goes on.
    machine.pause().unwrap();
    let states = machine.cpu_states().unwrap();
    assert_eq!(states[0].msrs.kvm_steal_time, u64::from(SCRATCH | 1));
    assert_eq!(word(8) & 1, 0);
    machine.stop();
    share
}

#[test]
fn a_capped_guest_knows_what_it_does_not_get() {
    for engine in [EngineKind::Interp, EngineKind::Dbt] {
        // A host that is busy takes more.
        let share = taken(engine);
        assert!((0.65..=1.05).contains(&share), "{engine:?}: {share:.3} of its time");
    }
}

/// The one that KVM itself would write, if it were asked, does not know of the cap.
#[test]
fn so_does_one_on_kvm() {
    if !std::path::Path::new("/dev/kvm").exists() {
        return eprintln!("there is no /dev/kvm here");
    }
    let share = taken(EngineKind::Kvm);
    assert!((0.65..=1.05).contains(&share), "{share:.3} of its time");
}

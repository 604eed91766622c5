//! Snapshots of guests that go on writing: what is in one is what was in RAM at one moment.

use std::sync::atomic::{AtomicBool, Ordering};

use memory::{GuestRam, MemoryError};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use super::*;

/// Written first and last in each turn, far from each other.
const FIRST: u32 = SCRATCH;
const LAST: u32 = 0x3ff_f000;
/// Pages whose both ends are written in between, one after the other.
const FIELD: u32 = 0x100_0000;
const PAGES: u32 = 6144;
/// Pages of which all but one are zero again.
const FLEETING: u32 = 0x300_0000;
const FLEETS: u32 = 64;

/// Counts its turns, all over RAM.
fn turning() -> Kernel {
    Kernel::new(|a| {
        let (mut turn, mut page) = (a.create_label(), a.create_label());
        out(a, 0x3f8, b'!'.into())?;
        a.xor(ecx, ecx)?;
        a.set_label(&mut turn)?;
        a.mov(ebx, ecx)?;
        a.inc(ecx)?;
        a.mov(dword_ptr(FIRST), ecx)?;
        for (number, value) in [(ecx, true), (ebx, false)] {
            a.mov(eax, number)?;
            a.and(eax, FLEETS as i32 - 1)?;
            a.shl(eax, 12)?;
            if value {
                a.mov(dword_ptr(eax + FLEETING), ecx)?;
            } else {
                a.mov(dword_ptr(eax + FLEETING), 0)?;
            }
        }
        a.mov(edi, FIELD)?;
        a.set_label(&mut page)?;
        a.mov(dword_ptr(edi), ecx)?;
        a.mov(dword_ptr(edi + 4092), ecx)?;
        a.add(edi, 4096)?;
        a.cmp(edi, FIELD + PAGES * 4096)?;
        a.jne(page)?;
        a.mov(dword_ptr(LAST), ecx)?;
        a.jmp(turn)
    })
}

/// Says in which turn RAM is, all of which is of one moment.
fn turn(ram: &GuestRam) -> u32 {
    let word = |addr: u32| ram.load_u32(addr.into()).unwrap();
    let (first, last) = (word(FIRST), word(LAST));
    assert!(first - last <= 1, "{first} {last}");
    let ends = (0..PAGES).flat_map(|page| [0, 4092].map(|end| word(FIELD + page * 4096 + end)));
    let ends: Vec<u32> = ends.collect();
    let done = ends.iter().take_while(|end| **end == first).count();
    assert!(ends[done..].iter().all(|end| *end == first - 1), "turn {first}, {done} done");
    assert!(done == ends.len() || last == first - 1, "{done} done, and the turn was");
    for fleet in 0..FLEETS {
        let may = [first, first - 1].map(|turn| if turn % FLEETS == fleet { turn } else { 0 });
        let is = word(FLEETING + fleet * 4096);
        assert!(is == 0 || may.contains(&is), "turn {first}: page {fleet} has {is}");
    }
    first
}

/// Waits until it is in a later turn.
fn goes_on(machine: &Machine, from: u32) {
    while machine.pc().ram.load_u32(LAST.into()).unwrap() <= from {
        assert!(machine.outcome().is_none());
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn live(folder: &Path) -> Files {
    Files { how: How::Live, ..files(folder) }
}

/// False on hosts that do not say what is written.
fn is_told(machine: &Machine) -> bool {
    match machine.pc().ram.log_writes() {
        Err(error @ MemoryError::NoLog { .. }) => {
            eprintln!("{error}");
            false
        }
        log => log.map(|_| true).unwrap(),
    }
}

fn engines() -> Vec<EngineKind> {
    let mut engines = vec![EngineKind::Interp, EngineKind::Dbt];
    match engine::choose(EngineKind::Kvm) {
        Ok(_) => engines.push(EngineKind::Kvm),
        Err(error) => eprintln!("{error}"),
    }
    engines
}

#[test]
fn what_is_written_is_of_one_moment_on_any_engine_and_all_go_on() {
    let kernel = turning();
    for (engine, clonable) in engines().into_iter().flat_map(|engine| [(engine, false), (engine, true)]) {
        let spec = MachineSpec { clonable, memory: Size::mib(64), ..kernel.spec() };
        let machine = machine_on(engine, spec, Arc::new(NullBackend));
        if !is_told(&machine) {
            return;
        }
        machine.start().unwrap();
        goes_on(&machine, 3);
        let mut turns = Vec::new();
        for round in 0..2 {
            let folder = tempfile::tempdir().unwrap();
            let taken = machine.snapshot(&live(folder.path()), After::GoOn).unwrap();
            let copy = restored(folder.path(), engine).unwrap();
            turns.push(turn(&copy.pc().ram));
            // Zeros are holes, and nothing else is.
            let pages: Vec<u8> = fs::read(folder.path().join(file::MEMORY)).unwrap();
            let held = pages.chunks(4096).filter(|page| page.iter().any(|&byte| byte != 0)).count() as u64;
            assert_eq!(taken.memory, held * 4096, "{engine}");
            copy.start().unwrap();
            goes_on(&copy, turns[round] + 3);
            // One of a machine from a snapshot, which ends with it.
            let folder = tempfile::tempdir().unwrap();
            let again = |_: &_| {
                let other = tempfile::tempdir().unwrap();
                let refused = copy.snapshot(&live(other.path()), After::GoOn).unwrap_err().to_string();
                refused.contains("being written down")
            };
            copy.snapshot(&live(folder.path()), After::Stop(&again)).unwrap();
            assert!(matches!(copy.wait(), Outcome::Saved));
            let last = restored(folder.path(), EngineKind::Dbt).unwrap();
            let begins = turn(&last.pc().ram);
            last.start().unwrap();
            goes_on(&last, begins + 3);
            last.pause().unwrap();
            assert!(turn(&last.pc().ram) > begins && begins > turns[round]);
        }
        machine.pause().unwrap();
        turns.push(turn(&machine.pc().ram));
        assert!(turns.is_sorted() && turns[0] < turns[2], "{engine}: {turns:?}");
    }
}

#[test]
fn who_asks_while_another_one_is_served_is_refused_and_all_copies_are_of_one_moment() {
    let machine = begun(MachineSpec { clonable: true, memory: Size::mib(64), ..turning().spec() });
    goes_on(&machine, 3);
    let asked = AtomicBool::new(true);
    let ask = || {
        while asked.load(Ordering::Relaxed) {
            let folder = tempfile::tempdir().unwrap();
            let copied = machine.copy(&Files { memory: None, ..files(folder.path()) });
            assert!(copied.is_ok() || copied.unwrap_err().to_string().contains("being written down"));
        }
    };
    std::thread::scope(|scope| {
        (0..3).for_each(|_| drop(scope.spawn(ask)));
        let mut served = 0;
        while served < 30 {
            if let Ok(copy) = try_copy(&machine) {
                turn(&copy.pc().ram);
                served += 1;
            }
        }
        asked.store(false, Ordering::Relaxed);
    });
    let from = turn_of(&machine);
    goes_on(&machine, from + 3);
    turn_of(&machine);
}

#[test]
fn a_machine_goes_on_if_there_is_no_room_for_a_live_snapshot() {
    let machine = begun(MachineSpec { memory: Size::mib(64), ..turning().spec() });
    if !is_told(&machine) {
        return;
    }
    goes_on(&machine, 3);
    let folder = tempfile::tempdir().unwrap();
    // It has the length, and takes nothing.
    let full = File::from(memfd_create("full", MemfdFlags::ALLOW_SEALING).unwrap());
    full.set_len(64 << 20).unwrap();
    fcntl_add_seals(&full, SealFlags::WRITE).unwrap();
    let files = Files { memory: Some(full), ..live(folder.path()) };
    for after in [After::GoOn, After::Stop(&|_| true)] {
        let error = machine.snapshot(&files, after).unwrap_err();
        assert!(error.to_string().starts_with("the snapshot's memory cannot be written"), "{error}");
    }
    let from = turn_of(&machine);
    goes_on(&machine, from + 3);
    // Nothing of them is in the way of others.
    machine.snapshot(&live(folder.path()), After::GoOn).unwrap();
    turn(&restored(folder.path(), EngineKind::Interp).unwrap().pc().ram);
    copy(&machine);
}

fn turn_of(machine: &Machine) -> u32 {
    machine.pause().unwrap();
    let turn = turn(&machine.pc().ram);
    machine.resume();
    turn
}

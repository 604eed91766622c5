//! Machines at rest, and what is no machine at rest.

mod live;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use iced_x86::code_asm::*;
use rustix::fs::{CWD, FileType, Mode};

use super::*;
use crate::snapshot::format::{self, Section};
use crate::snapshot::{After, Files, Header, How, Paths, SnapshotError, file};
use crate::{BoardKind, MachineError, Outcome, Snapshot};

/// Computes for a while in registers and memory, says that it has begun, and ends with a sum that nobody can guess.
fn summing() -> Kernel {
    Kernel::new(|a| {
        let mut next = a.create_label();
        out(a, 0x3f8, b'!'.into())?;
        a.mov(ecx, 2_000_000)?;
        a.mov(eax, 12345)?;
        a.set_label(&mut next)?;
        a.imul_3(eax, eax, 69069)?;
        a.add(eax, ecx)?;
        a.mov(ebx, ecx)?;
        a.and(ebx, 0xffff)?;
        a.xor(dword_ptr(ebx * 4 + SCRATCH), eax)?;
        a.add(eax, dword_ptr(ebx * 4 + SCRATCH))?;
        a.dec(ecx)?;
        a.jne(next)?;
        a.mov(ebx, eax)?;
        a.shr(ebx, 16)?;
        a.xor(eax, ebx)?;
        exit_al(a)
    })
}

fn backends() -> Backends {
    Backends { console: Arc::new(NullBackend), terminal: Arc::new(NullBackend), debug: Arc::new(NullBackend) }
}

/// Starts it, waits for its first word.
fn begun(spec: MachineSpec) -> Machine {
    let screen = Arc::new(Screen::default());
    let machine = machine(spec, screen.clone());
    machine.start().unwrap();
    screen.wait_for("!");
    machine
}

fn files(folder: &Path) -> Files {
    let make = |name: &str| File::create(folder.join(name)).unwrap();
    Files { state: make(file::STATE), memory: Some(make(file::MEMORY)), how: How::Still, disks: Vec::new() }
}

fn restored(folder: &Path, engine: EngineKind) -> Result<Machine, MachineError> {
    let snapshot = Snapshot::open(Paths::in_folder(folder))?;
    snapshot.check_memory()?;
    let engine = engine::choose(engine).unwrap().engine;
    Machine::restore(&snapshot, snapshot.spec(), engine.as_ref(), backends())
}

fn ends(machine: &Machine) -> u8 {
    match machine.wait() {
        Outcome::DebugExit(value) => value,
        other => panic!("{other}"),
    }
}

#[test]
fn what_was_written_goes_on_on_any_engine_and_so_does_the_machine() {
    let kernel = summing();
    for board in [BoardKind::Pc, BoardKind::Microvm] {
        let machine = begun(MachineSpec { board, cpus: 2, ..kernel.spec() });
        let folder = tempfile::tempdir().unwrap();
        machine.snapshot(&files(folder.path()), After::GoOn).unwrap();
        for engine in [EngineKind::Dbt, EngineKind::Interp] {
            let copy = restored(folder.path(), engine).unwrap();
            copy.start().unwrap();
            // A copy of the copy, from another engine.
            let second = tempfile::tempdir().unwrap();
            let taken = copy.snapshot(&files(second.path()), After::Stop(&|_| true));
            let sum = match (taken, copy.wait()) {
                (Ok(_), Outcome::Saved) => {
                    let last = restored(second.path(), EngineKind::Interp).unwrap();
                    last.start().unwrap();
                    ends(&last)
                }
                (_, Outcome::DebugExit(sum)) => sum,
                (taken, outcome) => panic!("{taken:?} {outcome}"),
            };
            assert_eq!(sum, sum_on_a_host(), "{board} {engine}");
        }
        assert_eq!(ends(&machine), sum_on_a_host());
    }
}

fn sum_on_a_host() -> u8 {
    let (mut table, mut sum) = (vec![0u32; 0x10000], 12345u32);
    for count in (1..=2_000_000u32).rev() {
        sum = sum.wrapping_mul(69069).wrapping_add(count);
        let cell = &mut table[(count & 0xffff) as usize];
        *cell ^= sum;
        sum = sum.wrapping_add(*cell);
    }
    (sum ^ sum >> 16) as u8
}

/// What was once written is read for ever: a folder for each version of the format, of a machine whose CPU every host has. To
/// write the newest: `UPDATE_FIXTURE=1 cargo test -p machine fixture`.
#[test]
fn the_fixtures_of_all_versions_go_on() {
    let folder =
        |version: u32| Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/snapshot-{version}"));
    if std::env::var_os("UPDATE_FIXTURE").is_some() {
        let (kernel, path) = (summing(), folder(crate::snapshot::VERSION));
        fs::create_dir_all(&path).unwrap();
        let cpu_model = Some("x86-64-v1".to_owned());
        let machine = begun(MachineSpec { cpu_model, memory: Size::mib(3), ..kernel.spec() });
        machine.snapshot(&Files { how: How::Compressed, ..files(&path) }, After::Stop(&|_| true)).unwrap();
    }
    for version in 1..=crate::snapshot::VERSION {
        let copy = tempfile::tempdir().unwrap();
        for name in [file::STATE, file::MEMORY] {
            fs::copy(folder(version).join(name), copy.path().join(name)).unwrap();
        }
        // Its guest was told how fast that host's clock is.
        change(copy.path(), |header, _| header.tsc_hz = cpu::Clock::new().tsc_hz());
        for engine in [EngineKind::Interp, EngineKind::Dbt] {
            let machine = restored(copy.path(), engine).unwrap();
            machine.start().unwrap();
            assert_eq!(ends(&machine), sum_on_a_host(), "{version} {engine}");
        }
    }
}

/// A snapshot of a machine that has ended.
fn taken() -> tempfile::TempDir {
    let machine = begun(summing().spec());
    let folder = tempfile::tempdir().unwrap();
    machine.snapshot(&files(folder.path()), After::Stop(&|_| true)).unwrap();
    assert!(matches!(machine.wait(), Outcome::Saved));
    let (late, what) = (tempfile::tempdir().unwrap(), "a second one would let its devices go on");
    let refused = machine.snapshot(&files(late.path()), After::GoOn).unwrap_err();
    assert!(refused.to_string().contains("at its end"), "{what}: {refused}");
    folder
}

/// A copy that has not begun, whose files are gone by name.
fn copy(machine: &Machine) -> Machine {
    try_copy(machine).unwrap()
}

fn try_copy(machine: &Machine) -> Result<Machine, MachineError> {
    let folder = tempfile::tempdir().unwrap();
    let files = Files { memory: None, ..files(folder.path()) };
    let copied = machine.copy(&files)?;
    let memory = copied.memory.iter().map(|file| {
        assert!(file.write_at(b"x", 0).is_err(), "nobody writes what others have");
        PathBuf::from(format!("{}/{}", file::INHERITED, file.as_raw_fd()))
    });
    let paths = Paths { memory: memory.collect(), foreign: false, ..Paths::in_folder(folder.path()) };
    let snapshot = Snapshot::open(paths)?;
    let engine = engine::choose(EngineKind::Dbt).unwrap().engine;
    Machine::restore(&snapshot, snapshot.spec(), engine.as_ref(), backends())
}

#[test]
fn a_machine_that_shares_its_ram_goes_on_and_so_do_its_copies() {
    sharing(true);
    sharing(false);
}

fn sharing(clonable: bool) {
    let machine = begun(MachineSpec { engine: EngineKind::Interp, clonable, ..summing().spec() });
    let mut copies = Vec::new();
    for number in 0..3 {
        copies.push(copy(&machine));
        if number == 1 {
            // A copy of a copy.
            copies[1].start().unwrap();
            copies.push(copy(&copies[1]));
        }
    }
    copies.iter().filter(|copy| copy.outcome().is_none()).for_each(|copy| drop(copy.start()));
    for machine in copies.iter().chain([&machine]) {
        assert_eq!(ends(machine), sum_on_a_host());
    }
}

/// On hosts that have four huge pages.
#[test]
fn a_machine_on_huge_pages_is_written_down_and_not_shared() {
    let kernel = summing();
    let spec = MachineSpec { hugepages: Some(Size::mib(2)), ..kernel.spec() };
    let interp = engine::choose(EngineKind::Interp).unwrap().engine;
    if let Err(error) = Machine::new(spec.clone(), interp.as_ref(), backends()) {
        assert!(error.to_string().contains("/nr_hugepages"), "{error}");
        return eprintln!("{error}");
    }
    let machine = begun(spec);
    let folder = tempfile::tempdir().unwrap();
    let refused = machine.copy(&files(folder.path())).unwrap_err();
    assert!(matches!(refused, MachineError::HugeStays("a copy")), "{refused}");
    assert!(matches!(machine.set_balloon(Size::mib(1)), Err(MachineError::HugeStays("a balloon"))));
    let live = Files { how: How::Live, ..files(folder.path()) };
    let refused = machine.snapshot(&live, After::GoOn).unwrap_err().to_string();
    assert!(refused.contains("take the snapshot without --live"), "{refused}");
    machine.snapshot(&files(folder.path()), After::GoOn).unwrap();
    let copy = restored(folder.path(), EngineKind::Interp).unwrap();
    assert_eq!(copy.spec().hugepages, None);
    copy.start().unwrap();
    assert_eq!([ends(&copy), ends(&machine)], [sum_on_a_host(); 2]);
}

#[test]
fn no_bit_can_be_another() {
    let folder = taken();
    let path = folder.path();
    let parse = |state: &[u8]| Snapshot::parse(Paths::in_folder(path), state);
    let state = fs::read(path.join(file::STATE)).unwrap();
    parse(&state).unwrap();
    let header = 20 + u32::from_le_bytes(state[12..16].try_into().unwrap()) as usize;
    // All of the header, and of the first section's.
    let places = (0..header + 20).chain((header + 20..state.len()).step_by(61));
    for (place, bit) in places.zip((0..8).cycle()) {
        let mut wrong = state.clone();
        wrong[place] ^= 1 << bit;
        let error = parse(&wrong).unwrap_err();
        let expected = match place {
            0..8 => matches!(error, SnapshotError::Foreign),
            8..12 => matches!(error, SnapshotError::Newer(_) | SnapshotError::Damaged(_)),
            _ => matches!(error, SnapshotError::Damaged(_)),
        };
        let text = error.to_string();
        assert!(expected && !text.contains('\n') && text.len() < 500, "byte {place}: {error}");
    }
    for len in (0..state.len()).filter(|len| *len < header + 64 || len % 61 == 0) {
        let error = parse(&state[..len]).unwrap_err();
        assert!(matches!(error, SnapshotError::Foreign | SnapshotError::Damaged(_)), "{len}: {error}");
    }
    let more = [&state[..], &[0]].concat();
    assert!(matches!(parse(&more), Err(SnapshotError::Damaged(_))));
}

#[test]
fn what_is_no_file_is_not_read() {
    for name in [file::STATE, file::MEMORY] {
        let folder = taken();
        let path = folder.path().join(name);
        fs::remove_file(&path).unwrap();
        // Whoever opens it waits for somebody who writes.
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let error = restored(folder.path(), EngineKind::Interp).err().unwrap().to_string();
        assert!(error.contains("it is no file"), "{error}");
    }
}

#[test]
fn ram_that_is_another_is_found_while_the_machine_runs_or_before() {
    let folder = taken();
    let path = folder.path().join(file::MEMORY);
    let memory = fs::read(&path).unwrap();
    let snapshot = Snapshot::open(Paths::in_folder(folder.path())).unwrap();
    snapshot.check_memory().unwrap();
    for place in (0..memory.len()).step_by(999_983) {
        let mut wrong = memory.clone();
        wrong[place] ^= 0x10;
        fs::write(&path, &wrong).unwrap();
        let error = snapshot.check_memory().unwrap_err().to_string();
        assert!(error.contains("its RAM at"), "{place:#x}: {error}");
    }
    let engine = engine::choose(EngineKind::Interp).unwrap().engine;
    let machine = Machine::restore(&snapshot, snapshot.spec(), engine.as_ref(), backends()).unwrap();
    machine.start().unwrap();
    let outcome = machine.wait();
    assert!(matches!(&outcome, Outcome::Failed(why) if why.contains("its RAM at")), "{outcome}");
    fs::write(&path, &memory[1..]).unwrap();
    let error = restored(folder.path(), EngineKind::Interp).err().unwrap().to_string();
    assert!(error.contains("8388607 bytes"), "{error}");
}

/// Changes the header, as a program does that has checksums as well.
fn change(folder: &Path, change: impl FnOnce(&mut Header, &mut Vec<Section>)) {
    let state = fs::read(folder.join(file::STATE)).unwrap();
    let (header, mut sections) = format::decode(&state).unwrap();
    let mut header: Header = serde_json::from_slice(&header).unwrap();
    change(&mut header, &mut sections);
    header.sections = sections.len() as u32;
    let state = format::encode(format::VERSION, &serde_json::to_vec(&header).unwrap(), &sections);
    fs::write(folder.join(file::STATE), state).unwrap();
}

#[test]
fn what_does_not_fit_the_host_or_the_machine_is_refused() {
    let say = |how: &dyn Fn(&mut Header, &mut Vec<Section>)| {
        let folder = taken();
        change(folder.path(), how);
        restored(folder.path(), EngineKind::Interp).err().unwrap().to_string()
    };
    let error = say(&|header, _| header.cpu_features.push("avx1024".to_owned()));
    assert!(error.contains("needs avx1024 of the host cpu"), "{error}");
    let error = say(&|header, _| header.tsc_hz *= 2);
    assert!(error.contains("its clock runs at"), "{error}");
    let error = say(&|header, _| {
        header.board = BoardKind::Microvm;
        header.spec.board = BoardKind::Microvm;
    });
    assert!(error.contains("it is of another machine"), "{error}");
    let error = say(&|header, _| header.board = BoardKind::Microvm);
    assert!(error.contains("contradicts itself"), "{error}");
    let error = say(&|header, _| header.spec.cpus = 2);
    assert!(error.contains("cpu 1 missing"), "{error}");
    let error = say(&|_, sections| sections.retain(|section| section.kind != "uart16550"));
    assert!(error.contains("uart16550 0 missing"), "{error}");
    let error = say(&|_, sections| {
        let mut twice = sections[1].clone();
        twice.instance = 9;
        sections.push(twice);
    });
    assert!(error.contains("cpu 9 which the machine has not"), "{error}");
    let error = say(&|_, sections| sections[1].version = 77);
    assert!(error.contains("of version 77"), "{error}");
    let error = say(&|_, sections| sections[1].data = b"{}".to_vec());
    assert!(error.contains("with another content"), "{error}");
}

#[test]
fn a_full_disk_leaves_the_machine_as_it_is() {
    let machine = begun(summing().spec());
    let folder = tempfile::tempdir().unwrap();
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let state = Files { state: full(), ..files(folder.path()) };
    let memory = Files { memory: Some(full()), ..files(folder.path()) };
    for files in [state, memory] {
        let error = machine.snapshot(&files, After::Stop(&|_| true)).unwrap_err();
        assert!(matches!(error, MachineError::Snapshot(SnapshotError::Write { .. })), "{error}");
    }
    let compressed = Files { memory: Some(full()), how: How::Compressed, ..files(folder.path()) };
    let error = machine.snapshot(&compressed, After::GoOn).unwrap_err();
    assert!(error.to_string().contains("memory cannot be written"), "{error}");
    // All is written, and then it does not reach the disk.
    machine.snapshot(&files(folder.path()), After::Stop(&|_| false)).unwrap();
    assert_eq!(ends(&machine), sum_on_a_host());
    assert!(machine.snapshot(&files(folder.path()), After::GoOn).is_err(), "it has ended");
}

#[test]
fn a_guest_goes_on_while_its_ram_is_compressed_which_stays_what_it_was() {
    for clonable in [false, true] {
        let machine = begun(MachineSpec { clonable, ..summing().spec() });
        let folder = tempfile::tempdir().unwrap();
        // Full, until somebody reads when the guest has ended.
        let (mut reader, mut writer) = UnixStream::pair().unwrap();
        writer.set_nonblocking(true).unwrap();
        let mut junk = 0;
        for len in [4096, 1] {
            while let Ok(count) = writer.write(&[0; 4096][..len]) {
                junk += count;
            }
        }
        writer.set_nonblocking(false).unwrap();
        let slow = Files {
            memory: Some(OwnedFd::from(writer).into()),
            how: How::Compressed,
            ..files(folder.path())
        };
        let taken = std::thread::scope(|scope| {
            let taken = scope.spawn(|| {
                let taken = machine.snapshot(&slow, After::GoOn);
                drop(slow);
                taken
            });
            let goes_on = machine.ends_within(Duration::from_secs(60));
            let waits = !taken.is_finished();
            let mut memory = Vec::new();
            reader.read_to_end(&mut memory).unwrap();
            fs::write(folder.path().join(file::MEMORY), &memory[junk..]).unwrap();
            assert!(goes_on && waits, "{goes_on} {waits}");
            assert_eq!(ends(&machine), sum_on_a_host());
            taken.join().unwrap().unwrap()
        });
        assert_eq!(taken.memory, fs::metadata(folder.path().join(file::MEMORY)).unwrap().len());
        let copy = restored(folder.path(), EngineKind::Dbt).unwrap();
        copy.start().unwrap();
        assert_eq!(ends(&copy), sum_on_a_host());
    }
}

#[test]
fn packed_ram_is_small_and_goes_on_and_what_is_wrong_with_it_is_found_before_the_machine_is_made() {
    let machine = begun(summing().spec());
    let folder = tempfile::tempdir().unwrap();
    let packed = Files { how: How::Compressed, ..files(folder.path()) };
    let taken = machine.snapshot(&packed, After::GoOn).unwrap();
    let path = folder.path().join(file::MEMORY);
    let memory = fs::read(&path).unwrap();
    assert_eq!(taken.memory, memory.len() as u64);
    assert!(taken.memory < 1 << 20, "{} bytes", taken.memory);
    for engine in [EngineKind::Interp, EngineKind::Dbt] {
        let copy = restored(folder.path(), engine).unwrap();
        copy.start().unwrap();
        assert_eq!(ends(&copy), sum_on_a_host(), "{engine}");
    }
    assert_eq!(ends(&machine), sum_on_a_host());
    let error = |memory: &[u8]| {
        fs::write(&path, memory).unwrap();
        let snapshot = Snapshot::open(Paths::in_folder(folder.path())).unwrap();
        let engine = engine::choose(EngineKind::Interp).unwrap().engine;
        let error = Machine::restore(&snapshot, snapshot.spec(), engine.as_ref(), backends()).err();
        let error = error.map(|e| e.to_string()).unwrap_or_default();
        assert_eq!(error, snapshot.check_memory().err().map(|e| e.to_string()).unwrap_or_default());
        assert!(!error.contains('\n'), "{error}");
        error
    };
    assert_eq!(error(&memory), "");
    for place in (0..memory.len()).step_by(memory.len() / 40 + 1) {
        let mut wrong = memory.clone();
        wrong[place] ^= 1 << (place % 8);
        // A bit that says nothing, as the checksum that a frame may have, is no error.
        let error = error(&wrong);
        assert!(error.is_empty() || error.contains("its RAM at"), "{place}: {error}");
    }
    for len in [0, 1, memory.len() / 2, memory.len() - 1] {
        assert!(error(&memory[..len]).contains("its RAM at"), "{len}");
    }
    assert!(error(&[&memory[..], &[0]].concat()).contains("followed by more"));
    // A frame of a GiB of zeros in some bytes: blocks that repeat one byte, of 128 KiB each.
    let mut bomb = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x38];
    bomb.extend([0x02, 0x00, 0x10, 0x00].repeat(8192));
    assert!(error(&bomb).contains("its RAM at 0x0"), "{}", error(&bomb));
}

//! Linux boots and computes on engines under strain, and the sums are right.
#![allow(clippy::unwrap_used)] // how a test fails

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::{Duration, Instant};

use cpu::Engine;
use dbt::{Dbt, Directness, Options};
use guest::{Cache, Cancel, Catalogue, CommandMode, Session, WindowSize};
use machine::{Backends, BoardKind, CharBackend, Machine, MachineSpec, NullBackend, Outcome};
use parking_lot::Mutex;

use crate::hopping::Hopping;

mod code32;
mod drops;
mod generation;
mod hopping;
mod moving;
mod time;

/// Four pipelines at once; no program but busybox. One of 32-bit code follows.
const WORK: &str = r#"
work() {
    seq $1 4 4000 | awk '{ x = (x * 69069 + $1) % 65536; print x, $1; n[x % 97]++ } END { for (i = 0; i < 97; i++) print i, n[i] }' |
        sort -n | gzip -c | gunzip -c | tee /tmp/text.$1 | md5sum >/tmp/sum.$1
    sha256sum </tmp/text.$1 >>/tmp/sum.$1
}
for job in 1 2 3 4; do work $job & done
wait
cat /tmp/sum.1 /tmp/sum.2 /tmp/sum.3 /tmp/sum.4 | sha256sum
echo cpus $(nproc)
"#;

/// What the pipelines give on any computer.
const SUM: &str = "9e7917a925ba38470989d111c61761bb47329699f567a66481f2e43ea7395a19";

/// A console that keeps what was written.
#[derive(Default)]
struct Screen(Mutex<Vec<u8>>);

impl CharBackend for Screen {
    fn write(&self, bytes: &[u8]) {
        self.0.lock().extend_from_slice(bytes);
    }
}

impl Screen {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock()).into_owned()
    }
}

/// A Linux guest and what it does.
struct Linux<'a> {
    guest: &'a str,
    work: &'a str,
    board: BoardKind,
    /// The kernel says nothing.
    quiet: bool,
    cpus: u32,
}

impl Linux<'_> {
    /// Something happens to it while it runs: how it ended, and what its console said.
    fn run_while(&self, engine: &dyn Engine, happens: impl FnOnce(&Machine, &Screen)) -> (Outcome, String) {
        let catalogue = Catalogue::builtin().unwrap();
        let entry = catalogue.get(self.guest).unwrap();
        let built = Cache::of_user().unwrap().get_or_build(entry, &Cancel::default(), &mut |_| ()).unwrap();
        let terminal = Some((WindowSize { rows: 25, columns: 200 }, "vt100".to_owned()));
        let argv = ["sh".into(), "-c".into(), self.work.into()].to_vec();
        let command = Some((CommandMode::Terminal, argv));
        let session = Session { terminal, command, ..Session::default() };
        let mut initrd = tempfile::NamedTempFile::new().unwrap();
        initrd.write_all(&std::fs::read(&built.initrd).unwrap()).unwrap();
        initrd.write_all(&session.archive()).unwrap();
        let quiet = if self.quiet { entry.append_quiet.as_str() } else { "" };
        let spec = MachineSpec {
            kernel: built.kernel,
            initrd: Some(initrd.path().to_owned()),
            cmdline: format!("{} {quiet}", entry.append),
            cpus: self.cpus,
            board: self.board,
            no_reboot: true,
            ..MachineSpec::default()
        };
        let screen = Arc::new(Screen::default());
        let backends = Backends {
            console: screen.clone(),
            terminal: Arc::new(NullBackend),
            debug: Arc::new(NullBackend),
        };
        let machine = Machine::new(spec, engine, backends).unwrap();
        machine.start().unwrap();
        happens(&machine, &screen);
        let outcome = machine.wait();
        println!("{outcome}; {}", screen.text());
        (outcome, screen.text())
    }
}

fn boots_and_computes(engine: &dyn Engine, cpus: u32) {
    boots_and_computes_while(engine, cpus, |_| ());
}

/// Something happens to it meanwhile.
fn boots_and_computes_while(engine: &dyn Engine, cpus: u32, happens: impl FnOnce(&Machine)) {
    let default = Catalogue::builtin().unwrap().default;
    let program: String = code32::program().iter().map(|byte| format!("{byte:02x}")).collect();
    let work = format!("{WORK}echo {program} | xxd -r -p >/tmp/code32; chmod +x /tmp/code32; /tmp/code32\n");
    let linux = Linux { guest: &default, work: &work, board: BoardKind::default(), quiet: true, cpus };
    let (outcome, text) = linux.run_while(engine, |machine, _| happens(machine));
    assert!(matches!(outcome, Outcome::DebugExit(0)), "{outcome}: {text}");
    assert!(text.contains(SUM) && text.contains(&format!("cpus {cpus}")), "{text}");
    assert!(text.contains(&code32::answer()), "{} expected: {text}", code32::answer());
}

/// What one engine leaves, the other goes on with.
fn hops(cpus: u32) {
    let engine = Hopping::default();
    boots_and_computes(&engine, cpus);
    let hops = engine.hops.load(Ordering::Relaxed);
    assert!(hops > 1000, "{hops} hops");
}

#[test]
fn linux_computes_while_its_cpu_hops_between_engines() {
    hops(1);
}

#[test]
fn linux_computes_while_two_cpus_hop_between_engines() {
    hops(2);
}

/// Room for a fiftieth of what is executed: translations are dropped while others run, again and again.
#[test]
fn linux_computes_with_little_room_for_translations() {
    drops::watch();
    boots_and_computes(&Dbt::with_options(Options { room: 1280 << 10, ..Options::default() }), 2);
    let drops = drops::count();
    assert!(drops > 100, "{drops}");
}

/// All programs, from their first instruction on.
#[test]
fn linux_computes_while_its_programs_run_as_they_are() {
    let options = Options { direct: Directness::Always, ..Options::default() };
    let mut stays = 0;
    boots_and_computes_while(&Dbt::with_options(options), 2, |machine| {
        let end = Instant::now() + Duration::from_secs(60);
        while stays < 1000 && Instant::now() < end {
            sleep(Duration::from_millis(20));
            let counters = machine.counters().engine;
            stays = counters.iter().find(|(name, _)| *name == "direct_stays").map_or(0, |(_, count)| *count);
        }
    });
    assert!(stays >= 1000, "{stays} stays");
}

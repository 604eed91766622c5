//! `cargo xtask bench share`: a folder of the host's in a guest with one CPU, by virtio-fs here and by 9p in QEMU. Both run
//! the same kernel and the same work in turns; a machine is booted once a run.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use guest::cpio::{Archive, Node};
use guest::{Cache, Cancel, Catalogue};

use super::console::Console;
use super::figure::{self, Figure, Target};
use super::peer::{self, Machine, Peer};
use super::program;
use crate::process::{root, target_folder};

/// The guest: its kernel has both file systems.
const GUEST: &str = "bench-share";
/// What is done, and what it is called.
const WORK: [(&str, &str); 3] = [
    ("storm", "5,000 small files: written, listed, read, packed, unpacked, removed"),
    ("git", "git: clone, checkout, status, log, removed"),
    ("large", "200 MB: written, read, removed"),
];

/// Measure a shared folder beside QEMU's 9p.
#[derive(Debug, Args)]
pub struct Arguments {
    /// An engine of this build.
    #[arg(long, value_name = "NAME", default_value = "auto")]
    engine: String,
    /// Leave QEMU out.
    #[arg(long)]
    no_qemu: bool,
    /// Only this work: storm, git or large; may be given several times.
    #[arg(long, value_name = "NAME")]
    rows: Vec<String>,
    /// How often; medians are shown.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
}

/// Measures, prints, and fails if a figure misses its target.
pub fn run(arguments: &Arguments) -> Result<()> {
    let target = target_folder()?;
    let folder = target.join("bench");
    fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let machine = machine(&folder)?;
    let program = target.join("release/guesthouse");
    let mut peers = vec![Peer::Guesthouse { program, engine: arguments.engine.clone() }];
    match peer::qemu_version() {
        Some(_) if !arguments.no_qemu => peers.push(Peer::Qemu),
        Some(_) => {}
        None => eprintln!("xtask: {} is not installed and left out: {}", peer::QEMU, peer::QEMU_REMEDY),
    }
    let chosen =
        |(name, _): &&(&str, &str)| arguments.rows.is_empty() || arguments.rows.iter().any(|row| row == name);
    let work: Vec<_> = WORK.iter().filter(chosen).collect();
    let target = Some(Target::TimesQemu(1.0 / 3.0));
    let figure = |what: &str, kind: &str, target| Figure {
        name: format!("{what}, {kind}"),
        unit: "s",
        target,
        ..Figure::default()
    };
    let mut figures: Vec<_> =
        work.iter().map(|(_, what)| [figure(what, "CPU time", target), figure(what, "time", None)]).collect();
    for run in 1..=arguments.runs {
        for peer in &peers {
            let shared = Shared::new(&folder.join("share"))?;
            let mut console = boot(peer, &machine, &shared.0)?;
            for ((name, what), [cpu, wall]) in work.iter().zip(&mut figures) {
                let (cpu_seconds, seconds) =
                    sample(&mut console, name).with_context(|| format!("{what} on {}", peer.name()))?;
                eprintln!(
                    "xtask: run {run} of {}, {}: {what}: {cpu_seconds:.2} s, {seconds:.2} s of wall time",
                    arguments.runs,
                    peer.name()
                );
                for (figure, value) in [(cpu, cpu_seconds), (wall, seconds)] {
                    if matches!(peer, Peer::Qemu) { &mut figure.qemu } else { &mut figure.guesthouse }
                        .push(value);
                }
            }
        }
    }
    let figures: Vec<_> = figures.into_iter().flatten().collect();
    figure::conclude(&figures, false)
}

/// The guest with the script.
fn machine(folder: &Path) -> Result<Machine> {
    let catalogue = Catalogue::builtin()?;
    let entry = catalogue.get(GUEST)?;
    let mut progress = |step| eprintln!("xtask: guest {GUEST}: {step}");
    let built = Cache::of_user()?.get_or_build(entry, &Cancel::default(), &mut progress)?;
    let mut initrd =
        fs::read(&built.initrd).with_context(|| format!("{} cannot be read", built.initrd.display()))?;
    let script = fs::read(program::source("share.sh"))?;
    initrd.extend(Archive::new().add("bench/share.sh", 0o755, Node::File(script)).write());
    let path = folder.join("share-initrd");
    fs::write(&path, initrd).with_context(|| format!("{} cannot be written", path.display()))?;
    let [kernel, _] = &built.manifest.files;
    Ok(Machine {
        kernel: built.kernel.clone(),
        initrd: path,
        append: entry.append.clone(),
        origin: kernel.origin.clone(),
        cpus: 1,
        memory: 1536,
    })
}

/// A folder with a repository in it, which goes away.
struct Shared(std::path::PathBuf);

impl Shared {
    fn new(path: &Path) -> Result<Self> {
        let shared = Self(path.to_owned());
        let _ = fs::remove_dir_all(path);
        fs::create_dir_all(path).with_context(|| format!("{} cannot be made", path.display()))?;
        let mut git = Command::new("git");
        git.args(["clone", "-q", "--bare"]).arg(root()).arg(path.join("repository.git"));
        if !git.status().context("git does not start: apt-get install git")?.success() {
            bail!("{} cannot be cloned", root().display());
        }
        let mut branch = Command::new("git");
        branch.arg("-C").arg(path.join("repository.git")).args(["branch", "-qf", "main", "HEAD"]);
        // On main itself it is there already.
        let _ = branch.stderr(std::process::Stdio::null()).status();
        Ok(shared)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Boots to the shell, in the shared folder.
fn boot(peer: &Peer, machine: &Machine, shared: &Path) -> Result<Console> {
    let shared = shared.display();
    let mut command = match peer {
        Peer::Guesthouse { .. } => {
            let mut command = peer.command(machine);
            command.args(["--share", &format!("{shared}:share")]);
            command
        }
        // Its smallest PC has no PCI, by which this kernel finds devices.
        Peer::Qemu => {
            let mut command = Command::new(peer::QEMU);
            command.args(["-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", &machine.memory.to_string()]);
            command.args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"]);
            command.args([
                "-virtfs",
                &format!("local,path={shared},mount_tag=share,security_model=none,multidevs=remap"),
            ]);
            command.args([Path::new("-kernel"), &machine.kernel, Path::new("-initrd"), &machine.initrd]);
            command.args(["-append", &machine.append]);
            command
        }
    };
    command.stderr(std::process::Stdio::null());
    let mut console = Console::start(command)?;
    console.prompt()?;
    console.enter("sh /bench/share.sh mount; cd /mnt; ls")?;
    console.wait_for("@end")?;
    console.wait_for("repository.git")?;
    console.prompt()?;
    Ok(console)
}

/// CPU time of the whole machine, and time.
fn sample(console: &mut Console, work: &str) -> Result<(f64, f64)> {
    console.within(std::time::Duration::from_secs(600));
    console.enter(&format!("sh /bench/share.sh {work} || echo '@'failed"))?;
    console.wait_for("@begin")?;
    let (cpu, start) = (console.cpu_seconds()?, Instant::now());
    let output = console.wait_for("@")?;
    let end = console.wait_for("\n")?;
    if !end.starts_with("end") {
        bail!("it fails: {}", output.trim());
    }
    let sample = (console.cpu_seconds()? - cpu, start.elapsed().as_secs_f64());
    console.prompt()?;
    Ok(sample)
}

//! `guesthouse doctor`: what this host offers, and what follows from it.

mod kvm;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use cpu::x86::CpuModel;
use guest::{Cache, Catalogue};
use serde::Serialize;

use kvm::Kvm;
use machine::{EngineKind, Size};

/// CPU flags, as the kernel names them, that decide which CPU model a guest can have or how it can be run.
const FLAGS: &[&str] = &[
    "vmx",
    "svm",
    "sse3",
    "pni",
    "ssse3",
    "sse4_1",
    "sse4_2",
    "popcnt",
    "cx16",
    "movbe",
    "aes",
    "pclmulqdq",
    "xsave",
    "avx",
    "avx2",
    "f16c",
    "fma",
    "bmi1",
    "bmi2",
    "abm",
    "adx",
    "sha_ni",
    "rdrand",
    "rdseed",
    "constant_tsc",
    "nonstop_tsc",
];

#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    cpu: Cpu,
    cores: usize,
    memory: Memory,
    cpu_models: Vec<Model>,
    kvm: Kvm,
    engines: Vec<Engine>,
    auto: Auto,
    jail: jail::Host,
    guests: Guests,
}

#[derive(Debug, Serialize)]
struct Cpu {
    vendor: String,
    name: String,
    features: Vec<&'static str>,
}

/// A CPU model that a guest can have.
#[derive(Debug, Serialize)]
struct Model {
    name: &'static str,
    /// The one a guest gets if none is asked for.
    default: bool,
    /// Why this host cannot run it.
    unusable: Option<String>,
}

#[derive(Debug, Serialize)]
struct Memory {
    total_bytes: u64,
    available_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Engine {
    name: &'static str,
    usable: bool,
    /// Why it is not usable.
    reason: Option<String>,
    max_vcpus: u32,
    /// Measured now.
    speed: Option<Speed>,
}

/// Instructions per second, in a loop.
#[derive(Debug, Serialize)]
struct Speed {
    ring0: f64,
    ring3: f64,
}

#[derive(Debug, Serialize)]
struct Auto {
    engine: Option<&'static str>,
    why: String,
}

#[derive(Debug, Serialize)]
struct Guests {
    apt: Option<PathBuf>,
    dpkg_deb: Option<PathBuf>,
    cache: Option<PathBuf>,
    cache_writable: bool,
    built: Vec<String>,
}

/// Prints the report.
pub fn run(json: bool) -> anyhow::Result<()> {
    let report = Report::of_this_host();
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, &report)?;
        writeln!(out)?;
    } else {
        report.write(&mut out)?;
    }
    Ok(())
}

impl Report {
    fn of_this_host() -> Self {
        let (engines, auto) = engines();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            cpu: Cpu::of_this_host(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory: Memory::of_this_host(),
            cpu_models: cpu_models(),
            kvm: Kvm::probe(Path::new("/dev/kvm")),
            engines,
            auto,
            jail: jail::Host::probe(),
            guests: Guests::of_this_user(),
        }
    }

    fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        let yes = |found: bool| if found { "yes" } else { "no" };
        writeln!(out, "guesthouse {}", self.version)?;
        writeln!(out, "cpu       {} ({})", self.cpu.name, self.cpu.vendor)?;
        writeln!(out, "          {}", self.cpu.features.join(" "))?;
        writeln!(out, "cores     {}", self.cores)?;
        let mib = |bytes: u64| Size::mib(bytes >> 20);
        let memory = &self.memory;
        writeln!(out, "memory    {} available of {}", mib(memory.available_bytes), mib(memory.total_bytes))?;
        let models = self.cpu_models.iter().filter(|m| m.unusable.is_none());
        let models = models.map(|m| format!("{}{}", m.name, if m.default { " (default)" } else { "" }));
        writeln!(out, "models    {}", models.collect::<Vec<_>>().join(", "))?;
        writeln!(out, "/dev/kvm  {}", self.kvm)?;
        for engine in &self.engines {
            match &engine.reason {
                None => {
                    write!(out, "engine    {}: usable, at most {} cpus", engine.name, engine.max_vcpus)?;
                    let million = |speed: f64| (speed / 1e6).max(1.0).round();
                    if let Some(Speed { ring0, ring3 }) = engine.speed {
                        let (kernel, user) = (million(ring0), million(ring3));
                        write!(out, "; ring 0 runs {kernel} M insn/s, ring 3 {user} M insn/s")?;
                    }
                    writeln!(out)?;
                }
                Some(reason) => writeln!(out, "engine    {}: not usable: {reason}", engine.name)?,
            }
        }
        writeln!(out, "auto      {}: {}", self.auto.engine.unwrap_or("none"), self.auto.why)?;
        writeln!(out, "jail      {}", self.jail)?;
        let packages = self.guests.apt.is_some() && self.guests.dpkg_deb.is_some();
        writeln!(
            out,
            "apt       {}",
            if packages { "yes: default guests can be built" } else { "no: pass --kernel and --initrd" }
        )?;
        match &self.guests.cache {
            Some(path) => {
                writeln!(out, "cache     {} (writable: {})", path.display(), yes(self.guests.cache_writable))?
            }
            None => writeln!(out, "cache     none: set XDG_CACHE_HOME or HOME")?,
        }
        let built =
            if self.guests.built.is_empty() { "none yet".into() } else { self.guests.built.join(", ") };
        writeln!(out, "guests    {built}")
    }
}

fn cpu_models() -> Vec<Model> {
    let default = CpuModel::best_for_host();
    let model = |name: &'static str| Model {
        name,
        default: name == default.name(),
        unusable: CpuModel::named(Some(name)).err().map(|e| e.to_string()),
    };
    CpuModel::names().into_iter().map(model).collect()
}

fn engines() -> (Vec<Engine>, Auto) {
    let auto = match machine::engine::choose(EngineKind::Auto) {
        Ok(choice) => Auto { engine: Some(choice.engine.name()), why: choice.reason },
        Err(e) => Auto { engine: None, why: e.to_string() },
    };
    let list = machine::engine::all().into_iter().map(|engine| {
        let capabilities = engine.capabilities();
        let usable = capabilities.unusable.is_none().then_some(engine.as_ref());
        let speed = usable.and_then(machine::engine::speed);
        let speed = speed.map(|s| Speed { ring0: s.ring0, ring3: s.ring3 });
        Engine {
            name: engine.name(),
            usable: capabilities.unusable.is_none(),
            reason: capabilities.unusable,
            max_vcpus: capabilities.max_vcpus.min(machine::MAX_CPUS),
            speed,
        }
    });
    (list.collect(), auto)
}

impl Cpu {
    fn of_this_host() -> Self {
        let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = text.lines().find(|l| l.split(':').next().is_some_and(|k| k.trim() == name));
            line.and_then(|l| l.split_once(':')).map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let flags = field("flags");
        let has = |flag: &&&'static str| flags.split_whitespace().any(|f| f == **flag);
        Self {
            vendor: field("vendor_id"),
            name: field("model name"),
            features: FLAGS.iter().filter(has).copied().collect(),
        }
    }
}

impl Memory {
    fn of_this_host() -> Self {
        let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let bytes = |name: &str| -> u64 {
            let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
            let kilobytes = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
            kilobytes.unwrap_or(0).saturating_mul(1024)
        };
        Self { total_bytes: bytes("MemTotal"), available_bytes: bytes("MemAvailable") }
    }
}

impl Guests {
    fn of_this_user() -> Self {
        let cache = Cache::of_user().ok();
        let built = match (&cache, Catalogue::builtin()) {
            (Some(cache), Ok(catalogue)) => {
                catalogue.iter().filter(|e| cache.check(e).is_some()).map(|e| e.name.clone()).collect()
            }
            _ => Vec::new(),
        };
        Self {
            apt: find_program("apt-get"),
            dpkg_deb: find_program("dpkg-deb"),
            cache_writable: cache.as_ref().is_some_and(|c| writable(c.root())),
            cache: cache.map(|c| c.root().to_owned()),
            built,
        }
    }
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|p| p.is_file())
}

/// True if the folder, or the nearest one above that is there, can be written to.
fn writable(folder: &Path) -> bool {
    let present = folder.ancestors().find(|p| p.exists());
    present.is_some_and(|p| {
        rustix::fs::access(p, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_ok()
    })
}

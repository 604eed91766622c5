//! The driver on stable Rust: mutated seeds for so many seconds per target.
//!
//! Each target runs in a child process, which notes every input in a file before it takes it. Whatever then ends
//! the child early (panic, signal, the watchdog, the limit on its memory), the parent finds the input there.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::mutate::{Rng, input};
use crate::{Target, corpus};

/// An input that takes longer is reported.
const PATIENCE: Duration = Duration::from_secs(10);
/// Address space of a child: guest RAM, the windows of decompressors, and room.
const MEMORY: u64 = 4 << 30;
/// What the watchdog exits with.
const HANG: i32 = 102;

/// What to do with a target.
#[derive(Debug, Clone)]
pub struct Options {
    /// Time for each target.
    pub seconds: u64,
    /// Chooses the inputs.
    pub seed: u64,
    /// Where inputs that break something are written.
    pub artifacts: PathBuf,
    /// A file to start from, beside the seeds.
    pub extra: Option<PathBuf>,
}

/// Runs `target` in a child process of this program, which passes the arguments on to [`worker`].
///
/// # Errors
/// The target broke; the input is in a file that the message names.
pub fn run(target: &Target, options: &Options) -> Result<String> {
    fs::create_dir_all(&options.artifacts).with_context(|| options.artifacts.display().to_string())?;
    let note = options.artifacts.join(format!("{}.current", target.name));
    let _ = fs::remove_file(&note);
    let program = std::env::current_exe().context("the path of this program")?;
    let mut worker = Command::new(program);
    worker
        .args(["--worker", "--target", target.name, "--artifacts"])
        .arg(&options.artifacts)
        .args(["--seconds", &options.seconds.to_string(), "--seed", &options.seed.to_string()])
        .stderr(std::process::Stdio::inherit());
    if let Some(extra) = &options.extra {
        worker.arg("--extra").arg(extra);
    }
    let output = worker.output().context("the worker does not start")?;
    let data = noted(&note);
    let _ = fs::remove_file(&note);
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let Some(data) = data else { bail!("{}: the worker failed ({})", target.name, output.status) };
    let path = options.artifacts.join(format!("{}-{:016x}", target.name, hash(&data)));
    fs::write(&path, &data).with_context(|| path.display().to_string())?;
    bail!(
        "{} {}; the input is {}; to reproduce: cargo xtask fuzz-smoke --target {} --input {}",
        target.name,
        cause(output.status),
        path.display(),
        target.name,
        path.display()
    )
}

fn cause(status: ExitStatus) -> String {
    match status.code() {
        Some(HANG) => format!("took longer than {} seconds", PATIENCE.as_secs()),
        Some(_) => "panicked".to_owned(),
        None => format!("died ({status})"),
    }
}

/// Runs `target` in this process until the time is over; prints a summary. Ends the process if an input hangs.
pub fn worker(target: &Target, options: &Options) -> Result<()> {
    let note = File::create(options.artifacts.join(format!("{}.current", target.name)))
        .context("the note of the current input")?;
    limit_memory()?;
    let mut corpus = corpus::corpus(target)?;
    if let Some(extra) = &options.extra {
        corpus.push(fs::read(extra).with_context(|| extra.display().to_string())?);
    }
    let guard = Watchdog::start();
    let end = Instant::now() + Duration::from_secs(options.seconds);
    let mut count = 0u64;
    // The corpus as it is comes first: it has to pass however short the time.
    for data in &corpus {
        take(target, data, &note, guard)?;
        count += 1;
    }
    let mut index = 0;
    while Instant::now() < end {
        let data = input(&mut Rng::new(options.seed, target.name, index), &corpus, target.words);
        take(target, &data, &note, guard)?;
        index += 1;
    }
    println!("{} inputs", count + index);
    Ok(())
}

/// Runs `target` on one file, under the same limits.
pub fn one_input(target: &Target, file: &Path) -> Result<()> {
    let data = fs::read(file).with_context(|| file.display().to_string())?;
    limit_memory()?;
    let guard = Watchdog::start();
    guard.begin();
    (target.run)(&data);
    Ok(())
}

fn take(target: &Target, data: &[u8], note: &File, guard: &Watchdog) -> Result<()> {
    let mut noted = (data.len() as u32).to_le_bytes().to_vec();
    noted.extend_from_slice(data);
    note.write_all_at(&noted, 0).context("the note of the current input")?;
    guard.begin();
    // A panic ends this process, and with it the note is found.
    (target.run)(data);
    guard.end();
    Ok(())
}

/// The input that was noted last.
fn noted(path: &Path) -> Option<Vec<u8>> {
    let mut file = File::open(path).ok()?;
    let mut len = [0; 4];
    file.read_exact(&mut len).ok()?;
    let mut data = vec![0; u32::from_le_bytes(len) as usize];
    file.read_exact(&mut data).ok()?;
    Some(data)
}

/// FNV-1a: a name for an input.
fn hash(data: &[u8]) -> u64 {
    data.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

/// An allocation without bound aborts the process instead of the host.
fn limit_memory() -> Result<()> {
    let limit = |n| Rlimit { current: Some(n), maximum: Some(n) };
    setrlimit(Resource::As, limit(MEMORY)).context("the limit on memory")?;
    setrlimit(Resource::Core, limit(0)).context("the limit on core dumps")
}

/// Ends the process when an input takes too long.
struct Watchdog {
    start: Instant,
    /// Milliseconds since `start` when the input was begun, plus one; 0: none is running.
    begun: AtomicU64,
}

impl Watchdog {
    fn start() -> &'static Self {
        let this: &'static Self =
            Box::leak(Box::new(Self { start: Instant::now(), begun: AtomicU64::new(0) }));
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_millis(200));
                let begun = this.begun.load(Ordering::Relaxed);
                if begun != 0 && this.now().saturating_sub(begun) > PATIENCE.as_millis() as u64 {
                    eprintln!("the input takes longer than {} seconds", PATIENCE.as_secs());
                    std::process::exit(HANG);
                }
            }
        });
        this
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_millis() as u64 + 1
    }

    fn begin(&self) {
        self.begun.store(self.now(), Ordering::Relaxed);
    }

    fn end(&self) {
        self.begun.store(0, Ordering::Relaxed);
    }
}

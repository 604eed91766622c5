//! `guesthouse guests`, and the progress line while one is built.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use guest::{Built, BuiltDisk, Cache, Cancel, Catalogue, DiskEntry, GuestEntry, GuestError, Manifest, Step};
use indicatif::ProgressBar;
use serde::Serialize;

use crate::signals::Signals;

#[derive(Debug, Serialize)]
struct Line<'a> {
    name: &'a str,
    default: bool,
    summary: &'a str,
    built: bool,
    kernel: Option<PathBuf>,
    initrd: Option<PathBuf>,
    /// Of a whole system: its disk.
    disk: Option<PathBuf>,
    manifest: Option<Manifest>,
    packages: Vec<(String, String)>,
}

/// Lists the guests, after building one if asked to (an empty name: the default one).
pub fn run(build_name: Option<&str>, json: bool, signals: &Signals) -> anyhow::Result<()> {
    let catalogue = Catalogue::builtin()?;
    let cache = Cache::of_user()?;
    if let Some(name) = build_name {
        match catalogue.disk(name) {
            Some(entry) => drop(build_disk(&cache, entry, true, signals)?),
            None => {
                let entry = catalogue.get(if name.is_empty() { &catalogue.default } else { name })?;
                build(&cache, entry, true, signals)?;
            }
        }
    }
    let lines: Vec<_> = catalogue
        .iter()
        .map(|entry| {
            let built = cache.check(entry);
            Line {
                name: &entry.name,
                default: entry.name == catalogue.default,
                summary: &entry.summary,
                built: built.is_some(),
                kernel: built.as_ref().map(|b| b.kernel.clone()),
                initrd: built.as_ref().map(|b| b.initrd.clone()),
                disk: None,
                packages: Vec::new(),
                manifest: built.map(|b| b.manifest),
            }
        })
        .chain(catalogue.disks().map(|entry| {
            let built = cache.disk(entry);
            Line {
                name: &entry.name,
                default: false,
                summary: &entry.summary,
                built: built.is_some(),
                kernel: None,
                initrd: None,
                disk: built.as_ref().map(|b| b.image.clone()),
                packages: built.map(|b| b.manifest.packages).unwrap_or_default(),
                manifest: None,
            }
        }))
        .collect();
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, &lines)?;
        writeln!(out)?;
        return Ok(());
    }
    for line in lines {
        writeln!(out, "{}{}  {}", line.name, if line.default { " (default)" } else { "" }, line.summary)?;
        if !line.built {
            writeln!(
                out,
                "  not built yet: the first run does it, or `guesthouse guests --build {}`",
                line.name
            )?;
            continue;
        }
        for path in [line.kernel, line.initrd, line.disk].into_iter().flatten() {
            writeln!(out, "  {}", path.display())?;
        }
        for package in line.manifest.into_iter().flat_map(|manifest| manifest.packages) {
            writeln!(out, "  {} {}", package.name, package.version)?;
        }
        if !line.packages.is_empty() {
            writeln!(out, "  {} packages", line.packages.len())?;
        }
    }
    Ok(())
}

/// The guest, built if it is not there or if it shall be `anew`; says on the terminal what takes so long.
pub fn build(cache: &Cache, entry: &GuestEntry, anew: bool, signals: &Signals) -> Result<Built, GuestError> {
    match cache.get(entry) {
        Some(built) if !anew => Ok(built),
        _ => watched(&entry.name, signals, |cancel, progress| cache.build(entry, anew, cancel, progress)),
    }
}

/// As [`build`], for a system on a disk.
pub fn build_disk(
    cache: &Cache,
    entry: &DiskEntry,
    anew: bool,
    signals: &Signals,
) -> Result<BuiltDisk, GuestError> {
    match cache.disk(entry) {
        Some(built) if !anew => Ok(built),
        _ => {
            watched(&entry.name, signals, |cancel, progress| cache.build_disk(entry, anew, cancel, progress))
        }
    }
}

fn watched<T>(
    name: &str,
    signals: &Signals,
    work: impl FnOnce(&Cancel, &mut dyn FnMut(Step)) -> Result<T, GuestError>,
) -> Result<T, GuestError> {
    let cancel = Cancel::default();
    let wish = cancel.clone();
    signals.on_signal(move || wish.cancel());
    let mut bar = None;
    let built = work(&cancel, &mut |step| {
        tracing::info!("guest {name}: {step}");
        if std::io::stderr().is_terminal() {
            let bar = bar.get_or_insert_with(|| {
                let bar = ProgressBar::new_spinner();
                bar.enable_steady_tick(Duration::from_millis(100));
                bar
            });
            bar.set_message(format!("guest {name}: {step}"));
        }
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    built
}

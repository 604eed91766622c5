//! `guesthouse guests`, and the progress line while one is built.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use guest::{Built, Cache, Cancel, Catalogue, GuestEntry, GuestError, Manifest};
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
    manifest: Option<Manifest>,
}

/// Lists the guests, after building one if asked to (an empty name: the default one).
pub fn run(build_name: Option<&str>, json: bool, signals: &Signals) -> anyhow::Result<()> {
    let catalogue = Catalogue::builtin()?;
    let cache = Cache::of_user()?;
    if let Some(name) = build_name {
        let entry = catalogue.get(if name.is_empty() { &catalogue.default } else { name })?;
        build(&cache, entry, true, signals)?;
    }
    let lines: Vec<_> = catalogue
        .iter()
        .map(|entry| {
            let built = cache.get(entry);
            Line {
                name: &entry.name,
                default: entry.name == catalogue.default,
                summary: &entry.summary,
                built: built.is_some(),
                kernel: built.as_ref().map(|b| b.kernel.clone()),
                initrd: built.as_ref().map(|b| b.initrd.clone()),
                manifest: built.map(|b| b.manifest),
            }
        })
        .collect();
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, &lines)?;
        writeln!(out)?;
        return Ok(());
    }
    for line in lines {
        writeln!(out, "{}{}  {}", line.name, if line.default { " (default)" } else { "" }, line.summary)?;
        let Some(manifest) = line.manifest else {
            writeln!(
                out,
                "  not built yet: the first run does it, or `guesthouse guests --build {}`",
                line.name
            )?;
            continue;
        };
        for path in [line.kernel, line.initrd].into_iter().flatten() {
            writeln!(out, "  {}", path.display())?;
        }
        for package in manifest.packages {
            writeln!(out, "  {} {}", package.name, package.version)?;
        }
    }
    Ok(())
}

/// The guest, built if it is not there or if it shall be `anew`; says on the terminal what takes so long.
pub fn build(cache: &Cache, entry: &GuestEntry, anew: bool, signals: &Signals) -> Result<Built, GuestError> {
    let cancel = Cancel::default();
    let wish = cancel.clone();
    signals.on_signal(move || wish.cancel());
    let mut bar = None;
    let mut progress = |step: guest::Step| {
        tracing::info!("guest {}: {step}", entry.name);
        if std::io::stderr().is_terminal() {
            let bar = bar.get_or_insert_with(|| {
                let bar = ProgressBar::new_spinner();
                bar.enable_steady_tick(Duration::from_millis(100));
                bar
            });
            bar.set_message(format!("guest {}: {step}", entry.name));
        }
    };
    let built = match cache.get(entry) {
        Some(built) if !anew => Ok(built),
        _ => cache.build(entry, anew, &cancel, &mut progress),
    };
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    built
}

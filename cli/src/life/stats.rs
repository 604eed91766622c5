//! `guesthouse stats`.

use std::collections::HashMap;
use std::io::Write;
use std::thread::sleep;
use std::time::Duration;

use serde::Serialize;
use server::{Entry, Registry, Stats};

use super::table;

/// From one look to the next.
const PERIOD: Duration = Duration::from_secs(1);
/// With only one line to print.
const SHORT: Duration = Duration::from_millis(300);

/// What a machine used between two looks.
#[derive(Serialize)]
struct Usage<'a> {
    id: &'a str,
    name: Option<&'a str>,
    /// CPU time of the host, in percent of one CPU.
    cpu_percent: f64,
    exits_per_second: f64,
    #[serde(flatten)]
    stats: &'a Stats,
}

pub fn run(registry: &Registry, names: &[String], once: bool, json: bool) -> anyhow::Result<()> {
    let mut before: HashMap<String, Stats> = HashMap::new();
    let mut first = true;
    loop {
        let entries = if names.is_empty() {
            registry.list()?
        } else {
            names.iter().map(|name| registry.find(name)).collect::<Result<_, _>>()?
        };
        let mut now = HashMap::new();
        let mut usages = Vec::new();
        for entry in entries.iter().filter(|entry| entry.alive) {
            // It may end at any moment.
            let Ok(stats) = entry.connect().and_then(|mut client| client.get::<Stats>("/v1/stats")) else {
                continue;
            };
            now.insert(entry.status.id.clone(), stats);
        }
        for entry in &entries {
            if let (Some(stats), Some(old)) = (now.get(&entry.status.id), before.get(&entry.status.id)) {
                usages.push(usage(entry, old, stats));
            }
        }
        if !first {
            print(&usages, json)?;
            if once {
                return Ok(());
            }
        }
        if !names.is_empty() && now.is_empty() {
            // Says which is not running, if that is so from the beginning.
            entries
                .iter()
                .try_for_each(|entry| entry.connect().map(drop))
                .or_else(|e| if first { Err(e) } else { Ok(()) })?;
            return Ok(());
        }
        before = now;
        sleep(if first || once { SHORT } else { PERIOD });
        first = false;
    }
}

fn usage<'a>(entry: &'a Entry, old: &Stats, stats: &'a Stats) -> Usage<'a> {
    let milliseconds = stats.time.saturating_sub(old.time).max(1) as f64;
    Usage {
        id: &entry.status.id,
        name: entry.status.name.as_deref(),
        cpu_percent: stats.cpu_time.saturating_sub(old.cpu_time) as f64 * 100.0 / milliseconds,
        exits_per_second: stats.exits.saturating_sub(old.exits) as f64 * 1000.0 / milliseconds,
        stats,
    }
}

fn print(usages: &[Usage<'_>], json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        for usage in usages {
            serde_json::to_writer(&mut out, usage)?;
            writeln!(out)?;
        }
        return Ok(out.flush()?);
    }
    let head = ["ID", "NAME", "CPU", "MEMORY", "TOUCHED", "BESIDE", "EXITS/S"].map(str::to_owned).to_vec();
    let rows = usages.iter().map(|usage| {
        let stats = usage.stats;
        vec![
            usage.id.to_owned(),
            usage.name.unwrap_or_default().to_owned(),
            format!("{:.1}%", usage.cpu_percent),
            table::size(stats.memory),
            table::size(stats.guest_resident),
            table::size(stats.resident.saturating_sub(stats.guest_resident)),
            format!("{:.0}", usage.exits_per_second),
        ]
    });
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    table::write(&mut out, &rows)?;
    Ok(out.flush()?)
}

//! `guesthouse ps`.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use server::{Registry, State, Status};

use super::table;

pub fn run(registry: &Registry, all: bool, json: bool, quiet: bool) -> anyhow::Result<()> {
    let entries = registry.list()?;
    let shown: Vec<_> =
        entries.iter().filter(|entry| all || entry.alive).map(|entry| &entry.status).collect();
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, &shown)?;
        writeln!(out)?;
    } else if quiet {
        for status in shown {
            writeln!(out, "{}", status.id)?;
        }
    } else {
        let head =
            ["ID", "NAME", "GUEST", "STATE", "ENGINE", "CPUS", "MEMORY", "PID"].map(str::to_owned).to_vec();
        let rows: Vec<_> = std::iter::once(head).chain(shown.into_iter().map(row)).collect();
        table::write(out, &rows)?;
    }
    Ok(())
}

fn row(status: &Status) -> Vec<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
    let since = |time: Option<u64>| table::time(now.saturating_sub(time.unwrap_or(status.created)));
    let state = match (status.state, status.exit_status) {
        (State::Exited, Some(code)) => format!("exited ({code}) {} ago", since(status.finished)),
        (State::Running, _) => format!("running {}", since(status.started)),
        (state, _) => state.to_string(),
    };
    let alive = matches!(status.state, State::Starting | State::Running | State::Paused);
    vec![
        status.id.clone(),
        status.name.clone().unwrap_or_default(),
        status.guest.clone(),
        state,
        status.engine.clone(),
        status.cpus.to_string(),
        table::size(status.memory),
        if alive { status.pid.to_string() } else { String::new() },
    ]
}

//! `guesthouse events`.

use std::collections::HashMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use server::{Entry, Event, EventKind, Registry};

/// How often to look for new machines.
const PERIOD: Duration = Duration::from_millis(200);
/// Longest line of a machine's.
const MAX_LINE: usize = 64 << 10;

/// Ends with the machines if some are named; else the user ends it.
pub fn run(registry: &Registry, names: &[String], json: bool) -> anyhow::Result<()> {
    let (sender, events) = channel();
    let mut watched: HashMap<String, JoinHandle<()>> = HashMap::new();
    for name in names {
        let entry = registry.find(name)?;
        // Says if it is not running.
        entry.connect()?;
        watched.insert(entry.status.id.clone(), watch(entry, sender.clone())?);
    }
    loop {
        if names.is_empty() {
            let entries = registry.list()?;
            watched.retain(|id, _| entries.iter().any(|entry| entry.status.id == *id));
            for entry in entries.into_iter().filter(|entry| entry.alive) {
                if !watched.contains_key(&entry.status.id) {
                    watched.insert(entry.status.id.clone(), watch(entry, sender.clone())?);
                }
            }
        }
        let over = !names.is_empty() && watched.values().all(JoinHandle::is_finished);
        while let Ok(event) = events.recv_timeout(PERIOD) {
            print(&event, json)?;
        }
        if over {
            return Ok(());
        }
    }
}

fn watch(entry: Entry, to: Sender<Event>) -> anyhow::Result<JoinHandle<()>> {
    let body = move || {
        let mut line = Vec::new();
        let result = entry.connect().and_then(|mut client| {
            client.stream("/v1/events", |data| {
                line.extend_from_slice(data);
                while let Some(end) = line.iter().position(|&byte| byte == b'\n') {
                    let text: Vec<u8> = line.drain(..=end).collect();
                    let event = serde_json::from_slice(&text).ok();
                    if event.is_some_and(|event| to.send(event).is_err()) {
                        return ControlFlow::Break(());
                    }
                }
                if line.len() > MAX_LINE { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
        });
        if let Err(e) = result {
            tracing::debug!("{e}");
        }
    };
    Ok(std::thread::Builder::new().name("events".into()).spawn(body)?)
}

fn print(event: &Event, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, event)?;
        writeln!(out)?;
    } else {
        let Event { time, id, name, event, state, exit_status } = event;
        let what = match (event, exit_status) {
            (EventKind::PowerButton, _) => "power button".to_owned(),
            (EventKind::State, Some(code)) => format!("{state} ({code})"),
            (EventKind::State, None) => state.to_string(),
        };
        let name = name.as_deref().unwrap_or_default();
        writeln!(out, "{}.{:03}  {id}  {what}  {name}", time / 1000, time % 1000)?;
    }
    Ok(out.flush()?)
}

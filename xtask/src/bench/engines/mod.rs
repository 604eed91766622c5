//! `cargo xtask bench engines`: the same programs under each engine, under QEMU and on the host. Every machine is
//! booted once a run and does row after row; what is measured is the CPU time of its process.

mod report;
mod row;
mod session;
mod suite;
mod work;

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Deserialize;
use serde_json::json;

use super::Bench;
use super::peer::{self, Peer};
use report::{Cell, Results};
use row::{Quantity, Row, Work};
use session::{Quotient, Session, Setup};
use suite::Suite;

/// What the first program of a guest prints.
const MARK: &str = "@init";
/// The first program: says so, and goes on as usual.
pub const INIT: &str = "#!/bin/sh\necho @init\nexec /init\n";

/// Measure engines beside each other, QEMU and the host: benches/engines.toml.
#[derive(Debug, Args)]
pub struct Arguments {
    /// An engine of this build; the first is judged. Without any, all that can be used here.
    #[arg(long = "engine", value_name = "NAME")]
    engines: Vec<String>,
    /// Leave QEMU out.
    #[arg(long)]
    no_qemu: bool,
    /// Only rows that have this in their name; may be given several times.
    #[arg(long, value_name = "PATTERN")]
    rows: Vec<String>,
    /// How often; medians are shown.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// How much of the work small programs do.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    percent: u32,
    /// The result as JSON, with every sample.
    #[arg(long)]
    json: bool,
}

/// Rows that one machine runs.
struct Group {
    /// The guest with many programs, or the default one.
    suite: bool,
    cpus: u32,
    rows: Vec<usize>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let rows = Row::chosen(&arguments.rows)?;
    let bench = Bench::new(arguments.runs)?;
    let peers = peers(&bench, arguments)?;
    let groups = groups(&rows);
    let suite = if groups.iter().any(|group| group.suite) { Some(Suite::new(&bench, &rows)?) } else { None };
    let setup = Setup { bench: &bench, suite, percent: arguments.percent };

    let mut cells = vec![vec![Cell::default(); peers.len()]; rows.len()];
    for run in 1..=arguments.runs {
        for (column, peer) in peers.iter().enumerate() {
            for group in &groups {
                let turn = format!("run {run} of {}, {}", arguments.runs, peer.engine());
                let mut machine = OnDemand { setup: &setup, peer, group, session: None };
                for &index in &group.rows {
                    let Some((row, cells)) = rows.get(index).zip(cells.get_mut(index)) else { continue };
                    eprintln!("xtask: {turn}: {}", row.name);
                    let outcome = machine.run(row);
                    if let Err(e) = &outcome {
                        eprintln!("xtask: {turn}: {}: {e:#}", row.name);
                    }
                    if let Some(cell) = cells.get_mut(column) {
                        cell.add(outcome);
                    }
                }
            }
        }
    }
    let engines = peers.iter().map(|peer| peer.engine().to_owned()).collect();
    show(&Results { rows, engines, cells }, &bench, arguments)
}

/// The machine of a group, which is booted for the first row, and again after one that failed: nobody knows what
/// that one left.
struct OnDemand<'a> {
    setup: &'a Setup<'a>,
    peer: &'a Peer,
    group: &'a Group,
    session: Option<Session<'a>>,
}

impl OnDemand<'_> {
    fn run(&mut self, row: &Row) -> Result<Option<Quotient>> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => Session::boot(self.setup, self.peer, self.group.suite, self.group.cpus)?,
        };
        let outcome = session.run(row)?;
        self.session = Some(session);
        Ok(outcome)
    }
}

fn show(results: &Results, bench: &Bench, arguments: &Arguments) -> Result<()> {
    if arguments.json {
        let summary = json!({
            "runs": arguments.runs,
            "percent": arguments.percent,
            "cpus": std::thread::available_parallelism().map_or(1, usize::from),
            "kernel": bench.guest.origin,
            "qemu": peer::qemu_version(),
            "rows": results.json(),
        });
        println!("{}", serde_json::to_string_pretty(&summary)?);
    } else {
        print!("{}", results.table());
    }
    let (all, missed) = results.missed();
    if missed > 0 {
        bail!("{missed} of {all} rows miss what they have to reach");
    }
    Ok(())
}

/// Rows by the machine they need, in the table's order.
fn groups(rows: &[Row]) -> Vec<Group> {
    let needs = |row: &Row| match row.work {
        Work::Machine(Quantity::MeanOfPrograms) => None,
        Work::Shell(_) | Work::Machine(Quantity::MemoryAfterPrograms) => Some((true, row.cpus)),
        _ => Some((false, row.cpus)),
    };
    let machines: BTreeSet<_> = rows.iter().filter_map(needs).collect();
    let of = |machine| (0..rows.len()).filter(|&i| rows.get(i).and_then(needs) == Some(machine)).collect();
    machines.into_iter().map(|(suite, cpus)| Group { suite, cpus, rows: of((suite, cpus)) }).collect()
}

/// Those that take turns.
fn peers(bench: &Bench, arguments: &Arguments) -> Result<Vec<Peer>> {
    let engines = if arguments.engines.is_empty() { usable(bench)? } else { arguments.engines.clone() };
    let mut peers: Vec<_> = engines
        .into_iter()
        .map(|engine| Peer::Guesthouse { program: bench.program.clone(), engine })
        .collect();
    // `Bench` has said so if QEMU is missing.
    peers.extend(bench.peers.iter().filter(|peer| matches!(peer, Peer::Qemu) && !arguments.no_qemu).cloned());
    Ok(peers)
}

/// The engines that can be used here, the one that users get first.
fn usable(bench: &Bench) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Report {
        engines: Vec<Engine>,
        auto: Auto,
    }
    #[derive(Deserialize)]
    struct Engine {
        name: String,
        usable: bool,
    }
    #[derive(Deserialize)]
    struct Auto {
        engine: Option<String>,
    }
    let output = Command::new(&bench.program).args(["doctor", "--json"]).output();
    let output = output.with_context(|| format!("{} does not start", bench.program.display()))?;
    let report: Report = serde_json::from_slice(&output.stdout).context("the output of guesthouse doctor")?;
    let mut engines: Vec<_> = report.engines.into_iter().filter(|e| e.usable).map(|e| e.name).collect();
    engines.sort_by_key(|engine| report.auto.engine.as_ref() != Some(engine));
    Ok(engines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_looked_at_when_the_programs_have_run() {
        let rows = Row::all().unwrap();
        let groups = groups(&rows);
        let machines: Vec<_> = groups.iter().map(|group| (group.suite, group.cpus)).collect();
        assert_eq!(machines, [(false, 1), (false, 2), (true, 1)]);
        let last = groups[2].rows.last().and_then(|&index| rows.get(index)).unwrap();
        assert_eq!(last.work, Work::Machine(Quantity::MemoryAfterPrograms));
    }
}

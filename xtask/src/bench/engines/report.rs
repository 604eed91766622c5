//! The result: a column for each engine, and whether the first of them reaches what the row asks for.

use anyhow::Result;
use serde_json::{Value, json};

use super::row::{Quantity, Row, Work};
use super::session::Quotient;
use crate::bench::figure::{markdown, median};
use crate::bench::peer::Peer;

/// All samples.
pub struct Results {
    pub rows: Vec<Row>,
    /// The one that is judged comes first.
    pub engines: Vec<String>,
    /// By row and engine: what came of each run.
    pub cells: Vec<Vec<Cell>>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cell {
    pub samples: Vec<Quotient>,
    /// Why there are not as many as there were runs.
    pub trouble: Option<String>,
}

/// Whether a row's figure is good enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Aim,
    Met,
    Missed,
    Failed,
}

impl Cell {
    pub fn add(&mut self, outcome: Result<Option<Quotient>>) {
        match outcome {
            Ok(sample) => self.samples.extend(sample),
            Err(e) => self.trouble = Some(format!("{e:#}")),
        }
    }

    /// Of the medians, so that one disturbed run does no harm on either side.
    fn figure(&self) -> Option<f64> {
        let of = median(&self.samples.iter().map(|sample| sample.of).collect::<Vec<_>>())?;
        match median(&self.natives()) {
            Some(over) => Some(of / over),
            None => Some(of),
        }
    }

    fn natives(&self) -> Vec<f64> {
        self.samples.iter().filter_map(|sample| sample.over).collect()
    }
}

impl Results {
    fn cell(&self, row: usize, engine: usize) -> Option<&Cell> {
        self.cells.get(row)?.get(engine)
    }

    fn figure(&self, row: usize, engine: usize) -> Option<f64> {
        match self.rows.get(row)?.work {
            Work::Machine(Quantity::MeanOfPrograms) => self.mean_of_programs(engine),
            _ => self.cell(row, engine)?.figure(),
        }
    }

    /// Nothing if one of the programs has no figure.
    fn mean_of_programs(&self, engine: usize) -> Option<f64> {
        let programs = self.rows.iter().enumerate().filter(|(_, row)| matches!(row.work, Work::Shell(_)));
        let logarithms: Option<Vec<f64>> =
            programs.map(|(row, _)| self.figure(row, engine).map(f64::ln)).collect();
        let logarithms = logarithms.filter(|list| !list.is_empty())?;
        Some((logarithms.iter().sum::<f64>() / logarithms.len() as f64).exp())
    }

    /// What a row's figure has to reach, and had better reach, on this host.
    fn bounds(&self, index: usize) -> [Option<f64>; 2] {
        let Some(row) = self.rows.get(index) else { return [None; 2] };
        let here = self.engines.iter().position(|name| name == Peer::Qemu.engine());
        let here = here.and_then(|engine| self.figure(index, engine));
        let speed = here.zip(row.qemu).map_or(1.0, |(here, there)| here / there);
        [row.must, row.aim].map(|bound| bound.map(|bound| bound * speed))
    }

    fn verdict(&self, index: usize) -> Option<Verdict> {
        let row = self.rows.get(index)?;
        let Some(figure) = self.figure(index, 0) else { return Some(Verdict::Failed) };
        let [must, aim] = self.bounds(index);
        let must = must?;
        Some(match aim {
            Some(aim) if row.reaches(figure, aim) => Verdict::Aim,
            _ if row.reaches(figure, must) => Verdict::Met,
            _ => Verdict::Missed,
        })
    }

    /// How many rows there are, and of how many the figure is missing or misses.
    pub fn missed(&self) -> (usize, usize) {
        let bad = |index: &usize| matches!(self.verdict(*index), Some(Verdict::Missed | Verdict::Failed));
        (self.rows.len(), (0..self.rows.len()).filter(bad).count())
    }

    pub fn table(&self) -> String {
        let mut head = vec![String::new(), "native".to_owned()];
        head.extend(self.engines.iter().cloned());
        head.extend(["must reach", "aim", ""].map(str::to_owned));
        let mut lines = vec![head];
        for (index, row) in self.rows.iter().enumerate() {
            let native = self.cell(index, 0).map(Cell::natives).and_then(|natives| median(&natives));
            let is_ratio = matches!(row.work, Work::Micro(_) | Work::Shell(_));
            let mut line = vec![row.name.clone()];
            line.push(
                native.filter(|_| is_ratio).map_or_else(String::new, |seconds| format!("{seconds:.3} s")),
            );
            for engine in 0..self.engines.len() {
                line.push(self.figure(index, engine).map_or_else(|| "-".to_owned(), number));
            }
            line.extend(self.bounds(index).map(|bound| bound.map_or_else(String::new, rounded)));
            line.push(self.verdict(index).map_or("", Verdict::word).to_owned());
            lines.push(line);
        }
        let mut text = markdown(&lines);
        for (row, cells) in self.rows.iter().zip(&self.cells) {
            for (engine, cell) in self.engines.iter().zip(cells) {
                if let Some(trouble) = &cell.trouble {
                    text += &format!("{}, {engine}: {trouble}\n", row.name);
                }
            }
        }
        text
    }

    pub fn json(&self) -> Value {
        let rows = self.rows.iter().enumerate().map(|(index, row)| {
            let engines = self.engines.iter().enumerate().map(|(engine, name)| {
                let cell = self.cell(index, engine).cloned().unwrap_or_default();
                let samples: Vec<f64> = cell.samples.iter().map(|sample| sample.of).collect();
                let cell = json!({
                    "figure": self.figure(index, engine),
                    "samples": samples,
                    "over": cell.natives(),
                    "trouble": cell.trouble,
                });
                (name.clone(), cell)
            });
            json!({
                "name": row.name,
                "must": self.bounds(index)[0],
                "aim": self.bounds(index)[1],
                "verdict": self.verdict(index).map(Verdict::word),
                "engines": engines.collect::<serde_json::Map<_, _>>(),
            })
        });
        Value::Array(rows.collect())
    }
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Aim => "aim",
            Self::Met => "met",
            Self::Missed => "MISSED",
            Self::Failed => "FAILED",
        }
    }
}

/// As it was written, if it was not reckoned.
fn rounded(bound: f64) -> String {
    ((bound * 100.0).round() / 100.0).to_string()
}

/// Three digits that count.
fn number(value: f64) -> String {
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, work: Work, must: Option<f64>, aim: Option<f64>) -> Row {
        Row { name: name.to_owned(), work, cpus: 1, must, aim, qemu: None, slow_percent: 20 }
    }

    fn ratio(of: f64, over: f64) -> Cell {
        Cell { samples: vec![Quotient { of, over: Some(over) }], trouble: None }
    }

    #[test]
    fn rows_are_judged_by_the_first_engine() {
        let shell = || Work::Shell("true".to_owned());
        let two = ["a".to_owned(), "b".to_owned()];
        let results = Results {
            rows: vec![
                row("first", shell(), Some(5.0), Some(2.5)),
                row("second", shell(), Some(5.0), Some(2.5)),
                row("mean", Work::Machine(Quantity::MeanOfPrograms), Some(2.5), Some(1.5)),
                row("speedup", Work::Speedup(two), Some(1.8), None),
                row("broken", shell(), None, None),
            ],
            engines: vec!["dbt".to_owned(), "qemu".to_owned()],
            cells: vec![
                vec![ratio(2.0, 1.0), ratio(30.0, 1.0)],
                vec![ratio(8.0, 1.0), ratio(20.0, 1.0)],
                vec![Cell::default(), Cell::default()],
                vec![ratio(3.8, 2.0), ratio(2.0, 2.0)],
                vec![Cell { samples: vec![], trouble: Some("it fell over".to_owned()) }, ratio(1.0, 1.0)],
            ],
        };
        let verdicts: Vec<_> = (0..5).map(|index| results.verdict(index)).collect();
        let expected =
            [Verdict::Aim, Verdict::Missed, Verdict::Failed, Verdict::Met, Verdict::Failed].map(Some);
        assert_eq!(verdicts, expected);
        assert_eq!(results.missed(), (5, 3));
        let text = results.table();
        assert!(text.contains("| 1.90 ") && text.contains("broken, dbt: it fell over"), "{text}");
        assert_eq!(results.json()[1]["engines"]["qemu"]["figure"], 20.0);
    }

    #[test]
    fn seconds_of_another_host_are_taken_as_ratios_to_qemus() {
        let boot = Work::Machine(Quantity::Boot);
        let boot = Row { qemu: Some(1.5), ..row("boot", boot, Some(0.75), Some(0.3)) };
        let seconds = |of| Cell { samples: vec![Quotient { of, over: None }], trouble: None };
        let mut results = Results {
            rows: vec![boot],
            engines: vec!["dbt".to_owned()],
            cells: vec![vec![seconds(1.0), seconds(3.0)]],
        };
        assert_eq!(results.verdict(0), Some(Verdict::Missed));
        results.engines.push("qemu".to_owned());
        assert_eq!(results.verdict(0), Some(Verdict::Met));
        assert_eq!(results.bounds(0), [Some(1.5), Some(0.6)]);
        assert!(results.table().contains("| 1.5 "), "{}", results.table());
    }

    #[test]
    fn the_mean_is_the_geometric_one() {
        let shell = || row("", Work::Shell(String::new()), None, None);
        let results = Results {
            rows: vec![shell(), shell()],
            engines: vec!["dbt".to_owned()],
            cells: vec![vec![ratio(2.0, 1.0)], vec![ratio(8.0, 1.0)]],
        };
        assert!((results.mean_of_programs(0).unwrap() - 4.0).abs() < 1e-9);
    }
}

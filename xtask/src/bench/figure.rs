//! What was measured, beside what was promised.

use anyhow::{Result, bail};
use serde::{Serialize, Serializer};
use serde_json::json;

/// One line of the result: the same quantity, measured with each of those compared.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figure {
    pub name: String,
    pub unit: &'static str,
    /// Samples of ours.
    pub guesthouse: Vec<f64>,
    /// Of QEMU's; none if it is not installed or not asked.
    pub qemu: Vec<f64>,
    /// Of the same work on the host itself.
    pub native: Vec<f64>,
    /// Only for information without.
    pub target: Option<Target>,
}

/// What is asked of the figure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// So many times QEMU's.
    TimesQemu(f64),
    /// So many times the host's.
    TimesNative(f64),
    /// So much.
    AtMost(f64),
    /// At least so many times QEMU's.
    FasterThanQemu(f64),
    /// At most so much more than the host's.
    OverNative(f64),
    /// This, with at most so much between.
    Near(f64, f64),
}

impl Figure {
    /// What the target speaks of: the median or a ratio of medians.
    pub fn judged(&self) -> Option<f64> {
        let ours = median(&self.guesthouse)?;
        match self.target? {
            Target::TimesQemu(_) | Target::FasterThanQemu(_) => Some(ours / median(&self.qemu)?),
            Target::TimesNative(_) => Some(ours / median(&self.native)?),
            Target::OverNative(_) => Some(ours - median(&self.native)?),
            Target::AtMost(_) | Target::Near(..) => Some(ours),
        }
    }

    /// Whether the target is met; `None` without one, or with nothing to compare with.
    pub fn passed(&self) -> Option<bool> {
        let judged = self.judged()?;
        Some(match self.target? {
            Target::TimesQemu(most)
            | Target::TimesNative(most)
            | Target::AtMost(most)
            | Target::OverNative(most) => judged <= most,
            Target::FasterThanQemu(least) => judged >= least,
            Target::Near(value, most) => (judged - value).abs() <= most,
        })
    }
}

impl Serialize for Figure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let three = |[guesthouse, qemu, native]: [serde_json::Value; 3]| json!({"guesthouse": guesthouse, "qemu": qemu, "native": native});
        let samples = [&self.guesthouse, &self.qemu, &self.native];
        json!({
            "name": self.name,
            "unit": self.unit,
            "median": three(samples.map(|s| json!(median(s)))),
            "samples": three(samples.map(|s| json!(s))),
            "target": self.target,
            "judged": self.judged(),
            "passed": self.passed(),
        })
        .serialize(serializer)
    }
}

/// The middle of the samples, or the mean of the middle two.
pub fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get(sorted.len().saturating_sub(1) / 2)?;
    Some(f64::midpoint(lower, upper))
}

/// Prints them, as JSON with every sample or as a table.
///
/// # Errors
/// One of them misses its target.
pub fn conclude(figures: &[Figure], json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(figures)?);
    } else {
        print!("{}", table(figures));
    }
    judge(figures)
}

/// # Errors
/// One of them misses its target.
pub fn judge(figures: &[Figure]) -> Result<()> {
    match figures.iter().filter(|figure| figure.passed() == Some(false)).count() {
        0 => Ok(()),
        missed => bail!("{missed} of {} figures miss their target", figures.len()),
    }
}

/// For people, and for docs/where-we-stand.md: a Markdown table.
pub fn table(figures: &[Figure]) -> String {
    let mut rows = vec![["", "Guesthouse", "QEMU", "host", "", "target", ""].map(str::to_owned).to_vec()];
    for figure in figures {
        let number = |samples: &[f64]| {
            median(samples).map_or_else(
                || "-".to_owned(),
                |m| {
                    let digits = if m < 1000.0 { 2 } else { 0 };
                    format!("{m:.digits$} {}", figure.unit).trim().to_owned()
                },
            )
        };
        let (judged, target) = match (figure.judged(), figure.target) {
            (_, None) => {
                let both = median(&figure.guesthouse).zip(median(&figure.qemu));
                (ratio(both.map(|(ours, theirs)| ours / theirs), "QEMU"), String::new())
            }
            (judged, Some(Target::AtMost(most))) => {
                (String::new(), if judged.is_some() { format!("at most {most}") } else { String::new() })
            }
            (judged, Some(Target::TimesQemu(most))) => (ratio(judged, "QEMU"), format!("at most {most}x")),
            (judged, Some(Target::TimesNative(most))) => (ratio(judged, "host"), format!("at most {most}x")),
            (judged, Some(Target::FasterThanQemu(least))) => {
                (ratio(judged, "QEMU"), format!("at least {least}x"))
            }
            (_, Some(Target::Near(value, most))) => (String::new(), format!("{value} +- {most}")),
            (judged, Some(Target::OverNative(most))) => (
                judged.map_or_else(String::new, |more| format!("host {more:+.2} {}", figure.unit)),
                format!("at most {most:+} {}", figure.unit),
            ),
        };
        let verdict = match (figure.target, figure.passed()) {
            (None, _) => "",
            (_, Some(true)) => "met",
            (_, Some(false)) => "MISSED",
            (_, None) => "skipped",
        };
        rows.push(vec![
            figure.name.clone(),
            number(&figure.guesthouse),
            number(&figure.qemu),
            number(&figure.native),
            judged,
            target,
            verdict.to_owned(),
        ]);
    }
    markdown(&rows)
}

/// A Markdown table whose columns are aligned; the first row is the head.
pub fn markdown(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| Some(row.get(column)?.len())).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &[String]| {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let rule: Vec<_> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
    let mut out = String::new();
    for (i, row) in rows.iter().enumerate() {
        out += &line(row);
        if i == 0 {
            out += &format!("|{}|\n", rule.join("|"));
        }
    }
    out
}

fn ratio(value: Option<f64>, of: &str) -> String {
    value.map_or_else(String::new, |value| format!("{value:.2}x {of}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn a_figure_is_judged_by_its_target() {
        let figure = Figure {
            name: "boot".to_owned(),
            unit: "s",
            guesthouse: vec![6.0, 8.0, 7.0],
            qemu: vec![2.0],
            target: Some(Target::TimesQemu(4.0)),
            ..Figure::default()
        };
        assert_eq!((figure.judged(), figure.passed()), (Some(3.5), Some(true)));
        let slow = Figure { guesthouse: vec![9.0], ..figure.clone() };
        assert_eq!(slow.passed(), Some(false));
        let alone = Figure { qemu: Vec::new(), ..figure.clone() };
        assert_eq!(alone.passed(), None);
        let throughput = Figure { target: Some(Target::FasterThanQemu(3.0)), ..figure.clone() };
        assert_eq!(throughput.passed(), Some(true));
        let less = Figure { guesthouse: vec![5.9], ..throughput };
        assert_eq!(less.passed(), Some(false));
        let beside = Figure { native: vec![6.5], target: Some(Target::OverNative(1.0)), ..figure.clone() };
        assert_eq!((beside.judged(), beside.passed()), (Some(0.5), Some(true)));
        assert_eq!(Figure { native: vec![5.9], ..beside }.passed(), Some(false));
        let near = |value| Figure { target: Some(Target::Near(value, 0.5)), ..figure.clone() }.passed();
        assert_eq!([near(6.5), near(7.5), near(7.6)], [Some(true), Some(true), Some(false)]);
        let text = table(&[figure, slow, alone]);
        let rows: Vec<_> = text.lines().collect();
        assert_eq!(rows.len(), 5);
        assert!(
            rows[2].contains("7.00 s") && rows[2].contains("3.50x QEMU") && rows[2].contains("| met "),
            "{text}"
        );
        assert!(rows[3].contains("MISSED") && rows[4].contains("skipped"), "{text}");
        assert!(rows.iter().all(|row| row.len() == rows[0].len()), "{text}");
        let told = Figure { target: None, guesthouse: vec![3000.4], qemu: vec![1500.2], ..Figure::default() };
        assert!(table(&[told]).contains("| 3000       | 1500 | -    | 2.00x QEMU |"));
    }
}

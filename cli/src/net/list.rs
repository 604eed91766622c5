//! What switches there are, and who is on them.

use std::io::{self, Write};

use anyhow::bail;
use net::switch::{Answer, Counters, Folder, Home, PortReport, Report, Request, VlanReport};
use serde::Serialize;

use super::asked;

/// A switch in a list.
#[derive(Serialize)]
struct Listed {
    name: String,
    #[serde(flatten)]
    report: Report,
}

fn report(folder: &Folder) -> anyhow::Result<Report> {
    match asked(folder, &Request::Inspect)? {
        Answer::Report(report) => Ok(report),
        _ => bail!("switch {} answers something else: remove it and make it again", folder.name()),
    }
}

/// All of them. What was left by one that was killed is removed.
pub fn all(json: bool) -> anyhow::Result<()> {
    let mut all = Vec::new();
    for folder in Home::of_user().folders() {
        if !folder.is_held() {
            folder.sweep();
            continue;
        }
        match report(&folder) {
            Ok(report) => all.push(Listed { name: folder.name().to_owned(), report }),
            // It has gone meanwhile, or has something else to do: the others are listed nonetheless.
            Err(error) => tracing::warn!("{error:#}"),
        }
    }
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, &all)?;
        writeln!(out)?;
    } else if !all.is_empty() {
        let mut rows = vec![["NAME", "VLANS", "UPLINK", "PORTS"].map(str::to_owned)];
        for Listed { name, report } in &all {
            let vlans: Vec<_> = report.vlans.iter().map(vlan).collect();
            let uplink = if report.vlans.iter().any(|vlan| vlan.uplink) { "yes" } else { "no" };
            rows.push([name.clone(), vlans.join(","), uplink.to_owned(), report.ports.len().to_string()]);
        }
        write!(out, "{}", table(&rows))?;
    }
    Ok(())
}

/// One of them.
pub fn one(folder: &Folder, json: bool) -> anyhow::Result<()> {
    let report = report(folder)?;
    let mut out = io::stdout().lock();
    if json {
        let listed = Listed { name: folder.name().to_owned(), report };
        serde_json::to_writer_pretty(&mut out, &listed)?;
        writeln!(out)?;
        return Ok(());
    }
    let vlans: Vec<_> = report.vlans.iter().map(vlan).collect();
    writeln!(out, "{}: process {}, VLANs {}", folder.name(), report.pid, vlans.join(", "))?;
    if report.ports.is_empty() {
        return Ok(());
    }
    let head = ["PORT", "NAME", "MAC", "VLAN", "ADDRESSES", "SENT", "RECEIVED", "LOST"];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(report.ports.iter().map(row));
    write!(out, "{}", table(&rows))?;
    Ok(())
}

fn vlan(vlan: &VlanReport) -> String {
    vlan.subnet.map_or(vlan.id.to_string(), |subnet| format!("{}={subnet}", vlan.id))
}

fn row(port: &PortReport) -> [String; 8] {
    let trunk: Vec<_> = port.trunk.iter().map(ToString::to_string).collect();
    let vlan = match (port.vlan, trunk.is_empty()) {
        (Some(vlan), true) => vlan.to_string(),
        (Some(vlan), false) => format!("{vlan},{} tagged", trunk.join("+")),
        (None, _) => format!("{} tagged", trunk.join("+")),
    };
    let addresses: Vec<_> = port.addresses.iter().map(|(_, ip)| ip.to_string()).collect();
    let Counters { sent, sent_bytes, received, received_bytes, .. } = port.counters;
    [
        port.port.to_string(),
        port.name.clone().unwrap_or_else(|| "-".to_owned()),
        port.mac.to_string(),
        vlan,
        if addresses.is_empty() { "-".to_owned() } else { addresses.join(",") },
        format!("{sent} ({sent_bytes} bytes)"),
        format!("{received} ({received_bytes} bytes)"),
        lost(&port.counters),
    ]
}

/// What was lost, by reason.
fn lost(counters: &Counters) -> String {
    let Counters { lost_vlan, lost_spoofed, lost_floods, lost_full, .. } = *counters;
    let all = [(lost_vlan, "vlan"), (lost_spoofed, "spoofed"), (lost_floods, "floods"), (lost_full, "full")];
    let some: Vec<_> = all.iter().filter(|(n, _)| *n > 0).map(|(n, why)| format!("{n} {why}")).collect();
    if some.is_empty() { "-".to_owned() } else { some.join(", ") }
}

/// Columns as wide as what is in them.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
    let widths: Vec<_> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_needed() {
        let rows = [["A", "BB"], ["long", "x"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows), "A     BB\nlong  x\n");
    }

    #[test]
    fn losses_are_told_by_reason() {
        assert_eq!(lost(&Counters::default()), "-");
        assert_eq!(
            lost(&Counters { lost_spoofed: 3, lost_full: 1, ..Counters::default() }),
            "3 spoofed, 1 full"
        );
    }
}

//! `guesthouse inspect`.

use std::io::Write;

use anyhow::Context;
use serde::Serialize;
use server::{Registry, Status};

/// What is known of a machine that may have ended.
#[derive(Serialize)]
struct Machine {
    #[serde(flatten)]
    status: Status,
    folder: std::path::PathBuf,
    spec: machine::MachineSpec,
}

pub fn run(registry: &Registry, name: &str, toml: bool) -> anyhow::Result<()> {
    let entry = registry.find(name)?;
    let spec = entry.spec()?;
    let mut out = std::io::stdout().lock();
    if toml {
        let text = toml::to_string(&spec).context("the definition cannot be written as TOML")?;
        out.write_all(text.as_bytes())?;
    } else {
        let folder = entry.path().to_owned();
        serde_json::to_writer_pretty(&mut out, &Machine { status: entry.status, folder, spec })?;
        writeln!(out)?;
    }
    Ok(())
}

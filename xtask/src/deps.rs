//! The direction of dependencies between our crates, as the design lays it down. Tests may reach further.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::process::{cargo, cargo_output, installed, root};

/// Crate, and the siblings it may depend on; `None`: on all.
const ALLOWED: &[(&str, Option<&[&str]>)] = &[
    ("jail", Some(&[])),
    ("memory", Some(&[])),
    ("net", Some(&["jail"])),
    ("block", Some(&["jail"])),
    ("share", Some(&[])),
    ("agent", Some(&["jail"])),
    ("guest", Some(&["agent"])),
    ("cpu", Some(&["memory"])),
    ("interp", Some(&["cpu", "memory"])),
    ("cases", Some(&["cpu", "memory"])),
    ("conform", Some(&["cpu", "memory", "interp"])),
    ("dbt", Some(&["cpu", "jail", "memory", "interp"])),
    ("kvm", Some(&["cpu", "memory"])),
    ("device", Some(&["cpu", "memory"])),
    ("virtio", Some(&["block", "device", "jail", "memory", "net", "share"])),
    ("boot", Some(&["cpu", "memory"])),
    (
        "machine",
        Some(&[
            "agent", "memory", "net", "block", "cpu", "interp", "dbt", "kvm", "device", "virtio", "boot",
            "share", "jail",
        ]),
    ),
    ("oci", Some(&["machine"])),
    ("server", Some(&["agent", "jail", "machine"])),
    ("cli", None),
    ("xtask", None),
    ("tests", None),
    ("benches", None),
    ("fuzz-targets", None),
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// `dev`, `build`, or nothing for an ordinary one.
    kind: Option<String>,
    /// Set for a crate of this workspace.
    path: Option<String>,
}

/// Checks the workspace as it is.
pub fn check() -> Result<()> {
    let metadata = cargo_output(&["metadata", "--format-version", "1", "--no-deps", "--locked"])?;
    let metadata: Metadata = serde_json::from_slice(&metadata).context("the output of cargo metadata")?;
    let wrong = violations(&metadata);
    if !wrong.is_empty() {
        bail!("dependencies against the design: {}", wrong.join("; "));
    }
    eprintln!("xtask: the {} crates depend on each other as the design says", metadata.packages.len());
    if installed("cargo-deny") {
        // Advisories need a database from the network: `cargo deny check advisories` by hand.
        cargo(&["deny", "--log-level", "error", "check", "bans", "licenses", "sources"], &[])?;
    } else {
        eprintln!(
            "xtask: cargo-deny is not installed; {} is not checked",
            root().join("deny.toml").display()
        );
    }
    Ok(())
}

fn violations(metadata: &Metadata) -> Vec<String> {
    let mut wrong = BTreeSet::new();
    for package in &metadata.packages {
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == package.name) else {
            wrong.insert(format!("{} is not in the list of xtask/src/deps.rs", package.name));
            continue;
        };
        let siblings =
            package.dependencies.iter().filter(|d| d.path.is_some() && d.kind.as_deref() != Some("dev"));
        for sibling in siblings {
            if allowed.is_some_and(|list| !list.contains(&sibling.name.as_str())) {
                wrong.insert(format!("{} must not depend on {}", package.name, sibling.name));
            }
        }
    }
    wrong.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace(name: &str, on: &str, kind: Option<&str>) -> Metadata {
        let dependency =
            Dependency { name: on.into(), kind: kind.map(str::to_owned), path: Some("/".into()) };
        Metadata { packages: vec![Package { name: name.into(), dependencies: vec![dependency] }] }
    }

    #[test]
    fn an_engine_must_not_know_devices() {
        assert_eq!(violations(&workspace("interp", "device", None)), ["interp must not depend on device"]);
        assert!(violations(&workspace("interp", "device", Some("dev"))).is_empty());
        assert!(violations(&workspace("cli", "guest", None)).is_empty());
    }

    #[test]
    fn a_new_crate_has_to_be_placed() {
        assert_eq!(violations(&workspace("novel", "memory", None)).len(), 1);
    }
}

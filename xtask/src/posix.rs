//! `cargo xtask posix`: pjdfstest, a suite for the rules of POSIX (<https://crates.io/crates/pjdfstest>), in a guest on a folder of
//! the host's. It runs as root: the suite switches users.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::process::{cargo, target_folder};

/// Run pjdfstest in a guest on a shared folder; what fails is what docs/shares.md says.
#[derive(Debug, Args)]
pub struct Arguments {
    /// How the guest caches: auto, none or always.
    #[arg(long, value_name = "WHICH", default_value = "auto")]
    cache: String,
    /// Only tests whose names have one of these in them.
    patterns: Vec<String>,
}

const VERSION: &str = "0.2.2";
/// Tests that fail for reasons of ours or of the guest's: parts of their names.
const KNOWN: [(&str, &str); 3] = [
    ("::block", "a share makes no devices"),
    ("::char", "a share makes no devices"),
    ("::etxtbsy", "the guest has no program sleep but as a part of busybox"),
];

/// Runs it and prints what there is to say.
pub fn run(arguments: &Arguments) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("pjdfstest makes files of several users: run it as root");
    }
    cargo(&["build", "--release", "--locked", "--package", "cli"], &[])?;
    let target = target_folder()?;
    let suite = target.join("pjdfstest");
    if !suite.join("bin/pjdfstest").is_file() {
        eprintln!("xtask: cargo install pjdfstest {VERSION}");
        let mut install = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        install
            .args(["install", "--quiet", "--locked", "--version", VERSION, "pjdfstest", "--root"])
            .arg(&suite);
        // The guest has no libraries of the host's. With a target, build scripts are not static.
        install
            .args(["--target", "x86_64-unknown-linux-gnu"])
            .env("RUSTFLAGS", "-C target-feature=+crt-static");
        install.env("CARGO_TARGET_DIR", suite.join("target"));
        if !install.status().context("cargo does not start")?.success() {
            bail!("pjdfstest cannot be built: apt-get install libacl1-dev");
        }
    }
    let folder = suite.join("shared");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
    fs::copy(suite.join("bin/pjdfstest"), folder.join("pjdfstest"))?;
    let mut guest = Command::new(target.join("release/guesthouse"));
    guest.args(["run", "--guest", "bench-share", "--memory", "1G", "--share"]);
    guest.arg(format!("{}:share,suid,cache={}", folder.display(), arguments.cache));
    guest.args(["--", "sh", "-c", include_str!("posix.sh"), "sh"]).args(&arguments.patterns);
    let output =
        guest.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("guesthouse does not start")?;
    fs::remove_dir_all(&folder)?;
    judge(&String::from_utf8_lossy(&output.stdout))
}

/// Counts, and names what fails without a known reason.
fn judge(output: &str) -> Result<()> {
    let with = |verdict: &str| {
        output.lines().filter_map(|line| line.strip_suffix(verdict)).map(str::trim).collect::<Vec<_>>()
    };
    let (passed, failed, skipped) = (with(" ok"), with(" FAILED"), with(" skipped"));
    if passed.is_empty() {
        bail!("the suite did not run: {}", output.trim());
    }
    println!("{} passed, {} skipped", passed.len(), skipped.len());
    for (part, why) in KNOWN {
        let count = failed.iter().filter(|name| name.contains(part)).count();
        if count > 0 {
            println!("{count} fail with {part} in their names: {why}");
        }
    }
    let unknown: Vec<_> =
        failed.into_iter().filter(|name| !KNOWN.iter().any(|(part, _)| name.contains(part))).collect();
    if unknown.is_empty() { Ok(()) } else { bail!("{} fail: {}", unknown.len(), unknown.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::judge;

    #[test]
    fn failures_are_known_or_named() {
        let known = "chmod::eperm    ok\nopen::enxio::block   FAILED\n\tEPERM\nrename::erofs   skipped\n";
        judge(known).unwrap();
        let error = judge(&format!("{known}rmdir::enotempty  FAILED\n")).unwrap_err().to_string();
        assert_eq!(error, "1 fail: rmdir::enotempty");
        assert!(judge("sh: no such file\n").is_err());
    }
}

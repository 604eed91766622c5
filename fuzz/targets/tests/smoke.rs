//! The fuzz targets in CI: what once broke stays mended, and a second of new inputs each.

#![allow(clippy::unwrap_used)] // how a test fails

use std::path::Path;
use std::process::{Command, Output};

use fuzz_targets::{TARGETS, regressions};

fn smoke(arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_fuzz-smoke"));
    command.args(arguments).arg("--artifacts").arg(folder.path());
    let output = command.output().unwrap();
    // The inputs go with the folder; what they are is in the output of a failing test.
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        println!("{}: {:02x?}", path.display(), std::fs::read(&path).unwrap());
    }
    output
}

fn text(output: &Output) -> String {
    let streams = [&output.stdout[..], &output.stderr[..]];
    streams.map(|s| String::from_utf8_lossy(s).into_owned()).join("\n")
}

#[test]
fn what_once_broke_stays_mended() {
    let mut count = 0;
    for target in TARGETS {
        for (name, data) in regressions(target).unwrap() {
            println!("{} {name}", target.name);
            (target.run)(&data);
            count += 1;
        }
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    let known = TARGETS.iter().filter(|t| folder.join(t.name).is_dir()).count();
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), known, "a folder of no target");
    assert!(count > 0);
}

#[test]
fn no_target_breaks_in_a_second() {
    let output = smoke(&["--seconds", "1"]);
    println!("{}", text(&output));
    assert!(output.status.success());
    assert_eq!(text(&output).matches(" ok, ").count(), TARGETS.len());
}

/// The driver notices what it is there for, and hands out the input.
#[test]
fn the_driver_tells_panics_aborts_hangs_and_greed() {
    for (input, said) in [
        ("panic", "panicked"),
        ("abort", "died (signal"),
        ("hang", "took longer"),
        ("memory", "died (signal"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let seed = folder.path().join("input");
        std::fs::write(&seed, input).unwrap();
        let output = smoke(&["--target", "self-test", "--seconds", "0", "--extra", seed.to_str().unwrap()]);
        let text = text(&output);
        assert_eq!(output.status.code(), Some(1), "{input}: {text}");
        assert!(text.contains(said) && text.contains("--target self-test --input"), "{input}: {text}");
    }
}

#[test]
fn one_file_can_be_reproduced() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("input");
    for (input, ok) in [("fine", true), ("panic", false)] {
        std::fs::write(&file, input).unwrap();
        let output = smoke(&["--target", "self-test", "--input", file.to_str().unwrap()]);
        assert_eq!(output.status.success(), ok, "{}", text(&output));
    }
}

/// The list of cargo-fuzz's binaries is the list of targets.
#[test]
fn cargo_fuzz_knows_every_target() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let manifest: toml::Table = std::fs::read_to_string(manifest).unwrap().parse().unwrap();
    let names: Vec<_> =
        manifest["bin"].as_array().unwrap().iter().map(|bin| bin["name"].as_str().unwrap()).collect();
    assert_eq!(names, TARGETS.iter().map(|t| t.name).collect::<Vec<_>>());
}

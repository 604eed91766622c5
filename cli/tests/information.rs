//! Commands that only tell.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Stdio};

fn guesthouse(arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_guesthouse"));
    let output = command.args(arguments).stdin(Stdio::null()).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn doctor_says_what_auto_takes() {
    let (status, text) = guesthouse(&["doctor"]);
    assert_eq!(status, 0);
    assert!(text.contains("engine    kvm: ") && text.contains("M insn/s"), "{text}");
    let (status, json) = guesthouse(&["doctor", "--json"]);
    assert_eq!(status, 0);
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    let engines = report["engines"].as_array().unwrap();
    assert_eq!(
        engines.iter().map(|e| e["name"].as_str().unwrap()).collect::<Vec<_>>(),
        ["kvm", "dbt", "interp"]
    );
    // A KVM that is slow in ring 0 is none, whatever the device says.
    let fast = engines[0]["speed"]["ring0"].as_f64().is_some_and(|speed| speed > 50e6);
    assert_eq!(report["auto"]["engine"], if fast { "kvm" } else { "dbt" });
    assert!(fast || text.contains("auto      dbt: the best that this host can run (kvm "), "{text}");
    assert!(engines[2]["speed"]["ring3"].as_f64().unwrap() > 1e6, "{json}");
    assert!(report["memory"]["total_bytes"].as_u64().unwrap() > 1 << 20);
    assert!(report["kvm"]["present"].is_boolean());
}

#[test]
fn guests_are_listed() {
    let (status, json) = guesthouse(&["guests", "--json"]);
    assert_eq!(status, 0);
    let list: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(list.as_array().unwrap().iter().any(|g| g["name"] == "debian-12" && g["default"] == true));
}

#[test]
fn help_teaches_by_examples_and_names_the_exit_statuses() {
    let (status, text) = guesthouse(&["--help"]);
    assert_eq!(status, 0);
    assert!(text.contains("Examples:") && text.contains("Exit status:"), "{text}");
    let (_, run) = guesthouse(&["run", "--help"]);
    assert!(run.contains("Ctrl-A x") && run.contains("--memory"), "{run}");
}

#[test]
fn completions_ask_the_program() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (status, script) = guesthouse(&["completions", shell]);
        assert_eq!(status, 0);
        assert!(script.contains("GUESTHOUSE_COMPLETE"), "{shell}: {script}");
    }
    let folder = tempfile::tempdir().unwrap();
    let ask = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_guesthouse"));
        command.env("GUESTHOUSE_COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string());
        command.env("_CLAP_IFS", "\n").env("XDG_RUNTIME_DIR", folder.path()).arg("--").args(words);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    assert!(ask(&["guesthouse", "run", "--no-re"]).contains("--no-reboot"));
    let registry = server::Registry::at(folder.path().join("guesthouse")).unwrap();
    let (_web, _) = registry.create(Some("web"), true).unwrap();
    let (_other, other) = registry.create(None, true).unwrap();
    for command in ["stop", "exec", "console"] {
        let said = ask(&["guesthouse", command, ""]);
        assert!(said.contains("web") && said.contains(&other.id), "{command}: {said}");
        assert!(!ask(&["guesthouse", command, "w"]).contains(&other.id), "{command}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_guesthouse"))
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn who_does_not_read_to_the_end_is_told_nothing() {
    for arguments in [&["guests", "--json"][..], &["guests"], &["doctor", "--json"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_guesthouse"));
        let output = command.args(arguments).stdout(writer).output().unwrap();
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(141), &b""[..]), "{arguments:?}");
    }
}

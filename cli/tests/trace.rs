//! What the translator tells of its work when it is asked.
#![allow(clippy::unwrap_used)] // how a test fails

mod common;

use std::process::Stdio;

use common::{guesthouse, multiboot_kernel, print, run};

/// The value of `key=` in a line.
fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

#[test]
fn a_trace_and_a_map_of_a_guest() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace");
    let spec = format!("{},code", path.display());
    let arguments = ["run", "--engine", "dbt", "--dbt-trace", &spec, "--perf-map", "--", "true"];
    let child =
        guesthouse(&arguments).stdin(Stdio::null()).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let child = child.unwrap();
    let map_path = format!("/tmp/perf-{}.map", child.id());
    let output = child.wait_with_output().unwrap();
    let map = std::fs::read_to_string(&map_path).unwrap();
    std::fs::remove_file(&map_path).unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");

    let trace = std::fs::read_to_string(&path).unwrap();
    let made: Vec<_> = trace.lines().filter(|line| line.starts_with("vcpu0 mode=")).collect();
    let last: Vec<_> = trace.lines().rev().take(3).collect();
    assert_eq!(value(last[2], "made"), Some(made.len().to_string().as_str()), "{last:?}");
    assert!(made.len() > 1000, "{last:?}");
    assert!(value(last[1], "links").is_some() && last[0].starts_with("vcpu0 interpreted "), "{last:?}");
    // A user's code at its linear address, and the same name in the map.
    let user = made.iter().find(|line| line.contains("mode=user ")).unwrap();
    let [lin, phys, hot] = ["lin", "phys", "hot"].map(|key| value(user, key).unwrap());
    let name = format!("user:{lin}@{phys}");
    let size = format!("{:x}", hot.parse::<u64>().unwrap());
    let lines: Vec<Vec<_>> = map.lines().map(|line| line.split(' ').collect()).collect();
    assert!(lines.iter().any(|line| line[1..] == [size.as_str(), name.as_str()]), "{name} {size}");
    assert!(lines.iter().any(|line| line[2] == "stub:enter") && lines.iter().all(|line| line.len() == 3));
    // Guest and host side by side: links are made by name, and a CPUID leaves for the interpreter.
    assert!(trace.contains("cold   0  call leave_link, "));
    let words = trace.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut cpuid = words.filter(|words| words.get(1) == Some(&"cpuid"));
    assert!(cpuid.any(|words| words[3..].starts_with(&["call", "leave_operation,"])));
}

#[test]
fn without_code_there_is_a_line_for_each() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace");
    let arguments = ["run", "--dbt-trace", path.to_str().unwrap(), "--", "true"];
    assert_eq!(run(&arguments), (0, String::new(), String::new()));
    let trace = std::fs::read_to_string(&path).unwrap();
    let others = trace.lines().filter(|line| !line.starts_with("vcpu0 mode=") && !line.starts_with('#'));
    assert_eq!(others.count(), 3);
}

#[test]
fn a_full_file_system_is_said_once_and_the_guest_goes_on() {
    let (status, _, stderr) = run(&["run", "--dbt-trace", "/dev/full", "--", "true"]);
    assert_eq!(status, 0, "{stderr}");
    assert_eq!(stderr.matches("/dev/full is not written any more").count(), 1, "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[test]
fn what_cannot_be_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = multiboot_kernel(folder.path(), &print("started"));
    let kernel = kernel.to_str().unwrap();
    for (arguments, named) in [
        (&["--dbt-trace", "/nonexistent/trace"][..], "/nonexistent/trace"),
        (&["--engine", "interp", "--dbt-trace", "-"], "engine interp does not translate"),
        (&["--engine", "interp", "--perf-map"], "--engine dbt"),
        (&["--dbt-trace", "trace,cold"], "\"cold\""),
        (&["--dbt-trace", ""], "no file"),
    ] {
        let arguments = [&["run", "--kernel", kernel], arguments].concat();
        let (status, stdout, stderr) = run(&arguments);
        assert_eq!((status, stdout.as_str()), (2, ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains(named) && stderr.lines().count() == 1, "{arguments:?}: {stderr}");
    }
}

//! The default guest, booted as users boot it.

mod common;

use std::io::Write;
use std::process::Stdio;

use common::{Terminal, bytes, feed, guesthouse};

#[test]
fn a_command_has_its_own_streams_arguments_and_status() {
    let script = r#"printf '%s|' "$@" >&2; cat; exit 7"#;
    let arguments =
        ["run", "--", "sh", "-c", script, "sh", "a b", "\"q\" 'z'", "", "$HOME\n", "\\n", "--help"];
    let data = bytes(20_000);
    let output = feed(&arguments, &data);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(7), "{stderr}");
    assert_eq!(stderr, "a b|\"q\" 'z'||$HOME\n|\\n|--help|");
    assert!(output.stdout == data, "{} of {} bytes", output.stdout.len(), data.len());
}

#[test]
fn a_command_that_is_not_there_is_127() {
    let output = guesthouse(&["run", "--", "no-such-program"]).stdin(Stdio::null()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(127), "{stderr}");
    assert_eq!(stderr, "guesthouse: no-such-program: not found in the guest\n");
}

/// In the jail, as users run it: what a vCPU's thread may not do would end the machine.
#[test]
fn a_program_runs_as_it_is_unless_that_is_not_wanted() {
    let script = "i=0; while [ $i -lt 300000 ]; do i=$((i + 1)); done; echo $i";
    for direct in [true, false] {
        let options = ["run", "--engine", "dbt", "--cpus", "2", "--log", "dbt=debug"];
        let asked: &[&str] = if direct { &[] } else { &["--no-direct"] };
        let arguments = [&options, asked, &["--", "sh", "-c", script]].concat();
        let output = guesthouse(&arguments).stdin(Stdio::null()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        assert_eq!(output.stdout, b"300000\n");
        let ran = stderr.split("direct=Counts { stays: ").skip(1).any(|rest| !rest.starts_with("0,"));
        assert_eq!(ran, direct, "{stderr}");
    }
}

#[test]
fn a_shell_on_a_pipe_runs_what_it_is_given_and_powers_off() {
    let mut child = guesthouse(&["run"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"echo $((6*7)) $(hostname)\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{stdout}");
    assert!(stdout.contains("Linux version") && stdout.contains("42 guesthouse"), "{stdout}");
}

#[test]
fn power_off_and_reset_reach_the_machine() {
    // A reset before the command has ended is no success.
    for (command, status) in [("poweroff; sleep 1000", 0), ("reboot; sleep 1000", 1)] {
        let output = guesthouse(&["run", "--", "sh", "-c", command]).stdin(Stdio::null()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{command}: {stderr}");
    }
}

#[test]
fn a_shell_on_a_terminal_has_job_control_and_exits() {
    let mut terminal = Terminal::start(guesthouse(&["run"]));
    terminal.expect("root@guesthouse:/root# ");
    terminal.type_keys(b"echo $((6*7)) $(tty)\r");
    terminal.expect("42 /dev/ttyS0\r\n");
    // Ctrl-C ends what runs in the guest, not the guest.
    terminal.type_keys(b"sleep 1000\r");
    terminal.expect("sleep 1000\r\n");
    std::thread::sleep(std::time::Duration::from_secs(2));
    terminal.type_keys(b"\x03");
    terminal.type_keys(b"sleep 2000 & jobs\r");
    terminal.expect("[1]+  Running");
    terminal.type_keys(b"exit\r");
    let (status, screen) = terminal.finish();
    assert_eq!(status.code(), Some(0), "{screen}");
    assert!(!screen.contains("job control turned off"), "{screen}");
}

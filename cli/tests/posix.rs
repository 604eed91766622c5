//! What POSIX says of files, looked at in a shared folder by a guest: posix.py.
#![allow(clippy::unwrap_used)] // how a test fails

mod common;

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// Any user but root; in a test as an ordinary user, that one.
const SOMEBODY: u32 = 65534;

/// Runs the checks in a guest with a shared folder; what they say.
fn checks(mut command: Command, options: &str, arguments: &str) -> String {
    let folder: TempDir = tempfile::tempdir().unwrap();
    let script = folder.path().join("posix.py");
    std::fs::write(&script, include_str!("posix.py")).unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    if rustix::process::geteuid().is_root() && arguments == "rootless" {
        chown(folder.path(), Some(SOMEBODY), Some(SOMEBODY)).unwrap();
    }
    let share = format!("{}:share{options}", folder.path().display());
    let run = format!("mkdir /mnt/share/top && python3 /mnt/share/posix.py /mnt/share/top {arguments}");
    command.args(["run", "--guest", "bench-share", "--memory", "1G", "--cpus", "2", "--share", &share]);
    let output = command.args(["--", "sh", "-c", &run]).stdin(Stdio::null()).output().unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|b| String::from_utf8_lossy(&b).into_owned());
    assert_eq!(output.status.code(), Some(0), "{stdout}{stderr}");
    stdout
}

/// Guest root is whoever runs this.
fn own() -> &'static str {
    if rustix::process::geteuid().is_root() { "" } else { "rootless" }
}

#[test]
fn a_share_keeps_the_rules_of_posix() {
    for options in ["", ",cache=always"] {
        let said = checks(common::guesthouse(&[]), options, own());
        assert!(said.ends_with(" checks, 0 bad\n"), "{said}");
    }
}

#[test]
fn a_share_of_an_ordinary_user_keeps_them_too() {
    // The guest and the program where that user finds them.
    let (status, _, stderr) = common::run(&["run", "--guest", "bench-share", "--memory", "1G", "--", "true"]);
    assert_eq!(status, 0, "{stderr}");
    let (_, guests, _) = common::run(&["guests", "--json"]);
    let guests: serde_json::Value = serde_json::from_str(&guests).unwrap();
    let entry = guests.as_array().unwrap().iter().find(|guest| guest["name"] == "bench-share").unwrap();
    let built = Path::new(entry["kernel"].as_str().unwrap()).parent().unwrap();
    let home = tempfile::tempdir().unwrap();
    std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let cache = home.path().join("guesthouse/guests/bench-share");
    std::fs::create_dir_all(&cache).unwrap();
    for file in std::fs::read_dir(built).unwrap().map(Result::unwrap) {
        std::fs::copy(file.path(), cache.join(file.file_name())).unwrap();
    }
    let program = home.path().join("program");
    std::fs::copy(env!("CARGO_BIN_EXE_guesthouse"), &program).unwrap();
    let mut command = Command::new(program);
    let run = home.path().join("run");
    std::fs::create_dir(&run).unwrap();
    if rustix::process::geteuid().is_root() {
        chown(&run, Some(SOMEBODY), Some(SOMEBODY)).unwrap();
        command.uid(SOMEBODY).gid(SOMEBODY);
    }
    command.env("XDG_CACHE_HOME", home.path()).env("XDG_RUNTIME_DIR", run).current_dir("/");
    let said = checks(command, "", "rootless");
    assert!(said.ends_with(" checks, 0 bad\n"), "{said}");
}

//! Compiles the guest agent: a freestanding program, linked static and without a C library, because it runs
//! inside the guest's initramfs. The host's own rustc and linker do; no other target need be installed.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=agent");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let Some(out) = std::env::var_os("OUT_DIR").map(PathBuf::from) else {
        println!("cargo::error=OUT_DIR is not set; build this crate with cargo");
        return;
    };
    let mut command = Command::new(rustc);
    command.args(["--edition=2024", "--crate-type=bin", "--crate-name=agent", "agent/agent.rs", "-o"]);
    command.arg(out.join("agent"));
    for option in [
        "panic=abort",
        "opt-level=s",
        "debuginfo=0",
        "strip=symbols",
        "target-cpu=x86-64",
        "relocation-model=static",
        "link-arg=-nostdlib",
        "link-arg=-nostartfiles",
        "link-arg=-static",
        "link-arg=-no-pie",
        "link-arg=-Wl,--build-id=none,-z,noseparate-code,-z,norelro",
    ] {
        command.args(["-C", option]);
    }
    match command.output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            println!("cargo::error=the guest agent does not compile");
            for line in String::from_utf8_lossy(&output.stderr).lines() {
                println!("cargo::error={line}");
            }
        }
        Err(e) => println!("cargo::error=rustc for the guest agent does not start: {e}"),
    }
}

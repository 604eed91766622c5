//! Compiles the program for the guest: static, so that it runs in any, and by the host's own rustc and linker.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    for path in ["program", "src/protocol", "src/tree"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let (Some(out), Ok(version)) =
        (std::env::var_os("OUT_DIR").map(PathBuf::from), std::env::var("CARGO_PKG_VERSION"))
    else {
        println!("cargo::error=OUT_DIR is not set; build this crate with cargo");
        return;
    };
    let mut command = Command::new(rustc);
    command.args(["--edition=2024", "--crate-type=bin", "--crate-name=guesthouse_agent"]);
    command.args(["program/main.rs", "-o"]).arg(out.join("guesthouse-agent"));
    command.env("CARGO_PKG_VERSION", version);
    for option in [
        "panic=abort",
        "opt-level=s",
        "debuginfo=0",
        "strip=symbols",
        "codegen-units=1",
        "lto=fat",
        "target-cpu=x86-64",
        "target-feature=+crt-static",
        "relocation-model=static",
    ] {
        command.args(["-C", option]);
    }
    match command.output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            println!(
                "cargo::error=the guest agent does not compile; it needs the C library's static part (libc6-dev)"
            );
            for line in String::from_utf8_lossy(&output.stderr).lines() {
                println!("cargo::error={line}");
            }
        }
        Err(e) => println!("cargo::error=rustc for the guest agent does not start: {e}"),
    }
}

//! The program in the guest: runs what the host asks for by the port `guesthouse.agent`, and otherwise sleeps.
//!
//!     guesthouse-agent                       waits for the port, and serves it
//!     guesthouse-agent pack PATH             a tree as a tar stream on stdout
//!     guesthouse-agent unpack [--below] PATH a tar stream on stdin becomes a tree: called PATH or in it, as `cp -r` has
//!                                            it, or always in it
//!
//! One thread, no timer. It gets nothing it did not ask for: what the host sends is bounded by windows, too.
#![allow(dead_code, unused_imports)] // shared files have parts for the host alone

#[path = "../src/protocol/mod.rs"]
mod protocol;
#[path = "../src/tree/mod.rs"]
mod tree;

mod card;
mod copy;
mod link;
mod port;
mod request;
mod run;
mod session;
mod sys;
mod user;

use std::env;
use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<Vec<u8>> = env::args_os().skip(1).map(OsStringExt::into_vec).collect();
    let words: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
    match *words {
        [b"pack", path] => copy::pack(path),
        [b"unpack", path] => copy::unpack(path, false),
        [b"unpack", b"--below", path] => copy::unpack(path, true),
        [b"--version"] => {
            println!("guesthouse-agent {}, protocol {}", env!("CARGO_PKG_VERSION"), protocol::VERSION);
            ExitCode::SUCCESS
        }
        [] => match link::serve() {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => fail(&e.to_string()),
        },
        _ => fail("usage: guesthouse-agent [pack PATH | unpack [--below] PATH | --version]"),
    }
}

fn fail(why: &str) -> ExitCode {
    eprintln!("guesthouse-agent: {why}");
    ExitCode::FAILURE
}

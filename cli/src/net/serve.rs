//! The process of a switch: it says on its output that it is ready, or why not, and stays.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};

use anyhow::Context;
use net::switch::{Folder, Switch, SwitchSpec};
use rustix::stdio::{dup2_stderr, dup2_stdout};

use crate::exit;

/// What it says.
pub const READY: &str = "ready";

/// Most bytes of a definition.
const MOST: u64 = 1 << 20;

/// Serves a switch whose definition is read from stdin until somebody asks it to end; the exit status.
pub fn serve(folder: &Folder) -> anyhow::Result<u8> {
    match begin(folder) {
        Ok((held, mut switch)) => {
            switch.run();
            // Its members see their sockets close when the folder is gone.
            held.remove();
            Ok(0)
        }
        Err(error) => {
            println!("{}", crate::describe(&error));
            Ok(exit::USAGE)
        }
    }
}

fn begin(folder: &Folder) -> anyhow::Result<(net::switch::Held, Switch)> {
    let mut text = Vec::new();
    io::stdin().take(MOST).read_to_end(&mut text)?;
    let spec: SwitchSpec =
        serde_json::from_slice(&text).context("the switch's definition is not understood")?;
    spec.validate().map_err(anyhow::Error::msg)?;
    // It belongs to no terminal and to no folder. It fails where that is so already.
    let _ = rustix::process::setsid();
    let held = folder.hold().map_err(|error| match error.kind() {
        ErrorKind::WouldBlock => {
            anyhow::anyhow!("switch {} is there already: choose another name", folder.name())
        }
        _ => anyhow::Error::new(error).context(format!("{} cannot be used", folder.path().display())),
    })?;
    let begin = || -> anyhow::Result<Switch> {
        let log = File::create(folder.log()).context("the switch's log cannot be written")?;
        let listener = held.listen(&spec).context("the switch's socket cannot be made")?;
        let switch = Switch::new(&spec, listener)?;
        std::env::set_current_dir("/")?;
        writeln!(io::stdout(), "{READY}")?;
        dup2_stderr(&log)?;
        dup2_stdout(File::options().write(true).open("/dev/null")?)?;
        Ok(switch)
    };
    match begin() {
        Ok(switch) => Ok((held, switch)),
        Err(error) => {
            held.remove();
            Err(error)
        }
    }
}

//! The process of a switch: it says on its output that it is ready, or why not, and stays.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;

use anyhow::Context;
use jail::Kind;
use net::Capture;
use net::switch::{Folder, Held, Switch, SwitchSpec};
use rustix::stdio::{dup2_stderr, dup2_stdout};

use crate::exit;

/// What it says.
pub const READY: &str = "ready";

/// Most bytes of a definition.
const MOST: u64 = 1 << 20;

/// Serves a switch whose definition is read from stdin until somebody asks it to end; the exit status.
pub fn serve(folder: &Folder, no_jail: bool) -> anyhow::Result<u8> {
    let mut caller = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    match begin(folder, no_jail, &mut caller) {
        Ok((held, mut switch)) => {
            drop(caller);
            jail::narrow(Kind::Switch);
            switch.run();
            // Its members see their sockets close when the folder is gone.
            held.remove();
            Ok(0)
        }
        Err(error) => {
            writeln!(caller, "{}", crate::describe(&error))?;
            Ok(exit::USAGE)
        }
    }
}

fn begin(folder: &Folder, no_jail: bool, caller: &mut File) -> anyhow::Result<(Held, Switch)> {
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
    let mut begin = || -> anyhow::Result<Switch> {
        dup2_stderr(File::create(folder.log()).context("the switch's log cannot be written")?)?;
        dup2_stdout(File::options().write(true).open("/dev/null")?)?;
        let listener = held.listen(&spec).context("the switch's socket cannot be made")?;
        let capture = spec.capture.as_deref().map(Capture::create).transpose()?;
        std::env::set_current_dir("/")?;
        if !no_jail {
            let enforced = Switch::jail(&spec, folder).enter()?;
            tracing::info!(whole = enforced.is_whole(), "the jail: {enforced}");
        }
        let switch = Switch::new(&spec, listener, capture)?;
        writeln!(caller, "{READY}")?;
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

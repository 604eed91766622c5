//! Completions. The shell asks the program, which knows the machines that are there now.

use std::ffi::OsStr;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::engine::CompletionCandidate;
use clap_complete::env::{CompleteEnv, Shells};
use server::Registry;

use crate::args::Arguments;

/// Says to the program that a shell asks, and which.
const VARIABLE: &str = "GUESTHOUSE_COMPLETE";
const NAME: &str = "guesthouse";

/// Answers a shell that asks, and ends the program then.
pub fn answer() {
    CompleteEnv::with_factory(Arguments::command).var(VARIABLE).bin(NAME).complete();
}

/// What makes a shell ask.
pub fn script(shell: clap_complete::Shell) -> anyhow::Result<Vec<u8>> {
    let name = shell.to_string();
    let shells = Shells::builtins();
    let shell = shells.completer(&name).with_context(|| format!("{name} has no completions: give bash"))?;
    let mut text = Vec::new();
    shell.write_registration(VARIABLE, NAME, NAME, NAME, &mut text)?;
    Ok(text)
}

/// Machines that can be meant by what was typed: by their names, those without one by their ids.
pub fn machines(typed: &OsStr) -> Vec<CompletionCandidate> {
    let typed = typed.to_string_lossy();
    let entries = Registry::of_user().and_then(|registry| registry.list()).unwrap_or_default();
    let candidates = entries.into_iter().filter_map(|entry| {
        let status = entry.status;
        let name = status.name.unwrap_or(status.id);
        let about = format!("{}, {}", status.guest, status.state);
        name.starts_with(&*typed).then(|| CompletionCandidate::new(name).help(Some(about.into())))
    });
    candidates.collect()
}

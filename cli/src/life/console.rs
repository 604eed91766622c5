//! `guesthouse console`: the user's terminal on the line of a machine that runs elsewhere.

use std::io::{self, IsTerminal, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use server::{Entry, Registry, Upgraded};

use super::power;
use crate::exit;
use crate::keys::{Key, Keys};
use crate::signals::Signals;
use crate::terminal::{self, RawMode};

const PROTOCOL: &str = "guesthouse-console";
const HELP: &[u8] = b"\r\nCtrl-A d leaves the console, Ctrl-A x ends the machine, Ctrl-A Ctrl-A sends Ctrl-A, Ctrl-A h shows this.\r\n";

/// Stays until the machine ends or the user leaves; the exit status.
pub fn run(registry: &Registry, name: &str) -> anyhow::Result<u8> {
    let entry = registry.find(name)?;
    let Upgraded { stream, early } = entry.connect()?.upgrade("/v1/console", PROTOCOL)?;
    let signals = Signals::watch()?;
    let keys = io::stdin().is_terminal();
    let raw = if keys { RawMode::enter().ok() } else { None };
    if keys {
        tell_size(&entry);
        let entry = entry.clone();
        signals.on_resize(move || tell_size(&entry));
    }

    let ended = Arc::new(stream);
    let (typed, wishes) = (ended.clone(), Arc::new(Wishes::default()));
    let wish = wishes.clone();
    // Not waited for: it may read for ever.
    std::thread::Builder::new().name("console-in".into()).spawn(move || {
        let result = if keys { type_keys(&typed, &wish) } else { copy(&typed) };
        if let Err(e) = result {
            tracing::debug!("input ends: {e}");
        }
    })?;
    let caught = ended.clone();
    signals.on_signal(move || drop(caught.shutdown(Shutdown::Both)));

    let shown = show(&early, &ended);
    drop(raw);
    if wishes.leave.load(Ordering::SeqCst) || wishes.end.load(Ordering::SeqCst) {
        // The shell's prompt begins a line.
        println!();
    } else {
        shown?;
    }
    if wishes.end.load(Ordering::SeqCst) {
        power::kill(registry, &entry.status.id)?;
    }
    exit::after_signal(&signals, Ok(0))
}

/// A guest on a virtio console learns how large this terminal is; on a serial port it cannot.
fn tell_size(entry: &Entry) {
    let Some(size) = terminal::size() else { return };
    let path = format!("/v1/console/size?rows={}&columns={}", size.rows, size.columns);
    if let Err(e) = entry.connect().and_then(|mut client| client.post(&path)) {
        tracing::debug!("{e}");
    }
}

/// What the user wants.
#[derive(Default)]
struct Wishes {
    leave: AtomicBool,
    end: AtomicBool,
}

/// Everything that the guest says.
fn show(early: &[u8], mut from: &UnixStream) -> io::Result<()> {
    let mut out = io::stdout();
    let mut data = [0; 16 << 10];
    out.write_all(early)?;
    loop {
        out.flush()?;
        match from.read(&mut data) {
            Ok(0) => return Ok(()),
            Ok(count) => out.write_all(data.get(..count).unwrap_or_default())?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // The machine was killed.
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(e) => return Err(e),
        }
    }
}

fn copy(mut to: &UnixStream) -> io::Result<()> {
    io::copy(&mut io::stdin(), &mut to)?;
    to.shutdown(Shutdown::Write)
}

fn type_keys(mut to: &UnixStream, wishes: &Wishes) -> io::Result<()> {
    let mut keys = Keys::default();
    let mut data = [0; 1024];
    loop {
        let count = match io::stdin().read(&mut data) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        let mut typed = Vec::new();
        for &byte in data.get(..count).unwrap_or_default() {
            let wish = match keys.press(byte) {
                Key::Send(byte) => {
                    typed.push(byte);
                    continue;
                }
                Key::Help => {
                    io::stdout().write_all(HELP)?;
                    io::stdout().flush()?;
                    continue;
                }
                Key::Nothing => continue,
                Key::Detach => &wishes.leave,
                Key::Quit => &wishes.end,
            };
            wish.store(true, Ordering::SeqCst);
            return to.shutdown(Shutdown::Both);
        }
        to.write_all(&typed)?;
    }
}

//! `guesthouse cp`: trees into a guest and out of it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use agent::Input;
use agent::protocol::{Exit, Start, stream};
use agent::tree::{self, Place, Rights, source_name};
use anyhow::{Context, bail};
use clap::Args;
use server::Registry;

use super::exec;

/// Most complaints that are shown one by one.
const SHOWN: usize = 20;
const HELP: &str = "\
As with `cp -r`: into DST if that is a folder, otherwise under the name DST; SRC/. is what is in
SRC. Modes, times and symbolic links are kept; owners are not, devices and FIFOs are left out.
Nothing is written through a symbolic link in what is copied. A relative path of the guest begins in
root's home.

Examples:
  guesthouse cp site/ web:/var/www/          makes /var/www/site
  guesthouse cp site/. web:/var/www/html     what is in it
  guesthouse cp web:/etc/nginx .
  guesthouse cp web:/var/log - | tar t       as a tar stream
  tar c . | guesthouse cp - web:/srv         from one";

/// From where to where.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct CopyArguments {
    /// What: PATH, NAME:PATH in a guest, or `-` for a tar stream on stdin.
    #[arg(value_name = "SRC", allow_hyphen_values = true)]
    source: OsString,
    /// Where to: NAME:PATH in a guest, PATH, or `-` for a tar stream on stdout.
    #[arg(value_name = "DST", allow_hyphen_values = true)]
    destination: OsString,
    /// Seconds to wait for an agent in a guest that is still starting.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    wait: u32,
}

/// `NAME:PATH`. With a slash before the colon, or a dot at the beginning, it is a file here.
fn in_guest(text: &OsStr) -> Option<(&str, &[u8])> {
    let bytes = text.as_bytes();
    let colon = bytes.iter().position(|&byte| byte == b':')?;
    let (name, path) = (bytes.get(..colon)?, bytes.get(colon + 1..)?);
    let name = std::str::from_utf8(name).ok()?;
    let is_name = !name.is_empty() && !name.starts_with('.') && !name.contains('/');
    is_name.then_some((name, if path.is_empty() { b"." } else { path }))
}

/// Copies; the exit status.
pub fn run(registry: &Registry, arguments: &CopyArguments) -> anyhow::Result<u8> {
    let (from, to) = (&arguments.source, &arguments.destination);
    match (in_guest(from), in_guest(to)) {
        (None, Some((name, path))) => put(registry, arguments.wait, from, name, path),
        (Some((name, path)), None) => get(registry, arguments.wait, name, path, to),
        (None, None) => bail!(
            "neither {} nor {} is in a guest: write NAME:PATH for the one that is",
            from.display(),
            to.display()
        ),
        (Some(_), Some(_)) => bail!("both are in guests: copy to the host first, or through a pipe with -"),
    }
}

/// Says what could not be copied, up to a number.
#[derive(Default)]
struct Complaints(usize);

impl Complaints {
    fn add(&mut self, text: &str) {
        self.0 += 1;
        if self.0 <= SHOWN {
            crate::complain(text);
        }
    }

    /// The status of the whole.
    fn finish(self, exit: &Exit, label: &str) -> u8 {
        if self.0 > SHOWN {
            crate::complain(&format!("{} more could not be copied", self.0 - SHOWN));
        }
        exec::status(exit, label).max(u8::from(self.0 > 0))
    }
}

fn builtin(words: &[&[u8]], input: bool) -> Start {
    let argv = words.iter().map(|word| word.to_vec()).collect();
    Start { argv, input, builtin: true, ..Start::default() }
}

fn put(registry: &Registry, wait: u32, from: &OsStr, name: &str, path: &[u8]) -> anyhow::Result<u8> {
    let streamed = from == "-";
    if !streamed {
        Path::new(from).symlink_metadata().with_context(|| format!("{} cannot be read", from.display()))?;
    }
    let words: &[&[u8]] = if streamed { &[b"unpack", b"--below", path] } else { &[b"unpack", path] };
    let (client, label) = exec::start(registry, name, wait, &builtin(words, true))?;
    let (input, from) = (client.input(), from.to_owned());
    let sender = std::thread::Builder::new().name("cp".into()).spawn(move || send(&from, input))?;
    let exit = client.run(|output| show(output.data))?;
    let (sent, mut complaints) = sender.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
    match sent {
        // The guest wants no more, and has said why.
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe || exit.status() == 0 => {
            complaints.add(&e.to_string())
        }
        _ => {}
    }
    Ok(complaints.finish(&exit, &label))
}

fn send(from: &OsStr, mut input: Input) -> (io::Result<()>, Complaints) {
    let mut complaints = Complaints::default();
    let packed = if from == "-" {
        stdio(io::stdin().as_fd()).and_then(|mut stdin| io::copy(&mut stdin, &mut input).map(drop))
    } else {
        let path = Path::new(from);
        tree::pack(path, &source_name(path), &mut input, &mut |text| complaints.add(&text))
    };
    // A stream that ends where it must not is noticed there.
    let ended = input.end();
    (packed.and(ended), complaints)
}

fn get(registry: &Registry, wait: u32, name: &str, path: &[u8], to: &OsStr) -> anyhow::Result<u8> {
    let place = match to.as_bytes() {
        b"-" => None,
        bytes => Some(Place::of(bytes).with_context(|| format!("{} cannot be written", to.display()))?),
    };
    let (mut client, label) = exec::start(registry, name, wait, &builtin(&[b"pack", path], false))?;
    let mut complaints = Complaints::default();
    let mut errors = |data: &[u8]| drop(show(data));
    let mut input = client.reader(&mut errors);
    let done = match place {
        None => {
            stdio(io::stdout().as_fd()).and_then(|mut stdout| io::copy(&mut input, &mut stdout).map(drop))
        }
        Some(place) => {
            let rename = place.rename.as_deref();
            tree::unpack(place.folder, rename, Rights::Plain, &mut input, &mut |text| complaints.add(&text))
        }
    };
    drop(input);
    match done {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Err(e.into()),
        // What ended early did so for a reason that comes with the status.
        Err(e) if e.kind() != io::ErrorKind::UnexpectedEof => {
            complaints.add(&format!("{}: {e}", to.display()));
            return Ok(complaints.finish(&Exit::Code(1), &label));
        }
        Err(_) => complaints.0 += 1,
        Ok(()) => {}
    }
    let exit =
        client.run(|output| if output.stream == stream::ERROR { show(output.data) } else { Ok(()) })?;
    Ok(complaints.finish(&exit, &label))
}

/// A standard stream without a buffer of its own.
fn stdio(fd: impl AsFd) -> io::Result<File> {
    Ok(fd.as_fd().try_clone_to_owned()?.into())
}

/// What the guest's side has to say, as far as it is text.
fn show(data: &[u8]) -> io::Result<()> {
    let text: String =
        String::from_utf8_lossy(data).chars().filter(|&c| c == '\n' || !c.is_control()).collect();
    io::stderr().write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_a_guest_has_a_name_before_it() {
        let guest = |text: &'static str| in_guest(OsStr::new(text));
        assert_eq!(guest("web:/a:b"), Some(("web", &b"/a:b"[..])));
        assert_eq!(guest("web:"), Some(("web", &b"."[..])));
        for here in ["a", "./a:b", "/a:b", "../web:x", ":x", "-"] {
            assert_eq!(guest(here), None, "{here}");
        }
    }
}

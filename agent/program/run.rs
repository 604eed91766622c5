//! A program is started: found, given its streams, its rights and its folder.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::OwnedFd;

use crate::protocol::{Exit, Start};
use crate::sys::{self, Child};
use crate::user::{self, PATH};

/// Statuses as a shell has them.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
/// What goes wrong before.
const FAILED: u8 = 125;
/// Bytes in a pipe of a program that copies.
const LARGE_PIPE: i32 = 1 << 20;

/// A program that runs, and our ends of its streams, which do not wait.
pub struct Running {
    pub process: i32,
    pub input: Option<File>,
    pub output: File,
    /// A terminal has none.
    pub errors: Option<File>,
}

/// Starts it.
pub fn start(start: &Start) -> Result<Running, Exit> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |e: std::io::Error| Exit::Failed(FAILED, format!("{what}: {e}"))
    };
    let user = user::find(&start.user).map_err(|why| Exit::Failed(FAILED, why))?;
    let environment = user.environment(start.tty.is_some(), &start.env);
    let programs = if start.builtin { vec![b"/proc/self/exe".to_vec()] } else { candidates(start, &environment) };
    let cwd = if start.cwd.is_empty() { user.home.as_bytes() } else { &start.cwd };

    // Theirs on the left, ours on the right.
    let (ends, input, output, errors): ([OwnedFd; 3], Option<OwnedFd>, OwnedFd, Option<OwnedFd>) = if let Some(window) = start.tty {
        let (line, ours) = sys::open_terminal(window).map_err(failed("no terminal"))?;
        let again = || ours.try_clone().map_err(failed("no terminal"));
        let lines = [line.try_clone(), line.try_clone(), Ok(line)];
        let [Ok(a), Ok(b), Ok(c)] = lines else { return Err(Exit::Failed(FAILED, "no terminal".to_owned())) };
        let input = if start.input { Some(again()?) } else { None };
        ([a, b, c], input, ours, None)
    } else {
        let size = start.builtin.then_some(LARGE_PIPE);
        let pipe = || sys::pipe(size).map_err(failed("no pipe"));
        let (input, ours) = if start.input {
            let (theirs, ours) = pipe()?;
            (theirs, Some(ours))
        } else {
            (File::open("/dev/null").map_err(failed("/dev/null"))?.into(), None)
        };
        let ((out, output), (err, errors)) = (pipe()?, pipe()?);
        ([input, output, errors], ours, out, Some(err))
    };
    let [input, output, errors] = [input.map(File::from), Some(File::from(output)), errors.map(File::from)];
    for end in [&input, &output, &errors].into_iter().flatten() {
        sys::set_nonblocking(end).map_err(failed("no stream"))?;
    }

    let words = |list: &[Vec<u8>]| list.iter().filter_map(|text| CString::new(text.as_slice()).ok()).collect();
    let child = Child {
        programs: words(&programs),
        argv: words(&[if start.builtin { vec![b"guesthouse-agent".to_vec()] } else { Vec::new() }, start.argv.clone()].concat()),
        environment: words(&environment),
        folder: CString::new(cwd).unwrap_or_default(),
        rights: user.rights,
        streams: ends,
        terminal: start.tty.is_some(),
    };
    let name = String::from_utf8_lossy(start.argv.first().map_or(&[][..], Vec::as_slice)).into_owned();
    match child.start() {
        Ok(process) => match output {
            Some(output) => Ok(Running { process, input, output, errors }),
            None => Err(Exit::Failed(FAILED, "no stream".to_owned())),
        },
        Err((sys::Stage::Folder, e)) => {
            Err(Exit::Failed(NOT_EXECUTABLE, format!("{}: {e}", String::from_utf8_lossy(cwd))))
        }
        Err((sys::Stage::Rights, e)) => Err(Exit::Failed(NOT_EXECUTABLE, format!("the user's rights: {e}"))),
        Err((sys::Stage::Start, e)) => Err(Exit::Failed(FAILED, format!("the guest starts no process: {e}"))),
        Err((sys::Stage::Program, e)) if e.kind() == std::io::ErrorKind::NotFound => {
            Err(Exit::Failed(NOT_FOUND, format!("{name}: not found in the guest")))
        }
        Err((sys::Stage::Program, e)) => {
            Err(Exit::Failed(NOT_EXECUTABLE, format!("{name}: cannot be executed: {e}")))
        }
    }
}

/// Where the program may be.
fn candidates(start: &Start, environment: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let name = start.argv.first().map_or(&[][..], Vec::as_slice);
    if name.contains(&b'/') || name.is_empty() {
        return vec![name.to_vec()];
    }
    let path = environment.iter().find_map(|text| text.strip_prefix(b"PATH="));
    let folders = path.unwrap_or(PATH.as_bytes()).split(|&byte| byte == b':');
    folders.map(|folder| [if folder.is_empty() { b"." } else { folder }, b"/", name].concat()).collect()
}

//! Trees between the host's stream and the guest's files.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

use crate::tree::{self, Place, Rights, source_name};

/// Most complaints that are shown one by one.
const SHOWN: usize = 20;

pub fn pack(path: &[u8]) -> ExitCode {
    let path = Path::new(OsStr::from_bytes(path));
    copy(&path.display().to_string(), |complain| {
        // Not through a buffer that looks for the ends of lines.
        let output = std::fs::File::from(io::stdout().as_fd().try_clone_to_owned()?);
        tree::pack(path, &source_name(path), output, complain)
    })
}

pub fn unpack(path: &[u8], below: bool) -> ExitCode {
    copy(&String::from_utf8_lossy(path), |complain| {
        let place = if below { Place::below(path) } else { Place::of(path) }?;
        let input = std::fs::File::from(io::stdin().as_fd().try_clone_to_owned()?);
        tree::unpack(place.folder, place.rename.as_deref(), Rights::All, input, complain)
    })
}

fn copy(name: &str, work: impl FnOnce(&mut dyn FnMut(String)) -> io::Result<()>) -> ExitCode {
    let mut count = 0;
    let done = work(&mut |text| {
        count += 1;
        if count <= SHOWN {
            eprintln!("{text}");
        }
    });
    if count > SHOWN {
        eprintln!("{} more could not be copied", count - SHOWN);
    }
    match done {
        Ok(()) if count == 0 => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("{name}: {e}");
            ExitCode::FAILURE
        }
    }
}

//! Where a copy goes to, as `cp -r` has it: into a folder that is there, otherwise under the name that is given.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{Folder, shown};

/// A folder, and what the copy is called there.
pub struct Place {
    /// The folder.
    pub folder: Folder,
    /// Another name than its own.
    pub rename: Option<Vec<u8>>,
}

impl Place {
    /// Below a folder that has to be there.
    ///
    /// # Errors
    /// It is not, or is no folder.
    pub fn below(path: &[u8]) -> io::Result<Self> {
        Ok(Self { folder: Folder::at(path)?, rename: None })
    }

    /// For a copy to `path`. Its parent has to be there.
    ///
    /// # Errors
    /// It is not.
    pub fn of(path: &[u8]) -> io::Result<Self> {
        match Folder::at(path) {
            Ok(folder) => return Ok(Self { folder, rename: None }),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(e) => return Err(e),
        }
        let plain = path.strip_suffix(b"/").unwrap_or(path);
        let (parent, name) = match plain.iter().rposition(|&byte| byte == b'/') {
            Some(at) => (plain.get(..=at).unwrap_or_default(), plain.get(at + 1..).unwrap_or_default()),
            None => (&b"."[..], plain),
        };
        if matches!(name, b"" | b"." | b"..") {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("{} is not there", shown(path))));
        }
        Ok(Self { folder: Folder::at(parent)?, rename: Some(name.to_vec()) })
    }
}

/// What a copy of `path` is called if nobody says otherwise. With `/.` behind it, it is what is in the folder.
pub fn source_name(path: &Path) -> Vec<u8> {
    let text = path.as_os_str().as_bytes();
    let dot = text == b"." || text.ends_with(b"/.");
    let name = path.file_name().filter(|_| !dot);
    name.map_or_else(|| b".".to_vec(), |name| name.as_bytes().to_vec())
}

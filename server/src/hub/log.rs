//! What a console said, in two files that change roles: the newer one is at most a mebibyte.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::registry::file;

/// Where the next file begins.
const MAX: u64 = 1 << 20;

/// The files as they are written.
#[derive(Debug)]
pub struct Log {
    folder: PathBuf,
    current: Option<File>,
    len: u64,
}

impl Log {
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), current: None, len: 0 }
    }

    /// Keeps as much as the host takes: a full disk must not stop a guest.
    pub fn write(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let room = (MAX - self.len) as usize;
            let (now, later) = data.split_at(room.min(data.len()));
            if let Err(e) = self.append(now) {
                tracing::debug!("the console's log misses {} bytes: {e}", now.len());
            }
            data = later;
        }
    }

    fn append(&mut self, data: &[u8]) -> io::Result<()> {
        self.len += data.len() as u64;
        let turn = self.len >= MAX;
        let result = self.open().and_then(|mut file| file.write_all(data));
        if turn {
            self.len = 0;
            self.current = None;
            fs::rename(self.folder.join(file::LOG), self.folder.join(file::OLD_LOG))?;
        }
        result
    }

    fn open(&mut self) -> io::Result<&File> {
        match self.current.take() {
            Some(file) => Ok(self.current.insert(file)),
            None => Ok(self.current.insert(File::create(self.folder.join(file::LOG))?)),
        }
    }

    /// What is in them now.
    pub fn files(&self) -> LogFiles {
        LogFiles::open(&self.folder)
    }
}

/// The files as they are read: the older first, each up to the length it had at first.
#[derive(Debug, Default)]
pub struct LogFiles {
    files: Vec<io::Take<File>>,
}

impl LogFiles {
    /// Those of a machine's folder; a file that is not there is empty.
    pub(crate) fn open(folder: &Path) -> Self {
        let open = |name| {
            let file = File::open(folder.join(name)).ok()?;
            let len = file.metadata().ok()?.len();
            Some(file.take(len))
        };
        // Backwards: what turns meanwhile is then missing, not there twice.
        Self { files: [file::LOG, file::OLD_LOG].into_iter().filter_map(open).collect() }
    }
}

impl Read for LogFiles {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while let Some(file) = self.files.last_mut() {
            match file.read(to)? {
                0 if !to.is_empty() => drop(self.files.pop()),
                count => return Ok(count),
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(mut files: LogFiles) -> Vec<u8> {
        let mut all = Vec::new();
        files.read_to_end(&mut all).unwrap();
        all
    }

    #[test]
    fn the_newest_mebibyte_is_kept_and_at_most_two() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(LogFiles::open(folder.path())), b"");
        let mut log = Log::new(folder.path());
        let said: Vec<u8> = (0..5 * MAX as u32 / 2).flat_map(u32::to_le_bytes).collect();
        for piece in said.chunks(70_001) {
            log.write(piece);
            let kept = read(log.files());
            assert!(kept.len() as u64 <= 2 * MAX);
        }
        let kept = read(log.files());
        assert!(kept.len() as u64 >= MAX && said.ends_with(&kept), "{}", kept.len());
        // A piece larger than all of it.
        log.write(&said);
        assert!(said.ends_with(&read(log.files())));
    }

    #[test]
    fn a_log_that_cannot_be_written_stops_nobody() {
        let mut log = Log::new(Path::new("/proc/nowhere"));
        log.write(&[7; 3 << 20]);
        assert_eq!(read(log.files()), b"");
    }
}

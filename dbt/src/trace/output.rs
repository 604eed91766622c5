//! A file that is written through a buffer. What goes wrong is said once; then it is given up, and the guest goes on.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// Bytes kept back.
const BUFFER: usize = 64 << 10;

/// See the module.
pub struct Output {
    path: PathBuf,
    /// None once it was given up.
    to: Option<BufWriter<File>>,
}

impl Output {
    /// Makes or empties a file; `-` is standard error.
    ///
    /// # Errors
    /// The host's.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = match path.to_str() {
            Some("-") => File::from(io::stderr().as_fd().try_clone_to_owned()?),
            _ => File::create(path)?,
        };
        Ok(Self::new(path, file))
    }

    /// Makes a file where anybody may have put one: what is there is removed, never written to.
    ///
    /// # Errors
    /// The host's.
    pub fn create_new(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(Self::new(path, file))
    }

    fn new(path: &Path, file: File) -> Self {
        Self { path: path.to_owned(), to: Some(BufWriter::with_capacity(BUFFER, file)) }
    }

    /// Appends text.
    pub fn write(&mut self, text: &str) {
        self.attempt(|to| to.write_all(text.as_bytes()));
    }

    /// Hands what was kept back to the host.
    pub fn flush(&mut self) {
        self.attempt(Write::flush);
    }

    /// Removes all lines but some. Only for files of [`create_new`](Self::create_new).
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.attempt(|to| {
            to.flush()?;
            let file = to.get_mut();
            file.rewind()?;
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            file.set_len(0)?;
            file.rewind()?;
            text.split_inclusive('\n')
                .filter(|line| keep(line))
                .try_for_each(|line| to.write_all(line.as_bytes()))
        });
    }

    fn attempt(&mut self, action: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) {
        let Some(to) = &mut self.to else { return };
        if let Err(error) = action(to) {
            tracing::warn!("{} is not written any more ({error}): the guest goes on", self.path.display());
            // What is in the buffer would be tried again when that is dropped.
            let _ = self.to.take().map(BufWriter::into_parts);
        }
    }
}

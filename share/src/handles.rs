//! Files and folders that the guest has open.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;

/// An open file or folder.
pub struct Handle {
    /// It itself.
    pub file: Arc<OwnedFd>,
    /// Where the next entry of a folder is read, as far as it is known; None for a file.
    pub position: Option<Mutex<u64>>,
}

/// All of them.
pub struct Handles {
    open: HashMap<u64, Arc<Handle>>,
    next: u64,
    most: usize,
}

impl Handles {
    /// None, and at most so many.
    pub fn new(most: usize) -> Self {
        Self { open: HashMap::new(), next: 1, most: most.max(1) }
    }

    /// Nothing is open.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// ENFILE if there is no room for one more.
    pub fn check(&self) -> Result<(), Errno> {
        if self.open.len() < self.most { Ok(()) } else { Err(Errno::NFILE) }
    }

    /// One more; its number.
    pub fn add(&mut self, file: Arc<OwnedFd>, folder: bool) -> Result<u64, Errno> {
        self.check()?;
        let number = self.next;
        self.next += 1;
        self.open.insert(number, Arc::new(Handle { file, position: folder.then(Mutex::default) }));
        Ok(number)
    }

    /// That of a number.
    pub fn get(&self, number: u64) -> Result<Arc<Handle>, Errno> {
        self.open.get(&number).cloned().ok_or(Errno::BADF)
    }

    /// It is not open any more.
    pub fn remove(&mut self, number: u64) -> Result<(), Errno> {
        self.open.remove(&number).map(drop).ok_or(Errno::BADF)
    }

    /// Nothing is open any more.
    pub fn clear(&mut self) {
        self.open.clear();
    }
}

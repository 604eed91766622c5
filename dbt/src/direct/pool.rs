//! The processes of a vCPU's thread. They are its own, since the kernel lets nobody else trace them.

use std::cell::RefCell;
use std::fs::File;
use std::sync::Arc;
use std::time::Instant;

use interp::core::Session;
use interp::core::direct::Told;
use memory::GuestRam;

use super::process::Process;
use super::space::Space;
use crate::translator::Translator;

/// Programs of one vCPU that run directly by turns.
const SPACES: usize = 2;

thread_local! {
    static POOL: RefCell<Option<Pool>> = const { RefCell::new(None) };
}

pub struct Pool {
    ram: Arc<File>,
    spaces: Vec<Space>,
}

/// The calling thread will run vCPUs: makes their processes, which it may not be allowed later. Without them, if the host does
/// not let it or RAM is no file, there is no direct execution.
pub fn enter_thread(ram: &GuestRam) {
    let Some(file) = ram.file() else { return };
    let spaces: std::io::Result<_> = (0..SPACES).map(|_| Process::new(&file).map(Space::new)).collect();
    match spaces {
        Ok(spaces) => POOL.set(Some(Pool { ram: file, spaces })),
        Err(e) => tracing::debug!("no direct execution: the host lets no process be traced ({e})"),
    }
}

/// Calls `body` with the thread's processes, if there are any that have the guest's RAM.
pub fn with<R>(ram: &GuestRam, body: impl FnOnce(&mut Pool) -> Option<R>) -> Option<R> {
    POOL.with_borrow_mut(|place| {
        let pool = place.as_mut()?;
        if !ram.file().is_some_and(|file| Arc::ptr_eq(&file, &pool.ram)) {
            // RAM was frozen: what is written from here on is this process's alone.
            *place = None;
            return None;
        }
        body(pool)
    })
}

impl Pool {
    /// The program's.
    pub fn find(&mut self, id: (u64, u64)) -> Option<&mut Space> {
        self.spaces.iter_mut().find(|space| space.id == Some(id))
    }

    /// Forgets what has become invalid.
    pub fn sync(&mut self, s: &mut Session, translator: &mut Translator) {
        if let Some(dropped) = s.dropped() {
            dropped.take(|page| match page {
                Some(page) => self.each(|space| space.drop_page(page)),
                None => self.each(Space::clear),
            });
        }
        self.protect(&mut translator.protected);
        if std::mem::take(&mut translator.overwritten) {
            self.each(Space::drop_overwritten);
        }
    }

    /// Stores to these pages are looked at.
    pub fn protect(&mut self, protected: &mut Told) {
        protected.take(|host| match host {
            Some(host) => self.each(|space| space.protect(host)),
            None => self.each(Space::clear),
        });
    }

    fn each(&mut self, change: impl FnMut(&mut Space)) {
        self.spaces.iter_mut().for_each(change);
    }

    /// A process for a program, its own or that of the one that has run least lately: its number.
    pub fn take(&mut self, id: (u64, u64), now: Instant) -> Option<usize> {
        let own = self.spaces.iter().position(|space| space.id == Some(id));
        let index = own.or_else(|| (0..self.spaces.len()).min_by_key(|&i| self.spaces[i].used))?;
        let space = &mut self.spaces[index];
        if own.is_none() {
            space.begin(id);
        }
        space.used = Some(now);
        Some(index)
    }

    /// One of them.
    pub fn space(&mut self, index: usize) -> &mut Space {
        &mut self.spaces[index]
    }

    /// Address spaces of programs that run directly.
    pub fn favoured(&self, owner: u64) -> impl Iterator<Item = u64> {
        let on = self.spaces.iter().filter(|space| space.favour.is_on());
        on.filter_map(move |space| space.id.filter(|id| id.0 == owner).map(|id| id.1))
    }
}

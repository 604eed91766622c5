//! The processes of a vCPU's thread. They are its own, since the kernel lets nobody else trace them.

use std::cell::RefCell;
use std::fs::File;
use std::sync::Arc;
use std::time::Instant;

use interp::core::Session;
use interp::core::direct::Told;
use memory::GuestRam;

use super::favour::{Cost, Favour, Past};
use super::process::Process;
use super::space::{Program, Space};
use crate::translator::Translator;

/// Programs of one vCPU that run directly by turns.
const SPACES: usize = 2;

thread_local! {
    static POOL: RefCell<Option<Pool>> = const { RefCell::new(None) };
}

pub struct Pool {
    ram: Arc<File>,
    spaces: Vec<Space>,
    past: Past,
    pub cost: Cost,
}

/// The calling thread will run vCPUs: makes their processes, which it may not be allowed later. Without them, if the host does
/// not let it or RAM is no file, there is no direct execution.
pub fn enter_thread(ram: &GuestRam) {
    let Some(file) = ram.file() else { return };
    let spaces: std::io::Result<_> = (0..SPACES).map(|_| Process::new(&file).map(Space::new)).collect();
    match spaces {
        Ok(spaces) => {
            POOL.set(Some(Pool { ram: file, spaces, past: Past::default(), cost: Cost::default() }))
        }
        Err(e) => tracing::debug!("no direct execution: the host lets no process be traced ({e})"),
    }
}

/// The thread's vCPUs stand still: their processes have nothing of RAM, which may become one that others share.
pub fn rest() {
    POOL.with_borrow_mut(|place| {
        let spaces = place.iter_mut().flat_map(|pool| &mut pool.spaces);
        // One that cannot be told any more has ended.
        spaces.for_each(|space| {
            space.clear();
            let _ = space.settle();
        });
    });
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
    /// How a program has done.
    pub fn favour(&mut self, id: Program) -> &mut Favour {
        match self.spaces.iter_mut().find(|space| space.id.is_some_and(|of| of.is_same(id))) {
            Some(space) => &mut space.favour,
            None => self.past.get((id.owner, id.root)),
        }
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
    pub fn take(&mut self, s: &mut Session, id: Program, now: Instant) -> Option<usize> {
        let own = self.spaces.iter().position(|space| space.id.is_some_and(|of| of.is_same(id)));
        let index = own.or_else(|| (0..self.spaces.len()).min_by_key(|&i| self.spaces[i].used))?;
        let space = &mut self.spaces[index];
        if own.is_none() {
            if let Some(old) = space.id {
                space.favour.refused();
                self.past.put((old.owner, old.root), space.favour);
            }
            space.favour = self.past.take((id.owner, id.root));
        }
        space.begin(s, id);
        space.used = Some(now);
        Some(index)
    }

    /// One of them.
    pub fn space(&mut self, index: usize) -> &mut Space {
        &mut self.spaces[index]
    }

    /// Tops of the tables of programs that run directly.
    pub fn favoured(&self, owner: u64) -> impl Iterator<Item = u64> {
        let on = self.spaces.iter().filter(|space| space.favour.is_on());
        on.filter_map(move |space| space.id.filter(|id| id.owner == owner).map(|id| id.root))
    }
}

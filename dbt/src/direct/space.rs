//! The address space of a guest's program in a process of the host: which pages are mapped there, and how.
// UNSAFETY: looks at pages of guest RAM and what is known of them.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::io::Result;
use std::time::{Duration, Instant};

use cpu::x86::seg;
use interp::core::Session;
use interp::core::direct::{Access, CODE64, UserPage};
use libc::{PROT_EXEC, PROT_READ, PROT_WRITE, c_int};
use memory::{GuestRam, PageInfo};

use super::favour::Favour;
use super::process::{OWN, Process, Stop};
use super::scan::{self, PLACES};
use crate::cache::tlb::store_is_free;
use crate::engine::Directness;

const PAGE: u64 = 4096;
/// Pages around one that was touched that are mapped with it, if that is allowed.
const DATA: u64 = 32;
const CODE: u64 = 16;
/// Linux lets no program map what is below.
const LOWEST: u64 = 64 << 10;
/// Mappings that a process may have (vm.max_map_count) and some.
const MOST: usize = 60_000;

/// A page that is mapped.
struct Entry {
    prot: c_int,
    host: u64,
    info: *const PageInfo,
    /// Of its code.
    generation: u32,
}

/// A program, as far as one can be told from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program {
    /// The vCPU that runs it.
    pub owner: u64,
    /// The number of its address space.
    pub space: u64,
    /// Where its tables are.
    pub root: u64,
}

impl Program {
    /// The same, if with another number.
    pub fn is_same(self, other: Self) -> bool {
        (self.owner, self.root) == (other.owner, other.root)
    }
}

/// What a fault was.
pub enum Fault {
    /// The page is there from now on.
    Mapped,
    /// The guest's own, or an access that has to be looked at.
    Guests,
    /// Code that may not run there.
    Refused,
}

/// See the module.
pub struct Space {
    process: Process,
    /// Whose it is.
    pub id: Option<Program>,
    pub used: Option<Instant>,
    pub favour: Favour,
    /// How long it was in the process last.
    pub inside: Duration,
    pages: BTreeMap<u64, Entry>,
    /// What the guest's kernel has been asked for: it will be touched again.
    awaited: Option<u64>,
    /// The breakpoint whose turn it is to be given up.
    oldest: usize,
}

// SAFETY: entries point into the table of pages of guest RAM, which whoever runs a session keeps.
unsafe impl Send for Space {}

impl Space {
    pub fn new(process: Process) -> Self {
        Self {
            process,
            id: None,
            used: None,
            favour: Favour::default(),
            inside: Duration::ZERO,
            pages: BTreeMap::new(),
            awaited: None,
            oldest: 0,
        }
    }

    /// It is this program's from now on, with its address space as it is now.
    pub fn begin(&mut self, s: &mut Session, id: Program) {
        match self.id.replace(id) {
            Some(last) if last == id => {}
            // Everything was flushed, most of which has stayed as it was: to look is a tenth of the work of mapping it again.
            Some(last) if last.is_same(id) => self.look_again(s),
            _ => self.clear(),
        }
    }

    /// Pages that are not as they are mapped are no longer known.
    fn look_again(&mut self, s: &mut Session) {
        self.awaited = None;
        let ram = s.ram();
        let mut holds = |page: u64, entry: &Entry| {
            let access = if entry.prot & PROT_EXEC == 0 { Access::Read } else { Access::Execute };
            let found = s.user_page(page, access);
            let host = found.and_then(|found| ram.page(found.phys)).map(|of| of.host.as_ptr() as u64);
            host == Some(entry.host)
                && (entry.prot & PROT_WRITE == 0 || found.is_some_and(|found| found.write))
        };
        let stale: Vec<u64> =
            self.pages.iter().filter(|(page, entry)| !holds(**page, entry)).map(|(&page, _)| page).collect();
        stale.into_iter().for_each(|page| self.drop_page(page));
    }

    /// The process, for those who want it to stop.
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// The program has nothing where the process has pages of its own.
    pub fn is_free_of(&self, s: &mut Session) -> bool {
        OWN.step_by(PAGE as usize).all(|page| s.user_page(page, Access::Read).is_none())
    }

    /// Puts the program's registers there.
    pub fn enter(&mut self, s: &mut Session) -> Result<()> {
        let registers = &mut self.process.registers;
        registers.general.copy_from_slice(s.registers());
        (registers.rip, registers.flags) = (s.rip(), s.rflags());
        (registers.fs_base, registers.gs_base) = (s.segment_base(4), s.segment_base(5));
        registers.selectors = s.selectors().map(|selector| selector as u16);
        self.process.set_vectors(&s.xsave())?;
        if let Some(page) = self.awaited.take()
            && !self.pages.contains_key(&page)
        {
            let ram = s.ram();
            self.map_data(s, &ram, page, Access::Read);
        }
        Ok(())
    }

    /// The program is still in 64-bit code.
    pub fn is_plain(&self) -> bool {
        self.process.registers.selectors[seg::CS] == CODE64
    }

    /// Takes them back.
    pub fn leave(&mut self, s: &mut Session) -> Result<()> {
        let registers = &self.process.registers;
        s.registers_mut().copy_from_slice(&registers.general);
        s.set_rip(registers.rip);
        s.set_user_flags(registers.flags);
        s.set_user_selectors(registers.selectors);
        s.set_user_bases(registers.fs_base, registers.gs_base);
        s.set_xsave(self.process.vectors()?);
        Ok(())
    }

    /// Maps and unmaps what has changed. If the host does not take it, nothing is mapped.
    pub fn settle(&mut self) -> Result<()> {
        self.process.flush().inspect_err(|e| {
            tracing::debug!("the host refuses a mapping ({e}): all are dropped");
            self.clear();
        })
    }

    /// Runs the program until something happens.
    pub fn run(&mut self) -> Result<Stop> {
        let begin = Instant::now();
        let stop = self.process.run();
        self.inside = begin.elapsed();
        self.favour.stopped(self.inside);
        stop
    }

    /// Nothing is mapped.
    pub fn clear(&mut self) {
        self.awaited = None;
        self.process.forget();
        self.pages.clear();
        (0..PLACES).for_each(|number| self.process.stop_at(number, 0));
        self.process.unmap(0, OWN.start);
    }

    /// The page at an address is no longer known.
    pub fn drop_page(&mut self, page: u64) {
        if self.pages.remove(&page).is_some() {
            self.process.unmap(page, PAGE);
            self.drop_stops(page);
        }
    }

    fn drop_stops(&mut self, page: u64) {
        for number in 0..PLACES {
            if self.process.stops()[number] & !(PAGE - 1) == page {
                self.process.stop_at(number, 0);
            }
        }
    }

    /// The process stops at these places of a page, for which others may have to go. False: it cannot, or not without the page of the
    /// instruction that wants this one.
    fn stop_in(&mut self, page: u64, places: &[u16]) -> bool {
        self.drop_stops(page);
        if places.is_empty() {
            return true;
        }
        if !self.process.can_stop() {
            return false;
        }
        let current = self.process.registers.rip & !(PAGE - 1);
        while self.process.stops().iter().filter(|&&stop| stop != 0).count() + places.len() > PLACES {
            let stop = self.process.stops()[self.oldest];
            if stop != 0 {
                let other = stop & !(PAGE - 1);
                if other == current {
                    return false;
                }
                self.drop_page(other);
                self.drop_stops(other);
            }
            self.oldest = (self.oldest + 1) % PLACES;
        }
        for &place in places {
            if let Some(free) = self.process.stops().iter().position(|&stop| stop == 0) {
                self.process.stop_at(free, page + u64::from(place));
            }
        }
        true
    }

    fn drop_where(&mut self, stale: impl Fn(&Entry) -> bool) {
        let pages = self.pages.iter().filter(|(_, entry)| stale(entry)).map(|(&page, _)| page);
        for page in pages.collect::<Vec<_>>() {
            self.drop_page(page);
        }
    }

    /// Stores to a page of the host's are looked at from now on.
    pub fn protect(&mut self, host: u64) {
        self.drop_where(|entry| entry.host == host && entry.prot & PROT_WRITE != 0);
    }

    /// Code was overwritten somewhere.
    pub fn drop_overwritten(&mut self) {
        self.drop_where(|entry| {
            // SAFETY: see `Send`.
            let generation = unsafe { &*entry.info }.generation();
            entry.prot & PROT_EXEC != 0 && generation != entry.generation
        });
    }

    /// The program has touched what is not mapped so.
    pub fn fault(&mut self, s: &mut Session, addr: u64, which: Directness) -> Fault {
        let page = addr & !(PAGE - 1);
        if !(LOWEST..OWN.start).contains(&page) {
            return Fault::Guests;
        }
        if self.pages.len() > MOST {
            self.clear();
        }
        let ram = s.ram();
        let rip = self.process.registers.rip;
        let had = self.pages.get(&page).map_or(0, |entry| entry.prot);
        // An instruction that goes on in the next page faults there.
        let fetched = page == rip & !(PAGE - 1) || page == (rip + 14) & !(PAGE - 1);
        if fetched && had & PROT_EXEC == 0 {
            let fault = self.map_code(s, &ram, page, which, PLACES);
            if matches!(fault, Fault::Mapped) {
                for beside in (1..CODE).map(|n| page + n * PAGE).filter(|&page| page < OWN.start) {
                    if !self.pages.contains_key(&beside) {
                        self.map_code(s, &ram, beside, which, 0);
                    }
                }
            }
            return fault;
        }
        let access = if had == 0 { Access::Read } else { Access::Write };
        if had & PROT_WRITE != 0 || !self.map_data(s, &ram, page, access) {
            self.awaited = Some(page);
            return Fault::Guests;
        }
        let first = page & !(DATA * PAGE - 1);
        for beside in (0..DATA).map(|n| first + n * PAGE).filter(|page| (LOWEST..OWN.start).contains(page)) {
            if !self.pages.contains_key(&beside) {
                self.map_data(s, &ram, beside, Access::Read);
            }
        }
        Fault::Mapped
    }

    fn map_data(&mut self, s: &mut Session, ram: &GuestRam, page: u64, access: Access) -> bool {
        let Some(found) = s.user_page(page, access) else { return false };
        let Some(of) = ram.page(found.phys) else { return false };
        let write = found.write && store_is_free(of.info);
        if access == Access::Write && !write {
            return false;
        }
        let prot = PROT_READ | if write { PROT_WRITE } else { 0 };
        self.map(ram, page, found, prot, of.info.generation());
        true
    }

    /// Maps a page of code, if it needs no more than `most` breakpoints.
    fn map_code(
        &mut self,
        s: &mut Session,
        ram: &GuestRam,
        page: u64,
        which: Directness,
        most: usize,
    ) -> Fault {
        let Some(found) = s.user_page(page, Access::Execute) else { return Fault::Guests };
        let Some(of) = ram.page(found.phys) else { return Fault::Guests };
        let generation = of.info.generation();
        let restless = s.is_restless(found.phys) || s.note_code(found.phys, generation);
        if restless && which != Directness::Always {
            return Fault::Refused;
        }
        // Stores to it are noticed from here on, and change the generation.
        s.claim(&of, 0, PAGE as u16);
        let mut bytes = [0; PAGE as usize];
        if ram.read(found.phys, &mut bytes).is_err() {
            return Fault::Guests;
        }
        let next = s.user_page(page + PAGE, Access::Execute).and_then(|next| ram.load_u8(next.phys));
        let places = scan::places(&bytes, next).filter(|places| places.len() <= most);
        if !places.is_some_and(|places| self.stop_in(page, &places)) {
            return Fault::Refused;
        }
        let before = page - PAGE;
        if scan::may_end(bytes[0]) && self.pages.get(&before).is_some_and(|entry| entry.prot & PROT_EXEC != 0)
        {
            // It was looked at when this one said something else, or nothing.
            self.drop_page(before);
        }
        self.map(ram, page, found, PROT_READ | PROT_EXEC, generation);
        Fault::Mapped
    }

    fn map(&mut self, ram: &GuestRam, page: u64, found: UserPage, prot: c_int, generation: u32) {
        let (Some(of), Some(offset)) = (ram.page(found.phys), ram.file_offset(found.phys)) else { return };
        self.process.map(page, prot, offset);
        if prot & PROT_WRITE != 0 {
            ram.note_mapped(found.phys);
        }
        let host = of.host.as_ptr() as u64;
        self.pages.insert(page, Entry { prot, host, info: of.info, generation });
    }
}

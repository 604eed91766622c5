//! From a machine to files.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread::Builder;
use std::time::{Duration, Instant, SystemTime};

use block::{BlockBackend, Operation, Overlay};

use super::disks::Following;
use super::live::Live;
use super::ram::Source;
use super::{DiskMark, Header, Section, SnapshotError, disks, format, part, ram};
use crate::machine::{Still, Writing};
use crate::{DiskSpec, Machine, MachineError, Outcome};

/// Where a snapshot goes: files that were opened for it and are empty.
#[derive(Debug)]
pub struct Files {
    /// See [`file::STATE`](super::file::STATE).
    pub state: File,
    /// See [`file::MEMORY`](super::file::MEMORY); a copy's RAM is in files of the machine's.
    pub memory: Option<File>,
    /// How RAM is written.
    pub how: How,
    /// Changes of the disks of [`Machine::kept_disks`], in that order.
    pub disks: Vec<File>,
}

/// How RAM is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum How {
    /// While the guest stands still.
    #[default]
    Still,
    /// Compressed, while the guest goes on after its RAM was frozen. It is not read lazily by whoever restores it.
    Compressed,
    /// While the guest goes on, but for what it writes last.
    Live,
}

/// What becomes of the machine when all is written.
#[derive(Clone, Copy)]
pub enum After<'a> {
    /// It goes on.
    GoOn,
    /// It ends if this says, while the guest stands still, that the files will stay; otherwise it goes on.
    Stop(&'a dyn Fn(&Summary) -> bool),
}

/// What a snapshot took.
#[derive(Debug, Clone, Copy)]
pub struct Summary {
    /// How long the guest stood still, in all.
    pub pause: Duration,
    /// Bytes of RAM that were written: the rest was zero.
    pub memory: u64,
}

/// What a copy took.
#[derive(Debug, Clone)]
pub struct Copied {
    /// How long the guest stood still.
    pub pause: Duration,
    /// RAM, which the machine shares with its copies as far as neither writes it. Nobody can write the files.
    pub memory: Vec<Arc<File>>,
}

impl Machine {
    /// Disks whose changes a snapshot has to keep, by their places in the definition.
    pub fn kept_disks(&self) -> Vec<usize> {
        let kept = |disk: &crate::DiskSpec| DiskMark::of(disk).kept;
        self.spec().disks.iter().enumerate().filter(|(_, disk)| kept(disk)).map(|(index, _)| index).collect()
    }

    /// Writes the machine as it is now. The guest stands still meanwhile; if it goes on afterwards and RAM is compressed, it does so
    /// when its RAM is frozen, as for copies. Live, the snapshot is of the moment at which the guest stands still last.
    ///
    /// # Errors
    /// The machine has something that cannot be kept, the host refuses the files, or it has no log of what the guest writes: the machine
    /// is as it was.
    pub fn snapshot(&self, files: &Files, after: After<'_>) -> Result<Summary, MachineError> {
        let to = files.memory.as_ref().ok_or_else(|| failed("memory")(io::ErrorKind::InvalidInput.into()))?;
        let ram = &*self.pc().ram;
        let writing = self.write_down()?;
        if files.how == How::Live {
            return self.snapshot_live(writing, Live::begin(ram, to)?, files, after);
        }
        let began = Instant::now();
        let still = writing.stand_still()?;
        self.can_be_written()?;
        let compress = files.how == How::Compressed;
        let disks = || self.write_disks(files);
        let write = |from: &Source<'_>| ram::write(from, to, compress).map_err(failed("memory"));
        if compress && matches!(after, After::GoOn) {
            let (sections, layers) = beside(disks, || Ok((self.sections()?, ram.freeze()?)))?;
            let parts = self.with_header(sections);
            drop(still);
            drop(writing);
            let pause = began.elapsed();
            let (section, memory) = write(&Source::Frozen(ram, &layers))?;
            parts.write(files, section)?;
            return Ok(Summary { pause, memory });
        }
        let (sections, (section, memory)) =
            beside(disks, || Ok((self.sections()?, write(&Source::Still(ram))?)))?;
        self.with_header(sections).write(files, section)?;
        let summary = Summary { pause: began.elapsed(), memory };
        if self.ended(still, after, &summary) {
            std::mem::forget(writing);
        }
        Ok(summary)
    }

    /// The guest goes on while RAM is written, and while what it has written meanwhile is.
    fn snapshot_live(
        &self,
        writing: Writing<'_>,
        mut live: Live<'_>,
        files: &Files,
        after: After<'_>,
    ) -> Result<Summary, MachineError> {
        let began = Instant::now();
        // Processes that have RAM mapped give it up: the log does not know of what they have from before.
        let still = writing.stand_still()?;
        self.can_be_written()?;
        let disks = self.followed(files)?;
        drop(still);
        let first = began.elapsed();
        beside(|| each(&disks, Following::all), || Ok(live.all()?))?;
        live.catch_up()?;
        // So that there is little to do later.
        self.flush_disks()?;
        each(&disks, Following::round)?;
        let began = Instant::now();
        let still = writing.stand_still()?;
        self.can_be_written()?;
        let last = || self.flush_disks().and_then(|()| each(&disks, Following::round));
        let sections = beside(last, || {
            let sections = self.sections()?;
            live.round().map(|_| sections)
        })?;
        let parts = self.with_header(sections);
        let still = match after {
            // What is left takes nothing of the machine's.
            After::GoOn => {
                drop(still);
                None
            }
            After::Stop(_) => Some(still),
        };
        let pause = first + began.elapsed();
        let (section, memory) = live.finish();
        parts.write(files, section)?;
        let summary = Summary { pause, memory };
        if still.is_some_and(|still| self.ended(still, after, &summary)) {
            std::mem::forget(writing);
        }
        Ok(summary)
    }

    /// Ends the machine, if that is wanted and what was written stays: it is never written down again. Otherwise it goes on.
    fn ended(&self, still: Still<'_>, after: After<'_>, summary: &Summary) -> bool {
        match after {
            After::Stop(stays) if stays(summary) => {
                self.shared().end(Outcome::Saved);
                // What the guest has asked of its devices is for those who go on from here.
                std::mem::forget(still);
                true
            }
            _ => false,
        }
    }

    /// Writes the machine as it is now, for copies on this host: its RAM is shared with them, so that little is written.
    ///
    /// # Errors
    /// As for [`snapshot`](Self::snapshot); a disk of the user's is written.
    pub fn copy(&self, files: &Files) -> Result<Copied, MachineError> {
        let began = Instant::now();
        if self.spec().hugepages.is_some() {
            return Err(MachineError::HugeStays("a copy"));
        }
        let written = |disk: &&DiskSpec| !disk.readonly && !disk.snapshot;
        if let Some(disk) = self.spec().disks.iter().find(written) {
            return Err(SnapshotError::Written(disk.path.clone()).into());
        }
        let writing = self.write_down()?;
        let still = writing.stand_still()?;
        self.can_be_written()?;
        let (sections, layers) =
            beside(|| self.write_disks(files), || Ok((self.sections()?, self.pc().ram.freeze()?)))?;
        let parts = self.with_header(sections);
        drop(still);
        let pause = began.elapsed();
        parts.write(files, ram::layers(&layers)?)?;
        Ok(Copied { pause, memory: layers.files().to_vec() })
    }

    fn can_be_written(&self) -> Result<(), SnapshotError> {
        let nameless = |disk: &&DiskSpec| disk.path.starts_with(super::file::INHERITED);
        if let Some(disk) = self.spec().disks.iter().find(nameless) {
            return Err(SnapshotError::Nameless(disk.path.clone()));
        }
        if self.pc().can_be_kept() { Ok(()) } else { Err(SnapshotError::Share) }
    }

    fn flush_disks(&self) -> Result<(), SnapshotError> {
        let mut disks = self.disks().iter().enumerate();
        disks.try_for_each(|(index, disk)| flush(disk.as_ref()).map_err(failed(&format!("disk {index}"))))
    }

    /// What is kept of each disk, by its place, and the file for it.
    fn overlays<'a>(
        &'a self,
        files: &'a Files,
    ) -> impl Iterator<Item = Result<(usize, &'a Overlay, &'a File), SnapshotError>> {
        self.kept_disks().into_iter().zip(&files.disks).map(|(index, to)| {
            let overlay = self.overlay(index).ok_or_else(|| io::ErrorKind::NotFound.into());
            overlay.map(|from| (index, from, to)).map_err(failed(&super::file::disk(index)))
        })
    }

    fn write_disks(&self, files: &Files) -> Result<(), SnapshotError> {
        self.flush_disks()?;
        self.overlays(files).try_for_each(|overlay| {
            let (index, from, to) = overlay?;
            disks::copy(from.file(), to).map_err(failed(&super::file::disk(index)))
        })
    }

    /// Copies that follow what is written from now on, when the guest stands still.
    fn followed<'a>(&'a self, files: &'a Files) -> Result<Vec<(usize, Following<'a>)>, SnapshotError> {
        let begin = |overlay| {
            let (index, from, to) = overlay?;
            Ok((index, Following::begin(from, to)))
        };
        self.overlays(files).map(begin).collect()
    }

    /// Everything but RAM and disks.
    fn sections(&self) -> Result<Vec<Section>, MachineError> {
        let mut sections = Vec::new();
        for (state, index) in self.cpu_states()?.iter().zip(0..) {
            sections.push(part::encode(super::restore::CPU, index, super::restore::CPU_VERSION, state)?);
        }
        for (saved, instance) in self.pc().saved() {
            sections.push(saved.to_section(instance)?);
        }
        Ok(sections)
    }

    /// When disks were flushed, and images are what they will be: the header says when each was written last.
    fn with_header(&self, sections: Vec<Section>) -> Parts {
        Parts { header: self.header(sections.len() as u32 + 1), sections }
    }

    fn header(&self, sections: u32) -> Header {
        let (pc, model, mut spec) = (self.pc(), self.model(), self.spec().clone());
        // Whoever goes on from here is elsewhere.
        spec.resolve_paths(&std::env::current_dir().unwrap_or_default());
        let created = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Header {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            created: created.as_secs(),
            board: spec.board,
            engine: self.engine().to_owned(),
            cpu_model: model.name().to_owned(),
            cpu_features: model.feature_names(),
            tsc: self.stopped_at().unwrap_or_else(|| pc.clock.tsc()),
            tsc_hz: pc.clock.tsc_hz(),
            memory: pc.ram.size(),
            sections,
            disks: spec.disks.iter().map(DiskMark::of).collect(),
            spec,
        }
    }
}

/// What the file [`file::STATE`](super::file::STATE) has, RAM aside.
struct Parts {
    header: Header,
    sections: Vec<Section>,
}

impl Parts {
    fn write(self, files: &Files, ram: Section) -> Result<(), SnapshotError> {
        let header = serde_json::to_vec(&self.header).map_err(|e| failed("header")(e.into()))?;
        let sections: Vec<_> = [ram].into_iter().chain(self.sections).collect();
        let version = if files.how == How::Compressed { format::VERSION } else { format::PLAIN };
        let bytes = format::encode(version, &header, &sections);
        files.state.write_all_at(&bytes, 0).map_err(failed("state"))
    }
}

fn each<'a>(
    disks: &[(usize, Following<'a>)],
    act: impl Fn(&Following<'a>) -> io::Result<()>,
) -> Result<(), SnapshotError> {
    disks.iter().try_for_each(|(index, disk)| act(disk).map_err(failed(&super::file::disk(*index))))
}

/// Does something while a thread writes disks.
fn beside<T>(
    disks: impl FnOnce() -> Result<(), SnapshotError> + Send,
    act: impl FnOnce() -> Result<T, MachineError>,
) -> Result<T, MachineError> {
    std::thread::scope(|scope| {
        let thread = Builder::new().name("snapshot-disks".to_owned());
        let disks = thread.spawn_scoped(scope, disks).map_err(MachineError::Thread)?;
        let done = act()?;
        let written = disks.join().map_err(|_| failed("disks")(io::Error::other("a panic: report it")))?;
        Ok(written.map(|()| done)?)
    })
}

fn failed(what: &str) -> impl FnOnce(io::Error) -> SnapshotError {
    let what = what.to_owned();
    |source| SnapshotError::Write { what, source }
}

/// What was answered reaches the files.
fn flush(disk: &dyn BlockBackend) -> io::Result<()> {
    if disk.is_read_only() {
        return Ok(());
    }
    disk.carry_out(Operation::Flush)
}

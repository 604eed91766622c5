//! From files to a machine.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cpu::x86::CpuModel;
use cpu::{Clock, CpuState, Engine};
use device::SaveRestore;
use jail::Kind;

use super::error::in_a_line;
use super::ram::Content;
use super::{Header, Section, SnapshotError, file, format, packed, part};
use crate::moving::explained;
use crate::{Backends, Format, Hypercalls, Machine, MachineError, MachineSpec, Outcome};

/// The section of a CPU.
pub const CPU: &str = "cpu";
pub const CPU_VERSION: u32 = 1;
/// Parts that machines of the first snapshots had not: without a section they are as after a reset.
const YOUNGER: [&str; 1] = [Hypercalls::KIND];
/// Disks that are looked for.
const MAX_DISKS: usize = 64;

/// Where a snapshot is.
#[derive(Debug, Clone)]
pub struct Paths {
    /// See [`file::STATE`].
    pub state: PathBuf,
    /// See [`file::MEMORY`]; of a copy, all files with RAM in them.
    pub memory: Vec<PathBuf>,
    /// See [`file::INITRD`]; the file need not be there.
    pub initrd: PathBuf,
    /// Changes of disks, by their places in the definition.
    pub disks: Vec<(usize, PathBuf)>,
    /// Somebody else may have had them: RAM is compared with its checksums.
    pub foreign: bool,
}

impl Paths {
    /// A folder's.
    #[must_use]
    pub fn in_folder(folder: &Path) -> Self {
        // A machine has its files open longer than its process has its folder.
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        let disks = (0..MAX_DISKS).map(|index| (index, folder.join(file::disk(index)))).collect();
        let [state, memory, initrd] = [file::STATE, file::MEMORY, file::INITRD].map(|name| folder.join(name));
        Self { state, memory: vec![memory], initrd, disks, foreign: true }
    }
}

/// A snapshot that was read, RAM aside.
#[derive(Debug)]
pub struct Snapshot {
    paths: Paths,
    header: Header,
    sections: Vec<Section>,
    content: Content,
}

impl Snapshot {
    /// Reads and checks it.
    ///
    /// # Errors
    /// It is no snapshot, a newer one, or not what was written.
    pub fn open(paths: Paths) -> Result<Self, SnapshotError> {
        let refused = |source| SnapshotError::Read { path: paths.state.clone(), source };
        let (opened, len) = open(&paths.state)?;
        let mut bytes = Vec::with_capacity(len.min(format::MAX_FILE) as usize + 1);
        opened.take(format::MAX_FILE + 1).read_to_end(&mut bytes).map_err(refused)?;
        Self::parse(paths, &bytes)
    }

    /// The same with the content of the file `state`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn parse(paths: Paths, bytes: &[u8]) -> Result<Self, SnapshotError> {
        if bytes.len() as u64 > format::MAX_FILE {
            return Err(SnapshotError::Foreign);
        }
        let damaged = |what: String| SnapshotError::Damaged(what);
        let (header, mut sections) = format::decode(bytes)?;
        let header: Header = serde_json::from_slice(&header)
            .map_err(|e| damaged(format!("its header has another content: {}", in_a_line(&e))))?;
        if sections.len() as u64 != u64::from(header.sections) {
            return Err(damaged("it has another number of sections".to_owned()));
        }
        if header.memory != header.spec.memory.get() || header.board != header.spec.board {
            return Err(damaged("its header contradicts itself".to_owned()));
        }
        let position = sections.iter().position(Content::is_in);
        let position = position.ok_or_else(|| damaged("it has no checksums of RAM".to_owned()))?;
        let content = Content::of(&sections.swap_remove(position), header.memory)?;
        if paths.foreign && matches!(content, Content::Layers(_)) {
            return Err(damaged("it is a copy's, whose RAM is nowhere".to_owned()));
        }
        Ok(Self { paths, header, sections, content })
    }

    /// The files with RAM that have names.
    pub fn memory_paths(&self) -> &[PathBuf] {
        if self.paths.foreign { &self.paths.memory } else { &[] }
    }

    /// What has to be known before there is a machine.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The definition of a machine that goes on from here: disks whose changes are in the folder are based on those.
    pub fn spec(&self) -> MachineSpec {
        let mut spec = self.header.spec.clone();
        // RAM comes from the snapshot's files, whose pages are ordinary ones.
        spec.hugepages = None;
        for ((disk, mark), index) in spec.disks.iter_mut().zip(&self.header.disks).zip(0..) {
            if let Some((_, path)) = self.paths.disks.iter().find(|(i, _)| mark.kept && *i == index) {
                disk.path.clone_from(path);
                (disk.format, disk.backing) = (Some(Format::Qcow2), true);
            }
        }
        if spec.initrd.is_some() && self.paths.initrd.exists() {
            spec.initrd = Some(self.paths.initrd.clone());
        }
        spec
    }

    /// Reads RAM and compares it with its checksums. What is a copy's has none.
    ///
    /// # Errors
    /// It is not what was written.
    pub fn check_memory(&self) -> Result<(), SnapshotError> {
        match (&self.content, self.memory()?.first()) {
            (Content::Whole(checksums), Some(file)) => checksums.check(file, self.header.memory, || true),
            (Content::Packed(checksums), Some(file)) => packed::check(file, checksums, self.header.memory),
            _ => Ok(()),
        }
    }

    /// The files with RAM, opened.
    fn memory(&self) -> Result<Vec<File>, SnapshotError> {
        let open = |path: &PathBuf| -> Result<File, SnapshotError> {
            let ((file, len), size) = (open(path)?, self.header.memory);
            if len == size || matches!(self.content, Content::Packed(_)) {
                return Ok(file);
            }
            Err(SnapshotError::Damaged(format!("its RAM has {len} bytes and not {size}")))
        };
        self.paths.memory.iter().map(open).collect()
    }

    fn section(&self, kind: &str, instance: u16) -> Result<&Section, SnapshotError> {
        let found = self.sections.iter().find(|section| section.kind == kind && section.instance == instance);
        found.ok_or_else(|| part::wrong(kind, instance, "missing".to_owned()))
    }
}

/// A file and its length. Something else may have its name, and never give a byte.
fn open(path: &Path) -> Result<(File, u64), SnapshotError> {
    let opened = std::fs::metadata(path).and_then(|meta| match meta.is_file() {
        true => File::open(path).map(|file| (file, meta.len())),
        false => Err(io::Error::other("it is no file")),
    });
    opened.map_err(|source| SnapshotError::Read { path: path.to_owned(), source })
}

impl Machine {
    /// Makes a machine that goes on where that of the snapshot was. `spec` is [`Snapshot::spec`], maybe with other names,
    /// paths and addresses. Its RAM is mapped and not read: it is compared with its checksums while the machine runs, which
    /// ends if there is a difference.
    ///
    /// # Errors
    /// The host or the engine lacks what the guest was given, the disks are not what they were, or the snapshot is damaged.
    pub fn restore(
        snapshot: &Snapshot,
        spec: MachineSpec,
        engine: &dyn Engine,
        backends: Backends,
    ) -> Result<Self, MachineError> {
        let Header { cpu_model, cpu_features, tsc, tsc_hz, memory, disks, .. } = &snapshot.header;
        spec.validate()?;
        for (disk, mark) in spec.disks.iter().zip(disks) {
            mark.check(disk)?;
        }
        let model = CpuModel::restored(cpu_model, cpu_features).map_err(SnapshotError::Cpu)?;
        let clock = if snapshot.paths.foreign {
            Clock::resumed(*tsc, *tsc_hz).map_err(|ours| SnapshotError::Clock { ours, theirs: *tsc_hz })?
        } else {
            // That of this host, which takes its time to be measured.
            Clock::assuming(*tsc_hz)
        };
        clock.set_tsc(*tsc);
        let ram = snapshot.content.map(*memory, snapshot.memory()?)?;
        let machine =
            Self::assemble(spec, engine, backends, Arc::new(model), Arc::new(ram), Arc::new(clock))?;
        machine.take_over(snapshot).map_err(|error| explained(error, engine, machine.model()))?;
        machine.await_start(*tsc);
        if snapshot.paths.foreign {
            machine.check_in_background(snapshot)?;
        }
        Ok(machine)
    }

    fn take_over(&self, snapshot: &Snapshot) -> Result<(), MachineError> {
        let pc = self.pc();
        pc.reset();
        pc.hold(true);
        let cpus = 0..self.spec().cpus as u16;
        let states: Vec<CpuState> = cpus
            .map(|index| part::decode(snapshot.section(CPU, index)?, CPU_VERSION))
            .collect::<Result<_, SnapshotError>>()?;
        self.set_cpu_states(&states)?;
        let saved = pc.saved();
        for (part, instance) in &saved {
            let kind = part.section_kind();
            match snapshot.section(kind, *instance) {
                Err(_) if YOUNGER.contains(&kind) => {}
                section => part.put_section(section?)?,
            }
        }
        pc.restored();
        // Others may go on from there, too.
        pc.generation.renew();
        // A machine has nothing that its parts do not know of.
        let known = |section: &&Section| {
            section.kind == CPU && usize::from(section.instance) < states.len()
                || saved.iter().any(|(part, i)| part.section_kind() == section.kind && *i == section.instance)
        };
        match snapshot.sections.iter().find(|section| !known(section)) {
            None => Ok(()),
            Some(section) => {
                let what = "which the machine has not".to_owned();
                Err(part::wrong(&section.kind, section.instance, what).into())
            }
        }
    }

    fn check_in_background(&self, snapshot: &Snapshot) -> Result<(), MachineError> {
        let (Content::Whole(checksums), Some(file)) = (&snapshot.content, snapshot.memory()?.pop()) else {
            return Ok(());
        };
        let machine = Arc::downgrade(self.shared());
        let (checksums, memory) = (checksums.clone(), snapshot.header.memory);
        let check = move || {
            if let (Err(error), Some(machine)) =
                (checksums.check(&file, memory, || machine.strong_count() > 0), machine.upgrade())
            {
                machine.end(Outcome::Failed(error.to_string()));
            }
        };
        let thread = jail::spawn(Kind::Disk, "snapshot-check", check);
        thread.map(drop).map_err(MachineError::Thread)
    }
}

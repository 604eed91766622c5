//! From the command line to a machine's definition.

use std::ffi::OsString;
use std::path::Path;

use guest::{Built, Cache, Catalogue, CommandMode, GuestEntry, Session};
use machine::{DiskSpec, Format, MachineSpec};
use server::Folder;

use crate::console::Style;
use crate::guests;
use crate::signals::Signals;
use crate::terminal;

/// What to run, and how it is connected.
pub struct Plan {
    /// The machine.
    pub spec: MachineSpec,
    /// What its line carries.
    pub style: Style,
    /// The user's terminal is the guest's.
    pub raw: bool,
    /// What it runs, in a word.
    pub guest: String,
    /// An archive that the guest unpacks after its initrd.
    session: Option<Vec<u8>>,
}

impl Plan {
    /// Builds the guest if it is needed and not there. `words` are the command's, as they were given; in the `background`
    /// terminals come later.
    pub fn new(
        definition: &MachineSpec,
        words: &[OsString],
        background: bool,
        signals: &Signals,
    ) -> anyhow::Result<Self> {
        let (stdin, stdout) = terminal::is_interactive();
        let mut spec = definition.clone();
        crate::net::check(&spec.nets)?;
        let command = !spec.command.is_empty();
        let own_kernel = !spec.kernel.as_os_str().is_empty();
        if own_kernel && !command {
            let name = file_name(&spec.kernel);
            return Ok(Self::plain(spec, name, stdin));
        }
        if let (Some(initrd), false) = (&spec.initrd, own_kernel) {
            anyhow::bail!("{} has no kernel to go with: give --kernel too", initrd.display());
        }
        if let Some((name, disk)) = disk_guest(&spec, signals)? {
            spec.disks.insert(0, disk);
            return Ok(Self::plain(spec, name, stdin));
        }
        // With nothing said about what to run, a disk with a system on it is meant to be booted.
        if let (Some(disk), None, false) = (spec.disks.first(), &spec.guest, command)
            && machine::is_bootable(&spec.disks)?
        {
            let name = file_name(&disk.path);
            return Ok(Self::plain(spec, name, stdin));
        }

        // What is certainly wrong should not cost a download first.
        if !own_kernel {
            spec.kernel = "default".into();
        }
        spec.validate()?;
        let (entry, built) = default_guest(&spec, signals)?;
        if !own_kernel {
            spec.kernel = built.kernel;
        }
        // With a virtio console too: init finds that, and Linux would take Ctrl-O there for SysRq, in binary data as well.
        let quiet = if command { entry.append_quiet.as_str() } else { "" };
        let parts = [&entry.append, quiet, &spec.cmdline];
        spec.cmdline = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
        // A panic must end the run, not start another one.
        spec.no_reboot |= command;
        let (mode, style, raw) = match (command, stdin, stdout) {
            (true, true, true) => (Some(CommandMode::Terminal), Style::Plain { keys: true }, true),
            (true, ..) => (Some(CommandMode::Stream), Style::Command, false),
            (false, true, _) => (None, Style::Plain { keys: true }, true),
            // By `guesthouse console`.
            (false, false, _) if background => (None, Style::Plain { keys: false }, false),
            (false, false, _) => (Some(CommandMode::Console), Style::Shell, false),
        };
        let argv = match (command, words) {
            (false, _) => vec!["sh".into(), "-i".into()],
            (true, []) => spec.command.iter().map(Into::into).collect(),
            (true, words) => words.to_vec(),
        };
        let line_is_terminal = matches!(style, Style::Plain { .. });
        let session = Session {
            terminal: line_is_terminal.then(terminal::describe),
            ports: spec.ports.iter().map(|port| port.name.clone()).collect(),
            shares: spec.shares.iter().map(|share| (share.tag.clone(), share.readonly)).collect(),
            command: mode.map(|mode| (mode, argv)),
        };
        spec.initrd = Some(built.initrd);
        // A snapshot has the name from here.
        spec.guest = Some(entry.name.clone());
        Ok(Self { spec, style, raw, guest: entry.name, session: Some(session.archive()) })
    }

    /// One that was written down. Its guest is not told of this terminal.
    pub fn restored(spec: MachineSpec) -> Self {
        let kernel = Some(&spec.kernel).filter(|kernel| !kernel.as_os_str().is_empty());
        let boots = kernel.or(spec.disks.first().map(|disk| &disk.path));
        let name = spec.guest.clone().or_else(|| Some(file_name(boots?))).unwrap_or_default();
        // Its initrd goes into its folder: where that is now may be gone at the next boot.
        let session = Some(Vec::new());
        Self { session, ..Self::plain(spec, name, terminal::is_interactive().0) }
    }

    /// A machine that speaks for itself.
    fn plain(spec: MachineSpec, guest: String, stdin: bool) -> Self {
        Self { spec, style: Style::Plain { keys: stdin }, raw: stdin, guest, session: None }
    }

    /// The machine, with what it needs beyond files of the user's written into its folder: the machine reads its files at
    /// every boot.
    pub fn machine(&self, folder: &Folder) -> anyhow::Result<MachineSpec> {
        let mut spec = self.spec.clone();
        if let (Some(session), Some(initrd)) = (&self.session, &self.spec.initrd) {
            // One file, because some protocols have no more than one initrd.
            let remedy = match session.as_slice() {
                [] => "take another snapshot, or put it where it was",
                _ => "build it again with guesthouse guests --build",
            };
            let mut data = std::fs::read(initrd)
                .map_err(|e| anyhow::anyhow!("{} cannot be read ({e}): {remedy}", initrd.display()))?;
            data.extend(session);
            spec.initrd = Some(folder.write("initrd", &data)?);
        }
        Ok(spec)
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).display().to_string()
}

/// The name and the disk of a guest that is a whole system, built if it is not there. What is written to it is gone at the
/// end.
fn disk_guest(spec: &MachineSpec, signals: &Signals) -> anyhow::Result<Option<(String, DiskSpec)>> {
    let catalogue = Catalogue::builtin()?;
    let Some(entry) = spec.guest.as_ref().and_then(|name| catalogue.disk(name)) else { return Ok(None) };
    if !spec.command.is_empty() {
        anyhow::bail!(
            "guest {} takes no command: log in to it, or run the command in the default guest",
            entry.name
        );
    }
    let built = guests::build_disk(&Cache::of_user()?, entry, false, signals)?;
    let disk =
        DiskSpec { path: built.image, format: Some(Format::Raw), snapshot: true, ..DiskSpec::default() };
    Ok(Some((entry.name.clone(), disk)))
}

fn default_guest(spec: &MachineSpec, signals: &Signals) -> anyhow::Result<(GuestEntry, Built)> {
    let catalogue = Catalogue::builtin()?;
    let entry = catalogue.get(spec.guest.as_ref().unwrap_or(&catalogue.default))?;
    Ok((entry.clone(), guests::build(&Cache::of_user()?, entry, false, signals)?))
}

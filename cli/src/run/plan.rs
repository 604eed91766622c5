//! From the command line to a machine's definition.

use std::path::Path;

use anyhow::Context;
use guest::{Built, Cache, Catalogue, CommandMode, GuestEntry, Session};
use machine::{ConsoleKind, DiskSpec, Format, MachineSpec, ModuleSpec, NetSpec, UserConfig};
use server::Folder;

use crate::args::RunArguments;
use crate::console::Style;
use crate::guests;
use crate::signals::Signals;
use crate::terminal;

/// Command line of a kernel of the user's, unless he gives one: without a console he would see nothing.
const DEFAULT_APPEND: &str = "console=ttyS0,115200";
/// The same with a virtio console: the last one is the one that programs get.
const VIRTIO_APPEND: &str = "console=ttyS0,115200 console=hvc0";

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
    /// Builds the default guest if it is needed and not there.
    pub fn new(arguments: &RunArguments, signals: &Signals) -> anyhow::Result<Self> {
        let (stdin, stdout) = terminal::is_interactive();
        let file_name = |path: &Path| path.file_name().unwrap_or(path.as_os_str()).display().to_string();
        let mut spec = MachineSpec {
            modules: arguments.module.iter().map(|text| module(text)).collect(),
            disks: arguments.disk.clone(),
            nets: arguments.net.iter().flatten().cloned().collect(),
            shares: arguments.share.clone(),
            console: arguments.console,
            ports: arguments.port.clone(),
            vsock: arguments.vsock.clone(),
            board: arguments.board,
            memory: arguments.memory,
            balloon: arguments.balloon,
            cpus: arguments.cpus,
            cpu_model: arguments.cpu_model.clone(),
            engine: arguments.engine,
            boot: arguments.boot,
            no_reboot: arguments.no_reboot,
            ..MachineSpec::default()
        };
        crate::net::check(&spec.nets)?;
        spec.disks.iter_mut().for_each(|disk| disk.snapshot |= arguments.snapshot);
        let command = !arguments.command.is_empty();
        if let (Some(kernel), false) = (&arguments.kernel, command) {
            spec.kernel.clone_from(kernel);
            spec.initrd.clone_from(&arguments.initrd);
            let default = match arguments.console {
                ConsoleKind::Serial => DEFAULT_APPEND,
                ConsoleKind::Virtio => VIRTIO_APPEND,
            };
            spec.cmdline = arguments.append.clone().unwrap_or_else(|| default.to_owned());
            return Ok(Self::plain(spec, file_name(kernel), stdin));
        }
        if let (Some(initrd), None) = (&arguments.initrd, &arguments.kernel) {
            anyhow::bail!("{} has no kernel to go with: give --kernel too", initrd.display());
        }

        if let Some(disk) = disk_guest(arguments, signals)? {
            spec.disks.insert(0, disk);
            if arguments.net.is_empty() {
                // What there is to do with a whole system begins with a network; `--net none` says otherwise.
                spec.nets.push(NetSpec::User(UserConfig::default()));
            }
            spec.cmdline = arguments.append.clone().unwrap_or_default();
            return Ok(Self::plain(spec, guest_name(arguments).cloned().unwrap_or_default(), stdin));
        }
        if boots_from_disk(arguments)? {
            spec.cmdline = arguments.append.clone().unwrap_or_default();
            let name = spec.disks.first().map(|disk| file_name(&disk.path)).unwrap_or_default();
            return Ok(Self::plain(spec, name, stdin));
        }

        // What is certainly wrong should not cost a download first.
        spec.kernel = arguments.kernel.clone().unwrap_or_else(|| "default".into());
        spec.validate()?;
        let (entry, built) = default_guest(arguments, signals)?;
        spec.kernel = arguments.kernel.clone().unwrap_or(built.kernel);
        // With a virtio console too: init finds that, and Linux would take Ctrl-O there for SysRq, in binary data as well.
        spec.cmdline = entry.append.clone();
        if command {
            spec.cmdline = format!("{} {}", spec.cmdline, entry.append_quiet);
            // A panic must end the run, not start another one.
            spec.no_reboot = true;
        }
        if let Some(more) = &arguments.append {
            spec.cmdline = format!("{} {more}", spec.cmdline);
        }
        let (mode, style, raw) = match (command, stdin, stdout) {
            (true, true, true) => (Some(CommandMode::Terminal), Style::Plain { keys: true }, true),
            (true, ..) => (Some(CommandMode::Stream), Style::Command, false),
            (false, true, _) => (None, Style::Plain { keys: true }, true),
            // Terminals come later, by `guesthouse console`.
            (false, false, _) if arguments.life.detach => (None, Style::Plain { keys: false }, false),
            (false, false, _) => (Some(CommandMode::Console), Style::Shell, false),
        };
        let argv = if command { arguments.command.clone() } else { vec!["sh".into(), "-i".into()] };
        let line_is_terminal = matches!(style, Style::Plain { .. });
        let session = Session {
            terminal: line_is_terminal.then(terminal::describe),
            ports: spec.ports.iter().map(|port| port.name.clone()).collect(),
            shares: spec.shares.iter().map(|share| (share.tag.clone(), share.readonly)).collect(),
            command: mode.map(|mode| (mode, argv)),
        };
        spec.initrd = Some(built.initrd);
        Ok(Self { spec, style, raw, guest: entry.name, session: Some(session.archive()) })
    }

    /// A machine that speaks for itself.
    fn plain(spec: MachineSpec, guest: String, stdin: bool) -> Self {
        Self { spec, style: Style::Plain { keys: stdin }, raw: stdin, guest, session: None }
    }

    /// The machine, with what it needs beyond files of the user's written into its folder: the machine reads its files at
    /// every boot.
    pub fn definition(&self, folder: &Folder) -> anyhow::Result<MachineSpec> {
        let mut spec = self.spec.clone();
        if let (Some(session), Some(initrd)) = (&self.session, &self.spec.initrd) {
            // One file, because some protocols have no more than one initrd.
            let mut data = std::fs::read(initrd).with_context(|| {
                format!("{} cannot be read: build it again with guesthouse guests --build", initrd.display())
            })?;
            data.extend(session);
            spec.initrd = Some(folder.write("initrd", &data)?);
        }
        Ok(spec)
    }
}

/// The name of a guest, if one is given.
fn guest_name(arguments: &RunArguments) -> Option<&String> {
    arguments.name.as_ref().or(arguments.guest.as_ref())
}

/// The disk of a guest that is a whole system, built if it is not there. What is written to it is gone at the end.
fn disk_guest(arguments: &RunArguments, signals: &Signals) -> anyhow::Result<Option<DiskSpec>> {
    let catalogue = Catalogue::builtin()?;
    let Some(entry) = guest_name(arguments).and_then(|name| catalogue.disk(name)) else { return Ok(None) };
    if !arguments.command.is_empty() {
        anyhow::bail!(
            "guest {} takes no command: log in to it, or run the command in the default guest",
            entry.name
        );
    }
    let built = guests::build_disk(&Cache::of_user()?, entry, false, signals)?;
    let format = Some(Format::Raw);
    Ok(Some(DiskSpec { path: built.image, format, snapshot: true, ..DiskSpec::default() }))
}

/// With nothing said about what to run, a disk with a system on it is meant to be booted.
fn boots_from_disk(arguments: &RunArguments) -> anyhow::Result<bool> {
    let silent =
        arguments.kernel.is_none() && guest_name(arguments).is_none() && arguments.command.is_empty();
    Ok(silent && !arguments.disk.is_empty() && machine::is_bootable(&arguments.disk)?)
}

fn default_guest(arguments: &RunArguments, signals: &Signals) -> anyhow::Result<(GuestEntry, Built)> {
    let catalogue = Catalogue::builtin()?;
    let entry = catalogue.get(guest_name(arguments).unwrap_or(&catalogue.default))?;
    Ok((entry.clone(), guests::build(&Cache::of_user()?, entry, false, signals)?))
}

/// `FILE` or `FILE ARGUMENTS`. A file whose name holds a blank is meant whole if it is there.
fn module(text: &str) -> ModuleSpec {
    match text.split_once(' ') {
        Some((path, args)) if !Path::new(text).exists() => {
            ModuleSpec { path: path.into(), args: args.to_owned() }
        }
        _ => ModuleSpec { path: text.into(), args: String::new() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_may_have_arguments() {
        let spec = module("mod.bin root=1 x");
        assert_eq!((spec.path.as_path(), spec.args.as_str()), (Path::new("mod.bin"), "root=1 x"));
        assert_eq!(module("mod.bin").args, "");
    }
}

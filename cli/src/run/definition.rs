//! What the user wants, as a definition: from the command line, or from a file and what the command line adds to it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::Context;
use guest::Catalogue;
use machine::{ConsoleKind, MachineSpec, ModuleSpec, NetSpec, UserConfig};

use crate::args::RunArguments;

/// Longest definition.
const MAX_FILE: u64 = 1 << 20;
/// Command line of a kernel of the user's, unless he gives one: without a console he would see nothing.
const DEFAULT_APPEND: &str = "console=ttyS0,115200";
/// The same with a virtio console: the last one is the one that programs get.
const VIRTIO_APPEND: &str = "console=ttyS0,115200 console=hvc0";

/// The definition, with guests by their names.
pub fn read(arguments: &RunArguments) -> anyhow::Result<MachineSpec> {
    let file = arguments.name.as_deref().filter(|name| name.ends_with(".toml"));
    let mut spec = file.map(|path| from_file(Path::new(path))).transpose()?.unwrap_or_default();
    let named = arguments.name.as_ref().filter(|_| file.is_none()).or(arguments.guest.as_ref());
    set(&mut spec.guest, named.cloned().map(Some));
    set(&mut spec.kernel, arguments.kernel.clone());
    set(&mut spec.initrd, arguments.initrd.clone().map(Some));
    set(&mut spec.memory, arguments.memory);
    set(&mut spec.vsock, arguments.vsock.clone().map(Some));
    set(&mut spec.hugepages, arguments.hugepages.map(Some));
    set(&mut spec.balloon, arguments.balloon.map(Some));
    set(&mut spec.limits.cpus, arguments.cpu_cap.map(Some));
    set(&mut spec.limits.weight, arguments.cpu_weight.map(Some));
    set(&mut spec.limits.cgroup, arguments.cgroup.clone().map(Some));
    for limit in &arguments.limit {
        spec.limits.devices.extend(limit.devices.iter().map(|&device| (device, limit.rate)));
    }
    set(&mut spec.cpus, arguments.cpus);
    set(&mut spec.cpu_model, arguments.cpu_model.clone().map(Some));
    set(&mut spec.board, arguments.board);
    set(&mut spec.engine, arguments.engine);
    set(&mut spec.irqchip, arguments.irqchip);
    set(&mut spec.boot, arguments.boot);
    set(&mut spec.console, arguments.console);
    set(&mut spec.cmdline, arguments.append.clone());
    spec.no_reboot |= arguments.no_reboot;
    spec.clonable |= arguments.clonable;
    spec.direct &= !arguments.no_direct;
    spec.modules.extend(arguments.module.iter().map(|text| module(text)));
    spec.disks.extend(arguments.disk.iter().cloned());
    spec.disks.iter_mut().for_each(|disk| disk.snapshot |= arguments.snapshot);
    spec.nets.extend(arguments.net.iter().flatten().cloned());
    spec.shares.extend(arguments.share.iter().cloned());
    spec.ports.extend(arguments.port.iter().cloned());
    if !arguments.command.is_empty() {
        // The machine's session has the bytes as they are; here they are for people.
        spec.command = arguments.command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    }
    if file.is_none() {
        add_defaults(&mut spec, arguments)?;
    }
    if let Some(name) = &arguments.life.machine_name {
        introduce(&mut spec, name);
    }
    Ok(spec)
}

/// On its first switch others call the machine by its name, where that can be a host's.
fn introduce(spec: &mut MachineSpec, name: &str) {
    let mut switches = spec.nets.iter_mut().filter_map(|net| match net {
        NetSpec::Switch(config) => Some(config),
        _ => None,
    });
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') && !name.ends_with('-');
    if let (Some(config), true) = (switches.next(), plain) {
        config.name.get_or_insert_with(|| name.to_owned());
    }
}

fn set<T>(value: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *value = given;
    }
}

/// What a command line means that does not say it; a file says all.
fn add_defaults(spec: &mut MachineSpec, arguments: &RunArguments) -> anyhow::Result<()> {
    let own_kernel = arguments.kernel.is_some() && arguments.command.is_empty();
    if own_kernel && arguments.append.is_none() {
        let append = match spec.console {
            ConsoleKind::Serial => DEFAULT_APPEND,
            ConsoleKind::Virtio => VIRTIO_APPEND,
        };
        append.clone_into(&mut spec.cmdline);
    }
    let system =
        spec.guest.as_ref().map(|name| Ok::<_, anyhow::Error>(Catalogue::builtin()?.disk(name).is_some()));
    if arguments.net.is_empty() && system.transpose()?.unwrap_or(false) {
        // What there is to do with a whole system begins with a network; `--net none` says otherwise.
        spec.nets.push(NetSpec::User(UserConfig::default()));
    }
    Ok(())
}

fn from_file(path: &Path) -> anyhow::Result<MachineSpec> {
    let name = path.display();
    let mut text = String::new();
    let file = File::open(path).and_then(|file| file.take(MAX_FILE).read_to_string(&mut text));
    file.with_context(|| {
        format!("{name} cannot be read: give the definition of a machine, as inspect --toml prints it")
    })?;
    let mut spec: MachineSpec = toml::from_str(&text).map_err(|e| {
        let before = e.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        anyhow::anyhow!(
            "{name}, line {line}: {}: guesthouse inspect --toml shows how definitions look",
            e.message()
        )
    })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    spec.resolve_paths(&std::path::absolute(folder.join(".")).unwrap_or_else(|_| folder.to_owned()));
    Ok(spec)
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

//! The default guest's first and only root file system.

use crate::catalogue::WantedModule;
use crate::cpio::{Archive, Node};

/// Process 1.
const INIT: &str = include_str!("../init.sh");
/// What its DHCP client does with an address.
const UDHCPC: &str = include_str!("../udhcpc.sh");
/// Has a card ask for an address, at the start and when a copy's card has become another.
const NEW_ADDRESS: &str = include_str!("../new-address.sh");
/// All of these.
pub(crate) const SCRIPTS: [&str; 3] = [INIT, UDHCPC, NEW_ADDRESS];
/// Runs a command on the serial line; see `agent/agent.rs`.
pub(crate) const LINE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/agent"));

/// The archive with busybox under all its names, our init and agent, and the nodes that the kernel opens
/// before devtmpfs is mounted.
pub(crate) fn archive<'a>(busybox: Vec<u8>, applets: impl Iterator<Item = &'a str>) -> Archive {
    let mut archive = Archive::new();
    for folder in ["dev", "etc", "mnt", "proc", "run", "sys", "usr", "var"] {
        archive.add(folder, 0o755, Node::Directory);
    }
    archive
        .add("root", 0o700, Node::Directory)
        .add("tmp", 0o1777, Node::Directory)
        .add("dev/console", 0o600, Node::CharDevice(5, 1))
        .add("dev/null", 0o666, Node::CharDevice(1, 3))
        .add("init", 0o755, Node::File(INIT.into()))
        .add("etc/udhcpc.sh", 0o755, Node::File(UDHCPC.into()))
        .add("etc/guesthouse", 0o755, Node::Directory)
        .add("etc/guesthouse/new-address", 0o755, Node::File(NEW_ADDRESS.into()))
        .add("sbin/guesthouse-line", 0o755, Node::File(LINE.into()))
        .add("sbin/guesthouse-agent", 0o755, Node::File(agent::PROGRAM.into()))
        .add("bin/busybox", 0o755, Node::File(busybox))
        .add("usr/bin", 0o777, Node::Link(b"../bin".to_vec()))
        .add("usr/sbin", 0o777, Node::Link(b"../sbin".to_vec()))
        .add("etc/passwd", 0o644, Node::File(b"root::0:0:root:/root:/bin/sh\n".to_vec()))
        .add("etc/group", 0o644, Node::File(b"root:x:0:\ntty:x:5:\n".to_vec()))
        .add("etc/hostname", 0o644, Node::File(b"guesthouse\n".to_vec()))
        .add("etc/hosts", 0o644, Node::File(b"127.0.0.1 localhost guesthouse\n".to_vec()));
    for applet in applets {
        archive.add(&format!("bin/{applet}"), 0o777, Node::Link(b"busybox".to_vec()));
    }
    archive
}

/// Adds the modules, and the list by which init loads them in their order: the type of the virtio device that has to be
/// there, as sysfs writes it, or a dash, and the file.
pub(crate) fn add_modules(
    archive: &mut Archive,
    order: &[WantedModule<'_>],
    modules: Vec<(String, Vec<u8>)>,
) {
    let path = |name: &str| format!("usr/lib/modules/{name}.ko");
    for (name, data) in modules {
        archive.add(&path(&name), 0o644, Node::File(data));
    }
    if !order.is_empty() {
        let line = |module: &WantedModule<'_>| {
            let kind = module.device.map_or_else(|| "-".to_owned(), |device| format!("{device:#06x}"));
            format!("{kind} /{}\n", path(module.name))
        };
        let list: String = order.iter().map(line).collect();
        archive.add("etc/modules", 0o644, Node::File(list.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_what_the_kernel_wants_first() {
        let archive = archive(vec![0x7f], ["sh", "mount"].into_iter());
        let find = |path: &str| archive.iter().find(|e| e.0 == path.as_bytes()).map(|e| (e.1, e.2.clone()));
        assert_eq!(find("dev/console"), Some((0o600, Node::CharDevice(5, 1))));
        assert_eq!(find("init").map(|n| n.0), Some(0o755));
        assert_eq!(find("bin/sh"), Some((0o777, Node::Link(b"busybox".to_vec()))));
        let again = super::archive(vec![0x7f], ["mount", "sh"].into_iter());
        assert_eq!(archive.write(), again.write());
    }

    #[test]
    fn modules_are_listed_in_the_order_of_their_loading() {
        let mut archive = Archive::new();
        let order = [WantedModule { device: None, name: "b" }, WantedModule { device: Some(19), name: "a" }];
        add_modules(&mut archive, &order, vec![("a".into(), vec![1]), ("b".into(), vec![2])]);
        assert_eq!(archive.get("usr/lib/modules/a.ko"), Some(&Node::File(vec![1])));
        let list = b"- /usr/lib/modules/b.ko\n0x0013 /usr/lib/modules/a.ko\n".to_vec();
        assert_eq!(archive.get("etc/modules"), Some(&Node::File(list)));
    }

    #[test]
    fn what_runs_a_command_is_a_static_program() {
        assert_eq!(LINE.get(..4), Some(b"\x7fELF".as_slice()));
        // No PT_INTERP among the program headers: e_phoff, e_phentsize, e_phnum of the ELF64 header.
        let word = |at: usize| u16::from_le_bytes([LINE[at], LINE[at + 1]]) as usize;
        for i in 0..word(56) {
            let header = word(32) + i * word(54);
            assert_ne!(LINE[header], 3);
        }
    }
}

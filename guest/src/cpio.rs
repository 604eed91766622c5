//! Archives in the "newc" form of cpio, which the Linux kernel unpacks into its first root file system
//! (Documentation/driver-api/early-userspace/buffer-format.rst). Written deterministically: entries in the
//! order of their paths, time stamps zero, owner root. Hard links and sockets are not modelled.

use std::collections::BTreeMap;

/// Length of an entry's header: a magic of six characters and thirteen numbers of eight hexadecimal digits.
const HEADER: usize = 6 + 13 * 8;
const MAGIC: &str = "070701";
const TRAILER: &[u8] = b"TRAILER!!!";

/// What an entry of an archive is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Directory,
    /// A file with its content.
    File(Vec<u8>),
    /// A symbolic link and where it points.
    Link(Vec<u8>),
    /// A character device with its major and minor number.
    CharDevice(u32, u32),
}

impl Node {
    /// The file type bits of `st_mode`.
    fn kind(&self) -> u32 {
        match self {
            Self::Directory => 0o040_000,
            Self::File(_) => 0o100_000,
            Self::Link(_) => 0o120_000,
            Self::CharDevice(..) => 0o020_000,
        }
    }

    fn data(&self) -> &[u8] {
        match self {
            Self::File(data) | Self::Link(data) => data,
            Self::Directory | Self::CharDevice(..) => &[],
        }
    }
}

/// An archive in the making. Paths are relative to the root, without a leading slash.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Archive {
    entries: BTreeMap<Vec<u8>, (u32, Node)>,
}

impl Archive {
    /// An archive without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry with its permission bits, and the directories above it that are not there yet.
    pub fn add(&mut self, path: &str, permissions: u32, node: Node) -> &mut Self {
        for (i, _) in path.match_indices('/') {
            let parent = path.as_bytes().get(..i).unwrap_or_default();
            self.entries.entry(parent.to_vec()).or_insert((0o755, Node::Directory));
        }
        self.entries.insert(path.as_bytes().to_vec(), (permissions & 0o7777, node));
        self
    }

    /// The entry of that path.
    pub fn get(&self, path: &str) -> Option<&Node> {
        self.entries.get(path.as_bytes()).map(|(_, node)| node)
    }

    /// The entries: path, permission bits, node.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], u32, &Node)> {
        self.entries.iter().map(|(path, (permissions, node))| (path.as_slice(), *permissions, node))
    }

    /// The archive's bytes, a multiple of 512 long, so that another archive can follow. Contents of 4 GiB and
    /// more do not fit the form and are cut.
    pub fn write(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut inode = 0;
        for (path, permissions, node) in self.iter() {
            inode += 1;
            entry(&mut out, inode, path, permissions, node);
        }
        entry(&mut out, 0, TRAILER, 0, &Node::File(Vec::new()));
        out.resize(out.len().next_multiple_of(512), 0);
        out
    }
}

fn entry(out: &mut Vec<u8>, inode: u32, path: &[u8], permissions: u32, node: &Node) {
    let trailer = inode == 0;
    let data = node.data();
    let mode = if trailer { 0 } else { node.kind() | permissions };
    let links = if matches!(node, Node::Directory) { 2 } else { 1 };
    let (major, minor) = if let Node::CharDevice(major, minor) = *node { (major, minor) } else { (0, 0) };
    let name_len = path.len() as u32 + 1;
    out.extend_from_slice(MAGIC.as_bytes());
    // Inode, mode, owner, group, links, time, length, device, device, node's numbers, name's length, check.
    for field in [inode, mode, 0, 0, links, 0, data.len() as u32, 0, 0, major, minor, name_len, 0] {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(path);
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Reads one archive from the front of `bytes`; the rest after its trailer and padding is returned too.
/// `None` if the bytes are no such archive or hold other kinds of nodes.
pub fn read(bytes: &[u8]) -> Option<(Archive, &[u8])> {
    let mut archive = Archive::new();
    let mut at = 0usize;
    loop {
        let header = bytes.get(at..at.checked_add(HEADER)?)?;
        let field = |i: usize| -> Option<u32> {
            let digits = std::str::from_utf8(header.get(6 + i * 8..14 + i * 8)?).ok()?;
            u32::from_str_radix(digits, 16).ok()
        };
        if header.get(..6)? != MAGIC.as_bytes() {
            return None;
        }
        let (mode, len, name_len) = (field(1)?, field(6)? as usize, field(11)? as usize);
        let name_at = at + HEADER;
        let name = bytes.get(name_at..name_at.checked_add(name_len)?)?.strip_suffix(&[0])?;
        let data_at = (name_at + name_len).next_multiple_of(4);
        let data = bytes.get(data_at..data_at.checked_add(len)?)?;
        at = (data_at + len).next_multiple_of(4);
        if name == TRAILER {
            let rest = bytes.get(at..)?;
            let zeros = rest.iter().take_while(|&&b| b == 0).count();
            return Some((archive, rest.get(zeros..)?));
        }
        let node = match mode & 0o170_000 {
            0o040_000 => Node::Directory,
            0o100_000 => Node::File(data.to_vec()),
            0o120_000 => Node::Link(data.to_vec()),
            0o020_000 => Node::CharDevice(field(9)?, field(10)?),
            _ => return None,
        };
        archive.entries.insert(name.to_vec(), (mode & 0o7777, node));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node() -> impl Strategy<Value = Node> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..40);
        prop_oneof![
            Just(Node::Directory),
            bytes().prop_map(Node::File),
            bytes().prop_map(Node::Link),
            any::<(u32, u32)>().prop_map(|(a, b)| Node::CharDevice(a, b)),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(entries in prop::collection::vec(("[a-z]{1,9}(/[a-z]{1,5}){0,3}", 0u32..0o7777, node()), 0..12)) {
            let mut archive = Archive::new();
            for (path, permissions, node) in entries {
                archive.add(&path, permissions, node);
            }
            let bytes = archive.write();
            prop_assert_eq!(bytes.len() % 512, 0);
            let (back, rest) = read(&bytes).unwrap();
            prop_assert_eq!(rest, b"".as_slice());
            prop_assert_eq!(back, archive);
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(mut bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 0usize..200) {
            let _ = read(&bytes);
            let mut archive = Archive::new().add("a/b", 0o644, Node::File(vec![7; 20])).write();
            archive.truncate(archive.len().min(cut));
            archive.append(&mut bytes);
            let _ = read(&archive);
        }
    }

    #[test]
    fn parents_come_first_and_once() {
        let mut archive = Archive::new();
        archive.add("dev/console", 0o600, Node::CharDevice(5, 1)).add(
            "dev/null",
            0o666,
            Node::CharDevice(1, 3),
        );
        let paths: Vec<_> = archive.iter().map(|(p, _, _)| p.to_vec()).collect();
        assert_eq!(paths, [b"dev".to_vec(), b"dev/console".to_vec(), b"dev/null".to_vec()]);
    }

    #[test]
    fn the_form_is_the_one_in_the_kernel_documentation() {
        let bytes = Archive::new().add("x", 0o644, Node::File(b"hi".to_vec())).write();
        let expected = concat!(
            "070701",
            "00000001",
            "000081a4",
            "00000000",
            "00000000",
            "00000001",
            "00000000",
            "00000002",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000002",
            "00000000",
            "x\0hi\0\0"
        );
        assert_eq!(bytes.get(..expected.len()), Some(expected.as_bytes()));
    }

    #[test]
    fn archives_can_follow_each_other() {
        let mut bytes = Archive::new().add("a", 0o644, Node::File(vec![])).write();
        bytes.extend(Archive::new().add("b", 0o644, Node::File(vec![1])).write());
        let (_, rest) = read(&bytes).unwrap();
        let (second, _) = read(rest).unwrap();
        assert_eq!(second.iter().count(), 1);
    }
}

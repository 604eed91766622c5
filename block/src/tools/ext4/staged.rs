//! An archive's files become a file system's, by anybody: a user cannot give files away or make devices, so the files are
//! unpacked as his own, each with its number for its time, and what they are to be is written into the inodes that mke2fs
//! gives them. Names never go through a shell's or a tool's hands, but those of devices.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use tempfile::TempDir;

use super::{first_line, inodes, tool};
use crate::BlockError;
use crate::archive::{Content, Meta, Node, ROOT, Special, Tree, unpacked};

/// The root's inode.
const ROOT_INODE: u32 = 2;
/// Bytes that are looked at together for zeros.
const GRAIN: usize = 4096;

/// Largest number of a device that debugfs takes.
const MAX_DEVICE: u32 = 65_535;

/// An archive's files in a folder of the user's own.
pub struct Staged {
    folder: TempDir,
    tree: Tree,
}

/// What debugfs is told, with what it takes from files.
struct Script<'a> {
    text: Vec<u8>,
    values: usize,
    folder: &'a Path,
}

impl Staged {
    /// Unpacks beside the disk that is to be made, where room is needed anyway.
    pub fn unpack(source: &Path, disk: &Path) -> Result<Self, BlockError> {
        let read = |e: io::Error| BlockError::Open { path: source.to_owned(), source: e };
        let write = |e: io::Error| BlockError::Write { path: disk.to_owned(), source: e };
        let input = File::open(source).and_then(unpacked).map_err(read)?;
        let parent = disk.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let parent = parent.canonicalize().map_err(write)?;
        let folder = tempfile::Builder::new().prefix(".guesthouse-").tempdir_in(parent).map_err(write)?;
        let [root, files] = ["root", "files"].map(|name| folder.path().join(name));
        fs::create_dir(&root).and_then(|()| fs::create_dir(&files)).map_err(write)?;
        let mut failed = None;
        let tree = Tree::read(input, &mut |node, len, pieces, reader| {
            let file = File::create(files.join(node.to_string()))
                .and_then(|file| file.set_len(len).map(|()| file))
                .inspect_err(|e| failed = e.raw_os_error())?;
            reader.copy(pieces, &mut |at, bytes| {
                write_data(&file, at, bytes).inspect_err(|e| failed = e.raw_os_error())
            })
        });
        let tree = tree.map_err(|e| match failed {
            Some(_) => write(e),
            None => read(e),
        })?;
        let staged = Self { folder, tree };
        staged.place(ROOT, &root, &mut BTreeMap::new()).map_err(write)?;
        Ok(staged)
    }

    /// Where the files are.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn node(&self, number: usize) -> io::Result<&Node> {
        self.tree.nodes().get(number).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Gives the nodes below a folder their names there. `placed` has the first name of each file.
    fn place(&self, folder: usize, path: &Path, placed: &mut BTreeMap<usize, PathBuf>) -> io::Result<()> {
        let Content::Folder(list) = &self.node(folder)?.content else { return Ok(()) };
        for (name, &number) in list {
            let path = path.join(std::ffi::OsStr::from_bytes(name));
            match &self.node(number)?.content {
                Content::Folder(_) => {
                    fs::create_dir(&path)?;
                    self.place(number, &path, placed)?;
                }
                Content::File => match placed.get(&number) {
                    Some(first) => fs::hard_link(first, &path)?,
                    None => {
                        fs::rename(self.folder.path().join("files").join(number.to_string()), &path)?;
                        placed.insert(number, path.clone());
                    }
                },
                Content::Link(target) => {
                    std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(target), &path)?;
                }
                Content::Special(_) => continue,
            }
            let time = Timespec { tv_sec: serial(number).into(), tv_nsec: 0 };
            let times = Timestamps { last_access: time, last_modification: time };
            utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }

    /// Makes the inodes of the file system what the archive says.
    pub fn finish(self, file: &File, disk: &Path) -> Result<(), String> {
        let mut found: BTreeMap<usize, Vec<u32>> = BTreeMap::from([(ROOT, vec![ROOT_INODE])]);
        let told = inodes::each(file, |inode, time| {
            if let Some(number) =
                (time as usize).checked_sub(1).filter(|&n| n != ROOT && n < self.tree.nodes().len())
            {
                found.entry(number).or_default().push(inode);
            }
        });
        told.map_err(|e| format!("what mke2fs has made cannot be read ({e})"))?;
        let mut script = Script { text: Vec::new(), values: 0, folder: self.folder.path() };
        self.describe(ROOT, &found, &mut script)?;
        script.run(disk)
    }

    /// What a folder is and what is in it. A folder comes last, since making a device changes it.
    fn describe(
        &self,
        number: usize,
        found: &BTreeMap<usize, Vec<u32>>,
        script: &mut Script<'_>,
    ) -> Result<(), String> {
        let node = self.node(number).map_err(|e| e.to_string())?;
        let inodes = found.get(&number).filter(|list| !list.is_empty());
        let lost = || "mke2fs has left something out: name another folder for the disk".to_owned();
        let kind = match &node.content {
            Content::Folder(list) => {
                for (name, &child) in list {
                    let content = self.node(child).map(|node| &node.content);
                    if let Ok(Content::Special(special)) = content {
                        let folder = inodes.and_then(|list| list.first()).ok_or_else(lost)?;
                        let meta = &self.node(child).map_err(|e| e.to_string())?.meta;
                        script.make(*folder, name, *special, meta)?;
                    } else {
                        self.describe(child, found, script)?;
                    }
                }
                0o040_000
            }
            Content::File => 0o100_000,
            Content::Link(_) => 0o120_000,
            Content::Special(_) => return Ok(()),
        };
        for inode in inodes.ok_or_else(lost)? {
            script.describe(&format!("<{inode}>"), kind, &node.meta)?;
        }
        Ok(())
    }
}

impl Script<'_> {
    /// Makes a node without content.
    fn make(&mut self, folder: u32, name: &[u8], special: Special, meta: &Meta) -> Result<(), String> {
        if name.iter().any(|byte| byte.is_ascii_control()) {
            return Err(format!("a device has the name {:?}: leave it out", String::from_utf8_lossy(name)));
        }
        if let Special::Character(major, minor) | Special::Block(major, minor) = special
            && major.max(minor) > MAX_DEVICE
        {
            return Err(format!(
                "a device has the numbers {major}:{minor}, which debugfs does not take: leave it out"
            ));
        }
        let quoted: Vec<u8> =
            name.iter().flat_map(|&byte| [byte; 2].into_iter().take(1 + usize::from(byte == b'"'))).collect();
        let (kind, more) = match special {
            Special::Character(major, minor) => (0o020_000, format!("c {major} {minor}")),
            Special::Block(major, minor) => (0o060_000, format!("b {major} {minor}")),
            Special::Fifo => (0o010_000, "p".to_owned()),
        };
        self.text.extend_from_slice(format!("cd <{folder}>\nmknod \"").as_bytes());
        self.text.extend_from_slice(&quoted);
        self.text.extend_from_slice(format!("\" {more}\n").as_bytes());
        // With a folder in front, it cannot be taken for a number.
        let name = [b"\"./", &quoted[..], b"\""].concat();
        self.describe_bytes(&name, kind, meta)
    }

    fn describe(&mut self, name: &str, kind: u32, meta: &Meta) -> Result<(), String> {
        self.describe_bytes(name.as_bytes(), kind, meta)
    }

    fn describe_bytes(&mut self, name: &[u8], kind: u32, meta: &Meta) -> Result<(), String> {
        for (attribute, value) in &meta.attributes {
            let plain = |c: char| c.is_ascii_alphanumeric() || "._-+@:".contains(c);
            if !attribute.chars().all(plain) {
                return Err(format!("an extended attribute has the name {attribute:?}: leave it out"));
            }
            let file = format!("value{}", self.values);
            self.values += 1;
            let write = fs::write(self.folder.join(&file), value);
            write.map_err(|e| format!("its folder takes no file ({e}): see how much room there is"))?;
            self.line(format!("ea_set -f {file}").as_bytes(), name, attribute);
        }
        let time = format!("@{}", meta.modified.min(i32::MAX as u64));
        self.line(b"sif", name, &format!("mode 0{:o}", kind | meta.mode));
        self.line(b"sif", name, &format!("uid {}", meta.uid));
        self.line(b"sif", name, &format!("gid {}", meta.gid));
        for field in ["atime", "mtime", "ctime"] {
            self.line(b"sif", name, &format!("{field} {time}"));
        }
        Ok(())
    }

    fn line(&mut self, command: &[u8], name: &[u8], rest: &str) {
        for word in [command, b" ", name, b" ", rest.as_bytes(), b"\n"] {
            self.text.extend_from_slice(word);
        }
    }

    fn run(self, disk: &Path) -> Result<(), String> {
        let file = self.folder.join("script");
        let written = File::create(&file).and_then(|mut file| file.write_all(&self.text));
        written.map_err(|e| format!("its folder takes no file ({e}): see how much room there is"))?;
        let disk = disk.canonicalize().map_err(|e| e.to_string())?;
        let mut command = Command::new("debugfs");
        command.args(["-w", "-f", "script"]).arg(disk).current_dir(self.folder);
        let output = tool(command.stdout(std::process::Stdio::null()))
            .map_err(|e| format!("{e}: install e2fsprogs"))?;
        // It says what failed, and goes on.
        match first_line(&output.stderr, "debugfs 1") {
            said if !said.is_empty() => {
                Err(format!("debugfs says: {said}: give it more room, or another archive"))
            }
            _ if !output.status.success() => {
                Err(format!("debugfs ended with {}: see the room on its disk", output.status))
            }
            _ => Ok(()),
        }
    }
}

/// The time that a node's file has meanwhile.
fn serial(number: usize) -> u32 {
    number as u32 + 1
}

/// Writes what is not zero: the rest is a hole.
fn write_data(file: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
    for (index, grain) in bytes.chunks(GRAIN).enumerate() {
        if grain.iter().any(|&byte| byte != 0) {
            file.write_all_at(grain, at.saturating_add((index * GRAIN) as u64))?;
        }
    }
    Ok(())
}

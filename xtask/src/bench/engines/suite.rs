//! The guest of many programs, and the same files on the host: both run the same scripts on the same data.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use guest::cpio::{self, Archive, Node};
use guest::{Cache, Cancel, Catalogue};

use super::row::{Row, Work};
use crate::bench::Bench;
use crate::bench::peer::Machine;
use crate::bench::program;

/// In the catalogue.
const GUEST: &str = "bench";
/// RAM in MiB: its files alone are in RAM twice while the kernel unpacks them.
const MEMORY: u64 = 1024;

/// Scripts, ready to be run.
pub struct Suite {
    /// The guest with what the scripts need under /bench.
    pub machine: Machine,
    /// Its files.
    tree: PathBuf,
}

impl Suite {
    pub fn new(bench: &Bench, rows: &[Row]) -> Result<Self> {
        let catalogue = Catalogue::builtin()?;
        let entry = catalogue.get(GUEST)?;
        let mut progress = |step| eprintln!("xtask: guest {}: {step}", entry.name);
        let built = Cache::of_user()?.get_or_build(entry, &Cancel::default(), &mut progress)?;
        let [kernel, initrd] = &built.manifest.files;

        let initramfs =
            fs::read(&built.initrd).with_context(|| format!("{} cannot be read", built.initrd.display()))?;
        let tree = bench.folder.join("tree");
        let unpacked = bench.folder.join("tree.sha256");
        if fs::read_to_string(&unpacked).is_ok_and(|sum| sum == initrd.sha256) {
            eprintln!("xtask: {} is there", tree.display());
        } else {
            let (archive, _) = cpio::read(&initramfs).context("the guest's initramfs is no archive")?;
            extract(&archive, &tree).with_context(|| format!("{} cannot be written", tree.display()))?;
            fs::write(&unpacked, &initrd.sha256)?;
        }

        let suite = Self {
            machine: Machine {
                kernel: built.kernel.clone(),
                initrd: bench.folder.join("initrd.suite"),
                append: entry.append.clone(),
                origin: kernel.origin.clone(),
                cpus: 1,
                memory: MEMORY,
            },
            tree,
        };
        let files = suite.fill(bench, rows)?;
        fs::write(&suite.machine.initrd, [initramfs, files].concat())?;
        Ok(suite)
    }

    /// The script of a row as a guest runs it.
    pub fn script(row: &Row) -> [String; 2] {
        ["/bin/sh".to_owned(), format!("/bench/rows/{}", row.file_name())]
    }

    /// Puts scripts and data under /bench of the tree; the same as an archive.
    fn fill(&self, bench: &Bench, rows: &[Row]) -> Result<Vec<u8>> {
        let place = self.tree.join("bench");
        if place.exists() {
            fs::remove_dir_all(&place)?;
        }
        for folder in ["suite", "rows"] {
            fs::create_dir_all(place.join(folder))?;
        }
        fs::copy(bench.folder.join("micro"), place.join("micro"))?;
        fs::write(place.join("init"), super::INIT)?;
        fs::set_permissions(place.join("init"), fs::Permissions::from_mode(0o755))?;
        for file in fs::read_dir(program::source("suite"))? {
            let file = file?;
            fs::copy(file.path(), place.join("suite").join(file.file_name()))?;
        }
        for row in rows {
            if let Work::Shell(script) = &row.work {
                fs::write(place.join("rows").join(row.file_name()), script)?;
            }
        }
        let prepare = ["/bin/sh", "-c", "cd /bench/suite && python3 -B prepare.py"].map(str::to_owned);
        let status = self.native(&prepare).status().context("unshare does not start")?;
        ensure!(status.success(), "the data of the programs cannot be made on the host ({status})");

        let mut archive = Archive::new();
        for folder in ["", "suite", "rows"] {
            for file in fs::read_dir(place.join(folder))? {
                let file = file?;
                if !file.file_type()?.is_file() {
                    continue;
                }
                let name = Path::new("bench").join(folder).join(file.file_name());
                let mode = file.metadata()?.permissions().mode();
                archive.add(&name.to_string_lossy(), mode, Node::File(fs::read(file.path())?));
            }
        }
        Ok(archive.write())
    }

    /// A command on the host in the tree as its root; an ordinary user is root of a name space of his own.
    pub fn native(&self, arguments: &[String]) -> Command {
        const ENTER: &str =
            "mount --rbind /dev \"$0/dev\" && mount -t tmpfs tmpfs \"$0/tmp\" && exec chroot \"$0\" \"$@\"";
        let mut command = Command::new("unshare");
        command.arg("--mount");
        if !rustix::process::geteuid().is_root() {
            command.arg("--map-root-user");
        }
        command.args(["sh", "-c", ENTER]).arg(&self.tree).args(arguments);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/root");
        command
    }
}

/// Writes the files of an archive of ours, in which a folder comes before what is in it; devices are left out.
fn extract(archive: &Archive, to: &Path) -> io::Result<()> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    fs::create_dir_all(to)?;
    for (path, permissions, node) in archive.iter() {
        let path = to.join(String::from_utf8_lossy(path).as_ref());
        match node {
            Node::Directory => fs::create_dir_all(&path)?,
            Node::File(data) => {
                fs::write(&path, data)?;
                fs::set_permissions(&path, fs::Permissions::from_mode(permissions))?;
            }
            Node::Link(target) => symlink(String::from_utf8_lossy(target).as_ref(), &path)?,
            Node::CharDevice(..) => {}
        }
    }
    Ok(())
}

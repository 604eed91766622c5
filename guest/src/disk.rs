//! Whole systems on disks: `$XDG_CACHE_HOME/guesthouse/guests/NAME/{root.img,disk.json}`. mmdebstrap installs them,
//! without root where the host lets users have namespaces.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::apt::run;
use crate::cache::{WorkFolder, lock, sync_folder, write_durably};
use crate::catalogue::hex;
use crate::{Cache, Cancel, DiskEntry, GuestError, Step, rootless};

const IMAGE: &str = "root.img";
const MANIFEST: &str = "disk.json";
const MMDEBSTRAP: &str = "mmdebstrap";
/// What is done to the installed system.
const SCRIPT: &str = include_str!("../root.sh");

/// A system on a disk, ready to be booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltDisk {
    /// Its raw image. Never written once it is there.
    pub image: PathBuf,
    /// What it was built from.
    pub manifest: DiskManifest,
}

/// What is on a disk; `disk.json` beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskManifest {
    /// Name in the catalogue.
    pub guest: String,
    /// Changes when the catalogue's entry or this program's part of the guest does.
    pub key: String,
    /// Bytes of the image.
    pub len: u64,
    /// Its packages: name and version.
    pub packages: Vec<(String, String)>,
}

impl DiskEntry {
    /// What the image depends on, besides the packages' versions.
    fn key(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(toml::to_string(self).unwrap_or_default());
        hash.update(SCRIPT);
        // One that speaks and knows the same serves, whoever built it.
        hash.update(agent::protocol::VERSION.to_le_bytes());
        hash.update([agent::protocol::Request::KINDS]);
        hex(hash.finalize().get(..8).unwrap_or_default())
    }
}

impl Cache {
    /// The disk, if it is built, current and whole.
    pub fn disk(&self, entry: &DiskEntry) -> Option<BuiltDisk> {
        let folder = self.guests().join(&entry.name);
        let manifest: DiskManifest = serde_json::from_slice(&fs::read(folder.join(MANIFEST)).ok()?).ok()?;
        let image = folder.join(IMAGE);
        let len = image.metadata().ok()?.len();
        (manifest.key == entry.key() && manifest.len == len).then_some(BuiltDisk { image, manifest })
    }

    /// Builds the disk; with `anew` also when it is there, for newer packages.
    pub fn build_disk(
        &self,
        entry: &DiskEntry,
        anew: bool,
        cancel: &Cancel,
        progress: &mut dyn FnMut(Step),
    ) -> Result<BuiltDisk, GuestError> {
        let guests = self.guests();
        fs::create_dir_all(&guests).map_err(GuestError::io("make the folder", &guests))?;
        let _lock = lock(&guests.join(format!("{}.lock", entry.name)), &entry.name, cancel, progress)?;
        if let (false, Some(built)) = (anew, self.disk(entry)) {
            return Ok(built); // another process was faster
        }
        let work = WorkFolder::new(guests.join(format!("{}.building", entry.name)))?;
        progress(Step::Install);
        install(entry, &work.path, cancel)?;
        progress(Step::Write);
        let (image, list) = (work.path.join("image"), work.path.join("packages"));
        grow(entry, &image, cancel)?;
        let listed = fs::read_to_string(&list).map_err(GuestError::io("read", &list))?;
        let package =
            |line: &str| line.split_once(' ').map(|(name, version)| (name.to_owned(), version.to_owned()));
        let manifest = DiskManifest {
            guest: entry.name.clone(),
            key: entry.key(),
            len: entry.bytes()?,
            packages: listed.lines().filter_map(package).collect(),
        };
        let finished = work.path.join("finished");
        fs::create_dir(&finished).map_err(GuestError::io("make the folder", &finished))?;
        fs::rename(&image, finished.join(IMAGE)).map_err(GuestError::io("move", &image))?;
        write_durably(&finished.join(MANIFEST), &serde_json::to_vec_pretty(&manifest).unwrap_or_default())?;
        let place = guests.join(&entry.name);
        if place.exists() {
            fs::remove_dir_all(&place).map_err(GuestError::io("remove the old guest", &place))?;
        }
        fs::rename(&finished, &place).map_err(GuestError::io("move the guest into place", &place))?;
        sync_folder(&guests);
        Ok(BuiltDisk { image: place.join(IMAGE), manifest })
    }
}

/// Installs the system; leaves `image` and `packages` in the folder.
fn install(entry: &DiskEntry, work: &Path, cancel: &Cancel) -> Result<(), GuestError> {
    let keys = format!("keys={}\n", quoted(&public_keys()));
    let agent = work.join("guesthouse-agent");
    fs::write(&agent, agent::PROGRAM)
        .and_then(|()| fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)))
        .map_err(GuestError::io("write", &agent))?;
    let mut command = tool(MMDEBSTRAP);
    command.args(["--variant=minbase", "--aptopt=APT::Install-Recommends \"false\""]);
    command.arg(format!("--include={}", entry.packages.join(",")));
    let path = agent.display().to_string();
    command.arg(format!("--customize-hook=copy-in {} /usr/local/sbin", quoted(&path)));
    command.arg(format!("--customize-hook={keys}{SCRIPT}"));
    command
        .arg(format!("--customize-hook=copy-out /image /packages {}", quoted(&work.display().to_string())));
    command.args([&entry.suite, "/dev/null"]);
    finish(command, MMDEBSTRAP, entry, cancel)
}

/// Gives the image its size, and brings it to the disk.
fn grow(entry: &DiskEntry, image: &Path, cancel: &Cancel) -> Result<(), GuestError> {
    let open = || File::options().read(true).write(true).open(image);
    let lengthen =
        |file: File, len: u64| if file.metadata()?.len() < len { file.set_len(len) } else { Ok(()) };
    let len = entry.bytes()?;
    open().and_then(|file| lengthen(file, len)).map_err(GuestError::io("lengthen", image))?;
    let mut command = tool("resize2fs");
    command.arg(image);
    finish(command, "resize2fs", entry, cancel)?;
    open().and_then(|file| file.sync_all()).map_err(GuestError::io("write", image))
}

/// A program that may be where only root looks.
fn tool(program: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command.env("PATH", format!("{path}:/usr/sbin:/sbin")).env("LC_ALL", "C");
    command
}

fn finish(
    command: Command,
    program: &'static str,
    entry: &DiskEntry,
    cancel: &Cancel,
) -> Result<(), GuestError> {
    let run = run(command, program, &entry.name, cancel).map_err(|e| match e {
        GuestError::NoProgram { guest, program } => GuestError::NoTool { guest, program },
        GuestError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            GuestError::NoTool { guest: entry.name.clone(), program }
        }
        other => other,
    })?;
    if run.status.success() {
        return Ok(());
    }
    // mmdebstrap knows other ways, but those who have no way at all are to be told of this one.
    if let (MMDEBSTRAP, Some(fact)) = (program, rootless::missing()) {
        return Err(GuestError::Rootless { guest: entry.name.clone(), fact });
    }
    let fact = run.fact.unwrap_or_else(|| format!("{program} ended with {}", run.status));
    Err(GuestError::Install { guest: entry.name.clone(), fact })
}

/// The user's public keys for ssh.
fn public_keys() -> String {
    let Some(home) = std::env::var_os("HOME") else { return String::new() };
    ["id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub"]
        .iter()
        .filter_map(|name| fs::read_to_string(Path::new(&home).join(".ssh").join(name)).ok())
        .map(|key| format!("{}\n", key.trim()))
        .collect()
}

/// Text as a word for the shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Catalogue;

    #[test]
    fn an_image_is_found_while_it_is_whole_and_its_entry_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        let entry = Catalogue::builtin().unwrap().disk("debian").unwrap().clone();
        let place = cache.guests().join("debian");
        fs::create_dir_all(&place).unwrap();
        File::create(place.join(IMAGE)).unwrap().set_len(4096).unwrap();
        let manifest =
            DiskManifest { guest: "debian".into(), key: entry.key(), len: 4096, packages: Vec::new() };
        fs::write(place.join(MANIFEST), serde_json::to_vec(&manifest).unwrap()).unwrap();
        assert!(cache.disk(&entry).is_some());
        assert!(cache.disk(&DiskEntry { suite: "trixie".into(), ..entry.clone() }).is_none());
        File::create(place.join(IMAGE)).unwrap().set_len(512).unwrap();
        assert!(cache.disk(&entry).is_none());
    }

    #[test]
    fn words_for_the_shell_are_what_they_were() {
        let text = "a 'b' $c \"d\" \\ `e`\nf";
        let output =
            Command::new("sh").arg("-c").arg(format!("printf %s {}", quoted(text))).output().unwrap();
        assert_eq!(output.stdout, text.as_bytes());
    }
}

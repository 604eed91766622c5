//! The host's package manager as an ordinary user: looks packages up and downloads them, installs nothing.
//! The host's own package lists serve if they are there and current; otherwise lists of our own are fetched
//! into the working folder, from the host's sources.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};

use crate::{Cancel, GuestError, PackageRecord};

/// apt in a working folder, which takes downloads and, if need be, lists.
pub(crate) struct Apt<'a> {
    guest: &'a str,
    folder: &'a Path,
    cancel: &'a Cancel,
    own_lists: bool,
}

/// A package as the lists describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    pub name: String,
    pub version: String,
    pub sha256: String,
    pub depends: Vec<String>,
}

impl Package {
    pub fn record(&self) -> PackageRecord {
        PackageRecord { name: self.name.clone(), version: self.version.clone(), sha256: self.sha256.clone() }
    }

    /// Reads one paragraph of `apt-cache show`.
    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": ").map(|v| v.trim().to_owned()))
        };
        let [first, later] = ["Pre-Depends", "Depends"].map(|name| field(name).unwrap_or_default());
        Some(Self {
            name: field("Package")?,
            version: field("Version")?,
            sha256: field("SHA256")?,
            // The first of alternatives, without the version or the architecture asked for.
            depends: [first, later]
                .iter()
                .flat_map(|list| list.split(','))
                .filter_map(|d| {
                    d.split(|c: char| c.is_whitespace() || c == ':' || c == '|').find(|d| !d.is_empty())
                })
                .map(str::to_owned)
                .collect(),
        })
    }
}

impl<'a> Apt<'a> {
    pub fn new(guest: &'a str, folder: &'a Path, cancel: &'a Cancel) -> Self {
        Self { guest, folder, cancel, own_lists: false }
    }

    /// From now on lists of our own; fetches them. What went wrong there, if anything.
    pub fn update(&mut self) -> Result<Option<String>, GuestError> {
        self.own_lists = true;
        let mkdir = |name: &str| {
            let path = self.folder.join(name);
            fs::create_dir_all(&path).map_err(GuestError::io("make the folder", &path))
        };
        mkdir("state/lists/partial")?;
        mkdir("cache/archives/partial")?;
        // One source of several may be out of reach without harm: what counts is whether the packages are
        // found afterwards.
        let run = self.run("apt-get", &["update"])?;
        Ok(run.fact)
    }

    /// The package as the lists have it now; `None` if they do not.
    pub fn show(&self, package: &str) -> Result<Option<Package>, GuestError> {
        Ok(self.show_all(&[package])?.into_iter().next())
    }

    /// Those of the packages that the lists have now: at once, because each time apt reads all its lists.
    pub fn show_all(&self, packages: &[&str]) -> Result<Vec<Package>, GuestError> {
        let run = self.run("apt-cache", &[&["show", "--no-all-versions"], packages].concat())?;
        Ok(run.output.split("\n\n").filter_map(Package::parse).collect())
    }

    /// Downloads a package into the working folder.
    pub fn download(&self, package: &Package) -> Result<PathBuf, GuestError> {
        let fail = |fact: &str| GuestError::Package { package: package.name.clone(), fact: fact.to_owned() };
        let run = self.run("apt-get", &["download", &format!("{}={}", package.name, package.version)])?;
        if !run.status.success() {
            return Err(fail(&run.fact.unwrap_or_else(|| format!("apt-get ended with {}", run.status))));
        }
        let listing = fs::read_dir(self.folder).map_err(GuestError::io("list the folder", self.folder))?;
        let prefix = format!("{}_", package.name);
        listing
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with(&prefix) && name.ends_with(".deb")
            })
            .ok_or_else(|| fail("the download left no file"))
    }

    fn run(&self, program: &'static str, arguments: &[&str]) -> Result<Run, GuestError> {
        let mut command = Command::new(program);
        // Downloads as the calling user: the sandbox user cannot enter a private folder.
        command.args(["-q", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Languages=none"]);
        if self.own_lists {
            for (option, folder) in [("Dir::State", "state"), ("Dir::Cache", "cache")] {
                command.arg("-o").arg(format!("{option}={}", self.folder.join(folder).display()));
            }
            command.args(["-o", "Dir::State::status=/var/lib/dpkg/status"]);
        }
        command.args(arguments).current_dir(self.folder).env("LC_ALL", "C").stdin(Stdio::null());
        run(command, program, self.guest, self.cancel)
    }
}

/// What a host program did.
pub(crate) struct Run {
    pub status: ExitStatus,
    pub output: String,
    /// What it complained of, on one line.
    pub fact: Option<String>,
}

/// Runs a program to its end, or ends it when the caller cancels. Its output goes through files, so that no
/// pipe fills up while we wait; files in memory, so that a full disk can be complained of.
pub(crate) fn run(
    mut command: Command,
    program: &'static str,
    guest: &str,
    cancel: &Cancel,
) -> Result<Run, GuestError> {
    let memory = || -> io::Result<[File; 2]> {
        let file = File::from(memfd_create(program, MemfdFlags::CLOEXEC)?);
        Ok([file.try_clone()?, file])
    };
    let start = |source| GuestError::Io { action: "start", path: program.into(), source };
    let [out, output] = memory().map_err(start)?;
    let [err, complaint] = memory().map_err(start)?;
    command.stdout(out).stderr(err);
    tracing::debug!("{command:?}");
    let mut child = command.spawn().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => GuestError::NoProgram { guest: guest.to_owned(), program },
        _ => start(e),
    })?;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(GuestError::io("wait for", Path::new(program)))? {
            break status;
        }
        if cancel.is_cancelled() {
            let _ = child.kill();
            let _ = child.wait();
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    if cancel.is_cancelled() {
        return Err(GuestError::Interrupted(guest.to_owned()));
    }
    let [output, complaint] = [output, complaint].map(|mut file| {
        let mut text = Vec::new();
        // What cannot be read back is as if it had not been said.
        let _ = file.rewind().and_then(|()| file.read_to_end(&mut text));
        String::from_utf8_lossy(&text).into_owned()
    });
    Ok(Run { status, output, fact: fact(program, &complaint) })
}

/// The last error of apt's or else its first warning, without addresses, which say nothing to the user about
/// his own host.
fn fact(program: &str, complaint: &str) -> Option<String> {
    let error = complaint.lines().rev().find_map(|l| l.strip_prefix("E: "));
    let line = error.or_else(|| complaint.lines().find_map(|l| l.strip_prefix("W: ")))?;
    let line = line.split(" [IP: ").next().unwrap_or_default();
    let words: Vec<_> = line.split_whitespace().filter(|w| !w.contains("://")).collect();
    Some(format!("{program} says: {}", words.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paragraph_of_the_lists_is_understood() {
        let text = "Package: linux-image-cloud-amd64\nVersion: 6.1.1-2\nDepends: linux-image-6.1.0-1-cloud-amd64 \
                    (= 6.1.1-2), a | b, c:any\nPre-Depends: d\nDescription: x\n more\nSHA256: 00be\n";
        let package = Package::parse(text).unwrap();
        assert_eq!(package.version, "6.1.1-2");
        assert_eq!(package.depends, ["d", "linux-image-6.1.0-1-cloud-amd64", "a", "c"]);
        assert_eq!(Package::parse("N: Unable to locate package x\n"), None);
    }

    #[test]
    fn complaints_become_one_line_without_addresses() {
        let text = "W: x\nE: Failed to fetch http://host/path 404  Not Found\n";
        assert_eq!(fact("apt-get", text).as_deref(), Some("apt-get says: Failed to fetch 404 Not Found"));
        assert_eq!(fact("apt-get", "W: a\nW: b\n").as_deref(), Some("apt-get says: a"));
        assert_eq!(fact("apt-get", ""), None);
    }

    #[test]
    fn a_missing_program_is_named_with_the_remedy() {
        let command = Command::new("/nonexistent/apt-get");
        let error = run(command, "apt-get", "g", &Cancel::default()).err().unwrap().to_string();
        assert!(error.contains("apt-get") && error.contains("--kernel FILE --initrd FILE"), "{error}");
    }

    #[test]
    fn a_cancelled_program_ends() {
        let cancel = Cancel::default();
        cancel.cancel();
        let mut command = Command::new("sleep");
        command.arg("60");
        let error = run(command, "sleep", "g", &cancel).err().unwrap();
        assert!(matches!(error, GuestError::Interrupted(_)));
    }
}

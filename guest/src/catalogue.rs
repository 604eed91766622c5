//! `guests.toml`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::GuestError;

const TEXT: &str = include_str!("../../guests.toml");

/// All guests that can be built.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    /// The guest taken when none is named.
    pub default: String,
    #[serde(rename = "guest")]
    guests: BTreeMap<String, GuestEntry>,
    #[serde(rename = "disk", default)]
    disks: BTreeMap<String, DiskEntry>,
}

/// A whole system on a disk, as data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskEntry {
    /// The name of its table.
    #[serde(skip)]
    pub name: String,
    /// One line for people.
    pub summary: String,
    /// The distribution's release.
    pub suite: String,
    /// Size of the disk, in whole `G`.
    pub size: String,
    /// What is installed beside what every system has.
    pub packages: Vec<String>,
}

impl DiskEntry {
    /// Size of the disk.
    pub(crate) fn bytes(&self) -> Result<u64, GuestError> {
        let number = self.size.strip_suffix('G').and_then(|number| number.parse::<u64>().ok());
        number.and_then(|number| number.checked_mul(1 << 30)).ok_or_else(|| {
            GuestError::Catalogue(format!("size {:?} of disk {} is no number of G", self.size, self.name))
        })
    }
}

/// One guest as data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct GuestEntry {
    /// The name of its table.
    #[serde(skip)]
    pub name: String,
    /// One line for people.
    pub summary: String,
    /// Kernel command line.
    pub append: String,
    /// Added to it when nothing but a command's output is wanted.
    pub append_quiet: String,
    /// Where the kernel comes from.
    pub kernel: PackageSource,
    /// Names of modules in the kernel's package, separated by blanks, in the order in which they are loaded; `TYPE:NAME` if
    /// a virtio device of that type has to be there.
    #[serde(default)]
    pub modules: String,
    /// Where busybox comes from.
    pub busybox: PackageSource,
    /// Names of busybox in `/bin`, in groups, separated by blanks.
    pub applets: BTreeMap<String, String>,
    /// What is there besides.
    pub programs: Option<Programs>,
}

/// A module of the kernel's package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WantedModule<'a> {
    /// Type of the virtio device without which it is not loaded.
    pub device: Option<u16>,
    /// Its name.
    pub name: &'a str,
}

/// Packages that are unpacked whole, with those that they depend on. What they would run when they are installed is
/// not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Programs {
    /// The packages.
    pub packages: Vec<String>,
    /// Those to do without, though others depend on them.
    pub without: Vec<String>,
    /// How paths begin that are left out.
    pub skip: Vec<String>,
}

/// A file out of a package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackageSource {
    /// The package.
    pub package: String,
    /// If the package is an empty one that only depends on the real one: how that one's name begins.
    pub depends: Option<String>,
    /// Paths to look for; a `*` ends a name whose rest is free.
    pub files: Vec<String>,
}

impl Catalogue {
    /// The guests this program knows.
    pub fn builtin() -> Result<Self, GuestError> {
        Self::parse(TEXT)
    }

    /// Reads a catalogue in the form of `guests.toml`.
    pub fn parse(text: &str) -> Result<Self, GuestError> {
        let one_line = |e: toml::de::Error| GuestError::Catalogue(e.message().replace('\n', " "));
        let mut catalogue: Self = toml::from_str(text).map_err(one_line)?;
        for (name, entry) in &mut catalogue.guests {
            check_name(name)?;
            entry.name.clone_from(name);
        }
        for (name, entry) in &mut catalogue.disks {
            check_name(name)?;
            if catalogue.guests.contains_key(name) {
                return Err(GuestError::Catalogue(format!("two guests are named '{name}'")));
            }
            entry.name.clone_from(name);
            entry.bytes()?;
        }
        catalogue.get(&catalogue.default)?;
        Ok(catalogue)
    }

    /// The guest of that name.
    pub fn get(&self, name: &str) -> Result<&GuestEntry, GuestError> {
        self.guests.get(name).ok_or_else(|| GuestError::Unknown {
            name: name.to_owned(),
            known: self.guests.keys().chain(self.disks.keys()).cloned().collect::<Vec<_>>().join(", "),
        })
    }

    /// The system on a disk of that name.
    pub fn disk(&self, name: &str) -> Option<&DiskEntry> {
        self.disks.get(name)
    }

    /// All systems on disks by name.
    pub fn disks(&self) -> impl Iterator<Item = &DiskEntry> {
        self.disks.values()
    }

    /// All guests by name.
    pub fn iter(&self) -> impl Iterator<Item = &GuestEntry> {
        self.guests.values()
    }
}

/// The name becomes part of file names.
fn check_name(name: &str) -> Result<(), GuestError> {
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)) {
        return Err(GuestError::Catalogue(format!("'{name}' is no name of letters, digits, - and _")));
    }
    Ok(())
}

impl GuestEntry {
    /// What the built files depend on, besides the packages' versions: hexadecimal, 16 digits.
    pub(crate) fn key(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(toml::to_string(self).unwrap_or_default());
        for part in crate::initramfs::SCRIPTS {
            hash.update(part);
        }
        hash.update(crate::initramfs::LINE);
        hash.update(agent::PROGRAM);
        hex(hash.finalize().get(..8).unwrap_or_default())
    }

    /// The modules, in their order.
    pub(crate) fn wanted_modules(&self) -> Vec<WantedModule<'_>> {
        let one = |text| match str::split_once(text, ':').map(|(device, name)| (device.parse().ok(), name)) {
            Some((device @ Some(_), name)) => WantedModule { device, name },
            _ => WantedModule { device: None, name: text },
        };
        self.modules.split_whitespace().map(one).collect()
    }

    /// All applet names.
    pub(crate) fn applet_names(&self) -> impl Iterator<Item = &str> {
        self.applets.values().flat_map(|group| group.split_whitespace())
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_builtin_catalogue_has_its_default() {
        let catalogue = Catalogue::builtin().unwrap();
        let entry = catalogue.get(&catalogue.default).unwrap();
        assert_eq!(entry.name, "debian-12");
        let modules = entry.wanted_modules();
        assert_eq!(modules[0], WantedModule { device: None, name: "virtio_ring" });
        assert!(modules.contains(&WantedModule { device: Some(5), name: "virtio_balloon" }));
        assert!(entry.applet_names().any(|a| a == "sh"));
        assert!(!entry.applet_names().any(|a| a.contains('/')));
    }

    #[test]
    fn a_changed_entry_has_another_key() {
        let catalogue = Catalogue::builtin().unwrap();
        let entry = catalogue.get("debian-12").unwrap();
        let mut other = entry.clone();
        other.busybox.package.push('x');
        assert_ne!(entry.key(), other.key());
        assert_eq!(entry.key(), entry.clone().key());
    }

    #[test]
    fn errors_are_one_line() {
        let text = TEXT.replace("default = \"debian-12\"", "default = 7\n\n[x]");
        for error in
            [Catalogue::parse(&text).unwrap_err(), Catalogue::builtin().unwrap().get("beos").unwrap_err()]
        {
            let message = error.to_string();
            assert!(!message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn a_disk_has_a_name_of_its_own_and_a_size() {
        let disk = Catalogue::builtin().unwrap().disk("debian").unwrap().clone();
        assert_eq!((disk.name.as_str(), disk.bytes().unwrap()), ("debian", 8 << 30));
        for (from, to) in
            [("[disk.debian]", "[disk.bench]"), ("\"8G\"", "\"8\""), ("[disk.debian]", "[disk.\"a/b\"]")]
        {
            let error = Catalogue::parse(&TEXT.replace(from, to)).unwrap_err();
            assert!(matches!(error, GuestError::Catalogue(_)), "{error}");
        }
    }

    #[test]
    fn names_cannot_leave_the_cache_folder() {
        let text = TEXT
            .replace("guest.debian-12", "guest.\"../x\"")
            .replace("default = \"debian-12\"", "default = \"../x\"");
        assert!(matches!(Catalogue::parse(&text), Err(GuestError::Catalogue(_))));
    }
}

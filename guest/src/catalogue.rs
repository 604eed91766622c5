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
    /// Names of modules in the kernel's package, separated by blanks, in the order in which they are loaded.
    #[serde(default)]
    pub modules: String,
    /// Where busybox comes from.
    pub busybox: PackageSource,
    /// Names of busybox in `/bin`, in groups, separated by blanks.
    pub applets: BTreeMap<String, String>,
    /// What is there besides.
    pub programs: Option<Programs>,
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
            // The name becomes part of file names.
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)) {
                return Err(GuestError::Catalogue(format!(
                    "'{name}' is no name of letters, digits, - and _"
                )));
            }
            entry.name.clone_from(name);
        }
        catalogue.get(&catalogue.default)?;
        Ok(catalogue)
    }

    /// The guest of that name.
    pub fn get(&self, name: &str) -> Result<&GuestEntry, GuestError> {
        self.guests.get(name).ok_or_else(|| GuestError::Unknown {
            name: name.to_owned(),
            known: self.guests.keys().cloned().collect::<Vec<_>>().join(", "),
        })
    }

    /// All guests by name.
    pub fn iter(&self) -> impl Iterator<Item = &GuestEntry> {
        self.guests.values()
    }
}

impl GuestEntry {
    /// What the built files depend on, besides the packages' versions: hexadecimal, 16 digits.
    pub(crate) fn key(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(toml::to_string(self).unwrap_or_default());
        hash.update(crate::initramfs::INIT);
        hash.update(crate::initramfs::AGENT);
        hex(hash.finalize().get(..8).unwrap_or_default())
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
    fn names_cannot_leave_the_cache_folder() {
        let text = TEXT
            .replace("guest.debian-12", "guest.\"../x\"")
            .replace("default = \"debian-12\"", "default = \"../x\"");
        assert!(matches!(Catalogue::parse(&text), Err(GuestError::Catalogue(_))));
    }
}

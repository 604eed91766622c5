//! What to boot, and by which protocol.

use std::fmt;
use std::str::FromStr;

use cpu::CpuState;
use serde::{Deserialize, Serialize};

/// A file's content, with the name by which errors call it.
#[derive(Debug, Clone, Copy)]
pub struct Image<'a> {
    /// How the user named it, usually a path.
    pub name: &'a str,
    /// The bytes.
    pub data: &'a [u8],
}

/// A file handed to the kernel: an initrd, or a multiboot module.
#[derive(Debug, Clone, Copy)]
pub struct Module<'a> {
    /// The file.
    pub image: Image<'a>,
    /// The module's own command line (multiboot and PVH); empty for an initrd.
    pub args: &'a str,
}

/// A boot protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// By the file's content.
    #[default]
    Auto,
    /// The 64-bit Linux protocol, for a bzImage or an ELF vmlinux.
    Linux,
    /// PVH: 32-bit entry named by an ELF note.
    Pvh,
    /// Multiboot 1.
    Multiboot,
    /// A bare ELF file: its entry point, in the mode of its class.
    Elf,
}

impl Protocol {
    /// All of them, for help texts.
    pub const NAMES: [&'static str; 5] = ["auto", "linux", "pvh", "multiboot", "elf"];
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::Linux => "linux",
            Self::Pvh => "pvh",
            Self::Multiboot => "multiboot",
            Self::Elf => "elf",
        })
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        [Self::Auto, Self::Linux, Self::Pvh, Self::Multiboot, Self::Elf]
            .into_iter()
            .find(|p| p.to_string() == name)
            .ok_or_else(|| format!("no boot protocol {name:?}: take one of {}", Self::NAMES.join(", ")))
    }
}

/// What to boot.
#[derive(Debug, Clone, Copy)]
pub struct BootSpec<'a> {
    /// The kernel.
    pub kernel: Image<'a>,
    /// The initrd and other modules. The Linux protocol takes one initrd: there they are loaded back to
    /// back, which the kernel reads as one archive after the other.
    pub modules: &'a [Module<'a>],
    /// The kernel's command line.
    pub cmdline: &'a str,
    /// The protocol; [`Protocol::Auto`] decides by content.
    pub protocol: Protocol,
    /// Where the ACPI RSDP is ([`acpi::install`](crate::acpi::install)); 0 for none.
    pub rsdp: u64,
}

/// How the boot processor starts.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its state at the kernel's first instruction.
    pub state: CpuState,
    /// The protocol that was used.
    pub protocol: Protocol,
}

//! The kinds of boards.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Which parts a machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BoardKind {
    /// A PC with PCI and all that systems of any age look for.
    #[default]
    Pc,
    /// No PCI and none of an AT's parts but a serial port, the clock and the keyboard controller, which resets; virtio devices
    /// are behind memory-mapped registers. ACPI still says where everything is.
    Microvm,
}

impl BoardKind {
    /// All of them, for help texts.
    pub const NAMES: [&'static str; 2] = ["pc", "microvm"];
}

impl fmt::Display for BoardKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pc => "pc",
            Self::Microvm => "microvm",
        })
    }
}

impl FromStr for BoardKind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        [Self::Pc, Self::Microvm]
            .into_iter()
            .find(|k| k.to_string() == name)
            .ok_or_else(|| format!("no board {name:?}: take one of {}", Self::NAMES.join(", ")))
    }
}

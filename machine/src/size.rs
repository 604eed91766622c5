//! Sizes as people write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A number of bytes, written with a binary unit: `512M`, `2G`, `1536MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Size(u64);

impl Size {
    /// So many bytes.
    pub const fn bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// So many MiB, saturating.
    pub const fn mib(mib: u64) -> Self {
        Self(mib.saturating_mul(1 << 20))
    }

    /// In bytes.
    pub const fn get(self) -> u64 {
        self.0
    }
}

const UNITS: [(&str, u32); 4] = [("K", 10), ("M", 20), ("G", 30), ("T", 40)];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no size: give a number and a unit, such as 512M or 2G");
        let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, unit) = text.split_at(digits);
        let unit = unit.to_ascii_uppercase();
        let unit = unit.strip_suffix("IB").or(unit.strip_suffix('B')).unwrap_or(&unit);
        let (_, shift) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.iter().rev().find(|(_, shift)| self.0 != 0 && self.0.trailing_zeros() >= *shift);
        match unit {
            Some((name, shift)) => write!(f, "{}{name}", self.0 >> shift),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

impl From<Size> for String {
    /// Sizes below a KiB do not survive; no machine has one.
    fn from(size: Size) -> Self {
        Size(size.0 & !0x3ff).to_string()
    }
}

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        for (text, bytes) in [
            ("512M", 512 << 20),
            ("2G", 2 << 30),
            ("1536MiB", 1536 << 20),
            ("64k", 64 << 10),
            ("1gb", 1 << 30),
        ] {
            assert_eq!(text.parse::<Size>().unwrap().get(), bytes);
        }
        assert_eq!(Size::mib(1536).to_string(), "1536M");
        assert_eq!(Size::mib(2048).to_string(), "2G");
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "512", "M", "-1M", "1.5G", "99999999999999G", "12X"] {
            assert!(text.parse::<Size>().unwrap_err().contains("512M"), "{text}");
        }
    }
}

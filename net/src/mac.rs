//! Ethernet addresses.

use std::fmt;
use std::io;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An Ethernet address, `52:55:0a:00:02:0f` in text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// One that nobody else is likely to have, from the range for local use.
    ///
    /// # Errors
    /// The host gives no random numbers.
    pub fn random() -> io::Result<Self> {
        let mut mac = Self([0x52, 0x55, 0, 0, 0, 0]);
        rustix::rand::getrandom(&mut mac.0[2..], rustix::rand::GetRandomFlags::empty())?;
        Ok(mac)
    }

    /// It names one card.
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let byte = |part: &str| {
            let digits = part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
            u8::from_str_radix(part, 16).ok().filter(|_| digits)
        };
        let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
        let mac = bytes.and_then(|b| <[u8; 6]>::try_from(b).ok()).map(Self).filter(|m| m.is_unicast());
        mac.ok_or_else(|| {
            format!("{text:?} is no address of a network card: give six bytes such as 52:55:0a:00:02:0f")
        })
    }
}

impl TryFrom<String> for Mac {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_address_agree() {
        let mac = Mac([0x52, 0x55, 0x0a, 0, 2, 0x0f]);
        assert_eq!(mac.to_string().parse(), Ok(mac));
        for wrong in [
            "",
            "52:55:0a:00:02",
            "52:55:0a:00:02:0f:1",
            "152:55:0a:00:02:0f",
            "+2:55:0a:00:02:0f",
            "5:5:0:0:0:0",
            "01:00:00:00:00:00",
            "00:00:00:00:00:00",
        ] {
            assert!(wrong.parse::<Mac>().is_err(), "{wrong}");
        }
    }
}

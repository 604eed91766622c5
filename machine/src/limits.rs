//! What a machine may use of its host: CPU time, and how fast its disks and cards are served.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use virtio::{Rate, Throttle};

use crate::{Machine, MachineError, MachineSpec, Size};

/// Least and most weight.
const WEIGHTS: std::ops::RangeInclusive<u32> = 1..=10_000;
/// Least CPU time.
const LEAST_CPUS: f64 = 0.01;

/// Limits of a machine, all of which may change while it runs.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// CPUs' worth of time that the whole machine may use: 0.2 is a fifth of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
    /// Its share of CPU time beside others that want the same: 1 to 10000, 100 if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// A control group of the host's that has these limits too, and that the machine's process is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<PathBuf>,
    /// Rates of disks and cards.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub devices: BTreeMap<DeviceName, RateSpec>,
}

/// How fast a device is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateSpec {
    /// Requests, or frames, in a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ops: Option<u64>,
    /// Bytes in a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Size>,
    /// Bytes that may go at once after a pause; a tenth of a second's if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<Size>,
}

impl RateSpec {
    fn rate(&self) -> Rate {
        Rate { operations: self.ops, bytes: self.bytes.map(Size::get), burst: self.burst.map(Size::get) }
    }
}

/// A disk or a direction of a card, by its number: `disk0`, `net0.tx` (from the guest), `net0.rx` (to it).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum DeviceName {
    /// A disk.
    Disk(u8),
    /// Frames from the guest.
    Sent(u8),
    /// Frames to the guest.
    Received(u8),
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(index) => write!(f, "disk{index}"),
            Self::Sent(index) => write!(f, "net{index}.tx"),
            Self::Received(index) => write!(f, "net{index}.rx"),
        }
    }
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |digits: &str| digits.parse().ok().filter(|n: &u8| n.to_string() == digits);
        let name = match text.split_at_checked(4).map(|(kind, rest)| (kind, rest.split_once('.'))) {
            Some(("disk", None)) => text.get(4..).and_then(number).map(Self::Disk),
            _ => match text.strip_prefix("net").and_then(|rest| rest.split_once('.')) {
                Some((digits, "tx")) => number(digits).map(Self::Sent),
                Some((digits, "rx")) => number(digits).map(Self::Received),
                _ => None,
            },
        };
        name.ok_or_else(|| format!("{text:?} is no device: give disk0, net0.tx, net0.rx and so on"))
    }
}

impl From<DeviceName> for String {
    fn from(name: DeviceName) -> Self {
        name.to_string()
    }
}

impl TryFrom<String> for DeviceName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl Limits {
    /// Checks the numbers, and that there are such devices.
    pub(crate) fn validate(&self, spec: &MachineSpec) -> Result<(), MachineError> {
        if let Some(cpus) = self.cpus.filter(|cpus| !(LEAST_CPUS..=f64::from(crate::MAX_CPUS)).contains(cpus))
        {
            return Err(MachineError::CpuLimit(cpus));
        }
        if let Some(weight) = self.weight.filter(|weight| !WEIGHTS.contains(weight)) {
            return Err(MachineError::CpuWeight(weight));
        }
        for (&name, rate) in &self.devices {
            let there = match name {
                DeviceName::Disk(index) => usize::from(index) < spec.disks.len(),
                DeviceName::Sent(index) | DeviceName::Received(index) => usize::from(index) < spec.nets.len(),
            };
            if !there {
                return Err(MachineError::NoDevice(name));
            }
            if rate.ops == Some(0) || rate.bytes.is_some_and(|bytes| bytes.get() == 0) {
                return Err(MachineError::NoRate(name));
            }
        }
        Ok(())
    }
}

/// The throttles of a machine.
#[derive(Default)]
pub struct Throttles(pub BTreeMap<DeviceName, Arc<Throttle>>);

impl Throttles {
    /// All of them as the limits say.
    pub fn apply(&self, limits: &Limits) -> Result<(), MachineError> {
        for (name, throttle) in &self.0 {
            let rate = limits.devices.get(name).map(RateSpec::rate).unwrap_or_default();
            throttle.set(&rate).map_err(MachineError::Thread)?;
        }
        Ok(())
    }
}

impl Machine {
    /// The limits as they are now.
    pub fn limits(&self) -> Limits {
        self.governor().limits()
    }

    /// Changes the limits.
    ///
    /// # Errors
    /// Numbers or devices that cannot be, and a host that refuses threads or a larger weight; nothing has changed then but,
    /// in the last case, all else.
    pub fn set_limits(&self, limits: Limits) -> Result<(), MachineError> {
        limits.validate(self.spec())?;
        self.throttles().apply(&limits)?;
        self.govern(limits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DiskSpec, NetSpec, UserConfig};

    #[test]
    fn names_are_read_as_they_are_written() {
        for text in ["disk0", "disk255", "net0.tx", "net12.rx"] {
            assert_eq!(text.parse::<DeviceName>().unwrap().to_string(), text);
        }
        for text in
            ["", "disk", "disk256", "disk01", "disk+1", "net0", "net.tx", "net0.x", "d\u{e9}sk0", "cpu0"]
        {
            assert!(text.parse::<DeviceName>().unwrap_err().contains("disk0"), "{text}");
        }
    }

    #[test]
    fn limits_are_a_table_of_a_file_and_belong_to_what_is_there() {
        let text =
            "cpus = 0.5\nweight = 300\n[devices.disk0]\nops = 100\n[devices.\"net0.tx\"]\nbytes = \"10M\"\n";
        let limits: Limits = toml::from_str(text).unwrap();
        assert_eq!(toml::from_str::<Limits>(&toml::to_string(&limits).unwrap()).unwrap(), limits);
        let nets = vec![NetSpec::User(UserConfig::default())];
        let mut spec = MachineSpec { disks: vec![DiskSpec::default()], nets, ..MachineSpec::default() };
        limits.validate(&spec).unwrap();
        spec.nets.clear();
        assert!(limits.validate(&spec).unwrap_err().to_string().contains("net0.tx"));
        let wrong = |limits: Limits| limits.validate(&spec).unwrap_err().to_string();
        for cpus in [0.0, -1.0, f64::NAN, 65.0] {
            assert!(wrong(Limits { cpus: Some(cpus), ..Limits::default() }).contains("0.01 to 64"));
        }
        assert!(wrong(Limits { weight: Some(0), ..Limits::default() }).contains("1 to 10000"));
        let devices = [(DeviceName::Disk(0), RateSpec { ops: Some(0), ..RateSpec::default() })].into();
        assert!(wrong(Limits { devices, ..Limits::default() }).contains("disk0"));
        assert!(toml::from_str::<Limits>("[devices.disk]\nops = 1").is_err());
    }
}

//! What `--limit` takes.

use machine::{DeviceName, RateSpec, Size};

/// A device, or a card in both directions, and its rate.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceLimit {
    /// The device, or both directions of a card.
    pub devices: Vec<DeviceName>,
    /// Its rate; nothing for none.
    pub rate: RateSpec,
}

/// `DEVICE,OPTION...`.
pub fn limit(text: &str) -> Result<DeviceLimit, String> {
    let (name, options) = text.split_once(',').unwrap_or((text, ""));
    let both = name.starts_with("net") && !name.contains('.');
    let names = if both { vec![format!("{name}.tx"), format!("{name}.rx")] } else { vec![name.to_owned()] };
    let devices = names
        .iter()
        .map(|device| {
            device
                .parse()
                .map_err(|_| format!("{name:?} is no device: give disk0, net0, net0.tx, net0.rx and so on"))
        })
        .collect::<Result<Vec<_>, String>>()?;
    let mut rate = RateSpec::default();
    let mut options = options.split(',').filter(|option| !option.is_empty()).peekable();
    if options.peek() == Some(&"none") && text.ends_with(",none") {
        return Ok(DeviceLimit { devices, rate });
    }
    if options.peek().is_none() {
        return Err(format!("{text:?} says no rate: give iops=N or pps=N, bps=SIZE, burst=SIZE, or none"));
    }
    for option in options {
        match option.split_once('=') {
            Some(("iops" | "pps", number)) => {
                rate.ops = Some(
                    number.parse().map_err(|_| format!("{option:?} has no number: give one such as 1000"))?,
                );
            }
            Some(("bps", size)) => rate.bytes = Some(size.parse::<Size>()?),
            Some(("burst", size)) => rate.burst = Some(size.parse::<Size>()?),
            _ => {
                return Err(format!(
                    "{option:?} is no rate: give iops=N or pps=N, bps=SIZE, burst=SIZE, or none"
                ));
            }
        }
    }
    Ok(DeviceLimit { devices, rate })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_rates() {
        let disk = limit("disk0,iops=100,bps=50M,burst=1M").unwrap();
        assert_eq!(disk.devices, [DeviceName::Disk(0)]);
        let (bytes, burst) = (Some(Size::mib(50)), Some(Size::mib(1)));
        assert_eq!(disk.rate, RateSpec { ops: Some(100), bytes, burst });
        assert_eq!(limit("net1,pps=5").unwrap().devices, [DeviceName::Sent(1), DeviceName::Received(1)]);
        assert_eq!(limit("net1.rx,none").unwrap().rate, RateSpec::default());
        for (wrong, named) in [
            ("disk0", "disk0"),
            ("cpu,iops=1", "cpu"),
            ("disk0,iops=x", "iops=x"),
            ("disk0,fast", "fast"),
            ("disk0,bps=1", "512M"),
        ] {
            assert!(limit(wrong).unwrap_err().contains(named), "{wrong}");
        }
    }
}

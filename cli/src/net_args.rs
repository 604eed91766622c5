//! What `--net` takes.

use machine::{NetSpec, Size, TapConfig, UserConfig};
use net::switch::{SwitchConfig, check_host_name, check_name};

/// `KIND[,OPTION...]`; None for no card.
pub fn net(text: &str) -> Result<Option<NetSpec>, String> {
    let (kind, options) = text.split_once(',').unwrap_or((text, ""));
    let mut options = options.split(',').filter(|option| !option.is_empty());
    match kind {
        "none" => match options.next() {
            None => Ok(None),
            Some(option) => Err(format!("no network has no option {option:?}: give none alone")),
        },
        "user" => {
            let mut config = UserConfig::default();
            options.try_for_each(|option| user(&mut config, option))?;
            Ok(Some(NetSpec::User(config)))
        }
        _ => match kind.split_once('=') {
            Some(("tap", device)) if !device.is_empty() => {
                let mut config = TapConfig { device: device.to_owned(), ..TapConfig::default() };
                options.try_for_each(|option| tap(&mut config, option))?;
                Ok(Some(NetSpec::Tap(config)))
            }
            None if kind != "tap" => {
                check_name(kind)?;
                let mut config = SwitchConfig { switch: kind.to_owned(), ..SwitchConfig::default() };
                options.try_for_each(|option| switch(&mut config, option))?;
                Ok(Some(NetSpec::Switch(config)))
            }
            _ => Err(format!(
                "{kind:?} is no kind of network: give user, tap=DEVICE, the name of a switch, or none"
            )),
        },
    }
}

fn user(config: &mut UserConfig, option: &str) -> Result<(), String> {
    match option.split_once('=') {
        Some(("forward", forward)) => config.forwards.push(forward.parse()?),
        Some(("loopback", value)) => config.loopback = yes(option, value)?,
        Some(("outside", value)) => config.outside = yes(option, value)?,
        Some(("mac", mac)) => config.mac = Some(mac.parse()?),
        Some(("capture", path)) if !path.is_empty() => config.capture = Some(path.into()),
        _ => {
            return Err(format!(
                "{option:?} is no option of a user network: give forward=PORT:PORT, loopback=yes, outside=no, mac=ADDRESS or capture=FILE"
            ));
        }
    }
    Ok(())
}

fn tap(config: &mut TapConfig, option: &str) -> Result<(), String> {
    match option.split_once('=') {
        Some(("mac", mac)) => config.mac = Some(mac.parse()?),
        Some(("capture", path)) if !path.is_empty() => config.capture = Some(path.into()),
        _ => return Err(format!("{option:?} is no option of a tap: give mac=ADDRESS or capture=FILE")),
    }
    Ok(())
}

fn switch(config: &mut SwitchConfig, option: &str) -> Result<(), String> {
    match option.split_once('=') {
        Some(("name", name)) => {
            check_host_name(name)?;
            config.name = Some(name.to_owned());
        }
        Some(("mac", mac)) => config.mac = Some(mac.parse()?),
        Some(("vlan", vlan)) => config.vlan = Some(vlan.parse()?),
        Some(("trunk", vlans)) => {
            config.trunk = vlans.split('+').map(str::parse).collect::<Result<_, _>>()?;
        }
        Some(("ip", ip)) => {
            let wrong = |_| format!("{option:?} is no IPv4 address: give one such as ip=10.5.0.7");
            config.ip = Some(ip.parse().map_err(wrong)?);
        }
        Some(("rate", rate)) => match rate.parse::<Size>()?.get() {
            0 => {
                return Err(format!(
                    "{option:?} lets nothing through: give bytes in a second, such as rate=10M"
                ));
            }
            bytes => config.rate = Some(bytes),
        },
        Some(("spoof", value)) => config.spoof = yes(option, value)?,
        Some(("capture", path)) if !path.is_empty() => config.capture = Some(path.into()),
        _ => {
            return Err(format!(
                "{option:?} is no option of a card on a switch: give name=NAME, vlan=ID, trunk=ID+ID, mac=ADDRESS, ip=ADDRESS, rate=SIZE, spoof=yes or capture=FILE"
            ));
        }
    }
    Ok(())
}

fn yes(option: &str, value: &str) -> Result<bool, String> {
    match value {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err(format!("{option:?} is neither yes nor no: give one of them")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_a_kind_and_options() {
        assert_eq!(net("none"), Ok(None));
        assert_eq!(net("user"), Ok(Some(NetSpec::User(UserConfig::default()))));
        let text = "user,forward=2222:22,forward=udp:5353:53,loopback=yes,outside=no,mac=52:00:00:00:00:01,capture=a.pcap";
        let Ok(Some(NetSpec::User(config))) = net(text) else { panic!("{:?}", net(text)) };
        let forwards: Vec<_> = config.forwards.iter().map(ToString::to_string).collect();
        assert_eq!(forwards, ["tcp:127.0.0.1:2222:22", "udp:127.0.0.1:5353:53"]);
        assert!(config.loopback && !config.outside && config.mac.is_some() && config.capture.is_some());
        let Ok(Some(NetSpec::Tap(config))) = net("tap=tap0,mac=52:00:00:00:00:01") else { panic!() };
        assert_eq!((config.device.as_str(), config.mac.is_some()), ("tap0", true));
        let text =
            "lan,name=web,vlan=3,trunk=10+20,mac=52:00:00:00:00:01,ip=10.5.0.7,rate=10M,spoof=yes,capture=a";
        let Ok(Some(NetSpec::Switch(config))) = net(text) else { panic!("{:?}", net(text)) };
        assert_eq!(
            (config.switch.as_str(), config.name.as_deref(), config.trunk.len()),
            ("lan", Some("web"), 2)
        );
        assert_eq!(
            (config.rate, config.ip, config.spoof),
            (Some(10 << 20), Some([10, 5, 0, 7].into()), true)
        );
        for (wrong, named) in [
            ("br/idge", "br/idge"),
            ("bridge=a", "tap=DEVICE"),
            ("lan,vlan=0", "4094"),
            ("lan,trunk=1+", "4094"),
            ("lan,name=a.b", "host name"),
            ("lan,ip=10.5.0", "ip=10.5.0"),
            ("lan,rate=0K", "rate=0K"),
            ("lan,rate=fast", "fast"),
            ("lan,forward=1:2", "forward"),
            ("none,x", "\"x\""),
            ("tap", "tap=DEVICE"),
            ("tap=", "tap=DEVICE"),
            ("tap=a,loopback=yes", "loopback"),
            ("user,fast", "fast"),
            ("user,forward=22", "\"22\""),
            ("user,loopback=maybe", "loopback=maybe"),
            ("user,mac=1", "\"1\""),
            ("user,capture=", "capture="),
        ] {
            assert!(net(wrong).unwrap_err().contains(named), "{wrong}");
        }
    }
}

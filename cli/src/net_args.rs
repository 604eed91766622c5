//! What `--net` takes.

use machine::{NetSpec, TapConfig, UserConfig};

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
            _ => Err(format!("{kind:?} is no kind of network: give user, tap=DEVICE or none")),
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
        for (wrong, named) in [
            ("bridge", "bridge"),
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

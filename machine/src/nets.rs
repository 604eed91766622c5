//! The machine's network cards.

use std::sync::Arc;

use net::switch::SwitchNet;
use net::{Mac, NetBackend, NetError, TapNet, UserNet};
use virtio::Net;

use crate::limits::{DeviceName, Throttles};
use crate::meter::MeteredNet;
use crate::{MachineError, MachineSpec, NetSpec};

/// Networks, and the cards that are plugged into them.
type NetsAndCards = (Vec<Arc<MeteredNet>>, Vec<Arc<Net>>);

/// Gives cards their addresses that have none yet: they keep them wherever the machine goes.
pub fn address(spec: &mut MachineSpec) -> Result<(), MachineError> {
    for net in &mut spec.nets {
        match net {
            NetSpec::User(_) => {}
            NetSpec::Tap(config) if config.mac.is_some() => {}
            NetSpec::Tap(config) => config.mac = Some(Mac::random().map_err(NetError::Host)?),
            NetSpec::Switch(config) => config.mac = Some(config.mac().map_err(NetError::Host)?),
        }
    }
    Ok(())
}

/// Makes the networks and the cards, in the order of their slots.
pub fn open(spec: &MachineSpec, throttles: &mut Throttles) -> Result<NetsAndCards, MachineError> {
    let mut nets = Vec::new();
    let mut cards = Vec::new();
    for (net, index) in spec.nets.iter().zip(0u8..) {
        let (backend, mac): (Arc<dyn NetBackend>, _) = match net {
            NetSpec::User(config) => {
                // These networks do not know each other, so all machines may have the same addresses.
                let mac =
                    config.mac.unwrap_or(Mac([0x52, 0x55, 0x0a, 0x00, 0x02, 0x0f_u8.wrapping_add(index)]));
                (Arc::new(UserNet::new(config, mac)?), mac)
            }
            NetSpec::Tap(config) => {
                let mac = config.mac.map_or_else(Mac::random, Ok).map_err(NetError::Host)?;
                (Arc::new(TapNet::new(config)?), mac)
            }
            NetSpec::Switch(config) => {
                let mac = config.mac().map_err(NetError::Host)?;
                (Arc::new(SwitchNet::new(config, mac)?), mac)
            }
        };
        let pairs = spec.cpus.min(u16::MAX.into()) as u16;
        let backend = Arc::new(MeteredNet::new(backend));
        nets.push(backend.clone());
        let device = Net::new(backend, mac, pairs).map_err(MachineError::Thread)?;
        let [sent, received] = device.throttles();
        throttles.0.insert(DeviceName::Sent(index), sent);
        throttles.0.insert(DeviceName::Received(index), received);
        cards.push(Arc::new(device));
    }
    Ok((nets, cards))
}

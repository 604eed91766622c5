//! A network card gets another address, when the machine has become a copy of itself.

use std::fs;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use crate::{request, sys};

/// Who is told of it, by the device's name, in a system whose DHCP client does not see that a link has gone and come back.
const HOOK: &str = "/etc/guesthouse/new-address";

const CARDS: &str = "/sys/class/net";

/// Sets the address of the card whose driver has read the other one. What follows from an address, those of IPv6 and DHCP's, goes
/// and comes with the link.
pub fn change(from: [u8; 6], to: [u8; 6]) -> io::Result<()> {
    // Calls for devices are the same on every kind of socket.
    let socket = UnixDatagram::unbound()?;
    let Some(name) = find(&socket, from) else {
        return Err(io::Error::other(format!("there is no network card with the address {}", text(from))));
    };
    if current(&name).is_some_and(|address| address == text(to)) {
        return Ok(());
    }
    let link = sys::Link::new(&socket, &name)?;
    let flags = link.flags()?;
    link.set_flags(flags & !sys::IFF_UP)?;
    let changed = link.set_address(to);
    link.set_flags(flags)?;
    changed?;
    if Path::new(HOOK).exists() { request::begin(HOOK, &[&name]) } else { Ok(()) }
}

/// The device with this address, which it may have had before somebody set another: that is what its driver remembers. What is built
/// on one (a bridge, a VLAN) takes over what that has.
fn find(socket: &UnixDatagram, address: [u8; 6]) -> Option<String> {
    let all = fs::read_dir(CARDS).ok()?.flatten();
    let own = all.filter(|card| card.path().join("device").exists());
    let names: Vec<String> = own.filter_map(|card| card.file_name().into_string().ok()).collect();
    let permanent = |name: &&String| {
        sys::Link::new(socket, name).and_then(|link| link.permanent_address()).is_ok_and(|own| own == address)
    };
    let has = |name: &&String| current(name).is_some_and(|own| own == text(address));
    names.iter().find(permanent).or_else(|| names.iter().find(has)).cloned()
}

fn current(name: &str) -> Option<String> {
    let said = fs::read_to_string(Path::new(CARDS).join(name).join("address")).ok()?;
    Some(said.trim().to_owned())
}

/// As the kernel writes it.
fn text(address: [u8; 6]) -> String {
    let bytes: Vec<String> = address.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(":")
}

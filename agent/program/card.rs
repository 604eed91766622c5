//! A network card gets another address, when the machine has become a copy of itself.

use std::fs;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use crate::{request, sys};

/// Who is told of it, by the device's name, in a system whose DHCP client does not see that a link has gone and come back.
const HOOK: &str = "/etc/guesthouse/new-address";

/// Sets the address of the card that has the other one. What follows from an address, those of IPv6 and DHCP's, goes and
/// comes with the link.
pub fn change(from: [u8; 6], to: [u8; 6]) -> io::Result<()> {
    let name = find(&text(from))
        .ok_or_else(|| io::Error::other(format!("there is no network card with the address {}", text(from))))?;
    // Calls for devices are the same on every kind of socket.
    let socket = UnixDatagram::unbound()?;
    let link = sys::Link::new(&socket, &name)?;
    let flags = link.flags()?;
    link.set_flags(flags & !sys::IFF_UP)?;
    let changed = link.set_address(to);
    link.set_flags(flags)?;
    changed?;
    if Path::new(HOOK).exists() { request::begin(HOOK, &[&name]) } else { Ok(()) }
}

/// The device that has an address by itself: what is built on one (a bridge, a VLAN) takes over what that has.
fn find(address: &str) -> Option<String> {
    let cards = fs::read_dir("/sys/class/net").ok()?.flatten();
    let mut own = cards.filter(|card| card.path().join("device").exists());
    let has = |path: &Path| fs::read_to_string(path.join("address")).is_ok_and(|text| text.trim() == address);
    own.find(|card| has(&card.path()))?.file_name().into_string().ok()
}

/// As the kernel writes it.
fn text(address: [u8; 6]) -> String {
    let bytes: Vec<String> = address.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(":")
}

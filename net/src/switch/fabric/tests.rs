use std::time::Duration;

use super::*;
use crate::Offload;
use crate::switch::testing::{ALL, arp, broadcast, icmp6, ipv4, ipv6, udp};

fn mac(i: u8) -> Mac {
    Mac([0x52, 0x55, 0, 0, 0, i])
}

fn join(i: u8) -> Join {
    Join { mac: mac(i), name: None, vlan: None, trunk: Vec::new(), ip: None, rate: None, spoof: false }
}

fn vlan(id: u16) -> Vlan {
    id.try_into().unwrap()
}

struct Setup {
    fabric: Fabric,
    now: Instant,
}

/// VLAN 1 has addresses, 2 and 3 have none.
fn setup() -> Setup {
    let vlans = ["1=10.5.0.0/24", "2", "3"].iter().map(|text| text.parse().unwrap()).collect();
    let now = Instant::now();
    Setup { fabric: Fabric::new(&SwitchSpec { vlans, ..SwitchSpec::default() }, now), now }
}

impl Setup {
    fn join(&mut self, join: &Join) -> (PortId, Vec<Ipv4Addr>) {
        let (port, given) = self.fabric.join(join, self.now).unwrap();
        (port, given.into_iter().map(|(_, ip)| ip).collect())
    }

    fn refused(&mut self, join: &Join) -> String {
        self.fabric.join(join, self.now).unwrap_err()
    }

    fn send(&mut self, port: PortId, bytes: Vec<u8>) -> Result<(Vlan, To), Lost> {
        self.fabric.ingress(port, &mut Parcel::of(bytes, Offload::default()), self.now)
    }

    fn others(&self, id: u16, but: PortId) -> Vec<(PortId, bool)> {
        self.fabric.others(vlan(id), but).collect()
    }
}

#[test]
fn frames_go_to_whom_they_are_for() {
    let mut s = setup();
    let (a, given) = s.join(&join(1));
    let (b, _) = s.join(&join(2));
    let ip = given[0];
    assert_eq!(
        s.send(a, ipv4(mac(2), mac(1), ip, [10, 5, 0, 9])),
        Ok((vlan(1), To::One(b))),
        "known as it joined"
    );
    assert_eq!(
        s.send(a, ipv4(mac(9), mac(1), ip, [10, 5, 0, 9])),
        Ok((vlan(1), To::All { services: false }))
    );
    assert_eq!(s.send(a, ipv4(mac(1), mac(1), ip, [10, 5, 0, 9])), Err(Lost::Nowhere), "to itself");
    assert_eq!(s.send(a, broadcast(mac(1))), Ok((vlan(1), To::All { services: true })));
    assert_eq!(s.send(a, ipv4(ROUTER_MAC, mac(1), ip, [192, 0, 2, 1])), Ok((vlan(1), To::One(SERVICES))));
    assert_eq!(s.others(1, a), [(b, false)]);
    s.fabric.leave(b);
    assert_eq!(
        s.send(a, ipv4(mac(2), mac(1), ip, [10, 5, 0, 9])),
        Ok((vlan(1), To::All { services: false }))
    );
    assert_eq!(s.send(b, broadcast(mac(2))), Err(Lost::Vlan), "nobody is there");
    assert_eq!(s.send(a, vec![0; 13]), Err(Lost::Spoofed));
}

#[test]
fn vlans_are_apart_and_trunks_are_in_several() {
    let mut s = setup();
    let (one, _) = s.join(&join(1));
    let (two, given) = s.join(&Join { vlan: Some(vlan(2)), ..join(2) });
    let (trunk, _) = s.join(&Join { vlan: Some(vlan(1)), trunk: vec![vlan(2)], ..join(3) });
    assert!(given.is_empty(), "no addresses in VLAN 2");
    assert_eq!((s.others(1, trunk), s.others(2, trunk)), (vec![(one, false)], vec![(two, false)]));
    assert_eq!((s.others(1, one), s.others(2, two)), (vec![(trunk, false)], vec![(trunk, true)]));
    assert_eq!(s.send(two, broadcast(mac(2))), Ok((vlan(2), To::All { services: false })));
    // The same address in another VLAN is nobody.
    assert_eq!(
        s.send(two, ipv4(mac(1), mac(2), [10, 9, 0, 2].into(), [10, 9, 0, 3])),
        Ok((vlan(2), To::All { services: false }))
    );
    let mut tagged = broadcast(mac(3));
    tagged.splice(12..12, [0x81, 0, 0, 2]);
    assert_eq!(s.send(trunk, tagged.clone()), Ok((vlan(2), To::All { services: false })));
    tagged.splice(0..12, broadcast(mac(2))[..12].to_vec());
    assert_eq!(s.send(two, tagged), Err(Lost::Vlan), "a tag on an access port");
}

#[test]
fn who_joins_is_somebody_new() {
    let mut s = setup();
    s.join(&Join { name: Some("web".into()), ..join(1) });
    for (wrong, why) in [
        (join(1), "is there already"),
        (Join { name: Some("web".into()), ..join(2) }, "called web already"),
        (Join { vlan: Some(vlan(9)), ..join(2) }, "no VLAN 9: it has 1, 2, 3"),
        (Join { vlan: Some(vlan(2)), trunk: vec![vlan(2)], ..join(2) }, "named twice"),
        (Join { trunk: vec![vlan(2), vlan(2)], ..join(2) }, "named twice"),
        (Join { mac: ROUTER_MAC, ..join(2) }, "no member's address"),
        (Join { ip: Some([10, 6, 0, 1].into()), ..join(2) }, "10.6.0.1"),
        (Join { ip: Some([10, 5, 0, 1].into()), ..join(2) }, "10.5.0.1"),
    ] {
        assert!(s.refused(&wrong).contains(why), "{why}");
    }
    let ip = Ipv4Addr::from([10, 5, 0, 77]);
    let wish = |i| Join { ip: Some(ip), ..join(i) };
    let (port, given) = s.join(&wish(2));
    assert_eq!(given, [ip]);
    assert!(s.refused(&wish(3)).contains("in use"));
    s.fabric.leave(port);
    assert_eq!(s.join(&wish(3)).1, [ip]);
    for i in 0..=u8::MAX {
        let many = Join { mac: Mac([2, 0, 0, 0, 1, i]), vlan: Some(vlan(2)), ..join(0) };
        match s.fabric.join(&many, s.now) {
            Ok(_) => {}
            Err(why) => assert!(why.contains("256 members") && i == 254, "{i}: {why}"),
        }
        if i == 254 {
            break;
        }
    }
}

#[test]
fn a_member_is_who_it_joined_as() {
    let mut s = setup();
    let (a, given) = s.join(&join(1));
    let (_, others) = s.join(&join(2));
    let (own, other) = (given[0], others[0]);
    let to = [10, 5, 0, 200];
    for good in [
        ipv4(mac(2), mac(1), own, to),
        arp(mac(1), mac(1), own, true),
        arp(mac(1), mac(1), [0, 0, 0, 0].into(), true),
        udp(ALL, mac(1), [0, 0, 0, 0].into(), [255; 4], (68, 67), b""),
        ipv6(mac(2), mac(1), "fe80::1"),
        icmp6(mac(2), mac(1), "fe80::1", 136, "fe80::1"),
        icmp6(mac(2), mac(1), "::", 135, "fe80::1"),
    ] {
        assert!(s.send(a, good.clone()).is_ok(), "{good:x?}");
    }
    for bad in [
        ipv4(mac(1), mac(2), own, to),                    // another's card
        ipv4(mac(2), ROUTER_MAC, own, to),                // the switch's
        ipv4(mac(2), ALL, own, to),                       // everybody's
        ipv4(mac(2), mac(1), other, to),                  // another's address
        ipv4(mac(2), mac(1), [10, 5, 0, 1].into(), to),   // the switch's
        ipv4(mac(2), mac(1), [10, 5, 0, 250].into(), to), // nobody's
        ipv4(mac(2), mac(1), [192, 0, 2, 1].into(), to),
        ipv4(mac(2), mac(1), [0, 0, 0, 0].into(), to),
        arp(mac(1), mac(1), other, true),
        arp(mac(1), mac(1), [10, 5, 0, 1].into(), false),
        arp(mac(1), mac(2), own, false),
        arp(mac(1), mac(1), [0, 0, 0, 0].into(), false),
        udp(ALL, mac(1), own, [255; 4], (67, 68), b""), // a DHCP server
        udp(ALL, mac(1), [0, 0, 0, 0].into(), [255; 4], (1, 2), b""),
        icmp6(mac(2), mac(1), "fe80::1", 134, "::"), // a router
        icmp6(mac(2), mac(1), "fe80::1", 137, "::"),
        [&[0x01, 0x80, 0xc2, 0, 0, 0][..], &mac(1).0, &[0, 38, 0x42, 0x42, 3, 0, 0]].concat(), // spanning tree
        [&ALL.0[..], &mac(1).0, &[8, 0, 0x45]].concat(),
        [&ALL.0[..], &mac(1).0, &[8, 6, 0, 1]].concat(),
        [&ALL.0[..], &mac(1).0, &[0x86, 0xdd, 0x60]].concat(),
    ] {
        assert_eq!(s.send(a, bad.clone()), Err(Lost::Spoofed), "{bad:x?}");
    }
}

#[test]
fn where_no_addresses_are_given_the_first_who_has_one_keeps_it() {
    let mut s = setup();
    let in_two = |i| Join { vlan: Some(vlan(2)), ..join(i) };
    let ((a, _), (b, _)) = (s.join(&in_two(1)), s.join(&in_two(2)));
    let ip = Ipv4Addr::from([10, 9, 0, 1]);
    assert!(s.send(a, arp(mac(1), mac(1), ip, true)).is_ok());
    assert_eq!(s.send(b, arp(mac(2), mac(2), ip, false)), Err(Lost::Spoofed));
    assert_eq!(s.send(b, ipv4(mac(1), mac(2), ip, [10, 9, 0, 2])), Err(Lost::Spoofed));
    assert!(s.send(a, ipv6(mac(2), mac(1), "fd00::1")).is_ok());
    assert_eq!(s.send(b, ipv6(mac(1), mac(2), "fd00::1")), Err(Lost::Spoofed));
    assert_eq!(s.send(b, icmp6(mac(1), mac(2), "fe80::2", 136, "fd00::1")), Err(Lost::Spoofed));
    s.fabric.leave(a);
    assert!(s.send(b, arp(mac(2), mac(2), ip, false)).is_ok());
}

#[test]
fn who_may_be_several_still_cannot_be_somebody_who_is_there() {
    let mut s = setup();
    let (a, _) = s.join(&Join { spoof: true, ..join(1) });
    let (b, given) = s.join(&join(2));
    assert!(s.send(a, ipv4(mac(2), mac(77), [192, 0, 2, 1].into(), [10, 5, 0, 2])).is_ok());
    assert_eq!(
        s.send(b, ipv4(mac(77), mac(2), given[0], [192, 0, 2, 1])),
        Ok((vlan(1), To::One(a))),
        "learned"
    );
    assert_eq!(s.send(a, ipv4(mac(1), mac(2), [192, 0, 2, 1].into(), [10, 5, 0, 2])), Err(Lost::Spoofed));
    assert_eq!(s.send(a, ipv4(mac(2), ROUTER_MAC, [192, 0, 2, 1].into(), [10, 5, 0, 2])), Err(Lost::Spoofed));
    // The way back to an address leads to whose it is.
    assert!(s.send(a, ipv4(mac(2), mac(77), given[0], [10, 5, 0, 2])).is_ok());
    assert_eq!(s.fabric.card(vlan(1), given[0].into()), Some(mac(2)));
    s.now += Duration::from_secs(300);
    assert_eq!(
        s.send(b, ipv4(mac(77), mac(2), given[0], [192, 0, 2, 1])),
        Ok((vlan(1), To::All { services: false })),
        "forgotten"
    );
}

#[test]
fn floods_are_limited_and_what_is_for_one_is_not() {
    let mut s = setup();
    let (a, given) = s.join(&join(1));
    let (b, _) = s.join(&join(2));
    let sent = (0..10_000).filter(|_| s.send(a, broadcast(mac(1))).is_ok()).count();
    assert_eq!(sent, FLOOD_BURST as usize);
    assert_eq!(s.send(a, broadcast(mac(1))), Err(Lost::Flood));
    assert!(s.send(a, ipv4(mac(2), mac(1), given[0], [10, 5, 0, 2])).is_ok());
    assert!(s.send(b, broadcast(mac(2))).is_ok(), "others are not concerned");
    s.now += Duration::from_millis(100);
    let sent = (0..10_000).filter(|_| s.send(a, broadcast(mac(1))).is_ok()).count();
    assert!((99..=101).contains(&sent), "{sent}");
}

#[test]
fn names_lead_to_addresses_and_back() {
    let mut s = setup();
    let (port, given) = s.join(&Join { name: Some("Web".into()), ..join(1) });
    s.join(&Join { name: Some("far".into()), vlan: Some(vlan(2)), ..join(2) });
    assert_eq!(s.fabric.lookup(vlan(1), "web"), Some(Some(given[0])));
    assert_eq!(s.fabric.lookup(vlan(1), "far"), Some(None), "it has no address here");
    assert_eq!(s.fabric.lookup(vlan(1), "we"), None);
    assert_eq!(s.fabric.name_of(vlan(1), given[0]), Some("Web"));
    s.fabric.leave(port);
    assert_eq!(s.fabric.lookup(vlan(1), "web"), None);
}

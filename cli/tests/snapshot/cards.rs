//! Copies of a machine on a switch: members of their own.

use std::collections::HashSet;

use super::World;

/// A switch that does not outlive its test.
struct Lan<'a>(&'a World);

impl Drop for Lan<'_> {
    fn drop(&mut self) {
        self.0.run(&["net", "rm", "--force", "lan"]);
    }
}

/// Says the address of the card and that of the network, as soon as both are others than these.
fn addresses(world: &World, name: &str, [card, network]: [&str; 2]) -> [String; 2] {
    let script = format!(
        "mac() {{ cat /sys/class/net/e*/address; }}
         ip4() {{ ip -4 -o addr show scope global | sed 's/.*inet \\([0-9.]*\\).*/\\1/'; }}
         n=0
         while [ \"$(mac)\" = '{card}' ] || [ \"$(ip4)\" = '{network}' ] || [ -z \"$(ip4)\" ]; do
             n=$((n + 1)); [ $n -lt 300 ] || {{ ip addr; exit 1; }}; sleep 0.1
         done
         mac; ip4"
    );
    let said = world.exec(name, &script);
    let lines: Vec<_> = said.lines().map(str::to_owned).collect();
    lines.try_into().unwrap_or_else(|_| panic!("{name}: {said}"))
}

fn copies_and_their_original_reach_each_other(guest: &[&str]) {
    let world = World::new();
    world.ok(&["net", "create", "lan"]);
    let _lan = Lan(&world);
    let run = ["run", "-d", "--clonable", "--name", "web", "--memory", "256M", "--net", "lan"];
    world.ok(&[&run[..], guest].concat());
    let first = addresses(&world, "web", ["", ""]);
    world.ok(&["clone", "--count", "2", "--name", "copy", "web"]);
    let old = first.each_ref().map(String::as_str);
    let all = [
        ("copy-1", addresses(&world, "copy-1", old)),
        ("copy-2", addresses(&world, "copy-2", old)),
        ("web", addresses(&world, "web", ["", ""])),
    ];
    assert_eq!(all[2].1, first, "the original is who it was");
    let others: HashSet<_> = all.iter().flat_map(|(_, pair)| pair).collect();
    assert_eq!(others.len(), 6, "{all:?}");
    // Each by its address, and by the name that its member of the switch has.
    for (name, _) in &all {
        for (other, [_, ip]) in &all {
            world.exec(name, &format!("ping -c 1 -W 10 {ip}; ping -c 1 -W 10 {other}.lan"));
        }
    }
    let lan: serde_json::Value =
        serde_json::from_str(&world.ok(&["net", "inspect", "lan", "--json"])).unwrap();
    for port in lan["ports"].as_array().unwrap() {
        let (name, [card, _]) = all.iter().find(|(name, _)| port["name"] == *name).unwrap();
        assert_eq!(port["mac"], **card, "{name}: {lan}");
    }
}

#[test]
fn copies_of_the_default_guest_are_others_on_their_network() {
    copies_and_their_original_reach_each_other(&[]);
}

/// Its guest may not have been told that it is a copy when it is copied, or saved, itself.
#[test]
fn a_copy_of_a_copy_that_has_just_begun_is_another_one() {
    let world = World::new();
    world.ok(&["net", "create", "lan"]);
    let _lan = Lan(&world);
    world.ok(&["run", "-d", "--clonable", "--name", "a", "--memory", "128M", "--net", "lan"]);
    let first = addresses(&world, "a", ["", ""]);
    world.ok(&["clone", "--name", "b", "a"]);
    world.ok(&["clone", "--name", "c", "b"]);
    world.ok(&["clone", "--name", "d", "a"]);
    world.ok(&["snapshot", "--stop", "d", "snap"]);
    world.ok(&["restore", "-d", "--name", "e", "snap"]);
    // What was set by hand is not for two, either.
    world.exec(
        "a",
        "for card in /sys/class/net/eth*; do ip link set ${card##*/} address 02:00:00:00:00:77; done",
    );
    world.ok(&["clone", "--name", "f", "a"]);
    let old = first.each_ref().map(String::as_str);
    let byhand = ["02:00:00:00:00:77", old[1]];
    let others = [("b", old), ("c", old), ("e", old), ("f", byhand)];
    let all: HashSet<_> = others.iter().flat_map(|(name, old)| addresses(&world, name, *old)).collect();
    assert_eq!(all.len(), 8, "{all:?}");
    let lan: serde_json::Value =
        serde_json::from_str(&world.ok(&["net", "inspect", "lan", "--json"])).unwrap();
    for port in lan["ports"].as_array().unwrap().iter().filter(|port| port["name"] != "a") {
        assert!(all.contains(port["mac"].as_str().unwrap()), "{all:?} {lan}");
    }
}

#[test]
fn copies_of_a_whole_system_are_others_on_their_network() {
    copies_and_their_original_reach_each_other(&["debian"]);
}

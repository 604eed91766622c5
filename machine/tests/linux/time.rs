//! Linux takes KVM's clock, and its time is right, whatever happens to the machine.

use std::thread::sleep;
use std::time::{Duration, SystemTime};

use dbt::Dbt;
use interp::Interp;
use machine::BoardKind;

use crate::Linux;

const WORK: &str = "cat /sys/devices/system/clocksource/clocksource0/available_clocksource
echo began $(date +%s) $(cut -d. -f1 /proc/uptime); sleep 2; echo ended $(date +%s) $(cut -d. -f1 /proc/uptime)";

/// Two numbers behind a word: seconds since 1970, and since the boot.
fn times(text: &str, word: &str) -> [u64; 2] {
    let line = text.lines().find_map(|line| line.strip_prefix(word)).unwrap_or_else(|| panic!("{text}"));
    let mut numbers = line.split_whitespace().map(|number| number.parse().unwrap());
    [numbers.next().unwrap(), numbers.next().unwrap()]
}

#[test]
fn linux_keeps_time_by_kvms_clock_over_moves() {
    let guest = guest::Catalogue::builtin().unwrap().default;
    let linux = Linux { guest: &guest, work: WORK, board: BoardKind::default(), quiet: true, cpus: 2 };
    let (_, text) = linux.run_while(&Dbt::new(), |machine, screen| {
        while !screen.text().contains("began") {
            sleep(Duration::from_millis(10));
        }
        for _ in 0..5 {
            machine.move_to(&Interp::new()).unwrap();
            machine.move_to(&Dbt::new()).unwrap();
        }
    });
    assert!(text.contains("kvm-clock"), "{text}");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let (began, ended) = (times(&text, "began"), times(&text, "ended"));
    // It ends a moment after it said so.
    assert!(now.abs_diff(ended[0]) <= 2, "{now}: {text}");
    let passed = [ended[0] - began[0], ended[1] - began[1]];
    assert!(passed[0].abs_diff(passed[1]) <= 1 && passed[0] >= 2, "{text}");
}

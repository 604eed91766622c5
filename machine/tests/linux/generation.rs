//! A guest that becomes another one takes new random numbers. Its kernel is the distribution's for hardware: the cloud kernel has no
//! driver for it.

use std::thread::sleep;
use std::time::{Duration, Instant};

use dbt::Dbt;
use machine::{BoardKind, Machine};

use crate::Linux;

const RESEEDED: &str = "crng reseeded due to virtual machine fork";

#[test]
fn linux_reseeds_its_random_numbers_when_it_has_become_another_one() {
    for board in [BoardKind::Pc, BoardKind::Microvm] {
        let linux = Linux { guest: "bench-share", work: "echo ready; read x", board, quiet: false, cpus: 1 };
        linux.run_while(&Dbt::new(), |machine, screen| {
            let wait_for = |text: &str| {
                let start = Instant::now();
                while !screen.text().contains(text) {
                    assert!(start.elapsed() < Duration::from_secs(120), "no {text:?}: {}", screen.text());
                    sleep(Duration::from_millis(10));
                }
            };
            wait_for("ready");
            assert!(!screen.text().contains(RESEEDED), "{}", screen.text());
            machine.pc().generation.renew();
            wait_for(RESEEDED);
            Machine::stop(machine);
        });
    }
}

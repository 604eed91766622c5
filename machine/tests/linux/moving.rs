//! A running machine is moved between engines, all of it at once, by whoever may ask for that.

use std::thread::sleep;
use std::time::{Duration, Instant};

use dbt::Dbt;
use interp::Interp;
use machine::Machine;

use crate::boots_and_computes_while;

/// Time with an engine: boot and work last for some dozen of those.
const STAY: Duration = Duration::from_millis(15);
/// Few enough for the work to last longer.
const MOVES: u32 = 200;

fn moves(cpus: u32) {
    let mut times = Vec::new();
    let there_and_back = |machine: &Machine| {
        for moves in 0..MOVES {
            sleep(STAY);
            let start = Instant::now();
            let moved = match moves % 2 {
                0 => machine.move_to(&Interp::new()),
                _ => machine.move_to(&Dbt::new()),
            };
            moved.unwrap();
            assert_eq!(machine.engine(), ["interp", "dbt"][moves as usize % 2]);
            times.push(start.elapsed());
        }
    };
    boots_and_computes_while(&Dbt::new(), cpus, there_and_back);
    times.sort();
    let [median, worst] = [times[times.len() / 2], times[times.len() - 1]];
    println!("{} moves of {cpus} cpus: {median:?}, at most {worst:?}", times.len());
    // On a host that has nothing else to do, 2 ms.
    assert!(median < Duration::from_millis(100), "{median:?}");
}

#[test]
fn linux_computes_while_it_is_moved_between_engines() {
    moves(1);
}

#[test]
fn linux_computes_while_it_is_moved_with_two_cpus() {
    moves(2);
}

//! A machine that is killed while it writes. What its guest had flushed, and said so on the console, has to be on the disk
//! when the next guest has replayed the journal.

use std::collections::BTreeSet;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::Soak;
use super::image::Image;
use crate::bench::console::Console;

/// Of the disk.
const MIB: u64 = 256;
/// The longest that a machine works before it is killed.
const MILLISECONDS: u64 = 2500;
/// The longest that a guest takes for anything.
const PATIENCE: Duration = Duration::from_secs(90);

/// Writes records that are there for ever once they are announced, among much that is not.
const WRITE: &str = r#"
    mount /dev/vda /mnt || exit 9
    mkdir -p /mnt/records /mnt/noise
    n=0
    while :; do
        head -c $((RANDOM * 64)) /dev/urandom >/mnt/noise/$((n % 8))
        rm -f /mnt/noise/$(((n + 3) % 8))
        n=$((n + 1))
    done &
    i=0
    while :; do
        echo "record $i of kill $1" | dd of=/mnt/records/$i conv=fsync 2>/dev/null || exit 8
        echo "@durable $i"
        i=$((i + 1))
    done
"#;

/// Replays the journal, says what is there, and removes it.
const READ: &str = r#"
    mount /dev/vda /mnt || exit 9
    cd /mnt/records || exit 8
    for i in *; do echo "@there $i $(cat $i)"; done
    cd /
    rm -r /mnt/records
    umount /mnt || exit 7
    echo @end
"#;

/// Kills so often; how many records were there, and how many had to be.
pub fn run(soak: &Soak, format: &'static str, kills: u32, seed: u64) -> Result<(usize, usize)> {
    let image = Image::with_ext4(soak.path(&format!("kill.{format}")), format, MIB)?;
    let mut random = seed;
    let (mut there, mut durable) = (0, 0);
    for kill in 1..=kills {
        let work = Duration::from_millis(next(&mut random) % MILLISECONDS);
        let one = || -> Result<(usize, usize)> {
            let promised = write(soak, &image, kill, work)?;
            image.check()?;
            let found = read(soak, &image, kill)?;
            let missing: Vec<_> = promised.difference(&found).collect();
            ensure!(missing.is_empty(), "records that were durable are missing or wrong: {missing:?}");
            image.check()?;
            image.check_ext4()?;
            Ok((found.len(), promised.len()))
        };
        let (found, promised) = one().with_context(|| format!("{format}, kill {kill} after {work:?}"))?;
        ensure!(promised > 0, "{format}, kill {kill}: nothing was written in {work:?}");
        there += found;
        durable += promised;
    }
    Ok((there, durable))
}

/// Lets a guest write for some time after its first record; the records that it announced.
fn write(soak: &Soak, image: &Image, kill: u32, work: Duration) -> Result<BTreeSet<u64>> {
    let mut console = start(soak, image, WRITE, kill)?;
    console.wait_for("@durable 0\n").context("the guest does not write")?;
    sleep(work);
    let text = console.kill()?;
    let announced = |line: &str| line.strip_prefix("@durable ")?.parse().ok();
    // The last line may have come in part.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    Ok(whole.lines().filter_map(announced).collect())
}

/// The records that another guest finds whole.
fn read(soak: &Soak, image: &Image, kill: u32) -> Result<BTreeSet<u64>> {
    let mut console = start(soak, image, READ, kill)?;
    let text = console.wait_for("@end\n").context("the guest does not read")?;
    let status = console.end()?;
    if !status.success() {
        bail!("the guest that reads ends with {status}");
    }
    let whole = |line: &str| {
        let (number, content) = line.strip_prefix("@there ")?.split_once(' ')?;
        (content == format!("record {number} of kill {kill}")).then_some(number.parse().ok()?)
    };
    Ok(text.lines().filter_map(whole).collect())
}

fn start(soak: &Soak, image: &Image, script: &str, kill: u32) -> Result<Console> {
    let mut command = Command::new(&soak.program);
    command.args(["run", "--engine", &soak.engine, "--cpus", "2"]);
    command.arg("--disk").arg(format!("{},format={}", image.path.display(), image.format));
    command.args(["--", "sh", "-c", script, "sh", &kill.to_string()]);
    let mut console = Console::start(command)?;
    console.within(PATIENCE);
    Ok(console)
}

/// The next of a row of numbers that look random (splitmix64).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

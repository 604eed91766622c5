//! A machine that writes, reads back and compares, on a raw and a qcow2 disk, while TCP goes through its network both ways.

use std::fmt;

use anyhow::{Context, Result, ensure};

use super::check::Memory;
use super::image::Image;
use super::{Soak, Time};
use crate::system::{Disk, Iperf, Shell, System};

const MIB: u64 = 1024;
/// Of each disk.
const DISK: u64 = 512;
/// Seconds of TCP in a round; what the disks do takes about as long.
const SECONDS: u64 = 8;

/// What was done.
#[derive(Default)]
pub struct Done {
    rounds: u32,
    /// Of what TCP carried.
    gigabits: [f64; 2],
    pub memory: Memory,
}

/// Round after round until the time is over, at least one; then the disks are looked at.
pub fn run(soak: &Soak, system: &System, time: &Time, seed: u64) -> Result<Done> {
    let images = ["raw", "qcow2"]
        .map(|format| Image::new(soak.path(&format!("load.{format}")), format, DISK))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let servers = [Iperf::start()?, Iperf::start()?];
    let mut machine = system.machine(2, MIB);
    machine.disks.extend(images.iter().map(|image| Disk {
        path: image.path.clone(),
        format: image.format,
        snapshot: false,
    }));
    let (mut shell, _) = Shell::boot(&machine, &soak.peer())?;
    shell.log_in()?;
    // All of its RAM is in use from now on.
    shell.run("dd if=/dev/vda of=/dev/null bs=1M count=1200 2>/dev/null", 30)?;
    let mut done = Done::default();
    while done.rounds == 0 || !time.is_over() {
        done.rounds += 1;
        let output = shell.run(&round(done.rounds, seed, &servers), 60);
        let output = output.with_context(|| format!("round {}", done.rounds))?;
        for (sum, report) in done.gigabits.iter_mut().zip(output.split("@iperf").skip(1)) {
            *sum += Iperf::bits(report)? / 1e9;
        }
        done.memory.sample(shell.console.pid(), MIB)?;
    }
    let status = shell.power_off()?;
    ensure!(status.success(), "the machine ended with {status}");
    images.iter().try_for_each(Image::check)?;
    Ok(done)
}

/// The commands of a round. Each has a time limit of its own, so that it is known which one hangs.
fn round(round: u32, seed: u64, [out, back]: &[Iperf; 2]) -> String {
    let number = seed.wrapping_add(round.into());
    let size = ["4k", "16k", "64k", "256k"][(number % 4) as usize];
    let depth = [1, 4, 16, 32][(number / 4 % 4) as usize];
    let limit = "timeout -k 5 60";
    let fio = format!(
        "{limit} fio --output=/tmp/fio --direct=1 --ioengine=libaio --rw=randwrite --bs={size} --iodepth={depth} \
         --size=96M --offset={}M --fsync=64 --verify=crc32c --verify_fatal=1 --randseed={} \
         --name=raw --filename=/dev/vdb --name=qcow2 --filename=/dev/vdc",
        number % 4 * 96,
        number % (1 << 31)
    );
    let [out, back] =
        [(out, false), (back, true)].map(|(server, from_host)| server.client(SECONDS, from_host));
    format!(
        "{limit} {out} >/tmp/out & a=$!\n\
         {limit} {back} >/tmp/back & b=$!\n\
         {fio} || {{ s=$?; cat /tmp/fio; exit $s; }}\n\
         wait $a || {{ cat /tmp/out; exit 1; }}\n\
         wait $b || {{ cat /tmp/back; exit 1; }}\n\
         echo @iperf; cat /tmp/out; echo @iperf; cat /tmp/back"
    )
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rounds = f64::from(self.rounds.max(1));
        let [out, back] = self.gigabits.map(|sum| sum / rounds);
        write!(
            f,
            "{} rounds of verified writes and TCP ({out:.2} Gbit/s out, {back:.2} in): no error; {}",
            self.rounds,
            self.memory.text()
        )
    }
}

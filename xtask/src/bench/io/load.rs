//! What is on the host's end of a guest's connections, and what the programs that measure say.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::bench::figure::median;
use crate::system::{HOST, Iperf};

/// Connections for one sample.
const CONNECTIONS: u32 = 300;

/// Servers on the host's loopback; they end when dropped.
pub struct Servers {
    pub iperf: Iperf,
    /// Of one that takes connections and ends them.
    port: u16,
}

impl Servers {
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        // It ends with this process.
        thread::spawn(move || listener.incoming().for_each(drop));
        Ok(Self { iperf: Iperf::start()?, port })
    }

    /// The median of the milliseconds that a connection of the host's to itself takes.
    pub fn connect(&self) -> Result<f64> {
        let mut samples = Vec::new();
        for _ in 0..CONNECTIONS {
            let start = Instant::now();
            TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
            samples.push(start.elapsed().as_secs_f64() * 1e3);
        }
        median(&samples).context("no connection")
    }

    /// The same from a guest, as a command that prints it behind `@ms`.
    pub fn connect_script(&self) -> String {
        let Self { port, .. } = self;
        format!(
            "python3 -c '\n\
             import socket, statistics, time\n\
             samples = []\n\
             for _ in range({CONNECTIONS}):\n\
             \x20   with socket.socket() as s:\n\
             \x20       start = time.perf_counter()\n\
             \x20       s.connect((\"{HOST}\", {port}))\n\
             \x20       samples.append(time.perf_counter() - start)\n\
             print(\"@ms\", statistics.median(samples) * 1e3)\n'"
        )
    }
}

/// A command that works on a disk for some seconds, after one that does not count.
pub fn fio_command(disk: &str, mode: &str, size: &str, depth: u32, seconds: u64) -> String {
    format!(
        "fio --name=row --filename={disk} --ioengine=libaio --thread --rw={mode} --bs={size} --iodepth={depth} \
         --time_based --runtime={seconds} --ramp_time=1 --minimal"
    )
}

/// Bytes and requests in a second, read and written together, out of fio's `--minimal` (its terse format, version 3).
pub fn fio(output: &str) -> Option<(f64, f64)> {
    let line = output.lines().find(|line| line.trim().starts_with("3;fio-"))?;
    let fields: Vec<&str> = line.split(';').collect();
    let number = |index: usize| fields.get(index)?.parse::<f64>().ok();
    Some(((number(6)? + number(47)?) * 1024.0, number(7)? + number(48)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_programs_say_is_understood() {
        let mut fields = vec!["0"; 130];
        (fields[0], fields[1]) = ("3", "fio-3.33");
        (fields[6], fields[7], fields[47], fields[48]) = ("1000", "250", "24", "6");
        let output = format!("fio: warning\n{}\n", fields.join(";"));
        assert_eq!(fio(&output), Some((1024.0 * 1024.0, 256.0)));
        assert_eq!(fio("fio: no such file"), None);
    }

    #[test]
    fn the_host_connects_to_itself() {
        crate::process::provide("iperf3", "iperf3").unwrap();
        let servers = Servers::start().unwrap();
        let milliseconds = servers.connect().unwrap();
        assert!(milliseconds > 0.0 && milliseconds < 1000.0, "{milliseconds}");
        assert!(servers.connect_script().contains(&format!("10.0.2.2\", {}", servers.port)));
    }
}

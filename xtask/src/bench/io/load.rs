//! What is on the host's end of a guest's connections, and what the programs that measure say.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::bench::figure::median;
use crate::system::HOST;

/// Connections for one sample.
const CONNECTIONS: u32 = 300;

/// Servers on the host's loopback; they end when dropped.
pub struct Servers {
    iperf: Child,
    iperf_port: u16,
    /// Of one that takes connections and ends them.
    port: u16,
}

impl Servers {
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        // It ends with this process.
        thread::spawn(move || listener.incoming().for_each(drop));
        let iperf_port = free_port()?;
        Ok(Self { iperf: iperf_server(iperf_port)?, iperf_port, port })
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

    /// The guest's command that measures TCP.
    pub fn iperf(&self, seconds: u64, from_host: bool) -> String {
        iperf_client(self.iperf_port, seconds, from_host)
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.iperf.kill();
        let _ = self.iperf.wait();
    }
}

/// A server of iperf3's on the host's loopback, which serves one client at a time.
pub fn iperf_server(port: u16) -> Result<Child> {
    let child = Command::new("iperf3")
        .args(["-s", "-B", "127.0.0.1", "-p", &port.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("iperf3 does not start")?;
    for _ in 0..100 {
        // The server takes this for a client that went away, and complains.
        if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(child);
        }
        thread::sleep(Duration::from_millis(50));
    }
    bail!("iperf3 does not listen at port {port}");
}

/// A guest's command that sends to that server for some seconds, or receives.
pub fn iperf_client(port: u16, seconds: u64, from_host: bool) -> String {
    let reverse = if from_host { " -R" } else { "" };
    format!("iperf3 -c {HOST} -p {port} -t {seconds} -O 1 -i 0 -J{reverse}")
}

/// A port of the host's that nobody listens at.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
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

/// Bits in a second that were received, out of iperf3's JSON.
pub fn iperf(output: &str) -> Result<f64> {
    #[derive(Deserialize)]
    struct Report {
        end: End,
    }
    #[derive(Deserialize)]
    struct End {
        sum_received: Sum,
    }
    #[derive(Deserialize)]
    struct Sum {
        bits_per_second: f64,
    }
    let report: Report = serde_json::from_str(output)?;
    Ok(report.end.sum_received.bits_per_second)
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
        let report = r#"{"start": {}, "end": {"sum_received": {"bits_per_second": 2e9, "bytes": 1}}}"#;
        assert_eq!(iperf(report).unwrap(), 2e9);
    }

    #[test]
    fn the_host_connects_to_itself() {
        let port = free_port().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        thread::spawn(move || listener.incoming().for_each(drop));
        let iperf = Command::new("true").spawn().unwrap();
        let servers = Servers { iperf, iperf_port: 0, port };
        let milliseconds = servers.connect().unwrap();
        assert!(milliseconds > 0.0 && milliseconds < 1000.0, "{milliseconds}");
        assert!(servers.connect_script().contains(&format!("10.0.2.2\", {port}")));
    }
}

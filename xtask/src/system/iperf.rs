//! TCP's throughput: a server of iperf3's on the host, and what a guest's client says.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::HOST;
use crate::process::Ended;

/// A server on the host's loopback, which serves one client at a time; ended when dropped.
pub struct Iperf {
    _child: Ended,
    port: u16,
}

impl Iperf {
    pub fn start() -> Result<Self> {
        // Nobody listens there yet.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let child = Command::new("iperf3")
            .args(["-s", "-B", "127.0.0.1", "-p", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("iperf3 does not start")?;
        let server = Self { _child: Ended(child), port };
        for _ in 0..100 {
            // The server takes this for a client that went away, and complains.
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Ok(server);
            }
            thread::sleep(Duration::from_millis(50));
        }
        bail!("iperf3 does not listen at port {port}");
    }

    /// A guest's command that sends to the server for some seconds, or receives.
    pub fn client(&self, seconds: u64, from_host: bool) -> String {
        let reverse = if from_host { " -R" } else { "" };
        format!("iperf3 -c {HOST} -p {} -t {seconds} -O 1 -i 0 -J{reverse}", self.port)
    }

    /// Bits in a second that were received, out of what the client says.
    pub fn bits(output: &str) -> Result<f64> {
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
        let report: Report =
            serde_json::from_str(output).with_context(|| format!("what iperf3 says: {output}"))?;
        Ok(report.end.sum_received.bits_per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_understood() {
        let report = r#"{"start": {}, "end": {"sum_received": {"bits_per_second": 2e9, "bytes": 1}}}"#;
        assert_eq!(Iperf::bits(report).unwrap(), 2e9);
        let error = Iperf::bits(r#"{"start": {}, "error": "no route"}"#).unwrap_err();
        assert!(format!("{error:#}").contains("no route"), "{error:#}");
    }
}

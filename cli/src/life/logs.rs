//! `guesthouse logs`.

use std::io::{self, Read, Write};
use std::ops::ControlFlow;

use server::{Registry, ServerError};

pub fn run(registry: &Registry, name: &str, follow: bool, json: bool) -> anyhow::Result<()> {
    let entry = registry.find(name)?;
    let mut printer = Printer { out: io::stdout().lock(), json, line: Vec::new() };
    if follow && entry.alive {
        let mut result = Ok(());
        let streamed = entry.connect().and_then(|mut client| {
            client.stream("/v1/logs?follow=true", |data| {
                result = printer.print(data);
                if result.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })
        });
        match streamed {
            // It has just ended: what it said is still there.
            Err(ServerError::Ended(_)) => {}
            other => {
                other?;
                result?;
                return Ok(printer.finish()?);
            }
        }
    }
    let mut log = entry.log();
    let mut data = vec![0; 64 << 10];
    loop {
        match log.read(&mut data)? {
            0 => return Ok(printer.finish()?),
            count => printer.print(data.get(..count).unwrap_or_default())?,
        }
    }
}

/// Longest line of JSON; longer ones are cut.
const MAX_LINE: usize = 64 << 10;

struct Printer<W> {
    out: W,
    json: bool,
    /// What has no end yet.
    line: Vec<u8>,
}

impl<W: Write> Printer<W> {
    fn print(&mut self, data: &[u8]) -> io::Result<()> {
        if !self.json {
            self.out.write_all(data)?;
            return self.out.flush();
        }
        for piece in data.split_inclusive(|&byte| byte == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.line.len() > MAX_LINE {
                self.end_line()?;
            }
        }
        self.out.flush()
    }

    fn end_line(&mut self) -> io::Result<()> {
        let text = String::from_utf8_lossy(&self.line);
        serde_json::to_writer(&mut self.out, text.trim_end_matches(['\r', '\n']))?;
        self.line.clear();
        writeln!(self.out)
    }

    fn finish(mut self) -> io::Result<()> {
        if !self.line.is_empty() {
            self.end_line()?;
        }
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_a_string_for_each_line() {
        let mut out = Vec::new();
        let mut printer = Printer { out: &mut out, json: true, line: Vec::new() };
        for piece in [&b"a\r"[..], b"\nb\"", b"\x1b[m\xff\n\nend"] {
            printer.print(piece).unwrap();
        }
        printer.finish().unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "\"a\"\n\"b\\\"\\u001b[m\u{fffd}\"\n\"\"\n\"end\"\n");
    }
}

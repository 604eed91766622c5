//! A program that runs for the host, and what its streams may carry.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};

use crate::protocol::{Exit, Frame, Kind, PIECE, Start, WINDOW, Window, stream};
use crate::run::{self, Running};
use crate::sys;

/// What a line of a terminal has for the end of input.
const END_OF_INPUT: u8 = 4;

pub struct Session {
    id: u32,
    pub process: i32,
    /// How it ended.
    status: Option<Exit>,
    pub input: Option<File>,
    /// Input that the program has not taken yet.
    pending: VecDeque<u8>,
    /// No more will come.
    ended: bool,
    /// Bytes that it took and the host was not told of.
    taken: u32,
    pub outputs: [Output; 2],
    terminal: bool,
}

/// One of its outputs.
pub struct Output {
    stream: u8,
    pub file: Option<File>,
    /// Bytes that the host takes.
    pub credit: u32,
}

/// What an output gave.
#[derive(PartialEq, Eq)]
enum Pumped {
    Some,
    /// Nothing there is now, or nobody takes it.
    Nothing,
    Ended,
}

/// What is on its way to the host.
pub type Outgoing = Vec<u8>;

impl Session {
    /// Starts a program, or tells the host why not.
    pub fn start(id: u32, start: &Start, to: &mut Outgoing) -> Option<Self> {
        match run::start(start) {
            Ok(Running { process, input, output, errors }) => Some(Self {
                id,
                process,
                status: None,
                input,
                pending: VecDeque::new(),
                ended: false,
                taken: 0,
                outputs: [(stream::OUTPUT, Some(output)), (stream::ERROR, errors)]
                    .map(|(stream, file)| Output { stream, file, credit: WINDOW }),
                terminal: start.tty.is_some(),
            }),
            Err(exit) => {
                Frame::new(Kind::Exit, id, &exit.encode()).put(to);
                None
            }
        }
    }

    /// Does what the host says; false if that is against the protocol.
    pub fn obey(&mut self, frame: &Frame<'_>) -> bool {
        match (frame.kind, frame.stream) {
            (Kind::Data, stream::INPUT) => {
                self.pending.extend(frame.payload);
                return self.pending.len() <= WINDOW as usize;
            }
            (Kind::End, stream::INPUT) => {
                if self.terminal && !self.ended {
                    self.pending.push_back(END_OF_INPUT);
                }
                self.ended = true;
            }
            (Kind::Credit, from) => {
                let output = self.outputs.iter_mut().find(|output| output.stream == from);
                let (Some(output), Some(more)) = (output, frame.number()) else { return false };
                output.credit = output.credit.saturating_add(more).min(WINDOW);
            }
            (Kind::Signal, _) => match frame.number() {
                Some(number @ 1..=64) if self.status.is_none() => {
                    sys::send_signal(self.process, number as i32);
                }
                _ => {}
            },
            (Kind::Resize, _) => {
                if let (Ok(window), Some(terminal)) = (Window::decode(frame.payload), &self.outputs[0].file)
                    && self.terminal
                {
                    let _ = sys::resize(terminal, window);
                }
            }
            _ => return false,
        }
        true
    }

    /// It has ended.
    pub fn end(&mut self, status: i32) {
        self.status = Some(match (status & 0x7f, status >> 8) {
            (0, code) => Exit::Code(code as u8),
            (signal, _) => Exit::Signal(signal as u8),
        });
    }

    /// Nobody is there for it any more. Gives the pipes that it may still write to: who is told to end may have something
    /// to say, and is not to die of that first. A terminal is gone.
    pub fn hang_up(self) -> impl Iterator<Item = File> {
        if self.status.is_none() {
            sys::send_signal(self.process, sys::SIGHUP);
            sys::send_signal(self.process, sys::SIGCONT);
        }
        let terminal = self.terminal;
        self.outputs.into_iter().filter_map(|output| output.file).filter(move |_| !terminal)
    }

    /// True if the program could be given something.
    pub fn is_waiting(&self) -> bool {
        !self.pending.is_empty()
    }

    /// True if it has ended, and what it has left can be taken.
    pub fn is_ending(&self) -> bool {
        self.status.is_some() && self.outputs.iter().any(|output| output.file.is_some() && output.credit > 0)
    }

    /// Gives the program what it takes.
    pub fn give(&mut self, to: &mut Outgoing) {
        while let Some(input) = self.input.as_mut().filter(|_| !self.pending.is_empty()) {
            let (data, _) = self.pending.as_slices();
            match input.write(data) {
                Ok(count @ 1..) => {
                    self.pending.drain(..count);
                    self.taken = self.taken.saturating_add(count as u32);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                // It has closed its input. Without credit the host sends no more than it has begun to.
                _ => self.input = None,
            }
        }
        if self.input.is_none() {
            self.pending.clear();
        } else if self.taken >= WINDOW / 4 {
            let number = std::mem::take(&mut self.taken).to_le_bytes();
            Frame { kind: Kind::Credit, stream: stream::INPUT, session: self.id, payload: &number }.put(to);
        }
        // A terminal's input is its output as well: it stays.
        if self.ended && self.pending.is_empty() && !self.terminal {
            self.input = None;
        }
    }

    /// Takes what the program has put out, as far as `room` bytes; true at the session's end.
    pub fn take(&mut self, to: &mut Outgoing, room: usize) -> bool {
        let before = to.len();
        let over = self.status.is_some();
        for output in &mut self.outputs {
            while to.len() - before < room {
                match output.pump(self.id, to) {
                    Pumped::Some => {}
                    // All that it has written before its end is there by now. What others may still write is theirs.
                    Pumped::Nothing if over && output.credit > 0 => output.file = None,
                    Pumped::Nothing => break,
                    Pumped::Ended => {
                        if output.file.take().is_some() {
                            Frame { kind: Kind::End, stream: output.stream, session: self.id, payload: &[] }
                                .put(to);
                        }
                        break;
                    }
                }
            }
        }
        match &self.status {
            Some(exit) if self.outputs.iter().all(|output| output.file.is_none()) => {
                Frame::new(Kind::Exit, self.id, &exit.encode()).put(to);
                true
            }
            _ => false,
        }
    }
}

impl Output {
    /// Moves a piece at most.
    fn pump(&mut self, session: u32, to: &mut Outgoing) -> Pumped {
        let Some(file) = &mut self.file else { return Pumped::Ended };
        let most = PIECE.min(self.credit as usize);
        if most == 0 {
            return Pumped::Nothing;
        }
        // In place, behind a header whose length is known afterwards.
        let start = to.len();
        let header = |len| Frame::header(Kind::Data, self.stream, session, len);
        to.extend_from_slice(&header(0));
        let from = to.len();
        to.resize(from + most, 0);
        let count = file.read(to.get_mut(from..).unwrap_or_default());
        let len = *count.as_ref().unwrap_or(&0);
        to.truncate(if len == 0 { start } else { from + len });
        if let Some(place) = to.get_mut(start..from).filter(|_| len > 0) {
            place.copy_from_slice(&header(len));
        }
        self.credit -= len as u32;
        match count {
            Ok(1..) => Pumped::Some,
            Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {
                Pumped::Nothing
            }
            // A terminal that nobody has open any more says so by an error.
            Ok(0) | Err(_) => Pumped::Ended,
        }
    }
}

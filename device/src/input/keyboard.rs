//! AT keyboard with 101 keys (IBM PS/2 Hardware Interface Technical Reference, keyboard section), scan code
//! set 2.
//!
//! NOT modelled: sets 1 and 3 (they are acknowledged; codes stay those of set 2), typematic repeat, per-key
//! settings of set 3.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Keys that wait beside the answers to commands.
const BUFFER: usize = 16;
/// Most bytes a command answers with.
const ANSWER: usize = 4;

const ACK: u8 = 0xfa;

/// Runtime state.
#[derive(Debug)]
pub(super) struct Keyboard {
    /// Answers, which go before keys.
    answers: VecDeque<u8>,
    keys: VecDeque<u8>,
    scanning: bool,
    set: u8,
    leds: u8,
    /// Command whose argument comes next.
    command: Option<u8>,
    last_sent: u8,
}

/// Saved state of the keyboard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct KeyboardState {
    pub answers: Vec<u8>,
    pub keys: Vec<u8>,
    pub scanning: bool,
    pub set: u8,
    pub leds: u8,
    pub command: Option<u8>,
    pub last_sent: u8,
}

impl Keyboard {
    pub(super) fn new() -> Self {
        Self {
            answers: VecDeque::with_capacity(ANSWER),
            keys: VecDeque::with_capacity(BUFFER),
            scanning: true,
            set: 2,
            leds: 0,
            command: None,
            last_sent: 0,
        }
    }

    /// Keys: all bytes or none, so that no sequence is cut.
    pub(super) fn push(&mut self, codes: &[u8]) -> usize {
        if !self.scanning || self.keys.len().saturating_add(codes.len()) > BUFFER {
            return 0;
        }
        self.keys.extend(codes);
        codes.len()
    }

    /// The next byte on the wire.
    pub(super) fn send(&mut self) -> Option<u8> {
        let byte = self.answers.pop_front().or_else(|| self.keys.pop_front())?;
        self.last_sent = byte;
        Some(byte)
    }

    fn answer(&mut self, bytes: &[u8]) {
        // A new command cancels what the last one had to say, so this never grows.
        self.answers.clear();
        self.answers.extend(bytes);
    }

    fn defaults(&mut self) {
        self.keys.clear();
        (self.set, self.command) = (2, None);
    }

    /// A byte from the controller.
    pub(super) fn receive(&mut self, byte: u8) {
        if let Some(command) = self.command.take()
            && byte < 0xed
        {
            return self.argument(command, byte);
        }
        match byte {
            0xed | 0xf0 | 0xf3 | 0xfb..=0xfd => {
                self.command = Some(byte);
                self.answer(&[ACK]);
            }
            0xee => self.answer(&[0xee]),
            0xf2 => self.answer(&[ACK, 0xab, 0x83]),
            0xf4 => {
                self.keys.clear();
                self.scanning = true;
                self.answer(&[ACK]);
            }
            0xf5 | 0xf6 => {
                self.defaults();
                self.scanning = byte == 0xf6;
                self.answer(&[ACK]);
            }
            0xf7..=0xfa => self.answer(&[ACK]),
            0xfe => self.answer(&[self.last_sent]),
            0xff => {
                self.defaults();
                (self.scanning, self.leds) = (true, 0);
                self.answer(&[ACK, 0xaa]);
            }
            _ => self.answer(&[0xfe]),
        }
    }

    fn argument(&mut self, command: u8, byte: u8) {
        match (command, byte) {
            (0xed, leds) => self.leds = leds & 7,
            (0xf0, 0) => return self.answer(&[ACK, self.set]),
            (0xf0, set @ 1..=3) => self.set = set,
            (0xf0, _) => return self.answer(&[0xfe]),
            _ => {} // typematic rate, key settings
        }
        self.answer(&[ACK]);
    }

    pub(super) fn save(&self) -> KeyboardState {
        KeyboardState {
            answers: self.answers.iter().copied().collect(),
            keys: self.keys.iter().copied().collect(),
            scanning: self.scanning,
            set: self.set,
            leds: self.leds,
            command: self.command,
            last_sent: self.last_sent,
        }
    }

    pub(super) fn restore(state: &KeyboardState) -> Option<Self> {
        if state.answers.len() > ANSWER || state.keys.len() > BUFFER {
            return None;
        }
        let mut keyboard = Self {
            scanning: state.scanning,
            set: state.set,
            leds: state.leds,
            command: state.command,
            last_sent: state.last_sent,
            ..Self::new()
        };
        keyboard.answers.extend(&state.answers);
        keyboard.keys.extend(&state.keys);
        Some(keyboard)
    }
}

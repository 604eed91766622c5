//! From stdin to the guest's line.

use std::io::{self, Read};
use std::sync::Arc;

use guest::{LineDecoder, encode_input, end_of_input};
use parking_lot::{Condvar, Mutex};
use server::Hub;

use super::Style;
use crate::keys::{Key, Keys};

const HELP: &str = "\r\nCtrl-A x ends the machine, Ctrl-A Ctrl-A sends Ctrl-A, Ctrl-A h shows this.\r\n";

/// What is known of the other side.
#[derive(Default)]
struct State {
    /// The port may have room.
    room: bool,
    /// Bytes that the agent in the guest still takes.
    allowed: usize,
}

pub(super) struct Input {
    style: Style,
    /// Others who type.
    hub: Arc<Hub>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Input {
    pub fn new(style: Style, hub: Arc<Hub>) -> Self {
        Self { style, hub, state: Mutex::default(), changed: Condvar::new() }
    }

    /// The port has room.
    pub fn room(&self) {
        self.state.lock().room = true;
        self.changed.notify_all();
        self.hub.has_room();
    }

    /// The agent takes another window.
    pub fn grant(&self) {
        self.state.lock().allowed = LineDecoder::WINDOW;
        self.changed.notify_all();
    }

    /// Reads stdin to its end.
    pub fn pump(&self, push: &dyn Fn(&[u8]) -> usize, quit: &dyn Fn(), help: &dyn Fn(&str)) {
        let mut keys = Keys::default();
        let mut buffer = [0; 4096];
        loop {
            if self.has_agent() {
                self.wait_for_grant();
            }
            let data = match io::stdin().read(&mut buffer) {
                Ok(n) => buffer.get(..n).unwrap_or_default(),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => &[], // a closed or broken stdin has ended
            };
            let ended = data.is_empty();
            match self.style {
                Style::Plain { keys: true } => {
                    let mut typed = Vec::new();
                    for &byte in data {
                        match keys.press(byte) {
                            Key::Send(byte) => typed.push(byte),
                            Key::Quit => return quit(),
                            Key::Help => help(HELP),
                            Key::Detach | Key::Nothing => {}
                        }
                    }
                    self.send(&typed, push);
                }
                Style::Plain { keys: false } => self.send(data, push),
                Style::Command | Style::Shell if ended => self.send(&end_of_input(), push),
                Style::Command | Style::Shell => self.send(&encode_input(data), push),
            }
            if ended {
                return;
            }
        }
    }

    fn has_agent(&self) -> bool {
        matches!(self.style, Style::Command | Style::Shell)
    }

    fn wait_for_grant(&self) -> usize {
        let mut state = self.state.lock();
        while state.allowed == 0 {
            self.changed.wait(&mut state);
        }
        state.allowed
    }

    /// Hands everything to the port, as fast as the port and the agent take it.
    fn send(&self, mut data: &[u8], push: &dyn Fn(&[u8]) -> usize) {
        while !data.is_empty() {
            let most = if self.has_agent() { self.wait_for_grant().min(data.len()) } else { data.len() };
            // Before it is sent: the agent may have taken it, and granted another window, before `push` returns.
            let mut state = self.state.lock();
            state.allowed = state.allowed.saturating_sub(most);
            state.room = false;
            drop(state);
            let taken = push(data.get(..most).unwrap_or_default()).min(most);
            data = data.get(taken..).unwrap_or_default();
            if taken < most {
                let mut state = self.state.lock();
                state.allowed = state.allowed.saturating_add(most - taken);
                while !state.room {
                    self.changed.wait(&mut state);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A port of 16 characters that is emptied by another thread.
    #[test]
    fn a_small_port_gets_everything_in_order() {
        let input = Arc::new(Input::new(Style::Plain { keys: false }, Arc::default()));
        let port = Arc::new(Mutex::new(Vec::new()));
        let (sender, far) = (Arc::clone(&input), Arc::clone(&port));
        let data: Vec<u8> = (0..1000u32).map(|i| i as u8).collect();
        let sent = data.clone();
        let thread = std::thread::spawn(move || {
            sender.send(&sent, &|bytes| {
                let mut port = far.lock();
                let n = bytes.len().min(16 - port.len());
                port.extend_from_slice(&bytes[..n]);
                n
            });
        });
        let mut got = Vec::new();
        while got.len() < data.len() {
            got.append(&mut port.lock());
            input.room();
            std::thread::yield_now();
        }
        thread.join().unwrap();
        assert_eq!(got, data);
    }

    #[test]
    fn no_more_is_sent_than_the_agent_granted() {
        let input = Arc::new(Input::new(Style::Command, Arc::default()));
        let port = Arc::new(Mutex::new(0));
        let (sender, far) = (Arc::clone(&input), Arc::clone(&port));
        let thread = std::thread::spawn(move || {
            sender.send(&[0; 3 * LineDecoder::WINDOW], &|bytes| {
                *far.lock() += bytes.len();
                bytes.len()
            });
        });
        for round in 1..=3 {
            input.grant();
            while *port.lock() < round * LineDecoder::WINDOW {
                std::thread::yield_now();
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
            assert_eq!(*port.lock(), round * LineDecoder::WINDOW);
        }
        thread.join().unwrap();
    }

    /// A fast port and a fast agent: the next window is granted before `push` returns.
    #[test]
    fn a_grant_that_comes_while_data_is_handed_over_counts() {
        let input = Input::new(Style::Command, Arc::default());
        let mut sent = 0;
        let port = Mutex::new(&mut sent);
        input.grant();
        input.send(&[0; 3 * LineDecoder::WINDOW], &|bytes| {
            **port.lock() += bytes.len();
            input.grant();
            bytes.len()
        });
        assert_eq!(sent, 3 * LineDecoder::WINDOW);
    }
}

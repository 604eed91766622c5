//! The escape key: Ctrl-A and a letter.

const ESCAPE: u8 = 1; // Ctrl-A

/// What was typed so far.
#[derive(Debug, Default)]
pub struct Keys {
    escape: bool,
}

/// What a key means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// It is the guest's.
    Send(u8),
    /// The user wants to end the machine.
    Quit,
    /// The user wants to leave the machine to itself.
    Detach,
    /// The user wants to know the keys.
    Help,
    /// The next one will tell.
    Nothing,
}

impl Keys {
    /// The meaning of the next character.
    pub fn press(&mut self, byte: u8) -> Key {
        if !std::mem::take(&mut self.escape) {
            self.escape = byte == ESCAPE;
            return if self.escape { Key::Nothing } else { Key::Send(byte) };
        }
        match byte {
            ESCAPE => Key::Send(ESCAPE),
            b'x' | b'X' | 24 => Key::Quit, // 24: Ctrl held down
            b'd' | b'D' | 4 => Key::Detach,
            b'h' | b'H' | b'?' => Key::Help,
            _ => Key::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_escape_key_is_ours_and_the_rest_the_guests() {
        let mut keys = Keys::default();
        let meaning: Vec<_> = b"a\x01\x01b\x01h\x01zc\x01d\x01x".iter().map(|&b| keys.press(b)).collect();
        use Key::*;
        let expected = [
            Send(b'a'),
            Nothing,
            Send(1),
            Send(b'b'),
            Nothing,
            Help,
            Nothing,
            Nothing,
            Send(b'c'),
            Nothing,
            Detach,
            Nothing,
            Quit,
        ];
        assert_eq!(meaning, expected);
    }
}

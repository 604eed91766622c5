//! The host's half of the line to a command in the guest; the guest's half and the form of what goes over the
//! line are in `agent/agent.rs`.

const DLE: u8 = 0x10;

/// What the line brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LineEvent<'a> {
    /// What the guest says beside the command: kernel messages, init.
    Console(&'a [u8]),
    /// The command's standard output.
    Stdout(&'a [u8]),
    /// The command's standard error.
    Stderr(&'a [u8]),
    /// The guest takes [`LineDecoder::WINDOW`] more bytes, in addition to none.
    Grant,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Channel {
    #[default]
    Console,
    Stdout,
    Stderr,
}

/// Takes the line's bytes apart, in whatever pieces they come.
#[derive(Debug, Default)]
pub struct LineDecoder {
    channel: Channel,
    escape: bool,
}

impl LineDecoder {
    /// Bytes, as sent, that one [`LineEvent::Grant`] allows.
    pub const WINDOW: usize = 2048;

    /// Calls `sink` for what `bytes` hold, in order.
    pub fn decode(&mut self, bytes: &[u8], mut sink: impl FnMut(LineEvent<'_>)) {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.escape {
                let (head, tail) = rest.split_at(1);
                self.escape = false;
                match head {
                    b"o" => self.channel = Channel::Stdout,
                    b"e" => self.channel = Channel::Stderr,
                    b"g" => sink(LineEvent::Grant),
                    &[DLE] => self.data(head, &mut sink),
                    // No agent sends this: a kernel message that held a DLE.
                    other => {
                        self.data(&[DLE], &mut sink);
                        self.data(other, &mut sink);
                    }
                }
                rest = tail;
                continue;
            }
            let plain = rest.iter().position(|&b| b == DLE).unwrap_or(rest.len());
            let (data, tail) = rest.split_at(plain);
            if !data.is_empty() {
                self.data(data, &mut sink);
            }
            if let Some(tail) = tail.strip_prefix(&[DLE]) {
                self.escape = true;
                rest = tail;
            } else {
                rest = tail;
            }
        }
    }

    fn data(&self, data: &[u8], sink: &mut impl FnMut(LineEvent<'_>)) {
        sink(match self.channel {
            Channel::Console => LineEvent::Console(data),
            Channel::Stdout => LineEvent::Stdout(data),
            Channel::Stderr => LineEvent::Stderr(data),
        });
    }
}

/// Input for the command as it goes over the line: at most twice as long.
pub fn encode_input(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len() + 2);
    for &byte in data {
        if byte == DLE {
            out.push(DLE);
        }
        out.push(byte);
    }
    out
}

/// What says over the line that the input has ended.
pub fn end_of_input() -> [u8; 2] {
    [DLE, b'.']
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Streams = (Vec<u8>, Vec<u8>, Vec<u8>, usize);

    fn collect(pieces: &[&[u8]]) -> Streams {
        let mut decoder = LineDecoder::default();
        let mut streams = Streams::default();
        for piece in pieces {
            decoder.decode(piece, |event| match event {
                LineEvent::Console(d) => streams.0.extend(d),
                LineEvent::Stdout(d) => streams.1.extend(d),
                LineEvent::Stderr(d) => streams.2.extend(d),
                LineEvent::Grant => streams.3 += 1,
            });
        }
        streams
    }

    #[test]
    fn channels_are_kept_apart() {
        let line = b"boot\r\n\x10g\x10oout\x10\x10\x10eerr\x10oput";
        let expected: Streams = (b"boot\r\n".into(), b"out\x10put".into(), b"err".into(), 1);
        assert_eq!(collect(&[line]), expected);
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(line in prop::collection::vec(prop_oneof![Just(0x10u8), Just(b'o'), Just(b'e'), any::<u8>()], 0..60), cut in 0usize..60) {
            let (a, b) = line.split_at(cut.min(line.len()));
            prop_assert_eq!(collect(&[a, b]), collect(&[&line]));
        }

        #[test]
        fn encoded_data_survives(data in prop::collection::vec(prop_oneof![Just(0x10u8), any::<u8>()], 0..60)) {
            let line = [b"\x10o".to_vec(), encode_input(&data)].concat();
            prop_assert_eq!(collect(&[&line]).1, data);
        }
    }
}

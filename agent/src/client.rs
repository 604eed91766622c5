//! A client of a machine: its end of a connection that [`serve`](crate::serve) has the other end of.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::protocol::{Decoder, Exit, Frame, Garbage, Item, Kind, PIECE, Start, WINDOW, Window, stream};

/// A program in a guest.
pub struct Client {
    connection: UnixStream,
    decoder: Decoder,
    input: Input,
    /// Bytes of each stream that were taken and not yet made up for.
    taken: [u32; 3],
    exit: Option<Exit>,
}

/// What goes to the program. Clones are the same.
#[derive(Clone)]
pub struct Input(Arc<Shared>);

struct Shared {
    connection: Mutex<UnixStream>,
    credit: Mutex<Credit>,
    changed: Condvar,
}

struct Credit {
    bytes: u32,
    /// Nobody takes anything any more.
    over: bool,
}

/// What came of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output<'a> {
    /// Of which stream.
    pub stream: u8,
    /// Nothing at the stream's end.
    pub data: &'a [u8],
}

fn wrong() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the machine breaks the protocol of sessions")
}

impl Client {
    /// Starts a program. `early` is what the machine has sent already.
    ///
    /// # Errors
    /// The command is too long, or the machine is gone.
    pub fn start(connection: UnixStream, early: &[u8], start: &Start) -> io::Result<Self> {
        let long = || io::Error::new(io::ErrorKind::InvalidInput, crate::AgentError::Long.to_string());
        let payload = start.encode().ok_or_else(long)?;
        let input = Input(Arc::new(Shared {
            connection: Mutex::new(connection.try_clone()?),
            credit: Mutex::new(Credit { bytes: WINDOW, over: false }),
            changed: Condvar::new(),
        }));
        input.send(&Frame::new(Kind::Start, 0, &payload))?;
        let mut decoder = Decoder::synced();
        decoder.put(early);
        Ok(Self { connection, decoder, input, taken: [0; 3], exit: None })
    }

    /// What goes to it.
    pub fn input(&self) -> Input {
        self.input.clone()
    }

    /// Takes all output to the program's end; how it ended.
    ///
    /// # Errors
    /// The machine is gone, or `sink` fails.
    pub fn run(mut self, mut sink: impl FnMut(Output<'_>) -> io::Result<()>) -> io::Result<Exit> {
        // It may have been read already, with the last of the output.
        while self.exit.is_none() && self.step(&mut sink)? {}
        self.exit.clone().ok_or_else(wrong)
    }

    /// The program's standard output as something to read from; `errors` gets the other one.
    pub fn reader<'a>(&'a mut self, errors: &'a mut dyn FnMut(&[u8])) -> impl Read + 'a {
        Reader { client: self, errors, data: Vec::new(), at: 0, ended: false }
    }

    /// Takes what there is; false at the program's end.
    fn step(&mut self, mut sink: impl FnMut(Output<'_>) -> io::Result<()>) -> io::Result<bool> {
        loop {
            match self.decoder.advance() {
                Ok(Some(Item::Frame(Frame { kind: Kind::Data, stream, payload: data, .. }))) => {
                    sink(Output { stream, data })?;
                    let Some(taken) = self.taken.get_mut(usize::from(stream)) else { return Err(wrong()) };
                    *taken = taken.saturating_add(data.len() as u32);
                    if *taken >= WINDOW / 4 {
                        let number = std::mem::take(taken).to_le_bytes();
                        // At the end it is not taken any more.
                        let frame = Frame { kind: Kind::Credit, stream, session: 0, payload: &number };
                        let _ = self.input.send(&frame);
                    }
                    return Ok(true);
                }
                Ok(Some(Item::Frame(Frame { kind: Kind::End, stream, .. }))) => {
                    sink(Output { stream, data: &[] })?;
                    return Ok(true);
                }
                Ok(Some(Item::Frame(frame))) if frame.kind == Kind::Credit => {
                    self.input.grant(frame.number().ok_or_else(wrong)?);
                }
                Ok(Some(Item::Frame(frame))) if frame.kind == Kind::Exit => {
                    self.exit = Some(Exit::decode(frame.payload).map_err(|_| wrong())?);
                    self.input.close();
                    return Ok(false);
                }
                Ok(None) => {
                    let count = match self.connection.read(self.decoder.room()) {
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                        other => other?,
                    };
                    if count == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    self.decoder.filled(count);
                }
                Ok(Some(_)) | Err(Garbage) => return Err(wrong()),
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.input.close();
    }
}

impl Input {
    fn send(&self, frame: &Frame<'_>) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(frame.payload.len() + 16);
        frame.put(&mut bytes);
        self.0.connection.lock().write_all(&bytes)
    }

    fn grant(&self, more: u32) {
        let mut credit = self.0.credit.lock();
        credit.bytes = credit.bytes.saturating_add(more);
        self.0.changed.notify_all();
    }

    fn close(&self) {
        self.0.credit.lock().over = true;
        self.0.changed.notify_all();
    }

    /// There is no more input.
    ///
    /// # Errors
    /// The machine is gone.
    pub fn end(&self) -> io::Result<()> {
        self.send(&Frame { kind: Kind::End, stream: stream::INPUT, session: 0, payload: &[] })
    }

    /// A signal for the program, by its number.
    ///
    /// # Errors
    /// The machine is gone.
    pub fn signal(&self, number: i32) -> io::Result<()> {
        self.send(&Frame::new(Kind::Signal, 0, &number.to_le_bytes()))
    }

    /// Its terminal has another size.
    ///
    /// # Errors
    /// The machine is gone.
    pub fn resize(&self, window: Window) -> io::Result<()> {
        self.send(&Frame::new(Kind::Resize, 0, &window.encode()))
    }
}

impl Write for Input {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut credit = self.0.credit.lock();
        while credit.bytes == 0 && !credit.over {
            self.0.changed.wait(&mut credit);
        }
        if credit.over {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let count = data.len().min(credit.bytes as usize).min(PIECE);
        credit.bytes -= count as u32;
        drop(credit);
        let payload = data.get(..count).unwrap_or_default();
        self.send(&Frame { kind: Kind::Data, stream: stream::INPUT, session: 0, payload })?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Reader<'a> {
    client: &'a mut Client,
    errors: &'a mut dyn FnMut(&[u8]),
    data: Vec<u8>,
    at: usize,
    ended: bool,
}

impl Read for Reader<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.at >= self.data.len() && !self.ended {
            let (data, errors) = (&mut self.data, &mut self.errors);
            data.clear();
            self.at = 0;
            let mut end = false;
            let more = self.client.step(|output| {
                match output.stream {
                    stream::OUTPUT if output.data.is_empty() => end = true,
                    stream::OUTPUT => data.extend_from_slice(output.data),
                    _ => errors(output.data),
                }
                Ok(())
            })?;
            self.ended = end || !more;
        }
        let from = self.data.get(self.at..).unwrap_or_default();
        let count = from.len().min(to.len());
        if let (Some(from), Some(to)) = (from.get(..count), to.get_mut(..count)) {
            to.copy_from_slice(from);
        }
        self.at += count;
        Ok(count)
    }
}

//! A client's connection becomes a session. Its frames are the guest's, with a number of its own for the session; what
//! either may send is checked here.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Event, Host, Session};
use crate::AgentError;
use crate::protocol::{Decoder, Exit, Frame, Item, Kind, PIECE, Start};

/// How long a client may take to say what it wants, and to take what it gets when all is over.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a client gets for a session that there never was.
const STATUS: u8 = 125;

/// Serves a client to its session's end, on this thread and another one. `early` is what it has sent already, `wait` how
/// long an agent is waited for.
///
/// # Errors
/// The client is gone, or the host has no thread.
pub fn serve(host: &Arc<Host>, client: UnixStream, early: &[u8], wait: Duration) -> io::Result<()> {
    client.set_nonblocking(false)?;
    client.set_write_timeout(None)?;
    let mut decoder = Decoder::synced();
    decoder.put(early);
    let session = match first(&client, &mut decoder) {
        Ok(start) => host.start(&start, wait),
        Err(e) => Err(e),
    };
    let session = match session {
        Ok(session) => Arc::new(session),
        Err(error) => return say(&client, &Event::Exit(Exit::Failed(STATUS, error.to_string()))),
    };
    let (theirs, writer) = (session.clone(), client.try_clone()?);
    let thread = jail::spawn(jail::Kind::Client, "exec", move || answer(&theirs, &writer))?;
    listen(&session, &client, &mut decoder);
    session.close();
    // It ends: its session is over, and a client that takes nothing is sent away.
    let _ = client.shutdown(Shutdown::Both);
    let _ = thread.join();
    Ok(())
}

/// What the client wants.
fn first(mut client: &UnixStream, decoder: &mut Decoder) -> Result<Start, AgentError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match decoder.advance() {
            Ok(Some(Item::Frame(frame))) if frame.kind == Kind::Start => {
                return Start::decode(frame.payload).map_err(|_| AgentError::Protocol);
            }
            Ok(None) => {}
            _ => return Err(AgentError::Protocol),
        }
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let read = client.set_read_timeout(Some(left)).and_then(|()| client.read(decoder.room()));
        match read {
            Ok(count @ 1..) => decoder.filled(count),
            _ => return Err(AgentError::Protocol),
        }
    }
}

/// Passes on what the client says, until it is gone.
fn listen(session: &Session, mut client: &UnixStream, decoder: &mut Decoder) {
    if client.set_read_timeout(None).is_err() {
        return;
    }
    loop {
        loop {
            match decoder.advance() {
                Ok(Some(Item::Frame(frame))) => {
                    if session.send(&frame).is_err() {
                        return;
                    }
                }
                Ok(None) => break,
                _ => return,
            }
        }
        match client.read(decoder.room()) {
            Ok(0) => return,
            Ok(count) => decoder.filled(count),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// Passes on what comes of the session, until it is over.
fn answer(session: &Session, client: &UnixStream) {
    while let Some(event) = session.next(None) {
        let last = matches!(event, Event::Exit(_) | Event::Lost);
        if last {
            let _ = client.set_write_timeout(Some(PATIENCE));
        }
        if say(client, &event).is_err() || last {
            break;
        }
    }
    let _ = client.shutdown(Shutdown::Both);
}

fn say(mut client: &UnixStream, event: &Event) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(PIECE);
    let put = |bytes: &mut Vec<u8>, kind, stream, payload: &[u8]| {
        Frame { kind, stream, session: 0, payload }.put(bytes);
    };
    match event {
        Event::Data(stream, data) => put(&mut bytes, Kind::Data, *stream, data),
        Event::End(stream) => put(&mut bytes, Kind::End, *stream, &[]),
        Event::Credit(more) => put(&mut bytes, Kind::Credit, 0, &more.to_le_bytes()),
        Event::Exit(exit) => put(&mut bytes, Kind::Exit, 0, &exit.encode()),
        Event::Lost => {
            let lost = Exit::Failed(STATUS, AgentError::Gone.to_string());
            put(&mut bytes, Kind::Exit, 0, &lost.encode());
        }
    }
    client.write_all(&bytes)
}

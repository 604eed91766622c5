//! From the guest's line to stdout. The port delivers single characters on the thread of a vCPU; here they are
//! collected for a moment and written together by a thread of their own. The first after a silence go at once: somebody may wait.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use guest::{LineDecoder, LineEvent};
use parking_lot::{Condvar, Mutex};
use server::Hub;

use super::Style;

/// The guest waits when its reader is so far behind.
const LIMIT: usize = 1 << 20;
/// How long characters are collected: too short to be seen, long enough for hundreds of them.
const COLLECT: Duration = Duration::from_millis(1);
/// Nothing was written for so long: what comes next does not wait.
const SILENCE: Duration = Duration::from_millis(20);

#[derive(Default)]
struct Queue {
    data: Vec<u8>,
    closed: bool,
    /// Somebody was offered less room than he wanted.
    wanted: bool,
    room: Option<Box<dyn Fn() + Send>>,
}

#[derive(Default)]
pub(super) struct Output {
    queue: Mutex<Queue>,
    filled: Condvar,
    emptied: Condvar,
}

impl Output {
    /// Takes all bytes, after a wait if there is no room for them.
    pub fn push(&self, bytes: &[u8]) {
        let mut queue = self.queue.lock();
        while queue.data.len() >= LIMIT && !queue.closed {
            self.emptied.wait(&mut queue);
        }
        if queue.data.is_empty() {
            self.filled.notify_one();
        }
        queue.data.extend_from_slice(bytes);
    }

    /// Takes as many bytes as there is room for. If that is not all, what was given to [`on_room`](Self::on_room) is
    /// called later.
    pub fn offer(&self, bytes: &[u8]) -> usize {
        let mut queue = self.queue.lock();
        let room = if queue.closed { bytes.len() } else { LIMIT.saturating_sub(queue.data.len()) };
        let (now, later) = bytes.split_at(room.min(bytes.len()));
        if queue.data.is_empty() {
            self.filled.notify_one();
        }
        queue.data.extend_from_slice(now);
        queue.wanted |= !later.is_empty();
        now.len()
    }

    /// What to call when there is room again.
    pub fn on_room(&self, call: impl Fn() + Send + 'static) {
        self.queue.lock().room = Some(Box::new(call));
    }

    /// No more will come.
    pub fn close(&self) {
        self.queue.lock().closed = true;
        self.filled.notify_all();
        self.emptied.notify_all();
    }

    /// Writes what comes until the end. The hub's clients get all of it.
    pub fn drain(&self, style: Style, hub: &Hub, grant: &dyn Fn(), broken: impl FnOnce()) {
        let mut broken = Some(broken);
        let mut decoder = LineDecoder::default();
        let mut data = Vec::new();
        let mut last: Option<Instant> = None;
        while self.take(&mut data, last) {
            let result = match style {
                Style::Plain { .. } => {
                    hub.push(&data);
                    write(io::stdout(), &data)
                }
                Style::Command | Style::Shell => decode(&mut decoder, &data, style, hub, grant),
            };
            // From here on the output goes nowhere; the guest must not hang on that.
            if let Err(e) = result
                && let Some(broken) = broken.take()
            {
                tracing::debug!("the console's reader is gone: {e}");
                broken();
            }
            last = Some(Instant::now());
        }
    }

    /// What there is, taken together with what comes soon if the `last` was not long ago.
    fn take(&self, data: &mut Vec<u8>, last: Option<Instant>) -> bool {
        let mut queue = self.queue.lock();
        while queue.data.is_empty() && !queue.closed {
            self.filled.wait(&mut queue);
        }
        if !queue.closed && last.is_some_and(|last| last.elapsed() < SILENCE) {
            drop(queue);
            std::thread::sleep(COLLECT);
            queue = self.queue.lock();
        }
        data.clear();
        std::mem::swap(data, &mut queue.data);
        self.emptied.notify_all();
        if std::mem::take(&mut queue.wanted)
            && let Some(room) = &queue.room
        {
            room();
        }
        !data.is_empty()
    }
}

fn decode(
    decoder: &mut LineDecoder,
    data: &[u8],
    style: Style,
    hub: &Hub,
    grant: &dyn Fn(),
) -> io::Result<()> {
    let mut result = Ok(());
    decoder.decode(data, |event| {
        if let LineEvent::Stdout(d) | LineEvent::Console(d) | LineEvent::Stderr(d) = event {
            hub.push(d);
        }
        let written = match (event, style) {
            (LineEvent::Grant, _) => {
                grant();
                Ok(())
            }
            (LineEvent::Stdout(d), _) => write(io::stdout(), d),
            (LineEvent::Console(d) | LineEvent::Stderr(d), Style::Shell) => write(io::stdout(), d),
            // A lost stderr is no reason to end the command.
            (LineEvent::Console(d) | LineEvent::Stderr(d), _) => {
                let _ = write(io::stderr(), d);
                Ok(())
            }
        };
        if result.is_ok() {
            result = written;
        }
    });
    result
}

fn write(mut to: impl Write, data: &[u8]) -> io::Result<()> {
    to.write_all(data)?;
    to.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_waits_for_a_slow_reader_and_loses_nothing() {
        let output = Output::default();
        let mut got = 0;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..3 * LIMIT / 1024 {
                    output.push(&[7; 1024]);
                }
                output.close();
            });
            let mut data = Vec::new();
            while output.take(&mut data, None) {
                assert!(data.len() <= LIMIT + 1024);
                got += data.len();
            }
        });
        assert_eq!(got, 3 * LIMIT);
    }

    #[test]
    fn what_follows_is_collected_and_the_first_is_not() {
        let output = Output::default();
        let mut data = Vec::new();
        let mut took = |last| {
            output.push(b"a");
            let start = Instant::now();
            assert!(output.take(&mut data, last));
            start.elapsed()
        };
        assert!(took(Some(Instant::now())) >= COLLECT);
        let before = Instant::now().checked_sub(SILENCE);
        assert!((0..100).any(|_| took(None) < COLLECT) && (0..100).any(|_| took(before) < COLLECT));
    }

    #[test]
    fn who_does_not_wait_is_told_of_room() {
        let (output, told) = (Output::default(), std::sync::Arc::new(Mutex::new(0)));
        let tell = told.clone();
        output.on_room(move || *tell.lock() += 1);
        assert_eq!(output.offer(&vec![7; LIMIT - 1]), LIMIT - 1);
        assert_eq!((output.offer(b"ab"), output.offer(b"b")), (1, 0));
        let mut data = Vec::new();
        assert!(output.take(&mut data, None));
        assert_eq!((data.len(), data.last(), *told.lock()), (LIMIT, Some(&b'a'), 1));
        assert_eq!(output.offer(b"b"), 1);
        assert!(output.take(&mut data, None));
        assert_eq!((data.len(), *told.lock()), (1, 1));
    }
}

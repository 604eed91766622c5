//! The agent in a real guest: programs and their streams, trees, requests, and what happens when one side goes away.
#![allow(clippy::unwrap_used)] // how a test fails

mod exec;
mod trees;

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use agent::Client;
use agent::protocol::{Exit, Start, stream};
use guest::{Cache, Cancel, Catalogue};
use machine::{Backends, BoardKind, EngineKind, Machine, MachineSpec, NullBackend, Size, engine};

/// How long a guest under load may take to its agent.
const PATIENCE: Duration = Duration::from_secs(60);

/// The default guest, which runs.
struct Guest(Arc<Machine>);

/// What a program left.
#[derive(Debug)]
struct Done {
    status: u8,
    output: Vec<u8>,
    errors: String,
}

impl Guest {
    fn boot(board: BoardKind) -> Self {
        let catalogue = Catalogue::builtin().unwrap();
        let entry = catalogue.get(&catalogue.default).unwrap();
        let built = Cache::of_user().unwrap().get_or_build(entry, &Cancel::default(), &mut |_| ()).unwrap();
        let spec = MachineSpec {
            kernel: built.kernel,
            initrd: Some(built.initrd),
            cmdline: entry.append.clone(),
            memory: Size::mib(512),
            board,
            ..MachineSpec::default()
        };
        let engine = engine::choose(EngineKind::Auto).unwrap().engine;
        let null = Arc::new(NullBackend);
        let backends = Backends { console: null.clone(), terminal: null.clone(), debug: null };
        let machine = Machine::new(spec, engine.as_ref(), backends).unwrap();
        machine.start().unwrap();
        Self(Arc::new(machine))
    }

    /// A connection as a client has it.
    fn connect(&self) -> UnixStream {
        let (client, server) = UnixStream::pair().unwrap();
        let host = self.0.agent().clone();
        std::thread::spawn(move || agent::serve(&host, server, &[], PATIENCE));
        client
    }

    fn start(&self, start: &Start) -> Client {
        Client::start(self.connect(), &[], start).unwrap()
    }

    fn run(&self, start: &Start) -> Done {
        finish(self.start(start))
    }

    fn sh(&self, script: &str) -> Done {
        self.run(&sh(script))
    }
}

fn sh(script: &str) -> Start {
    words(&["sh", "-c", script])
}

fn words(argv: &[&str]) -> Start {
    Start { argv: argv.iter().map(|word| word.as_bytes().to_vec()).collect(), ..Start::default() }
}

fn finish(client: Client) -> Done {
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let exit = client.run(|piece| {
        match piece.stream {
            stream::OUTPUT => output.extend_from_slice(piece.data),
            _ => errors.extend_from_slice(piece.data),
        }
        Ok(())
    });
    let exit = exit.unwrap();
    let mut errors = String::from_utf8(errors).unwrap();
    if let Exit::Failed(_, why) = &exit {
        errors.push_str(why);
    }
    Done { status: exit.status(), output, errors }
}

impl Done {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.output).unwrap()
    }
}

/// Bytes of every value.
fn bytes(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

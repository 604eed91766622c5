//! The guest's line at the user's end: stdin and stdout, whatever they are. The line is the serial port or a virtio
//! console; in the second case what comes by the serial port is shown as well.

mod hvc;
mod input;
mod output;

use std::sync::Arc;
use std::thread::JoinHandle;

use device::CharBackend;
use jail::Kind;
use machine::{ConsoleKind, ConsoleSize, NullBackend, PortBackend};
use server::Hub;

use hvc::Hvc;
use input::Input;
use output::Output;

/// What the line carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Characters, as they are; with a terminal on stdin, the escape key is ours.
    Plain {
        /// stdin is a terminal.
        keys: bool,
    },
    /// The default guest's agent speaks: streams of a command.
    Command,
    /// The default guest's agent speaks, and what it and the kernel say is all the console's.
    Shell,
}

/// The user's end. The machine has the other: it writes to [`serial`](Self::serial) and [`terminal`](Self::terminal) and
/// takes input through the function given to [`connect`](Self::connect).
pub struct Console {
    input: Arc<Input>,
    /// The line's, and the serial port's beside it.
    outputs: Vec<Arc<Output>>,
    threads: Vec<JoinHandle<()>>,
    hvc: Option<Arc<Hvc>>,
    hub: Arc<Hub>,
}

struct Serial {
    input: Arc<Input>,
    output: Arc<Output>,
}

impl CharBackend for Serial {
    fn write(&self, bytes: &[u8]) {
        self.output.push(bytes);
    }

    fn room(&self) {
        self.input.room();
    }
}

impl Console {
    /// A console whose output starts to flow, to the clients of `hub` as well. `raw`: the user's terminal is the guest's.
    /// `broken` is called if nobody reads the output any more.
    pub fn new(
        style: Style,
        kind: ConsoleKind,
        raw: bool,
        hub: &Arc<Hub>,
        broken: impl Fn() + Clone + Send + 'static,
    ) -> std::io::Result<Self> {
        let (input, line) = (Arc::new(Input::new(style, hub.clone())), Arc::new(Output::default()));
        let virtio = kind == ConsoleKind::Virtio;
        let hvc = virtio.then(|| Hvc::new(input.clone(), line.clone(), raw));
        let mut console = Self { input, outputs: Vec::new(), threads: Vec::new(), hvc, hub: hub.clone() };
        let granted = console.input.clone();
        console.drain(line, style, move || granted.grant(), broken.clone())?;
        if virtio {
            // No agent speaks there: it is shown as what the guest says beside a command.
            console.drain(Arc::default(), style, || {}, broken)?;
        }
        Ok(console)
    }

    fn drain(
        &mut self,
        output: Arc<Output>,
        style: Style,
        grant: impl Fn() + Send + 'static,
        broken: impl Fn() + Send + 'static,
    ) -> std::io::Result<()> {
        self.outputs.push(output.clone());
        let hub = self.hub.clone();
        let drain = move || output.drain(style, &hub, &grant, broken);
        self.threads.push(jail::spawn(Kind::Console, "console-out", drain)?);
        Ok(())
    }

    /// What the machine's serial port writes to.
    pub fn serial(&self) -> Arc<dyn CharBackend> {
        let output = self.outputs.last().map(Arc::clone).unwrap_or_default();
        Arc::new(Serial { input: self.input.clone(), output })
    }

    /// The virtio console's terminal.
    pub fn terminal(&self) -> Arc<dyn PortBackend> {
        match &self.hvc {
            Some(hvc) => hvc.clone(),
            None => Arc::new(NullBackend),
        }
    }

    /// Has the guest told that the user's terminal has another size, as far as it can be told.
    pub fn resizer(&self) -> impl Fn() + Send + 'static {
        let hvc = self.hvc.clone();
        move || hvc.iter().for_each(|hvc| hvc.ring())
    }

    /// Has the hub's clients type as well, where the line carries characters. `serial` as for [`connect`](Self::connect).
    pub fn open_to_clients(&self, style: Style, serial: impl Fn(&[u8]) -> usize + Send + Sync + 'static) {
        if matches!(style, Style::Plain { .. }) {
            self.hub.set_input(Some(Arc::new(self.push(serial))));
            if let Some(hvc) = self.hvc.clone().filter(|hvc| hvc.is_the_clients()) {
                let told = move |rows, columns| hvc.resize(ConsoleSize { columns, rows });
                self.hub.set_resize(Some(Arc::new(told)));
            }
        }
    }

    /// There is a machine that takes input now.
    pub fn has_room(&self) {
        self.input.room();
    }

    /// Input for the line.
    fn push<F: Fn(&[u8]) -> usize>(&self, serial: F) -> impl Fn(&[u8]) -> usize + use<F> {
        let hvc = self.hvc.clone();
        move |bytes| match &hvc {
            Some(hvc) => hvc.push(bytes),
            None => serial(bytes),
        }
    }

    /// Starts to read stdin for the machine: `serial` offers bytes to the serial port and says how many it
    /// took; `quit` is called when the user asks to end the machine.
    pub fn connect(
        &self,
        serial: impl Fn(&[u8]) -> usize + Send + 'static,
        quit: impl Fn() + Send + 'static,
    ) -> std::io::Result<()> {
        let (input, output) = (self.input.clone(), self.outputs.first().cloned());
        let help = move |text: &str| output.iter().for_each(|output| output.push(text.as_bytes()));
        let push = self.push(serial);
        jail::spawn(Kind::Console, "console-in", move || input.pump(&push, &quit, &help))?;
        Ok(())
    }

    /// Waits until everything the guest has written is out.
    pub fn finish(self) {
        self.outputs.iter().for_each(|output| output.close());
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

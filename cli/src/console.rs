//! The guest's serial line at the user's end: stdin and stdout, whatever they are.

mod input;
mod output;

use std::sync::Arc;

use device::CharBackend;

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

/// One end of the line. The machine has the other: it writes to [`backend`](Self::backend) and takes input
/// through the function given to [`connect`](Self::connect).
pub struct Console {
    input: Arc<Input>,
    output: Arc<Output>,
    thread: Option<std::thread::JoinHandle<()>>,
}

struct Backend {
    input: Arc<Input>,
    output: Arc<Output>,
}

impl CharBackend for Backend {
    fn write(&self, bytes: &[u8]) {
        self.output.push(bytes);
    }

    fn room(&self) {
        self.input.room();
    }
}

impl Console {
    /// A console whose output starts to flow. `broken` is called once if nobody reads it any more.
    pub fn new(style: Style, broken: impl FnOnce() + Send + 'static) -> std::io::Result<Self> {
        let (input, output) = (Arc::new(Input::new(style)), Arc::new(Output::default()));
        let (granted, drained) = (Arc::clone(&input), Arc::clone(&output));
        let thread = std::thread::Builder::new().name("console-out".into()).spawn(move || {
            drained.drain(style, &|| granted.grant(), broken);
        })?;
        Ok(Self { input, output, thread: Some(thread) })
    }

    /// What the machine's serial port writes to.
    pub fn backend(&self) -> Arc<dyn CharBackend> {
        Arc::new(Backend { input: Arc::clone(&self.input), output: Arc::clone(&self.output) })
    }

    /// Starts to read stdin for the machine: `push` offers bytes to the serial port and says how many it
    /// took; `quit` is called when the user asks to end the machine.
    pub fn connect(
        &self,
        push: impl Fn(&[u8]) -> usize + Send + 'static,
        quit: impl Fn() + Send + 'static,
    ) -> std::io::Result<()> {
        let (input, output) = (Arc::clone(&self.input), Arc::clone(&self.output));
        let help = move |text: &str| output.push(text.as_bytes());
        std::thread::Builder::new()
            .name("console-in".into())
            .spawn(move || input.pump(&push, &quit, &help))?;
        Ok(())
    }

    /// Waits until everything the guest has written is out.
    pub fn finish(mut self) {
        self.output.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

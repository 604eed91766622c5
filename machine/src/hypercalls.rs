//! Hypercalls of our own, for kernels without a driver: docs/hypercalls.md.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use cpu::Hypercall;
use device::interrupt::InterruptFabric;
use device::{Action, CharBackend, Device, RestoreError, SaveRestore};
use memory::GuestRam;
use serde::{Deserialize, Serialize};

/// Where our numbers begin: others are KVM's.
const FIRST: u64 = 0x4748_0000;
/// Bytes that one call writes at most.
const MAX_WRITE: u64 = 4096;
/// Events of a CPU; one more would make a negative answer.
const EVENTS: u64 = 63;
/// Lower vectors are exceptions.
const FIRST_VECTOR: u8 = 32;

const NO_SUCH_CPU: i64 = -2;
const BAD_ADDRESS: i64 = -14;
const INVALID: i64 = -22;

/// What answers them.
pub struct Hypercalls {
    ram: Arc<GuestRam>,
    console: Arc<dyn CharBackend>,
    fabric: Arc<InterruptFabric>,
    channels: Vec<Channel>,
}

/// Events for a CPU.
#[derive(Default)]
struct Channel {
    pending: AtomicU64,
    /// The interrupt that tells of them; 0 for none.
    vector: AtomicU8,
}

/// Saved state of a CPU's events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct ChannelState {
    pub pending: u64,
    pub vector: u8,
}

impl Hypercalls {
    /// For so many CPUs.
    pub fn new(
        ram: Arc<GuestRam>,
        console: Arc<dyn CharBackend>,
        fabric: Arc<InterruptFabric>,
        cpus: usize,
    ) -> Self {
        Self { ram, console, fabric, channels: std::iter::repeat_with(Channel::default).take(cpus).collect() }
    }

    /// The answer to a CPU's call, and what the machine has to do.
    pub fn call(&self, cpu: u32, call: &Hypercall) -> (i64, Action) {
        let [first, second, ..] = call.arguments;
        let own = self.channels.get(cpu as usize);
        let answer = match (call.number.wrapping_sub(FIRST), own) {
            (0, _) => Hypercall::VERSION.into(),
            (1, _) => self.write(first, second),
            (2, _) => return (0, Action::DebugExit(first as u8)),
            (3, _) => {
                std::thread::yield_now();
                0
            }
            (4, Some(own)) => own.bind(first),
            (5, _) => self.send(first, second),
            (6, Some(own)) => own.pending.swap(0, Ordering::AcqRel) as i64,
            _ => Hypercall::UNKNOWN,
        };
        (answer, Action::None)
    }

    /// The same for a call that is a block in RAM: number, two arguments, room for the answer. One that cannot be answered is not
    /// made.
    pub fn call_at(&self, cpu: u32, block: u32) -> Action {
        let word = |index: u64| self.ram.load_u64(u64::from(block) + index * 8);
        let (Some(number), Some(first), Some(second), Some(_)) = (word(0), word(1), word(2), word(3)) else {
            return Action::None;
        };
        let (answer, action) = self.call(cpu, &Hypercall { number, arguments: [first, second, 0, 0] });
        // It is RAM: the word was read above.
        let _ = self.ram.store_u64(u64::from(block) + 24, answer as u64);
        action
    }

    fn write(&self, address: u64, len: u64) -> i64 {
        if len > MAX_WRITE {
            return INVALID;
        }
        let mut text = vec![0; len as usize];
        if self.ram.read(address, &mut text).is_err() {
            return BAD_ADDRESS;
        }
        self.console.write(&text);
        len as i64
    }

    fn send(&self, cpu: u64, event: u64) -> i64 {
        if event >= EVENTS {
            return INVALID;
        }
        let index = usize::try_from(cpu).unwrap_or(usize::MAX);
        let Some(channel) = self.channels.get(index) else { return NO_SUCH_CPU };
        let before = channel.pending.fetch_or(1 << event, Ordering::AcqRel);
        let vector = channel.vector.load(Ordering::Relaxed);
        // Who has events has been told.
        if before == 0 && vector != 0 {
            self.fabric.deliver_msi(0xfee0_0000 | (cpu & 0xff) << 12, u32::from(vector));
        }
        0
    }
}

impl Channel {
    fn bind(&self, vector: u64) -> i64 {
        match u8::try_from(vector) {
            Ok(vector) if vector == 0 || vector >= FIRST_VECTOR => {
                self.vector.store(vector, Ordering::Relaxed);
                0
            }
            _ => INVALID,
        }
    }
}

impl Device for Hypercalls {
    fn name(&self) -> &'static str {
        "hypercalls"
    }

    fn reset(&self) {
        for channel in &self.channels {
            channel.pending.store(0, Ordering::Relaxed);
            channel.vector.store(0, Ordering::Relaxed);
        }
    }
}

impl SaveRestore for Hypercalls {
    type State = Vec<ChannelState>;
    const KIND: &'static str = "hypercalls";
    const VERSION: u32 = 1;

    fn save(&self) -> Vec<ChannelState> {
        let load = |channel: &Channel| ChannelState {
            pending: channel.pending.load(Ordering::Relaxed),
            vector: channel.vector.load(Ordering::Relaxed),
        };
        self.channels.iter().map(load).collect()
    }

    fn restore(&self, states: &Vec<ChannelState>) -> Result<(), RestoreError> {
        let wrong = |reason| Err(RestoreError { kind: Self::KIND, reason });
        if states.len() != self.channels.len() {
            return wrong("it is of another number of cpus");
        }
        let valid = |state: &ChannelState| {
            state.pending >> EVENTS == 0 && (state.vector == 0 || state.vector >= FIRST_VECTOR)
        };
        if !states.iter().all(valid) {
            return wrong("an event or a vector is out of range");
        }
        for (channel, state) in self.channels.iter().zip(states) {
            channel.pending.store(state.pending, Ordering::Relaxed);
            channel.vector.store(state.vector, Ordering::Relaxed);
        }
        Ok(())
    }
}

//! Delivery of exceptions and interrupts (Intel SDM volume 3, chapter 6), and what happens when delivery itself
//! faults: double fault and shutdown.

mod long;
mod protected;
mod real;

use cpu::x86::{Exception, rflags, vector};

use super::debug::dr6;
use crate::cpu::Cpu;
use crate::op::Stop;

/// Where an event comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// An exception, INT1 too.
    Exception,
    /// External interrupt, NMI.
    External,
    /// INT n, INT3, INTO: gate privilege is checked, and error codes have EXT clear.
    Software,
}

/// Something to deliver through the IDT.
#[derive(Debug, Clone, Copy)]
pub(super) struct Event {
    pub vector: u8,
    pub code: Option<u32>,
    pub origin: Origin,
    /// Where the handler returns to.
    pub rip: u64,
    /// RF in the saved flags: set for faults, so that the handler's return does not hit an instruction
    /// breakpoint again.
    pub resume: bool,
}

impl Event {
    /// EXT bit of error codes.
    #[inline]
    fn ext(&self) -> u32 {
        u32::from(self.origin != Origin::Software)
    }

    /// Error code that names the IDT entry.
    #[inline]
    fn idt_code(&self) -> u32 {
        u32::from(self.vector) * 8 + 2 + self.ext()
    }
}

/// What a delivery came to.
pub(super) enum Entered {
    /// The handler runs.
    Handler,
    /// A task switch happened, and then an exception in the new task, which is in `cpu.exception`.
    FaultedTask,
}

/// Exceptions that one delivery may chain, before a guest that keeps rewriting its tables under the delivery is
/// taken for shut down. Three suffice for a double and a triple fault.
const MAX_CHAIN: u32 = 16;

impl Cpu {
    /// Delivers `self.exception` at `self.rip`: double and triple faults included.
    pub fn deliver_exception(&mut self) -> Result<(), Stop> {
        self.entries += u64::from(self.cpl == 3);
        let event = self.exception_event();
        self.deliver_chain(event)
    }

    /// Delivers an external interrupt.
    pub fn deliver_interrupt(&mut self, vector: u8) -> Result<(), Stop> {
        let event = self.interrupt_event(vector);
        self.deliver_chain(event)
    }

    /// Delivers a non-maskable interrupt.
    pub fn deliver_nmi(&mut self) -> Result<(), Stop> {
        let event = self.interrupt_event(vector::NMI);
        self.deliver_chain(event)
    }

    fn interrupt_event(&self, vector: u8) -> Event {
        Event { vector, code: None, origin: Origin::External, rip: self.rip, resume: false }
    }

    /// The event for `self.exception`, whose effects on CR2 and the debug registers happen here.
    fn exception_event(&mut self) -> Event {
        let Exception { vector, code, payload } = self.exception;
        let mut resume = !matches!(vector, vector::DF | vector::MC);
        match vector {
            vector::PF => self.cr2 = payload,
            vector::DB => {
                self.enter_debug(payload);
                resume = payload & dr6::BD != 0;
            }
            _ => {}
        }
        Event { vector, code, origin: Origin::Exception, rip: self.rip, resume }
    }

    fn deliver_chain(&mut self, mut event: Event) -> Result<(), Stop> {
        self.events.interrupt_shadow = false;
        self.events.mov_ss_shadow = false;
        for _ in 0..MAX_CHAIN {
            match self.deliver(&event) {
                Ok(Entered::Handler) => return Ok(()),
                Ok(Entered::FaultedTask) => event = self.exception_event(),
                Err(_) => {
                    let exception = event.origin == Origin::Exception;
                    if exception && event.vector == vector::DF {
                        return Err(Stop::Shutdown);
                    }
                    if exception && Class::of(event.vector).doubles(Class::of(self.exception.vector)) {
                        if self.exception.vector == vector::PF {
                            self.cr2 = self.exception.payload;
                        }
                        self.exception = Exception::with_code(vector::DF, 0);
                    }
                    event = Event { rip: event.rip, ..self.exception_event() };
                }
            }
        }
        Err(Stop::Shutdown)
    }

    /// Delivers one event. `Err`: nothing has changed, and `self.exception` is why.
    pub(super) fn deliver(&mut self, event: &Event) -> Result<Entered, Stop> {
        if self.long_mode() {
            self.deliver_long(event).map(|()| Entered::Handler)
        } else if self.protected() {
            self.deliver_protected(event)
        } else {
            self.deliver_real(event).map(|()| Entered::Handler)
        }
    }

    /// RFLAGS as the handler's frame has them.
    #[inline]
    fn saved_flags(&self, event: &Event) -> u64 {
        self.rflags() | if event.resume { rflags::RF } else { 0 }
    }
}

/// Classes of exceptions by what follows when one occurs while another is delivered (table 6-5).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
}

impl Class {
    fn of(vector: u8) -> Self {
        match vector {
            vector::DE | vector::TS | vector::NP | vector::SS | vector::GP => Self::Contributory,
            vector::PF => Self::PageFault,
            _ => Self::Benign,
        }
    }

    /// `second` in the delivery of `self` makes a double fault.
    fn doubles(self, second: Self) -> bool {
        match self {
            Self::Benign => false,
            Self::Contributory => second == Self::Contributory,
            Self::PageFault => second != Self::Benign,
        }
    }
}

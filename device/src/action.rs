//! What a register write asks of the machine.

/// The effect of a device access on the machine as a whole. A device never reaches for the machine itself.
#[must_use = "a reset or power-off that is dropped never happens"]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Action {
    /// Nothing beyond the device.
    #[default]
    None,
    /// The guest asked for a system reset.
    Reset,
    /// The guest asked for soft power-off (ACPI S5).
    PowerOff,
    /// The guest ended the run through the debug-exit port with this value.
    DebugExit(u8),
}

impl Action {
    /// The first of two effects that is one (accesses that are split into bytes).
    pub fn or(self, other: Self) -> Self {
        if self == Self::None { other } else { self }
    }

    /// True if the machine has nothing to do.
    pub fn is_none(self) -> bool {
        self == Self::None
    }
}

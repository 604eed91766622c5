//! ACPI fixed hardware.

mod power;
mod reset;

pub use power::{AcpiPower, AcpiPowerState, S5_SLEEP_TYPE};
pub use reset::ResetControl;

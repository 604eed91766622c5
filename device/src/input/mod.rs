//! Keyboard controller and keyboard.

mod i8042;
mod keyboard;

pub use i8042::{I8042, I8042State};
pub use keyboard::KeyboardState;

//! Small parts at fixed ports.

mod debug_console;
mod debug_exit;
mod port92;
mod post;

pub use debug_console::DebugConsole;
pub use debug_exit::DebugExit;
pub use port92::Port92;
pub use post::PostCodes;

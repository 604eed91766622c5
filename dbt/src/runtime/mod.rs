//! Running translated code: the context it lives in, the stubs around it, and the loop that decides what runs next.

pub mod bell;
pub mod context;
pub mod exhausted;
pub mod pieces;
pub mod returns;
pub mod stubs;
pub mod transition;
pub mod vcpu;
pub mod x87;

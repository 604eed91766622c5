//! The x86-64 interpreter: the reference semantics of every other engine.

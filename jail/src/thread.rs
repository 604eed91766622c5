//! Threads that say what they are for.

use std::cell::Cell;
use std::io;
use std::sync::OnceLock;
use std::thread::{Builder, JoinHandle};

use crate::Kind;
use crate::filter::Filter;

/// Set when the process enters its jail: the programs of kinds, each made when its first thread is.
static FILTERS: OnceLock<Filters> = OnceLock::new();

struct Filters {
    /// The process has a [`Kind::DirectVcpu`].
    direct: bool,
    of_kinds: [OnceLock<Option<Filter>>; Kind::ALL.len()],
}

thread_local! {
    /// What the thread has become.
    static NARROWED: Cell<Option<Kind>> = const { Cell::new(None) };
}

/// From now on, threads become what they are for, in a process with these kinds.
pub fn narrow_from_now_on(kinds: &[Kind]) {
    let direct = kinds.contains(&Kind::DirectVcpu);
    let _ = FILTERS.set(Filters { direct, of_kinds: [const { OnceLock::new() }; Kind::ALL.len()] });
}

/// A thread of this kind. Those that it makes may not do more than it.
///
/// # Errors
/// The host has no thread left.
pub fn spawn<T: Send + 'static>(
    kind: Kind,
    name: impl Into<String>,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let parent = NARROWED.get();
    Builder::new().name(name.into()).spawn(move || {
        NARROWED.set(parent);
        narrow(kind);
        body()
    })
}

/// The calling thread is of this kind from now on. Does nothing outside of a jail.
pub fn narrow(kind: Kind) {
    let Some(filters) = FILTERS.get() else { return };
    let Some(filter) = filters.of_kinds.get(kind as usize) else { return };
    if NARROWED.get() == Some(kind) {
        return;
    }
    let filter = filter.get_or_init(|| {
        Filter::of_thread(kind, filters.direct)
            .inspect_err(|e| tracing::error!("threads for {kind:?} cannot be limited: {e}"))
            .ok()
    });
    match filter.as_ref().map(Filter::install) {
        Some(Ok(())) => NARROWED.set(Some(kind)),
        Some(Err(e)) => tracing::error!("a thread for {kind:?} is limited no more than its process: {e}"),
        None => {}
    }
}

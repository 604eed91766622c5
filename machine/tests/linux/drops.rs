//! How often the translator drops what it has made: it says so where it logs.

use std::sync::atomic::{AtomicU64, Ordering};

use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

static COUNT: AtomicU64 = AtomicU64::new(0);

struct Counter;

impl Subscriber for Counter {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "dbt::translator" && metadata.fields().field("pages").is_some()
    }

    fn event(&self, _: &Event<'_>) {
        COUNT.fetch_add(1, Ordering::Relaxed);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// From now on they are counted; once in a process.
pub fn watch() {
    tracing::subscriber::set_global_default(Counter).unwrap();
}

pub fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

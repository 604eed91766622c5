//! Translations and what they know: the arena, code pages, sites and the first-level TLB.

pub mod arena;
pub mod away;
pub mod pages;
pub mod site;
pub mod tlb;

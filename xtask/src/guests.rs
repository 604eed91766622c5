//! `cargo xtask guests`.

use anyhow::Result;
use guest::{Cache, Cancel, Catalogue};

/// Builds the default guest if it is not there yet.
pub fn build() -> Result<()> {
    let catalogue = Catalogue::builtin()?;
    let entry = catalogue.get(&catalogue.default)?;
    let mut progress = |step| eprintln!("xtask: guest {}: {step}", entry.name);
    let built = Cache::of_user()?.get_or_build(entry, &Cancel::default(), &mut progress)?;
    eprintln!("xtask: guest {} is {} and {}", entry.name, built.kernel.display(), built.initrd.display());
    Ok(())
}

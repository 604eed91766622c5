//! `guesthouse snapshot`.

use std::io::Write;
use std::path::Path;

use server::Registry;

pub fn run(
    registry: &Registry,
    name: &str,
    folder: &Path,
    stop: bool,
    compress: bool,
    json: bool,
) -> anyhow::Result<()> {
    let taken = server::snapshot::take(&registry.find(name)?, folder, stop, compress)?;
    if json {
        writeln!(std::io::stdout(), "{}", serde_json::to_string(&taken)?)?;
    }
    Ok(())
}

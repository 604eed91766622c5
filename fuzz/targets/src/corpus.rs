//! Inputs that are kept or made: regressions on disk, seeds in code.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{TARGETS, Target};

/// Name and content of every input that once broke `target`.
pub fn regressions(target: &Target) -> Result<Vec<(String, Vec<u8>)>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions").join(target.name);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut all = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        all.push((name, fs::read(&path).with_context(|| path.display().to_string())?));
    }
    all.sort();
    Ok(all)
}

/// What mutations start from: seeds and regressions.
pub(crate) fn corpus(target: &Target) -> Result<Vec<Vec<u8>>> {
    let mut all = (target.seeds)();
    all.extend(regressions(target)?.into_iter().map(|r| r.1));
    Ok(all)
}

/// Writes every target's corpus to a folder of its name under `folder`, where cargo-fuzz looks for it. Returns
/// the folders.
pub fn write_seeds(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for target in TARGETS {
        let folder = folder.join(target.name);
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        for (i, data) in corpus(target)?.iter().enumerate() {
            fs::write(folder.join(format!("seed-{i:03}")), data)
                .with_context(|| folder.display().to_string())?;
        }
        folders.push(folder);
    }
    Ok(folders)
}

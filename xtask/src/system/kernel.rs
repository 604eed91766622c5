//! Kernel and initial RAM disk of an installed system, as files for those who cannot look for them on its disk.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use boot::disk::ReadAt;

use super::System;

struct Image(File, u64);

impl ReadAt for Image {
    fn len(&self) -> u64 {
        self.1
    }

    fn read_at(&self, offset: u64, to: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(to, offset)
    }
}

/// Writes them to `folder`.
pub fn extract(root: &Path, folder: &Path) -> Result<System> {
    let file = File::open(root).with_context(|| format!("{} cannot be opened", root.display()))?;
    let len = file.metadata()?.len();
    let image: Arc<dyn ReadAt> = Arc::new(Image(file, len));
    let found = boot::disk::System::find(&image, "vda")?
        .with_context(|| format!("no kernel on {}", root.display()))?;
    let loaded = found.load()?;
    let (kernel, initrd) = (folder.join("vmlinuz"), folder.join("initrd.img"));
    let write =
        |path: &Path, data: &[u8]| fs::write(path, data).with_context(|| format!("{}", path.display()));
    write(&kernel, &loaded.kernel)?;
    write(&initrd, &loaded.initrd.unwrap_or_default())?;
    let append = format!("{} console=ttyS0,115200", found.options);
    Ok(System { root: root.to_owned(), kernel, initrd, append })
}

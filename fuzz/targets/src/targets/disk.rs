//! What a disk says is to be booted from it.

use std::io::{self, Read};
use std::sync::Arc;

use boot::disk::{ReadAt, System};
use flate2::read::GzDecoder;

use super::one_line;
use crate::Target;

/// Partition tables, file systems and the configuration of boot loaders.
pub const SYSTEM: Target = Target {
    name: "disk-system",
    about: "a disk, looked at for a system to boot",
    seeds: || {
        let mut ext4 = Vec::new();
        // Made by mke2fs -d: no journal, a grub.cfg, a kernel and an initrd.
        let _ = GzDecoder::new(&include_bytes!("disk-system.ext4.gz")[..]).read_to_end(&mut ext4);
        let mut mbr = vec![0; 512];
        mbr[446..462].copy_from_slice(&[0, 0, 0, 0, 0x83, 0, 0, 0, 1, 0, 0, 0, 60, 0, 0, 0]);
        mbr[510..].copy_from_slice(&[0x55, 0xaa]);
        vec![[mbr, ext4.clone()].concat(), ext4]
    },
    words: &[
        "menuentry ",
        "submenu ",
        "linux /",
        "initrd /",
        "set default=",
        "'",
        "\"",
        "\\",
        "{",
        "}\n",
        "$",
        "EFI PART",
    ],
    run: |data| {
        let disk: Arc<dyn ReadAt> = Arc::new(Bytes(data.to_vec()));
        match System::find(&disk, "vda") {
            Ok(None) => {}
            Ok(Some(system)) => {
                assert!(system.kernel().starts_with('/'));
                if let Err(error) = system.load() {
                    one_line(&error);
                }
            }
            Err(error) => one_line(&error),
        }
    },
};

struct Bytes(Vec<u8>);

impl ReadAt for Bytes {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, to: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(to.len() as u64).ok_or(io::ErrorKind::UnexpectedEof)?;
        let bytes = self.0.get(offset as usize..end as usize).ok_or(io::ErrorKind::UnexpectedEof)?;
        to.copy_from_slice(bytes);
        Ok(())
    }
}

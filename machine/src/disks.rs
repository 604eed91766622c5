//! The machine's virtio devices: its disks, and a source of random numbers.

use std::sync::Arc;

use block::{BlockBackend, BlockError, Pool, RawImage, Uring};
use virtio::{Blk, BlkOptions, Rng, VirtioDevice};

use crate::{DiskSpec, MachineError, MachineSpec};

/// Opens the disks and makes the devices, in the order of their slots.
pub fn open(spec: &MachineSpec) -> Result<Vec<Arc<dyn VirtioDevice>>, MachineError> {
    let mut devices: Vec<Arc<dyn VirtioDevice>> = Vec::new();
    for disk in &spec.disks {
        let options = BlkOptions { serial: disk.serial.clone(), queues: spec.cpus as u16 };
        devices.push(Arc::new(Blk::new(image(disk)?, &options).map_err(MachineError::Thread)?));
    }
    devices.push(Arc::new(Rng::new().map_err(MachineError::Thread)?));
    Ok(devices)
}

fn image(disk: &DiskSpec) -> Result<Arc<dyn BlockBackend>, MachineError> {
    let image = match Uring::new(RawImage::open(&disk.path, disk.readonly)?) {
        Ok(uring) => return Ok(Arc::new(uring)),
        Err((image, error)) => {
            tracing::info!("disk {} has threads: io_uring is refused ({error})", disk.path.display());
            image
        }
    };
    let thread = |source| BlockError::Thread { path: disk.path.clone(), source };
    Ok(Arc::new(Pool::new(image).map_err(thread)?))
}

//! The machine's virtio devices: its disks, and a source of random numbers.

use std::sync::Arc;

use block::{BlockBackend, ImageOptions};
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
    let options = ImageOptions {
        path: disk.path.clone(),
        format: disk.format,
        read_only: disk.readonly,
        snapshot: disk.snapshot,
        backing: disk.backing,
    };
    Ok(block::open(&options)?)
}

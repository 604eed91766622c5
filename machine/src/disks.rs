//! The machine's virtio devices: its disks, and a source of random numbers. What is on the disks to be booted.

use std::io;
use std::sync::Arc;

use block::{BlockBackend, Buffers, ImageOptions, Operation, Overlay, SECTOR};
use boot::disk::{ReadAt, System};
use virtio::{Blk, BlkOptions, Rng, VirtioDevice};

use crate::limits::{DeviceName, Throttles};
use crate::meter::MeteredDisk;
use crate::{DiskSpec, MachineError, MachineSpec};

/// Disks, and the files of what is gone with them.
type DisksAndOverlays = (Vec<Arc<MeteredDisk>>, Vec<Option<Overlay>>);

/// Opens the disks: each with the file of what is gone with the machine, if there is one.
pub fn open(spec: &MachineSpec) -> Result<DisksAndOverlays, MachineError> {
    let open = |disk: &DiskSpec| {
        let (image, overlay) = block::open_with_overlay(&options(disk))?;
        Ok((Arc::new(MeteredDisk::new(image)), overlay))
    };
    spec.disks.iter().map(open).collect()
}

/// Makes the devices, in the order of their slots.
pub fn devices(
    spec: &MachineSpec,
    disks: &[Arc<dyn BlockBackend>],
    throttles: &mut Throttles,
) -> Result<Vec<Arc<dyn VirtioDevice>>, MachineError> {
    let mut devices: Vec<Arc<dyn VirtioDevice>> = Vec::new();
    for ((disk, backend), index) in spec.disks.iter().zip(disks).zip(0u8..) {
        let options = BlkOptions { serial: disk.serial.clone(), queues: spec.cpus as u16 };
        let device = Blk::new(backend.clone(), &options).map_err(MachineError::Thread)?;
        throttles.0.insert(DeviceName::Disk(index), device.throttle().clone());
        devices.push(Arc::new(device));
    }
    devices.push(Arc::new(Rng::new().map_err(MachineError::Thread)?));
    Ok(devices)
}

/// True if a machine with these disks and no kernel of its own has something to boot.
///
/// # Errors
/// A disk cannot be opened or read.
pub fn is_bootable(disks: &[DiskSpec]) -> Result<bool, MachineError> {
    let look = |disk: &DiskSpec| {
        Ok::<_, MachineError>(block::open(&options(&DiskSpec { readonly: true, ..disk.clone() }))?)
    };
    let backends = disks.iter().map(look).collect::<Result<Vec<_>, _>>()?;
    Ok(system(disks, &backends)?.is_some())
}

/// The system on the first disk that has one.
pub fn system(
    disks: &[DiskSpec],
    backends: &[Arc<dyn BlockBackend>],
) -> Result<Option<System>, MachineError> {
    for ((disk, backend), letter) in disks.iter().zip(backends).zip('a'..='z') {
        let reader: Arc<dyn ReadAt> = Arc::new(Reader(backend.clone()));
        let read_error = |source| MachineError::Read { path: disk.path.clone(), source };
        if let Some(system) = System::find(&reader, &format!("vd{letter}")).map_err(read_error)? {
            return Ok(Some(system));
        }
    }
    Ok(None)
}

/// A disk as the loader reads it, through what the guest's requests go through as well.
struct Reader(Arc<dyn BlockBackend>);

impl ReadAt for Reader {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read_at(&self, offset: u64, to: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(to.len() as u64).filter(|end| *end <= self.0.len());
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        // Whole sectors, with what was asked for in them.
        let start = offset - offset % SECTOR;
        let buffer = Buffers::owned(&vec![0; (end.next_multiple_of(SECTOR) - start) as usize]);
        self.0.carry_out(Operation::Read { offset: start, to: buffer.clone() })?;
        let skip = (offset - start) as usize;
        to.copy_from_slice(&buffer.to_vec()[skip..skip + to.len()]);
        Ok(())
    }
}

fn options(disk: &DiskSpec) -> ImageOptions {
    ImageOptions {
        path: disk.path.clone(),
        format: disk.format,
        read_only: disk.readonly,
        snapshot: disk.snapshot,
        backing: disk.backing,
        patient: disk.patient,
    }
}

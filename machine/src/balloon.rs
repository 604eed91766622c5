//! Guest memory that goes back to the host.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use virtio::{Balloon, BalloonStatistics};

use crate::{Machine, MachineError, MachineSpec, Size};

/// What there is to say about a machine's balloon. Numbers are bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BalloonReport {
    /// What the guest is asked to give up.
    pub target: u64,
    /// What it has given up, as it says.
    pub size: u64,
    /// What went back to the host so far because the guest was asked to give it up.
    pub inflated: u64,
    /// What went back so far because the guest reported it to be free.
    pub reported: u64,
    /// How the guest uses its memory, as it says, if it has a driver.
    pub guest: Option<BalloonStatistics>,
}

/// Checks the size of a balloon.
pub fn validate(spec: &MachineSpec, balloon: Option<Size>) -> Result<(), MachineError> {
    match balloon {
        Some(_) if spec.hugepages.is_some() => Err(MachineError::HugeStays("a balloon")),
        Some(balloon) if balloon >= spec.memory => {
            Err(MachineError::Balloon { balloon, memory: spec.memory })
        }
        _ => Ok(()),
    }
}

/// Makes the device.
pub fn device(spec: &MachineSpec) -> Result<Arc<Balloon>, MachineError> {
    let balloon = Balloon::new().map_err(MachineError::Thread)?;
    balloon.set_target(spec.balloon.map_or(0, Size::get));
    Ok(Arc::new(balloon))
}

impl Machine {
    /// Asks the guest to give up so much memory instead of what it was asked for before. It does as it can, and takes
    /// memory back when it would have to end programs.
    ///
    /// # Errors
    /// It is all of the guest's memory.
    pub fn set_balloon(&self, size: Size) -> Result<(), MachineError> {
        validate(self.spec(), Some(size))?;
        self.balloon().set_target(size.get());
        Ok(())
    }

    /// What there is to say about the balloon; waits so long for the guest's own words.
    pub fn balloon_report(&self, patience: Duration) -> BalloonReport {
        let balloon = self.balloon();
        let guest = balloon.statistics(patience);
        let (inflated, reported) = balloon.returned();
        BalloonReport { target: balloon.target(), size: balloon.size(), inflated, reported, guest }
    }
}

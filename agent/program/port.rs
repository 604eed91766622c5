//! The port's device.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::protocol::PORT;

/// How long a driver may take, and how often is looked for what it makes.
const PATIENCE: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_millis(10);
const LATER: Duration = Duration::from_millis(250);
/// Of `open`: reads and writes do not wait.
const NONBLOCK: i32 = 0o4000;

/// Opens the port as soon as it is there.
pub fn open() -> io::Result<File> {
    let start = Instant::now();
    loop {
        let error = match find() {
            Some(path) => match File::options().read(true).write(true).custom_flags(NONBLOCK).open(path) {
                Ok(port) => return Ok(port),
                Err(e) => e,
            },
            None => io::Error::new(io::ErrorKind::NotFound, format!("there is no virtio port {PORT}")),
        };
        let passed = start.elapsed();
        if passed > PATIENCE {
            return Err(error);
        }
        sleep(if passed < PATIENCE / 10 { SOON } else { LATER });
    }
}

fn find() -> Option<PathBuf> {
    let ports = fs::read_dir("/sys/class/virtio-ports").ok()?;
    let port = ports.flatten().find(|port| {
        fs::read_to_string(port.path().join("name")).is_ok_and(|name| name.trim_end() == PORT)
    })?;
    Some(PathBuf::from("/dev").join(port.file_name())).filter(|path| path.exists())
}

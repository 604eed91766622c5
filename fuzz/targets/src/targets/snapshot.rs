//! Machines at rest, as anybody may hand them over.

use std::io::{Seek, Write};
use std::os::fd::AsRawFd;

use machine::snapshot::{PLAIN, Paths, Section, Snapshot, VERSION, encode};

use super::one_line;
use crate::Target;

/// The file `state` of a snapshot, as it is and with checksums that are right.
pub const STATE: Target = Target {
    name: "snapshot",
    about: "the state of a machine at rest: the file, and with right checksums its header, its sections and packed RAM",
    seeds: || {
        let file = include_bytes!("../../../../machine/fixtures/snapshot-1/state").to_vec();
        let header = file.get(20..).unwrap_or_default();
        let end = header.iter().position(|&byte| byte == b'\n').unwrap_or(1500).min(1500);
        vec![header[..end.min(header.len())].to_vec(), b"GHSTATE\n".to_vec(), file]
    },
    words: &[
        "GHSTATE\n",
        "\"board\":",
        "\"pc\"",
        "\"microvm\"",
        "\"cpu_features\":[",
        "\"sections\":",
        "\"memory\":",
        "\"disks\":[",
        "\"kept\":true",
        "\"written\":[1,2]",
        "\"spec\":{",
        "\"initrd\":",
        "null",
        "-1",
        "1e400",
        "18446744073709551615",
        "ram",
        "cpu",
        "lapic",
        "virtio-pci",
    ],
    run,
};

fn run(data: &[u8]) {
    look(data);
    let (header, rest) = data.split_at(data.iter().rposition(|&byte| byte == b'}').map_or(0, |end| end + 1));
    let section = |kind: &str, data: &[u8]| Section {
        kind: kind.to_owned(),
        instance: 0,
        version: 1,
        data: data.to_vec(),
    };
    look(&encode(PLAIN, header, &[section("ram", rest), section("cpu", header)]));
    // RAM of some blocks, and frames of which the checksums are not those.
    let (checksums, frames) = rest.split_at(rest.len().min(16));
    packed(&encode(VERSION, header, &[section("ram-zstd", checksums)]), frames);
    look(&encode(PLAIN, header, &[section("ram-layers", rest)]));
}

fn packed(state: &[u8], frames: &[u8]) {
    let Ok(mut memory) = tempfile::tempfile() else { return };
    if memory.write_all(frames).and_then(|()| memory.rewind()).is_err() {
        return;
    }
    let path = format!("/proc/self/fd/{}", memory.as_raw_fd()).into();
    let paths = Paths { memory: vec![path], ..Paths::in_folder("/nonexistent".as_ref()) };
    if let Err(error) = Snapshot::parse(paths, state).and_then(|snapshot| snapshot.check_memory()) {
        one_line(&error);
    }
}

fn look(file: &[u8]) {
    match Snapshot::parse(Paths::in_folder("/nonexistent".as_ref()), file) {
        Ok(snapshot) => {
            if let Err(error) = snapshot.spec().validate() {
                one_line(&error);
            }
            if let Err(error) = snapshot.check_memory() {
                one_line(&error);
            }
        }
        Err(error) => one_line(&error),
    }
}

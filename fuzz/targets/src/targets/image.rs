//! Disk images from a stranger.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::mpsc::channel;

use block::tools::{self, CreateOptions};
use block::{Buffers, Format, ImageOptions, Operation, Request};
use rustix::fs::{MemfdFlags, memfd_create};

use super::one_line;
use crate::Target;

/// A qcow2 image: opened, used, looked at.
pub const QCOW2: Target = Target {
    name: "qcow2",
    about: "a qcow2 image, its disk read and written",
    seeds: || [seed(None), seed(Some("base"))].into_iter().flatten().collect(),
    words: &["QFI\u{fb}", "\0\0\0\0", "\u{80}\0\0\0", "\0\0\0\x03", "\0\0\0\0\0\x02\0\0"],
    run: |data| {
        let Ok(fd) = memfd_create("image", MemfdFlags::CLOEXEC) else { return };
        let mut file = File::from(fd);
        if file.write_all(data).is_err() {
            return;
        }
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let format = Some(Format::Qcow2);
        match tools::check(&path, format, &mut |_, _| true) {
            Ok(found) => assert!(found.findings.iter().all(|f| !f.contains('\n'))),
            Err(error) => one_line(&error),
        }
        if let Err(error) = tools::info(&path, format) {
            one_line(&error);
        }
        let options = ImageOptions { path, format, ..ImageOptions::default() };
        let disk = match block::open(&options) {
            Ok(disk) => disk,
            Err(error) => return one_line(&error),
        };
        let (sender, answers) = channel();
        for offset in [0, disk.len() / 2 / 512 * 512, disk.len().saturating_sub(4096)] {
            let len = (disk.len() - offset).min(4096);
            let data = Buffers::owned(&vec![1; len as usize]);
            for operation in [
                Operation::Read { offset, to: data.clone() },
                Operation::Write { offset, from: data, durable: true },
                Operation::Discard { offset, len },
                Operation::WriteZeroes { offset, len, unmap: false },
                Operation::Flush,
            ] {
                let sender = sender.clone();
                let done = Box::new(move |result: std::io::Result<()>| {
                    let _ = sender.send(result);
                });
                disk.submit(Request { operation, done });
                disk.commit();
                assert!(answers.recv().is_ok(), "a request was not answered");
            }
        }
    },
};

/// A small image with something in it.
fn seed(backing: Option<&str>) -> Option<Vec<u8>> {
    let folder = std::env::temp_dir().join(format!("guesthouse-seed-{}-{backing:?}", std::process::id()));
    std::fs::create_dir_all(&folder).ok()?;
    let path = folder.join("a.qcow2");
    let mut options =
        CreateOptions { cluster: 512, force: true, ..CreateOptions::new(&path, Format::Qcow2, 1 << 16) };
    if let Some(name) = backing {
        tools::create(&CreateOptions {
            force: true,
            ..CreateOptions::new(folder.join(name), Format::Raw, 1 << 16)
        })
        .ok()?;
        options.backing = Some((name.to_owned(), Format::Raw));
    }
    tools::create(&options).ok()?;
    let image = std::fs::read(&path).ok();
    std::fs::remove_dir_all(&folder).ok()?;
    image
}

//! Images of the real qemu-img, and ours read by it.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use super::*;
use crate::{ImageOptions, Request, SECTOR, open};

/// Runs qemu-img; its output if it succeeds.
fn qemu_img(folder: &Path, arguments: &str) -> Result<String, String> {
    let output = Command::new("qemu-img").args(arguments.split(' ')).current_dir(folder).output();
    let output = output.unwrap_or_else(|e| panic!("qemu-img: {e}: install qemu-utils"));
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() { Ok(text) } else { Err(text) }
}

fn options(path: &Path) -> ImageOptions {
    ImageOptions { path: path.to_owned(), backing: true, ..ImageOptions::default() }
}

fn layered(path: &Path, write: bool) -> LayeredImage {
    LayeredImage::new(Chain::new(true).open(path, None, write).unwrap().0)
}

fn read(image: &LayeredImage, offset: u64, len: usize) -> Vec<u8> {
    let to = Buffers::owned(&vec![0xee; len]);
    image.perform(Operation::Read { offset, to: to.clone() }).unwrap();
    to.to_vec()
}

fn write(image: &LayeredImage, offset: u64, content: &[u8]) {
    image.perform(Operation::Write { offset, from: Buffers::owned(content), durable: false }).unwrap();
}

/// Different at every 512 bytes.
fn content(len: usize, seed: u32) -> Vec<u8> {
    (0..len as u32).map(|i| ((i / 512).wrapping_add(seed).wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[test]
fn what_is_written_qemu_reads_and_finds_no_fault_with() {
    for version in ["1.1", "0.10"] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        qemu_img(folder, &format!("create -q -f qcow2 -o compat={version} a.qcow2 64M")).unwrap();
        let image = layered(&folder.join("a.qcow2"), true);
        let mut expected = vec![0; 64 << 20];
        let data = content(1 << 20, 1);
        // Pieces that begin and end within clusters, and overwrite each other.
        for (i, at) in [0, 70_144, 512, 33 << 20, (64 << 20) - (1 << 20), 66_048].into_iter().enumerate() {
            let part = &data[i << 9..];
            write(&image, at as u64, part);
            expected[at..at + part.len()].copy_from_slice(part);
        }
        let (zero, discard) = (200_192..500_224, 34_000_384..34_500_096);
        for (range, unmap) in [(zero.clone(), true), (0..1024, false), (65_536..131_072, false)] {
            let (offset, len) = (range.start as u64, range.len() as u64);
            image.perform(Operation::WriteZeroes { offset, len, unmap }).unwrap();
            expected[range].fill(0);
        }
        assert!(read(&image, 0, 64 << 20) == expected, "{version}");
        let (offset, len) = (discard.start as u64, discard.len() as u64);
        image.perform(Operation::Discard { offset, len }).unwrap();
        expected[discard.clone()].copy_from_slice(&read(&image, offset, discard.len()));
        drop(image);
        qemu_img(folder, "check -q -f qcow2 a.qcow2").unwrap();
        qemu_img(folder, "convert -f qcow2 -O raw a.qcow2 a.raw").unwrap();
        assert!(std::fs::read(folder.join("a.raw")).unwrap() == expected, "{version}");
    }
}

#[test]
fn compressed_clusters_and_backing_chains_are_read_and_copied_on_write() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut expected = content(8 << 20, 3);
    std::fs::write(folder.join("base.raw"), &expected).unwrap();
    qemu_img(folder, "convert -c -f raw -O qcow2 base.raw base.qcow2").unwrap();
    qemu_img(folder, "create -q -f qcow2 -b base.qcow2 -F qcow2 middle.qcow2 9M").unwrap();
    qemu_img(folder, "create -q -f qcow2 -b middle.qcow2 -F qcow2 top.qcow2").unwrap();
    expected.resize(9 << 20, 0);
    let base = std::fs::read(folder.join("base.qcow2")).unwrap();
    let image = layered(&folder.join("top.qcow2"), true);
    assert!(read(&image, 0, 9 << 20) == expected);
    for at in [512, 100_352, (8 << 20) - 1024] {
        let data = content(2048, at as u32);
        write(&image, at as u64, &data);
        expected[at..at + 2048].copy_from_slice(&data);
    }
    assert!(read(&image, 0, 9 << 20) == expected);
    drop(image);
    qemu_img(folder, "check -q top.qcow2").unwrap();
    qemu_img(folder, "convert -O raw top.qcow2 top.raw").unwrap();
    assert!(std::fs::read(folder.join("top.raw")).unwrap() == expected);
    assert!(std::fs::read(folder.join("base.qcow2")).unwrap() == base);
}

#[test]
fn discarded_clusters_take_no_room() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().unwrap();
    qemu_img(folder.path(), "create -q -f qcow2 a.qcow2 64M").unwrap();
    let path = folder.path().join("a.qcow2");
    let image = layered(&path, true);
    write(&image, 0, &content(8 << 20, 1));
    image.perform(Operation::Flush).unwrap();
    let room = || std::fs::metadata(&path).unwrap().blocks() * 512;
    assert!(room() >= 8 << 20);
    image.perform(Operation::Discard { offset: 0, len: 8 << 20 }).unwrap();
    image.perform(Operation::Flush).unwrap();
    assert!(room() < 1 << 20, "{}", room());
}

#[test]
fn a_snapshot_leaves_the_disk_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.raw");
    let before = content(1 << 20, 7);
    std::fs::write(&path, &before).unwrap();
    let disk = open(&ImageOptions { snapshot: true, ..options(&path) }).unwrap();
    assert!(!disk.is_read_only());
    let (sender, receiver) = std::sync::mpsc::channel();
    let submit = |operation| {
        let sender = sender.clone();
        disk.submit(Request { operation, done: Box::new(move |result| sender.send(result).unwrap()) });
        disk.commit();
        receiver.recv().unwrap().unwrap();
    };
    submit(Operation::Write { offset: 512, from: Buffers::owned(&[9; 512]), durable: true });
    let to = Buffers::owned(&[0; 1536]);
    submit(Operation::Read { offset: 0, to: to.clone() });
    assert!(to.to_vec() == [&before[..512], &[9; 512], &before[1024..1536]].concat());
    drop(disk);
    assert!(std::fs::read(&path).unwrap() == before);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn requests_may_come_from_many_threads() {
    let folder = tempfile::tempdir().unwrap();
    qemu_img(folder.path(), "create -q -f qcow2 -o cluster_size=4k a.qcow2 16M").unwrap();
    let path = folder.path().join("a.qcow2");
    let image = Arc::new(layered(&path, true));
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let image = image.clone();
            scope.spawn(move || {
                // Sectors of one cluster belong to different threads.
                for i in 0..2000u64 {
                    let at = (i.wrapping_mul(7919) % 4096 * 8 + thread) * 512;
                    write(&image, at, &[thread as u8 + 1; 512]);
                    assert!(read(&image, at, 512) == [thread as u8 + 1; 512]);
                    match i % 64 {
                        0 => image.perform(Operation::Flush).unwrap(),
                        1 => image.perform(Operation::Discard { offset: 0, len: 0 }).unwrap(),
                        _ => {}
                    }
                }
            });
        }
    });
    drop(image);
    qemu_img(folder.path(), "check -q a.qcow2").unwrap();
    let image = layered(&path, false);
    for i in 0..2000u64 {
        let at = i.wrapping_mul(7919) % 4096 * 8 * 512;
        let expected: Vec<u8> = (1..=8).flat_map(|thread| [thread; 512]).collect();
        assert!(read(&image, at, 4096) == expected);
    }
}

/// The refusal, which is one line.
fn refused(options: &ImageOptions) -> String {
    let error = open(options).err().unwrap_or_else(|| panic!("{options:?} was opened")).to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

#[test]
fn a_strangers_image_names_no_file_of_the_host() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("secret"), [1; 1024]).unwrap();
    qemu_img(folder, "create -q -f qcow2 -b secret -F raw a.qcow2").unwrap();
    let path = folder.join("a.qcow2");
    let error = refused(&ImageOptions { backing: false, ..options(&path) });
    assert!(error.contains("'secret'") && error.contains("backing=yes"), "{error}");
    assert!(open(&options(&path)).is_ok());
    // A raw disk that says it is qcow2, because its guest wrote so, is one only for those who ask for it.
    std::fs::copy(&path, folder.join("secret")).unwrap();
    let raw = ImageOptions { format: Some(Format::Raw), ..options(&folder.join("secret")) };
    let len = std::fs::metadata(&path).unwrap().len().next_multiple_of(SECTOR);
    std::fs::File::options().write(true).open(&raw.path).unwrap().set_len(len).unwrap();
    assert_eq!(open(&raw).unwrap().len(), len);
    qemu_img(folder, "create -q -f qcow2 -o data_file=secret b.qcow2 1M").unwrap();
    assert!(refused(&options(&folder.join("b.qcow2"))).contains("another file"));
}

#[test]
fn chains_that_do_not_end_well_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (name, base) in
        [("a", "b"), ("b", "a"), ("self", "./self"), ("lost", "missing"), ("net", "nbd://host/x")]
    {
        let command = format!("create -q -u -f qcow2 -b {base} -F qcow2 {name} 1M");
        qemu_img(folder, &command).unwrap();
    }
    qemu_img(folder, "create -q -f qcow2 plain 1M").unwrap();
    qemu_img(folder, "create -q -f qcow2 -b plain -F qcow2 untold").unwrap();
    // Its header names the base but not the base's format (extension 0xe2792aca).
    let untold = folder.join("untold");
    let mut image = std::fs::read(&untold).unwrap();
    let at = image.windows(4).position(|w| w == [0xe2, 0x79, 0x2a, 0xca]).unwrap();
    image[at] = 0;
    std::fs::write(&untold, image).unwrap();
    for (name, word) in [
        ("a", "twice"),
        ("self", "twice"),
        ("lost", "No such file"),
        ("net", "no file"),
        ("untold", "which format"),
    ] {
        let error = refused(&options(&folder.join(name)));
        assert!(error.contains(word), "{name}: {error}");
    }
}

#[test]
fn cut_and_damaged_images_are_refused_or_read_as_errors() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("a.raw"), content(1 << 20, 5)).unwrap();
    qemu_img(folder, "convert -f raw -O qcow2 a.raw a.qcow2").unwrap();
    let whole = std::fs::read(folder.join("a.qcow2")).unwrap();
    let path = folder.join("b.qcow2");
    for len in [4, 71, 512, 70_000, 200_000] {
        std::fs::write(&path, &whole[..len]).unwrap();
        let error = refused(&options(&path));
        assert!(error.contains("ends"), "{len}: {error}");
    }
    // Data that is not there is an error, not zeroes.
    std::fs::write(&path, &whole[..whole.len() - (256 << 10)]).unwrap();
    let image = layered(&path, false);
    let to = Buffers::owned(&[0; 512]);
    assert!(image.perform(Operation::Read { offset: (1 << 20) - 512, to }).is_err());
    drop(image);
    // Any byte of the metadata may be anything.
    let (mut state, mut opened) = (1u32, 0);
    for _ in 0..300 {
        let mut image = whole.clone();
        for _ in 0..4 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = (state >> 8) as usize % 6 * 65_536 + (state >> 12) as usize % 128;
            image[at] = (state >> 24) as u8;
        }
        std::fs::write(&path, &image).unwrap();
        let options = ImageOptions { backing: false, format: Some(Format::Qcow2), ..options(&path) };
        if open(&ImageOptions { read_only: true, ..options }).is_ok() {
            // What cannot be written may still be read.
            let write = Chain::new(false).open(&path, Some(Format::Qcow2), true).is_ok();
            opened += u32::from(write);
            let image = layered(&path, write);
            for offset in [0, 65_536, 1 << 19] {
                let _ = image.perform(Operation::Read { offset, to: Buffers::owned(&[0; 4096]) });
                let from = Buffers::owned(&[1; 4096]);
                let _ = image.perform(Operation::Write { offset, from, durable: true });
                let _ = image.perform(Operation::Discard { offset, len: 65_536 });
            }
        }
    }
    assert!(opened > 50, "{opened}");
}

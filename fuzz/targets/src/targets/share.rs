//! A shared folder: any FUSE requests. What is beside the folder must stay untouched and unread.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use rustix::fs::{FileType, Mode, mknodat};
use share::{Cache, Data, Share, ShareOptions};

use crate::Target;
use crate::input::Input;

/// FUSE requests, with names, links and pipes that lead astray.
pub const SHARE: Target = Target {
    name: "share",
    about: "requests of a guest for a shared folder, beside which a secret lies",
    seeds,
    words: &[],
    run,
};

/// Nobody in the share may see this or write it.
const SECRET: &[u8] = b"the secret that lies beside the share";
const NAMES: [&[u8]; 16] = [
    b"file",
    b"sub",
    b"up",
    b"absolute",
    b"loop",
    b"pipe",
    b"new",
    b"..",
    b".",
    b"../secret",
    b"secret",
    b"",
    b"sub/../../secret",
    b"/",
    b"deep",
    &[b'x'; 256],
];
/// What numbers, flags, sizes and offsets are made of. None is so large and so small that it would fill a disk.
const WORDS: [u64; 16] =
    [0, 1, 2, 3, 4, 5, 6, 7, 0x42, 0o100644, 0o106777, 0o040755, 4096, 0x8241, u64::MAX, i64::MAX as u64];
/// SYNCFS would wait for the whole host.
const SYNCFS: u8 = 50;

/// File data: so many bytes to write, and what was read.
struct Memory {
    len: usize,
    read: RefCell<Vec<u8>>,
}

impl Data for Memory {
    fn room(&self) -> usize {
        4096
    }

    fn read(&self, file: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<usize> {
        assert!(len <= self.room());
        let mut data = vec![0; len];
        let count = File::from(file.try_clone_to_owned()?).read_at(&mut data, offset)?;
        self.read.borrow_mut().extend_from_slice(&data[..count]);
        Ok(count)
    }

    fn write(&self, file: BorrowedFd<'_>, offset: u64, _: u64, len: usize) -> io::Result<usize> {
        if len > self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        File::from(file.try_clone_to_owned()?).write_at(&vec![b'w'; len], offset)
    }
}

fn prepare(outside: &Path) -> io::Result<Share> {
    let path = outside.join("share");
    fs::create_dir_all(path.join("sub/deep"))?;
    fs::write(outside.join("secret"), SECRET)?;
    fs::write(path.join("file"), "file")?;
    symlink("../secret", path.join("up"))?;
    symlink(outside.join("secret"), path.join("absolute"))?;
    symlink("loop", path.join("loop"))?;
    symlink("../..", path.join("sub/up"))?;
    mknodat(File::open(&path)?, "pipe", FileType::Fifo, Mode::from_raw_mode(0o644), 0)?;
    let options = ShareOptions { path, read_only: false, cache: Cache::Auto, set_id: false, descriptors: 40 };
    Share::new(options).map_err(io::Error::other)
}

fn run(data: &[u8]) {
    let made = || {
        // In memory, where the host has such a place.
        let memory = Path::new("/dev/shm");
        let outside = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }?;
        let share = prepare(outside.path())?;
        Ok::<_, io::Error>((outside, share))
    };
    let (outside, share) = match made() {
        Ok(made) => made,
        Err(error) => panic!("{error}"),
    };
    let mut input = Input::new(data);
    while !input.is_empty() {
        let (request, len) = request(&mut input);
        let memory = Memory { len, read: RefCell::default() };
        if let Some(answer) = share.handle(&request, &memory) {
            assert!(answer.len() >= 16 && answer.len() <= 16 + memory.room(), "{}", answer.len());
            for part in [&answer, &*memory.read.borrow()] {
                assert!(!part.windows(SECRET.len()).any(|window| window == SECRET), "the secret was read");
            }
        }
    }
    // A folder that the guest has closed to itself.
    assert_eq!(fs::read(outside.path().join("secret")).ok().as_deref(), Some(SECRET));
    let beside = fs::read_dir(outside.path()).map_or(0, Iterator::count);
    assert_eq!(beside, 2, "something was made beside the share");
}

/// A request of words and names, and how many bytes of data are behind it.
fn request(input: &mut Input<'_>) -> (Vec<u8>, usize) {
    let (opcode, node, shape) = (input.u8(), input.u8(), input.u8());
    let opcode = if opcode == SYNCFS { 0 } else { opcode % 64 };
    let mut request = vec![0; 4];
    request.extend(u32::from(opcode).to_le_bytes());
    request.extend(1u64.to_le_bytes());
    request.extend(u64::from(node).to_le_bytes());
    // Root now and then is somebody else.
    request
        .extend([0u32, 1000].map(|id| if shape & 0x80 != 0 { id } else { 0 }).map(u32::to_le_bytes).concat());
    request.extend([0; 8]);
    for _ in 0..shape & 0xf {
        let word = input.u8();
        let [low, high] = [word & 0xf, word >> 4].map(|index| WORDS[usize::from(index)]);
        request.extend(if shape & 0x40 != 0 { low | high << 32 } else { low }.to_le_bytes());
    }
    for _ in 0..shape >> 4 & 3 {
        request.extend(NAMES[usize::from(input.u8() % 16)]);
        request.push(0);
    }
    if node == 0xff {
        // Cut anywhere.
        request.truncate(input.u8().into());
    }
    (request, usize::from(shape) * 8)
}

/// Looks up, opens, reads and writes; makes, moves and links; lists folders; goes astray.
fn seeds() -> Vec<Vec<u8>> {
    const LOOKUP: u8 = 1;
    let file = vec![
        LOOKUP, 1, 0x10, 0, 14, 2, 1, 2, 15, 0, 5, 1, 0, 12, 0, 0, 16, 0, 5, 1, 3, 6, 0, 0, 4, 2, 0x0b, 0, 0,
        12, 0, 0, 0, 0, 0, 0, 0, 0, 18, 0, 3, 1, 0, 0, 2, 2, 1, 1,
    ];
    let names = vec![
        9, 1, 0x11, 11, 6, 35, 2, 0x12, 13, 9, 0, 12, 1, 0x21, 1, 0, 6, 45, 1, 0x22, 2, 0, 6, 1, 13, 1, 0x11,
        2, 6, 10, 1, 0x10, 0, 11, 1, 0x10, 6, 6, 1, 0x20, 6, 9,
    ];
    let folders = vec![
        27, 1, 1, 0, 28, 1, 5, 1, 0, 12, 0, 0, 44, 1, 5, 1, 0, 12, 0, 0, 29, 1, 3, 1, 0, 0, LOOKUP, 1, 0x10,
        1,
    ];
    let astray = vec![
        LOOKUP, 1, 0x10, 2, LOOKUP, 2, 0x10, 10, 14, 2, 1, 0, 5, 2, 0, 27, 2, 1, 0, LOOKUP, 1, 0x10, 5, 14,
        3, 1, 2, 35, 1, 0x12, 13, 9, 3, LOOKUP, 1, 0x10, 7, LOOKUP, 1, 0x10, 9,
    ];
    vec![file, names, folders, astray]
}

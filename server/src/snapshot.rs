//! Snapshots: whoever wants one opens the files and hands them to the machine, which writes them. So nothing is written where
//! the caller may not write, and a machine in a jail need not see the folder.
//!
//! After the upgrade the machine says in a line which disks' changes it has to keep ([`Wanted`]), the caller sends a byte with
//! the files, and the machine answers with a line when all is written ([`Done`]). One that is to end then stands still until the
//! caller sends another byte: the files are on the disk. For copies it sends files after the line: RAM. Copies' processes are
//! started before and wait for the files.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use machine::Machine;
use machine::snapshot::{After, Files, How, Paths, Summary, file};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use crate::{Entry, ServerError};

/// The protocol after the upgrade.
pub(crate) const PROTOCOL: &str = "guesthouse-snapshot";
/// How long the caller has to send its files.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most files, and the longest line.
const MAX_FILES: usize = 64;
const MAX_LINE: usize = 64 << 10;

/// What the machine needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Wanted {
    /// Disks whose changes are gone with the machine.
    disks: Vec<usize>,
}

/// What has become of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Done {
    /// It is there.
    Written(Taken),
    /// Why it is not.
    Refused(String),
}

/// What a snapshot took.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Taken {
    /// Microseconds for which the guest stood still, in all.
    pub pause: u64,
    /// Bytes of RAM that were written: what is zero is not, and the rest may be compressed.
    pub memory: u64,
}

/// What somebody wants of a machine.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wish {
    /// What copies begin with.
    Copy,
    /// A snapshot.
    Snapshot {
        /// The machine ends then.
        stop: bool,
        /// How RAM is written.
        how: How,
    },
}

/// The machine's side, on a thread that may wait.
pub(crate) fn serve(machine: &Machine, stream: &UnixStream, wish: Wish) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let disks = machine.kept_disks();
    let (count, how) = match wish {
        Wish::Copy => (disks.len() + 1, How::default()),
        Wish::Snapshot { how, .. } => (disks.len() + 2, how),
    };
    say(stream, &Wanted { disks })?;
    let received = receive(stream, count)?;
    if received.len() != count {
        return say(stream, &Done::Refused("too few files came: try again".to_owned()));
    }
    let mut files = received.into_iter().map(File::from);
    let state = files.next().ok_or(io::ErrorKind::InvalidData)?;
    let memory = if matches!(wish, Wish::Copy) { None } else { files.next() };
    let files = Files { state, memory, how, disks: files.collect() };
    let written = |summary: &Summary| {
        let taken = Taken { pause: summary.pause.as_micros() as u64, memory: summary.memory };
        say(stream, &Done::Written(taken))
    };
    // The disk may be slow; a caller that is gone says nothing.
    let stays = |summary: &Summary| {
        let mut answer = stream;
        let waits = written(summary).and_then(|()| answer.set_read_timeout(None));
        waits.and_then(|()| answer.read_exact(&mut [0])).is_ok()
    };
    let result = match wish {
        Wish::Copy => machine.copy(&files).map(|copied| {
            written(&Summary { pause: copied.pause, memory: 0 })?;
            send(stream, &copied.memory)
        }),
        Wish::Snapshot { stop: false, .. } => {
            machine.snapshot(&files, After::GoOn).map(|summary| written(&summary))
        }
        Wish::Snapshot { stop: true, .. } => machine.snapshot(&files, After::Stop(&stays)).map(|_| Ok(())),
    };
    result.unwrap_or_else(|error| say(stream, &Done::Refused(error.to_string())))
}

/// Takes a snapshot of a machine into a new folder, which appears when all is written and on the disk. Until then it grows in
/// another one, which `growing` is told: without that there will be no snapshot.
///
/// # Errors
/// The machine refuses, the folder is there already, or the host refuses it: nothing is left of it, and the machine goes on.
pub fn take(
    entry: &Entry,
    folder: &Path,
    stop: bool,
    how: How,
    growing: impl FnOnce(&Path),
) -> Result<Taken, ServerError> {
    let refused = |path: &Path| {
        let path = path.to_owned();
        move |source| ServerError::Snapshot { path, source }
    };
    if folder.symlink_metadata().is_ok() {
        return Err(refused(folder)(io::ErrorKind::AlreadyExists.into()));
    }
    let beside = beside(folder).ok_or_else(|| refused(folder)(io::ErrorKind::InvalidInput.into()))?;
    DirBuilder::new().mode(0o700).create(&beside).map_err(refused(folder))?;
    growing(&beside);
    let how = match how {
        // Machines that began with an older version know of nothing else.
        How::Still | How::Compressed => format!("compress={}", how == How::Compressed),
        How::Live => "live=true".to_owned(),
    };
    let written = write(entry, &beside, &format!("stop={stop}&{how}"));
    let whole = written.and_then(|written| {
        let place = || -> io::Result<()> {
            File::open(&beside)?.sync_all()?;
            fs::rename(&beside, folder)?;
            File::open(folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))?
                .sync_all()
        };
        place().map_err(refused(folder)).map(|()| written)
    });
    let Asked { taken, mut stream, .. } = whole.inspect_err(|_| drop(fs::remove_dir_all(&beside)))?;
    // A machine that is to end waits for this, and has ended when it has nothing more to say.
    if stop && stream.write_all(b"\n").is_ok() {
        let _ = stream.read(&mut [0]);
    }
    Ok(taken)
}

/// Where it grows.
fn beside(folder: &Path) -> Option<PathBuf> {
    let name = folder.file_name()?.to_str()?;
    Some(folder.with_file_name(format!(".{name}.{}", std::process::id())))
}

fn write(entry: &Entry, folder: &Path, query: &str) -> Result<Asked, ServerError> {
    let refused = |source| ServerError::Snapshot { path: folder.to_owned(), source };
    let create = |name: &str| File::options().write(true).create_new(true).open(folder.join(name));
    let asked = ask(entry, query, |disks| {
        keep_initrd(entry, folder)?;
        let names = [file::STATE.to_owned(), file::MEMORY.to_owned()];
        names
            .into_iter()
            .chain(disks.iter().map(|&index| file::disk(index)))
            .map(|name| create(&name))
            .collect()
    })?;
    for file in &asked.files {
        file.set_permissions(Permissions::from_mode(0o400)).map_err(refused)?;
        file.sync_all().map_err(refused)?;
    }
    Ok(asked)
}

/// A machine's state in memory, for copies: files without names.
#[derive(Debug)]
pub struct Copied {
    /// See [`file::STATE`].
    state: File,
    /// Files with RAM in them.
    memory: Vec<File>,
    /// Changes of disks, by their places in the definition.
    disks: Vec<(usize, File)>,
    /// The initrd, if it has one of its own.
    initrd: Option<File>,
}

/// What a copy's process is told of the files that come.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Handed {
    initrd: bool,
    memory: usize,
    disks: Vec<usize>,
}

impl Copied {
    /// Gives a copy's process the files, by a socket that it has.
    ///
    /// # Errors
    /// The process has ended, or has too many disks for a message.
    pub fn hand_over(&self, stream: &UnixStream) -> io::Result<()> {
        let disks = self.disks.iter().map(|&(index, _)| index).collect();
        say(stream, &Handed { initrd: self.initrd.is_some(), memory: self.memory.len(), disks })?;
        let first: Vec<_> = [&self.state].into_iter().chain(&self.initrd).chain(&self.memory).collect();
        send(stream, &first)?;
        send(stream, &self.disks.iter().map(|(_, file)| file).collect::<Vec<_>>())
    }
}

/// What [`Copied::hand_over`] gives, as paths that are good as long as this process lives. None if there will be no copy: whoever
/// asked for it knows why.
///
/// # Errors
/// What comes is something else.
pub fn handed(stream: &UnixStream) -> io::Result<Option<Paths>> {
    let Ok(what) = hear::<Handed>(&mut io::Cursor::default(), stream) else { return Ok(None) };
    let count = 1 + usize::from(what.initrd) + what.memory;
    let first = receive(stream, count)?;
    let last = receive(stream, what.disks.len())?;
    if (first.len(), last.len()) != (count, what.disks.len()) {
        return Err(io::Error::other("the host refuses descriptors: raise its limit of open files"));
    }
    // They stay open: machines open them by these names, again at each start.
    let path = |file: OwnedFd| Path::new(file::INHERITED).join(file.into_raw_fd().to_string());
    let mut first = first.into_iter().map(path);
    let state = first.next().ok_or(io::ErrorKind::InvalidData)?;
    let initrd = if what.initrd { first.next() } else { None };
    let disks = what.disks.into_iter().zip(last.into_iter().map(path)).collect();
    let initrd = initrd.unwrap_or_default();
    Ok(Some(Paths { state, memory: first.collect(), initrd, disks, foreign: false }))
}

/// Takes a machine's state, with which it shares the RAM that neither it nor its copies write.
///
/// # Errors
/// The machine refuses, or the host has no memory.
pub fn copy(entry: &Entry) -> Result<Copied, ServerError> {
    let make = |name: &str| memfd_create(name, MemfdFlags::CLOEXEC).map(File::from);
    // It is written once, before the machine is there.
    let initrd = File::open(entry.path().join(file::INITRD)).ok();
    let mut places = Vec::new();
    let asked = ask(entry, "share=true", |disks| {
        places = disks.to_vec();
        let names = disks.iter().map(|&index| file::disk(index));
        Ok([file::STATE.to_owned()].into_iter().chain(names).map(|n| make(&n)).collect::<Result<_, _>>()?)
    })?;
    let memory = receive(&asked.stream, MAX_FILES).map_err(|e| silent(entry, &e))?;
    let memory = memory.into_iter().map(File::from).collect();
    let mut files = asked.files.into_iter();
    let state = files.next().ok_or_else(|| silent(entry, &io::ErrorKind::InvalidData.into()))?;
    Ok(Copied { state, memory, disks: places.into_iter().zip(files).collect(), initrd })
}

/// A machine that has answered.
struct Asked {
    stream: UnixStream,
    files: Vec<File>,
    taken: Taken,
}

fn silent(entry: &Entry, error: &io::Error) -> ServerError {
    ServerError::NoAnswer { id: entry.label().to_owned(), what: error.to_string() }
}

/// Has the machine write itself into files that are opened when it has said which disks' changes it has to keep.
fn ask(
    entry: &Entry,
    query: &str,
    open: impl FnOnce(&[usize]) -> io::Result<Vec<File>>,
) -> Result<Asked, ServerError> {
    let silent = |e: io::Error| silent(entry, &e);
    let upgraded = entry.connect()?.upgrade(&format!("/v1/snapshot?{query}"), PROTOCOL)?;
    let stream = upgraded.stream;
    let mut early = io::Cursor::new(upgraded.early);
    let wanted: Wanted = hear(&mut early, &stream).map_err(silent)?;
    let files = open(&wanted.disks).map_err(ServerError::Files)?;
    send(&stream, &files).map_err(silent)?;
    match hear(&mut early, &stream).map_err(silent)? {
        Done::Refused(message) => Err(ServerError::Refused { id: entry.label().to_owned(), message }),
        Done::Written(taken) => Ok(Asked { stream, files, taken }),
    }
}

/// A machine's own initrd is gone with its folder.
fn keep_initrd(entry: &Entry, folder: &Path) -> io::Result<()> {
    let (from, to) = (entry.path().join(file::INITRD), folder.join(file::INITRD));
    if from.exists() {
        fs::copy(from, &to)?;
        File::open(&to)?.sync_all()?;
    }
    Ok(())
}

fn say(mut stream: &UnixStream, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// A line, of which the beginning may have come already. No more is read: what follows may come with files.
fn hear<T: serde::de::DeserializeOwned>(
    early: &mut io::Cursor<Vec<u8>>,
    stream: &UnixStream,
) -> io::Result<T> {
    let (mut source, mut line, mut byte) = (early.chain(stream), Vec::new(), [0]);
    while line.len() < MAX_LINE && source.read(&mut byte)? == 1 && byte != *b"\n" {
        line.extend(byte);
    }
    if line.is_empty() {
        return Err(io::Error::other("it has ended"));
    }
    Ok(serde_json::from_slice(&line)?)
}

fn send(stream: &UnixStream, files: &[impl AsFd]) -> io::Result<()> {
    let descriptors: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("too many disks"));
    }
    sendmsg(stream, &[IoSlice::new(b"\n")], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive(stream: &UnixStream, most: usize) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received = recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut byte)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL,
    )?;
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let rights = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    Ok(rights.flatten().take(most).collect())
}

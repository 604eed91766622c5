use std::cell::RefCell;
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use rustix::fs::OFlags;
use tempfile::TempDir;
use zerocopy::FromZeros;

use super::*;
use crate::Cache;
use crate::host::bits;
use crate::wire::*;

/// File data in memory: that of a WRITE, and what a READ has put.
#[derive(Default)]
struct Buffer {
    out: Vec<u8>,
    put: RefCell<Vec<u8>>,
}

impl Data for Buffer {
    fn room(&self) -> usize {
        1 << 16
    }

    fn read(&self, file: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<usize> {
        let mut data = vec![0; len];
        let count = fs::File::from(file.try_clone_to_owned()?).read_at(&mut data, offset)?;
        self.put.borrow_mut().extend(&data[..count]);
        Ok(count)
    }

    fn write(&self, file: BorrowedFd<'_>, offset: u64, skip: u64, len: usize) -> io::Result<usize> {
        assert_eq!((skip, len), (80, self.out.len()));
        fs::File::from(file.try_clone_to_owned()?).write_at(&self.out, offset)
    }
}

/// A guest, and the folder that is shared with it, which lies in another one.
struct Guest {
    outside: TempDir,
    share: Share,
    uid: u32,
}

type Result<T> = std::result::Result<T, Errno>;

impl Guest {
    fn new(change: impl FnOnce(&mut ShareOptions)) -> Self {
        Self::with_identity(change, Identity::of_process())
    }

    fn with_identity(change: impl FnOnce(&mut ShareOptions), identity: Identity) -> Self {
        let outside = tempfile::tempdir().unwrap();
        let path = outside.path().join("share");
        fs::create_dir(&path).unwrap();
        fs::write(outside.path().join("secret"), "secret").unwrap();
        let mut options =
            ShareOptions { path, read_only: false, cache: Cache::Auto, set_id: false, descriptors: 256 };
        change(&mut options);
        Self { outside, share: Share::with_identity(options, identity).unwrap(), uid: 0 }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.outside.path().join("share").join(name)
    }

    fn request(&self, opcode: u32, node: u64, body: &[&[u8]], data: &Buffer) -> Result<Vec<u8>> {
        let body = body.concat();
        let (uid, gid) = (self.uid, self.uid);
        let header = InHeader {
            len: 40 + body.len() as u32,
            opcode,
            unique: 7,
            node,
            uid,
            gid,
            pid: 1,
            _extensions: 0,
        };
        let answer = self.share.handle(&[header.as_bytes(), &body].concat(), data).unwrap();
        let (out, rest) = OutHeader::read_from_prefix(&answer).unwrap();
        assert_eq!((out.unique, out.len as usize), (7, answer.len() + data.put.borrow().len()));
        if out.error == 0 { Ok(rest.to_vec()) } else { Err(Errno::from_raw_os_error(-out.error)) }
    }

    fn ask<T: FromBytes>(&self, opcode: u32, node: u64, body: &[&[u8]]) -> Result<T> {
        let answer = self.request(opcode, node, body, &Buffer::default())?;
        Ok(T::read_from_prefix(&answer).map_err(|_| Errno::IO).unwrap().0)
    }

    fn tell(&self, opcode: u32, node: u64, body: &[&[u8]]) -> Result<()> {
        self.request(opcode, node, body, &Buffer::default()).map(drop)
    }

    /// A node, if there is one.
    fn lookup(&self, parent: u64, name: &str) -> Result<EntryOut> {
        let entry: EntryOut = self.ask(op::LOOKUP, parent, &[&text(name)])?;
        if entry.node == 0 { Err(Errno::NOENT) } else { Ok(entry) }
    }

    fn forget(&self, node: u64, lookups: u64) {
        let header =
            InHeader { len: 48, opcode: op::FORGET, unique: 7, node, uid: 0, gid: 0, pid: 1, _extensions: 0 };
        let request = [header.as_bytes(), &lookups.to_le_bytes()].concat();
        assert!(self.share.handle(&request, &Buffer::default()).is_none());
    }

    fn getattr(&self, node: u64) -> Result<Attr> {
        Ok(self.ask::<AttrOut>(op::GETATTR, node, &[&[0; 16]])?.attr)
    }

    fn setattr(&self, node: u64, wish: SetattrIn) -> Result<Attr> {
        Ok(self.ask::<AttrOut>(op::SETATTR, node, &[wish.as_bytes()])?.attr)
    }

    fn chmod(&self, node: u64, mode: u32) -> Result<Attr> {
        self.setattr(node, SetattrIn { valid: set::MODE, mode, ..SetattrIn::new_zeroed() })
    }

    fn create(&self, parent: u64, name: &str, flags: u32, mode: u32) -> Result<(EntryOut, u64)> {
        let head = CreateIn { flags, mode, _umask: 0, _open_flags: 0 };
        let answer = self.request(op::CREATE, parent, &[head.as_bytes(), &text(name)], &Buffer::default())?;
        let (entry, rest) = EntryOut::read_from_prefix(&answer).unwrap();
        Ok((entry, OpenOut::read_from_prefix(rest).unwrap().0.handle))
    }

    fn open(&self, node: u64, flags: OFlags) -> Result<OpenOut> {
        self.ask(op::OPEN, node, &[&flags.bits().to_le_bytes(), &[0; 4]])
    }

    fn write(&self, handle: u64, offset: u64, data: &[u8]) -> Result<u32> {
        let head = TransferIn { handle, offset, size: data.len() as u32, ..TransferIn::new_zeroed() };
        let data = Buffer { out: data.to_vec(), ..Buffer::default() };
        let answer = self.request(op::WRITE, 0, &[head.as_bytes()], &data)?;
        Ok(WriteOut::read_from_prefix(&answer).unwrap().0.size)
    }

    fn read(&self, handle: u64, offset: u64, size: u32) -> Result<Vec<u8>> {
        let head = TransferIn { handle, offset, size, ..TransferIn::new_zeroed() };
        let data = Buffer::default();
        self.request(op::READ, 0, &[head.as_bytes()], &data)?;
        Ok(data.put.take())
    }

    fn mkdir(&self, parent: u64, name: &str, mode: u32) -> Result<EntryOut> {
        self.ask(op::MKDIR, parent, &[&mode.to_le_bytes(), &[0; 4], &text(name)])
    }

    fn release(&self, handle: u64) -> Result<()> {
        self.tell(op::RELEASE, 0, &[&handle.to_le_bytes(), &[0; 16]])
    }

    fn rename(&self, from: (u64, &str), to: (u64, &str), flags: u32) -> Result<()> {
        let head = Rename2In { folder: to.0, flags, _padding: 0 };
        self.tell(op::RENAME2, from.0, &[head.as_bytes(), &text(from.1), &text(to.1)])
    }

    /// Names of a folder, with nodes for `plus`, read in answers of so many bytes.
    fn list(&self, node: u64, plus: bool, size: u32) -> Vec<(String, u64)> {
        let OpenOut { handle, .. } = self.ask(op::OPENDIR, node, &[&[0; 8]]).unwrap();
        let (mut names, mut offset) = (Vec::new(), 0);
        loop {
            let head = TransferIn { handle, offset, size, ..TransferIn::new_zeroed() };
            let opcode = if plus { op::READDIRPLUS } else { op::READDIR };
            let answer = self.request(opcode, node, &[head.as_bytes()], &Buffer::default()).unwrap();
            assert!(answer.len() <= size as usize);
            let mut rest = answer.as_slice();
            if rest.is_empty() {
                self.tell(op::RELEASEDIR, node, &[&handle.to_le_bytes(), &[0; 16]]).unwrap();
                return names;
            }
            while !rest.is_empty() {
                let mut number = 0;
                if plus {
                    let (entry, after) = EntryOut::read_from_prefix(rest).unwrap();
                    (number, rest) = (entry.node, after);
                }
                let (dirent, after) = Dirent::read_from_prefix(rest).unwrap();
                let len = dirent.name_len as usize;
                names.push((String::from_utf8(after[..len].to_vec()).unwrap(), number));
                rest = &after[len.next_multiple_of(8)..];
                offset = dirent.offset;
            }
        }
    }
}

fn text(name: &str) -> Vec<u8> {
    CString::new(name).unwrap().into_bytes_with_nul()
}

fn write_only() -> u32 {
    OFlags::WRONLY.bits()
}

#[test]
fn init_agrees_on_what_both_can_do() {
    let guest = Guest::new(|_| {});
    let init = |major: u32, minor: u32| {
        let flags = u32::MAX;
        guest.ask::<InitOut>(op::INIT, 0, &[InitIn { major, minor, max_readahead: 4096, flags }.as_bytes()])
    };
    let answer = init(7, 37).unwrap();
    assert_eq!((answer.major, answer.minor, answer.max_write, answer.max_pages), (7, 31, 1 << 20, 256));
    assert!(answer.flags & feature::AUTO_INVAL_DATA != 0 && answer.flags & feature::WRITEBACK_CACHE == 0);
    // Locks are the guest's own.
    assert_eq!(answer.flags & (1 << 1 | 1 << 10), 0);
    assert_eq!(init(8, 0).unwrap().major, 7);
    assert_eq!(init(7, 12).unwrap_err(), Errno::PROTO);
}

#[test]
fn files_are_made_written_read_and_removed() {
    let guest = Guest::new(|_| {});
    let (entry, handle) = guest.create(ROOT, "a", OFlags::RDWR.bits(), 0o666).unwrap();
    assert_eq!((guest.write(handle, 0, b"hello").unwrap(), guest.write(handle, 5, b" you").unwrap()), (5, 4));
    assert_eq!(guest.read(handle, 2, 100).unwrap(), b"llo you");
    assert_eq!(fs::read(guest.path("a")).unwrap(), b"hello you");
    // Whatever the mask of this process is.
    assert_eq!(fs::metadata(guest.path("a")).unwrap().permissions().mode() & 0o7777, 0o666);
    let size = SetattrIn { valid: set::SIZE, size: 4, ..SetattrIn::new_zeroed() };
    assert_eq!(guest.setattr(entry.node, size).unwrap().size, 4);
    guest.tell(op::UNLINK, ROOT, &[&text("a")]).unwrap();
    assert_eq!(guest.lookup(ROOT, "a").unwrap_err(), Errno::NOENT);
    // It is there as long as it is open, also for those who know only its number.
    assert_eq!(
        (guest.getattr(entry.node).unwrap().nlink, guest.read(handle, 0, 9).unwrap()),
        (0, b"hell".to_vec())
    );
    guest.release(handle).unwrap();
    assert_eq!(guest.read(handle, 0, 9).unwrap_err(), Errno::BADF);
    assert_eq!(guest.getattr(entry.node).unwrap_err(), Errno::STALE);
}

#[test]
fn names_are_of_one_file() {
    let guest = Guest::new(|_| {});
    for (name, error) in
        [("..", Errno::INVAL), (".", Errno::INVAL), ("a/b", Errno::INVAL), ("", Errno::NOENT)]
    {
        assert_eq!(guest.lookup(ROOT, name).unwrap_err(), error, "{name:?}");
        assert_eq!(guest.mkdir(ROOT, name, 0o755).unwrap_err(), error, "{name:?}");
        assert_eq!(guest.create(ROOT, name, write_only(), 0o644).unwrap_err(), error, "{name:?}");
        assert_eq!(guest.tell(op::UNLINK, ROOT, &[&text(name)]).unwrap_err(), error, "{name:?}");
        assert_eq!(guest.rename((ROOT, name), (ROOT, "x"), 0).unwrap_err(), error, "{name:?}");
    }
    assert_eq!(guest.lookup(ROOT, &"a".repeat(256)).unwrap_err(), Errno::NAMETOOLONG);
    guest.mkdir(ROOT, &"a".repeat(255), 0o755).unwrap();
    // A name without an end, and no name.
    assert_eq!(guest.tell(op::LOOKUP, ROOT, &[b"abc"]).unwrap_err(), Errno::INVAL);
    assert_eq!(guest.tell(op::LOOKUP, ROOT, &[]).unwrap_err(), Errno::INVAL);
}

#[test]
fn links_lead_nowhere_on_the_host() {
    let guest = Guest::new(|_| {});
    let secret = guest.outside.path().join("secret");
    for target in [secret.to_str().unwrap(), "../secret", "..", "/"] {
        let _ = fs::remove_file(guest.path("link"));
        symlink(target, guest.path("link")).unwrap();
        let entry = guest.lookup(ROOT, "link").unwrap();
        assert_eq!(entry.attr.mode & bits::FORMAT, bits::LINK);
        let read = guest.request(op::READLINK, entry.node, &[], &Buffer::default()).unwrap();
        assert_eq!(read, target.as_bytes());
        assert!(guest.open(entry.node, OFlags::RDONLY).is_err());
        assert!(guest.tell(op::OPENDIR, entry.node, &[&[0; 8]]).is_err());
        assert!(guest.lookup(entry.node, "secret").is_err());
        assert!(guest.create(ROOT, "link", write_only() | OFlags::TRUNC.bits(), 0o644).is_err());
        assert!(guest.chmod(entry.node, 0o777).is_err());
        let size = SetattrIn { valid: set::SIZE, ..SetattrIn::new_zeroed() };
        assert!(guest.setattr(entry.node, size).is_err());
        guest.forget(entry.node, 1);
    }
    assert_eq!(fs::read(&secret).unwrap(), b"secret");
}

#[test]
fn a_folder_that_becomes_a_link_is_not_followed() {
    let guest = Guest::new(|options| options.descriptors = 0);
    let folder = guest.mkdir(ROOT, "folder", 0o755).unwrap();
    let others: Vec<_> = (0..8).map(|i| guest.mkdir(ROOT, &i.to_string(), 0o755).unwrap().node).collect();
    // With room for one descriptor, the folder has to be opened again.
    let look_at_others = || others.iter().for_each(|&node| assert!(guest.lookup(node, "x").is_err()));
    look_at_others();
    fs::remove_dir(guest.path("folder")).unwrap();
    symlink(guest.outside.path(), guest.path("folder")).unwrap();
    assert_eq!(guest.lookup(folder.node, "secret").unwrap_err(), Errno::STALE);
    look_at_others();
    assert_eq!(guest.create(folder.node, "x", write_only(), 0o644).unwrap_err(), Errno::STALE);
    assert!(!guest.outside.path().join("x").exists());
}

#[test]
fn what_is_no_file_and_no_folder_is_seen_and_never_opened() {
    let guest = Guest::new(|_| {});
    let kinds = [(bits::FIFO, "fifo"), (bits::SOCKET, "socket")];
    for (kind, name) in kinds {
        let node = MknodIn { mode: kind | 0o600, rdev: 0, _umask: 0, _padding: 0 };
        let entry: EntryOut = guest.ask(op::MKNOD, ROOT, &[node.as_bytes(), &text(name)]).unwrap();
        assert_eq!(entry.attr.mode, kind | 0o600);
        assert_eq!(guest.open(entry.node, OFlags::RDONLY).unwrap_err(), Errno::OPNOTSUPP);
        assert!(guest.create(ROOT, name, write_only(), 0o644).is_err());
        let size = SetattrIn { valid: set::SIZE, ..SetattrIn::new_zeroed() };
        assert!(guest.setattr(entry.node, size).is_err());
        assert_eq!(guest.chmod(entry.node, 0o640).unwrap().mode, kind | 0o640);
    }
    for kind in [0o020000u32, 0o060000] {
        let node = MknodIn { mode: kind | 0o600, rdev: 0x103, _umask: 0, _padding: 0 };
        assert_eq!(guest.tell(op::MKNOD, ROOT, &[node.as_bytes(), &text("null")]).unwrap_err(), Errno::PERM);
    }
}

#[test]
fn nothing_in_a_read_only_share_changes() {
    let guest = Guest::new(|options| options.read_only = true);
    fs::write(guest.path("a"), "a").unwrap();
    let entry = guest.lookup(ROOT, "a").unwrap();
    let refused = [
        guest.mkdir(ROOT, "b", 0o755).map(drop),
        guest.create(ROOT, "b", write_only(), 0o644).map(drop),
        guest.open(entry.node, OFlags::RDWR).map(drop),
        guest.open(entry.node, OFlags::RDONLY | OFlags::TRUNC).map(drop),
        guest.tell(op::UNLINK, ROOT, &[&text("a")]),
        guest.rename((ROOT, "a"), (ROOT, "b"), 0),
        guest.chmod(entry.node, 0o777).map(drop),
        guest.tell(op::SYMLINK, ROOT, &[&text("b"), &text("a")]),
        guest.tell(op::LINK, ROOT, &[&entry.node.to_le_bytes(), &text("b")]),
    ];
    assert!(refused.iter().all(|result| *result == Err(Errno::ROFS)), "{refused:?}");
    let handle = guest.open(entry.node, OFlags::RDONLY).unwrap().handle;
    assert_eq!(guest.read(handle, 0, 10).unwrap(), b"a");
    assert_eq!(guest.write(handle, 0, b"b").unwrap_err(), Errno::ROFS);
}

#[test]
fn nodes_are_found_again_after_their_descriptors_were_dropped() {
    let guest = Guest::new(|options| options.descriptors = 0);
    let mut deep = vec![ROOT];
    for i in 0..20 {
        deep.push(guest.mkdir(*deep.last().unwrap(), &format!("d{i}"), 0o755).unwrap().node);
    }
    let wide: Vec<_> = (0..50).map(|i| guest.mkdir(ROOT, &format!("w{i}"), 0o755).unwrap().node).collect();
    for &node in &wide {
        guest.mkdir(node, "x", 0o755).unwrap();
    }
    guest.mkdir(deep[20], "bottom", 0o755).unwrap();
    // What was moved is found where it is now.
    guest.rename((ROOT, "d0"), (wide[0], "moved"), 0).unwrap();
    wide.iter().for_each(|&node| assert!(guest.lookup(node, "x").is_ok()));
    assert!(guest.lookup(deep[20], "bottom").is_ok());
    // The guest forgets it from the top, and what is below stays.
    for &node in &deep[1..20] {
        guest.forget(node, 1);
    }
    wide.iter().for_each(|&node| assert!(guest.lookup(node, "x").is_ok()));
    assert!(guest.lookup(deep[20], "bottom").is_ok());
    guest.forget(deep[20], 1);
    assert_eq!(guest.getattr(deep[19]).map(|_| ()), Ok(()), "it holds what is in it");
}

#[test]
fn what_the_guest_forgets_is_gone() {
    let guest = Guest::new(|_| {});
    let entry = guest.mkdir(ROOT, "a", 0o755).unwrap();
    assert_eq!(guest.lookup(ROOT, "a").unwrap().node, entry.node);
    guest.forget(entry.node, 1);
    guest.getattr(entry.node).unwrap();
    guest.forget(entry.node, u64::MAX);
    assert_eq!(guest.getattr(entry.node).unwrap_err(), Errno::STALE);
    guest.forget(ROOT, u64::MAX);
    assert_ne!(guest.lookup(ROOT, "a").unwrap().node, entry.node);
}

#[test]
fn a_host_that_moves_a_folder_into_its_own_confuses_nobody() {
    let guest = Guest::new(|options| options.descriptors = 0);
    let a = guest.mkdir(ROOT, "a", 0o755).unwrap();
    let b = guest.mkdir(a.node, "b", 0o755).unwrap();
    fs::rename(guest.path("a/b"), guest.path("b")).unwrap();
    fs::rename(guest.path("a"), guest.path("b/a")).unwrap();
    // `b` was last seen in `a`, and `a` is seen in it now.
    let b_now = guest.lookup(ROOT, "b").unwrap();
    assert_eq!(b_now.node, b.node);
    assert_eq!(guest.lookup(b.node, "a").unwrap().node, a.node);
    guest.mkdir(a.node, "c", 0o755).unwrap();
    assert!(guest.path("b/a/c").exists());
}

#[test]
fn folders_are_listed_whole_whatever_the_room_is() {
    let guest = Guest::new(|_| {});
    let mut expected = vec![".".to_owned(), "..".to_owned()];
    for i in 0..300 {
        let name = format!("file-{i}-{}", "x".repeat(i % 90));
        fs::write(guest.path(&name), "").unwrap();
        expected.push(name);
    }
    expected.sort();
    for (plus, size) in [(false, 512), (false, 4096), (true, 512), (true, 4096), (true, 60000)] {
        let mut names = guest.list(ROOT, plus, size);
        names.sort();
        assert_eq!(names.iter().map(|n| &n.0).collect::<Vec<_>>(), expected.iter().collect::<Vec<_>>());
        for (name, node) in names {
            assert_eq!(node != 0, plus && !name.starts_with('.'), "{name}");
        }
    }
}

#[test]
fn set_id_programs_are_for_those_who_allow_them() {
    let guest = Guest::new(|_| {});
    let (entry, handle) = guest.create(ROOT, "a", write_only(), 0o755).unwrap();
    guest.release(handle).unwrap();
    for mode in [0o4755, 0o2755, 0o6755] {
        assert_eq!(guest.chmod(entry.node, mode).unwrap_err(), Errno::PERM);
        assert_eq!(guest.create(ROOT, "b", write_only(), mode).unwrap_err(), Errno::PERM);
    }
    // One that is there stays one, until it is written.
    fs::set_permissions(guest.path("a"), fs::Permissions::from_mode(0o4755)).unwrap();
    assert_eq!(guest.chmod(entry.node, 0o4700).unwrap().mode & 0o7777, 0o4700);
    guest.open(entry.node, OFlags::WRONLY).unwrap();
    assert_eq!(guest.getattr(entry.node).unwrap().mode & 0o7777, 0o700);
    let folder = guest.mkdir(ROOT, "folder", 0o755).unwrap();
    assert_eq!(guest.chmod(folder.node, 0o2755).unwrap().mode & 0o7777, 0o2755);
    let free = Guest::new(|options| options.set_id = true);
    let (entry, _) = free.create(ROOT, "a", write_only(), 0o4755).unwrap();
    assert_eq!(entry.attr.mode & 0o7777, 0o4755);
}

#[test]
fn limits_are_errors() {
    let guest = Guest::new(|options| options.descriptors = 30);
    fs::write(guest.path("a"), "a").unwrap();
    let node = guest.lookup(ROOT, "a").unwrap().node;
    let handles: Vec<_> = (0..7).map(|_| guest.open(node, OFlags::RDONLY).unwrap().handle).collect();
    assert_eq!(guest.open(node, OFlags::RDONLY).unwrap_err(), Errno::NFILE);
    assert_eq!(guest.create(ROOT, "b", write_only(), 0o644).unwrap_err(), Errno::NFILE);
    assert!(!guest.path("b").exists());
    assert_eq!(guest.tell(op::OPENDIR, ROOT, &[&[0; 8]]).unwrap_err(), Errno::NFILE);
    guest.release(handles[0]).unwrap();
    guest.open(node, OFlags::RDONLY).unwrap();
    guest.tell(op::DESTROY, 0, &[]).unwrap();
    assert_eq!(guest.read(handles[1], 0, 1).unwrap_err(), Errno::BADF);
    assert_eq!(guest.getattr(node).unwrap_err(), Errno::STALE);
}

#[test]
fn a_file_with_the_number_of_another_is_another() {
    let guest = Guest::new(|_| {});
    for _ in 0..20 {
        fs::write(guest.path("a"), "").unwrap();
        let before = guest.lookup(ROOT, "a").unwrap();
        fs::remove_file(guest.path("a")).unwrap();
        // Times of birth are those of the host's clock, which is slow.
        std::thread::sleep(Duration::from_millis(10));
        fs::write(guest.path("a"), "").unwrap();
        assert_ne!(guest.lookup(ROOT, "a").unwrap().node, before.node);
        assert_eq!(guest.getattr(before.node).unwrap_err(), Errno::STALE);
    }
}

#[test]
fn what_a_user_of_the_guest_makes_is_his() {
    let mut guest = Guest::new(|_| {});
    guest.uid = 1000;
    let owner =
        |path: &Path| fs::symlink_metadata(path).map(|m| (m.uid(), m.gid(), m.mode() & 0o7777)).unwrap();
    let (entry, _) = guest.create(ROOT, "file", write_only(), 0o640).unwrap();
    if !rustix::process::geteuid().is_root() {
        // Without the right to give files away it is the user's.
        assert_eq!((entry.attr.uid, entry.attr.gid), (0, 0));
        return;
    }
    assert_eq!((entry.attr.uid, entry.attr.gid), (1000, 1000));
    guest.mkdir(ROOT, "folder", 0o750).unwrap();
    guest.tell(op::SYMLINK, ROOT, &[&text("link"), &text("secret")]).unwrap();
    assert_eq!(owner(&guest.path("file")), (1000, 1000, 0o640));
    assert_eq!(owner(&guest.path("folder")), (1000, 1000, 0o750));
    assert_eq!(owner(&guest.path("link")).0, 1000);
    assert_eq!(owner(&guest.outside.path().join("secret")).0, 0);
    // In a folder with the bit, files are of its group.
    fs::create_dir(guest.path("group")).unwrap();
    std::os::unix::fs::chown(guest.path("group"), Some(0), Some(50)).unwrap();
    fs::set_permissions(guest.path("group"), fs::Permissions::from_mode(0o2777)).unwrap();
    let group = guest.lookup(ROOT, "group").unwrap().node;
    guest.create(group, "file", write_only(), 0o644).unwrap();
    guest.mkdir(group, "folder", 0o755).unwrap();
    assert_eq!(owner(&guest.path("group/file")), (1000, 50, 0o644));
    assert_eq!(owner(&guest.path("group/folder")), (1000, 50, 0o2755));
}

#[test]
fn a_users_guest_gives_nothing_away() {
    let own = fs::metadata("/proc/self").unwrap();
    let identity = Identity::User { uid: own.uid(), gid: own.gid() };
    let mut guest = Guest::with_identity(|_| {}, identity);
    guest.uid = 1000;
    let (entry, _) = guest.create(ROOT, "a", write_only(), 0o644).unwrap();
    assert_eq!((entry.attr.uid, entry.attr.gid), (0, 0));
    let give =
        |uid: u32| guest.setattr(entry.node, SetattrIn { valid: set::UID, uid, ..SetattrIn::new_zeroed() });
    assert_eq!(give(0).unwrap().uid, 0);
    assert_eq!(give(1000).unwrap_err(), Errno::PERM);
}

#[test]
fn times_are_set() {
    let guest = Guest::new(|_| {});
    let (entry, _) = guest.create(ROOT, "a", write_only(), 0o644).unwrap();
    let valid = set::ATIME | set::MTIME;
    let wish =
        SetattrIn { valid, atime: -5, mtime: 1 << 31, mtime_nanos: u32::MAX, ..SetattrIn::new_zeroed() };
    let attr = guest.setattr(entry.node, wish).unwrap();
    assert_eq!((attr.atime, attr.mtime, attr.mtime_nanos), (-5, 1 << 31, 999_999_999));
    let wish = SetattrIn { valid: set::MTIME | set::MTIME_NOW, ..SetattrIn::new_zeroed() };
    let attr = guest.setattr(entry.node, wish).unwrap();
    assert!(attr.atime == -5 && attr.mtime != 1 << 31);
}

//! What the guest sends. Fields that nobody looks at are in names with an underscore.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $ty:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct $name { $(pub $field: $ty),* }
    )*};
}

messages! {
    /// In front of every request.
    InHeader { len: u32, opcode: u32, unique: u64, node: u64, uid: u32, gid: u32, pid: u32, _extensions: u32 }
    /// INIT as all versions send it.
    InitIn { major: u32, minor: u32, max_readahead: u32, flags: u32 }
    ForgetIn { lookups: u64 }
    BatchForgetIn { count: u32, _dummy: u32 }
    /// One of those.
    ForgetOne { node: u64, lookups: u64 }
    SetattrIn {
        valid: u32,
        _padding: u32,
        handle: u64,
        size: u64,
        _lock_owner: u64,
        atime: i64,
        mtime: i64,
        _ctime: u64,
        atime_nanos: u32,
        mtime_nanos: u32,
        _ctime_nanos: u32,
        mode: u32,
        _unused: u32,
        uid: u32,
        gid: u32,
        _more: u32,
    }
    MknodIn { mode: u32, rdev: u32, _umask: u32, _padding: u32 }
    MkdirIn { mode: u32, _umask: u32 }
    RenameIn { folder: u64 }
    Rename2In { folder: u64, flags: u32, _padding: u32 }
    LinkIn { node: u64 }
    OpenIn { flags: u32, _open_flags: u32 }
    CreateIn { flags: u32, mode: u32, _umask: u32, _open_flags: u32 }
    ReleaseIn { handle: u64, _flags: u32, _release_flags: u32, _lock_owner: u64 }
    /// READ, READDIR and READDIRPLUS; WRITE as well, with the data behind it.
    TransferIn {
        handle: u64,
        offset: u64,
        size: u32,
        _transfer_flags: u32,
        _lock_owner: u64,
        _flags: u32,
        _padding: u32,
    }
    FsyncIn { handle: u64, flags: u32, _padding: u32 }
    FallocateIn { handle: u64, offset: u64, len: u64, mode: u32, _padding: u32 }
    LseekIn { handle: u64, offset: u64, whence: u32, _padding: u32 }
    CopyFileRangeIn {
        from: u64,
        from_offset: u64,
        _node: u64,
        to: u64,
        to_offset: u64,
        len: u64,
        flags: u64,
    }
}

/// Bytes of a WRITE in front of its data.
pub const WRITE_HEAD: u64 = (size_of::<InHeader>() + size_of::<TransferIn>()) as u64;

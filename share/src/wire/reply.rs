//! What the guest is answered.

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
    /// In front of every answer.
    OutHeader { len: u32, error: i32, unique: u64 }
    /// A file's attributes.
    Attr {
        ino: u64,
        size: u64,
        blocks: u64,
        atime: i64,
        mtime: i64,
        ctime: i64,
        atime_nanos: u32,
        mtime_nanos: u32,
        ctime_nanos: u32,
        mode: u32,
        nlink: u32,
        uid: u32,
        gid: u32,
        rdev: u32,
        blksize: u32,
        flags: u32,
    }
    /// A name's node; number 0 is none, which the guest may believe as long.
    EntryOut {
        node: u64,
        generation: u64,
        entry_valid: u64,
        attr_valid: u64,
        entry_valid_nanos: u32,
        attr_valid_nanos: u32,
        attr: Attr,
    }
    AttrOut { attr_valid: u64, attr_valid_nanos: u32, dummy: u32, attr: Attr }
    OpenOut { handle: u64, flags: u32, padding: u32 }
    WriteOut { size: u32, padding: u32 }
    LseekOut { offset: u64 }
    StatfsOut {
        blocks: u64,
        free: u64,
        available: u64,
        files: u64,
        files_free: u64,
        block_size: u32,
        name_max: u32,
        fragment_size: u32,
        padding: u32,
        spare: [u32; 6],
    }
    InitOut {
        major: u32,
        minor: u32,
        max_readahead: u32,
        flags: u32,
        max_background: u16,
        congestion_threshold: u16,
        max_write: u32,
        time_granularity: u32,
        max_pages: u16,
        map_alignment: u16,
        unused: [u32; 8],
    }
    /// A directory's entry, with its name behind it, filled up to eight bytes.
    Dirent { ino: u64, offset: u64, name_len: u32, kind: u32 }
}

// The sizes are the protocol's.
const _: () =
    assert!(size_of::<OutHeader>() == 16 && size_of::<Attr>() == 88 && size_of::<EntryOut>() == 128);
const _: () =
    assert!(size_of::<AttrOut>() == 104 && size_of::<StatfsOut>() == 80 && size_of::<InitOut>() == 64);

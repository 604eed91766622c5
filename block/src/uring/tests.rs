use std::sync::mpsc::channel;

use super::*;
use crate::Buffers;

/// 1 MiB of sectors that say their number.
fn disk() -> (tempfile::NamedTempFile, Uring) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let content: Vec<u8> = (0..2048u32).flat_map(|sector| [sector as u8; 512]).collect();
    std::fs::write(file.path(), content).unwrap();
    let image = RawImage::open(file.path(), false).unwrap();
    let uring = Uring::new(image).unwrap_or_else(|(_, e)| panic!("{e}: these tests need io_uring"));
    (file, uring)
}

fn perform(uring: &Uring, operation: Operation) -> io::Result<()> {
    let (tell, told) = channel();
    uring.submit(Request { operation, done: Box::new(move |result| tell.send(result).unwrap()) });
    uring.commit();
    told.recv_timeout(std::time::Duration::from_secs(20)).unwrap()
}

#[test]
fn every_operation_does_what_the_ordinary_call_does() {
    let (file, uring) = disk();
    let to = Buffers::owned(&[0xee; 1536]);
    perform(&uring, Operation::Read { offset: 1024, to: to.clone() }).unwrap();
    assert!(to.to_vec() == [[2; 512], [3; 512], [4; 512]].concat());
    let from = || Buffers::owned(&[0x55; 512]);
    perform(&uring, Operation::Write { offset: 0, from: from(), durable: false }).unwrap();
    perform(&uring, Operation::Write { offset: 512, from: from(), durable: true }).unwrap();
    perform(&uring, Operation::WriteZeroes { offset: 4096, len: 4096, unmap: false }).unwrap();
    perform(&uring, Operation::WriteZeroes { offset: 8192, len: 4096, unmap: true }).unwrap();
    perform(&uring, Operation::Discard { offset: 12288, len: 4096 }).unwrap();
    perform(&uring, Operation::Flush).unwrap();
    let content = std::fs::read(file.path()).unwrap();
    assert_eq!((content.len(), content[1023], content[1024], content[16384]), (1 << 20, 0x55, 2, 32));
    assert!(content[4096..12288].iter().all(|&b| b == 0));
}

#[test]
fn many_requests_are_answered_each_with_its_own() {
    let (_file, uring) = disk();
    let (tell, told) = channel();
    for sector in 0..2000u64 {
        let (tell, to) = (tell.clone(), Buffers::owned(&[0xee; 512]));
        let mine = to.clone();
        let done = Box::new(move |result: io::Result<()>| {
            result.unwrap();
            assert!(mine.to_vec() == [sector as u8; 512]);
            tell.send(sector).unwrap();
        });
        uring.submit(Request { operation: Operation::Read { offset: sector * 512, to }, done });
        if sector % 16 == 0 {
            uring.commit();
        }
    }
    drop(uring);
    drop(tell);
    let mut answered: Vec<_> = told.iter().collect();
    answered.sort();
    assert_eq!(answered, (0..2000).collect::<Vec<_>>());
}

#[test]
fn errors_are_told() {
    let (file, uring) = disk();
    file.as_file().set_len(1024).unwrap();
    let to = Buffers::owned(&[0; 1024]);
    let error = perform(&uring, Operation::Read { offset: 512, to }).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    let image = RawImage::open(file.path(), true);
    assert!(image.is_err(), "it is locked as long as it is used");
}

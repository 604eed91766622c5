//! A program for the guest of `vsock.rs`, alone and static: `echo PORT` sends back what callers send, and says so when it
//! listens; `call PORT MEGABYTES` calls the host, sends so much, and looks at what comes back.

use std::fs::File;
use std::io::{Error, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};

const AF_VSOCK: i32 = 40;
const STREAM: i32 = 1;
const ANY: u32 = u32::MAX;
const HOST: u32 = 2;
const SHUT_WR: i32 = 1;

#[repr(C)]
struct Address {
    family: u16,
    reserved: u16,
    port: u32,
    cid: u32,
    zero: [u8; 4],
}

// SAFETY: as the C library's headers declare them on 64-bit Linux.
unsafe extern "C" {
    fn socket(domain: i32, kind: i32, protocol: i32) -> i32;
    fn bind(fd: i32, address: *const Address, len: u32) -> i32;
    fn listen(fd: i32, backlog: i32) -> i32;
    fn accept(fd: i32, address: *mut Address, len: *mut u32) -> i32;
    fn connect(fd: i32, address: *const Address, len: u32) -> i32;
    fn shutdown(fd: i32, how: i32) -> i32;
}

fn checked(result: i32, what: &str) -> i32 {
    if result < 0 {
        println!("{what}: {}", Error::last_os_error());
        std::process::exit(1);
    }
    result
}

/// A socket for `port`, by `bind` or `connect`.
fn vsock(call: unsafe extern "C" fn(i32, *const Address, u32) -> i32, what: &str, port: u32, cid: u32) -> i32 {
    let address = Address { family: AF_VSOCK as u16, reserved: 0, port, cid, zero: [0; 4] };
    // SAFETY: numbers only.
    let fd = checked(unsafe { socket(AF_VSOCK, STREAM, 0) }, "socket");
    // SAFETY: `call` is `bind` or `connect`, which read an address of the size they are told.
    checked(unsafe { call(fd, &address, size_of::<Address>() as u32) }, what);
    fd
}

fn echo(port: u32) {
    let listener = vsock(bind, "bind", port, ANY);
    // SAFETY: numbers only.
    checked(unsafe { listen(listener, 128) }, "listen");
    println!("ready");
    loop {
        // SAFETY: the caller's address is not asked for.
        let fd = checked(unsafe { accept(listener, std::ptr::null_mut(), std::ptr::null_mut()) }, "accept");
        // SAFETY: the call gave it to nobody else.
        let mut stream = unsafe { File::from_raw_fd(fd) };
        std::thread::spawn(move || {
            let mut data = vec![0; 256 << 10];
            while let Ok(count @ 1..) = stream.read(&mut data) {
                if stream.write_all(&data[..count]).is_err() {
                    break;
                }
            }
        });
    }
}

fn call(port: u32, len: usize) {
    // SAFETY: `vsock` gives it to nobody else.
    let mut stream = unsafe { File::from_raw_fd(vsock(connect, "connect", port, HOST)) };
    let mut sender = stream.try_clone().unwrap();
    let byte = |at: usize| (at as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3];
    let writer = std::thread::spawn(move || {
        let data: Vec<u8> = (0..len).map(byte).collect();
        sender.write_all(&data).unwrap();
        // SAFETY: numbers only.
        checked(unsafe { shutdown(sender.as_raw_fd(), SHUT_WR) }, "shutdown");
    });
    let mut data = Vec::new();
    stream.read_to_end(&mut data).unwrap();
    writer.join().unwrap();
    let right = data.len() == len && data.iter().enumerate().all(|(at, &got)| got == byte(at));
    println!("{} of {len} bytes, {}", data.len(), if right { "as they were sent" } else { "wrong" });
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse().ok()).unwrap_or(0u32);
    match arguments.get(1).map(String::as_str) {
        Some("echo") => echo(number(2)),
        _ => call(number(2), (number(3) as usize) << 20),
    }
}

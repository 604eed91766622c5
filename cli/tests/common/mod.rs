//! What several tests need: small kernels, and a terminal to run in.
#![allow(dead_code, clippy::unwrap_used)] // every test program uses its part

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

/// The program under test.
pub fn guesthouse(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_guesthouse"));
    // Machines of tests are not the user's.
    command.args(arguments).env("XDG_RUNTIME_DIR", env!("CARGO_TARGET_TMPDIR"));
    command
}

/// Bytes of every value, none of them special to us.
pub fn bytes(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// Runs the program under test with this for its standard input, while its output is read.
pub fn feed(arguments: &[&str], data: &[u8]) -> Output {
    let mut child = guesthouse(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let sent = data.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&sent).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

/// A multiboot kernel of 32-bit code, loaded at 1 MiB (Multiboot Specification 0.6.96, 3.1).
pub fn multiboot_kernel(folder: &Path, code: &[u8]) -> PathBuf {
    const LOAD: u32 = 0x10_0000;
    const ADDRESSES_VALID: u32 = 1 << 16;
    let entry = LOAD + 32;
    let end = entry + code.len() as u32;
    let magic = 0x1bad_b002u32;
    let checksum = magic.wrapping_add(ADDRESSES_VALID).wrapping_neg();
    let header = [magic, ADDRESSES_VALID, checksum, LOAD, LOAD, end, end, entry];
    let mut image: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    image.extend_from_slice(code);
    let path = folder.join("kernel");
    std::fs::write(&path, image).unwrap();
    path
}

/// `mov dx, 0x3f8; mov al, C; out dx, al` for each character.
pub fn print(text: &str) -> Vec<u8> {
    let mut code = vec![0x66, 0xba, 0xf8, 0x03];
    for byte in text.bytes() {
        code.extend([0xb0, byte, 0xee]);
    }
    code
}

/// `cli; hlt; jmp back`: a kernel that has nothing more to do.
pub const SLEEP: [u8; 4] = [0xfa, 0xf4, 0xeb, 0xfd];

/// A program on a terminal of its own, and the user in front of it.
pub struct Terminal {
    child: Child,
    user: File,
    /// Keeps the other end open, so that the modes can be looked at afterwards.
    line: OwnedFd,
    before: Termios,
    seen: Vec<u8>,
}

impl Terminal {
    /// Starts the program with the terminal on all its streams.
    pub fn start(command: Command) -> Self {
        Self::start_sized(command, 0, 0)
    }

    /// The same in a terminal of so many lines and characters in a line.
    pub fn start_sized(mut command: Command, rows: u16, columns: u16) -> Self {
        let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&user).unwrap();
        unlockpt(&user).unwrap();
        let name = ptsname(&user, Vec::new()).unwrap().into_string().unwrap();
        let line = || File::options().read(true).write(true).open(&name).unwrap();
        let keep = line();
        let before = tcgetattr(&keep).unwrap();
        set_size(&keep, rows, columns);
        command.stdin(line()).stdout(line()).stderr(line());
        let child = command.spawn().unwrap();
        let flags = rustix::fs::fcntl_getfl(&user).unwrap();
        rustix::fs::fcntl_setfl(&user, flags | rustix::fs::OFlags::NONBLOCK).unwrap();
        Self { child, user: File::from(user), line: keep.into(), before, seen: Vec::new() }
    }

    /// Waits until the program has written this.
    pub fn expect(&mut self, text: &str) {
        let start = Instant::now();
        while !contains(&self.seen, text.as_bytes()) {
            assert!(start.elapsed() < Duration::from_secs(240), "no {text:?} in {}", self.screen());
            if let Some(status) = self.child.try_wait().unwrap() {
                self.read();
                assert!(contains(&self.seen, text.as_bytes()), "{status} before {text:?}: {}", self.screen());
            }
            self.read();
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// From now on only what is written later counts as seen.
    pub fn forget(&mut self) {
        self.seen.clear();
    }

    fn read(&mut self) {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = self.user.read(&mut buffer) {
            self.seen.extend_from_slice(&buffer[..n]);
        }
    }

    /// Everything the program has written.
    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    /// The user types.
    pub fn type_keys(&mut self, keys: &[u8]) {
        self.user.write_all(keys).unwrap();
    }

    /// True if every key goes to the guest.
    pub fn is_raw(&self) -> bool {
        use rustix::termios::LocalModes;
        let modes = tcgetattr(&self.line).unwrap();
        !modes.local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    /// Waits for the program's end; the terminal has to be as it was before.
    pub fn finish(mut self) -> (ExitStatus, String) {
        let start = Instant::now();
        let status = loop {
            self.read();
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if start.elapsed() > Duration::from_secs(120) {
                let _ = self.child.kill();
                panic!("it does not end: {}", self.screen());
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        self.read();
        let after = tcgetattr(&self.line).unwrap();
        assert_eq!(format!("{after:?}"), format!("{:?}", self.before), "the terminal is not as it was");
        (status, self.screen())
    }

    /// The user makes the terminal larger or smaller. It is not the program's controlling terminal, so the kernel does
    /// not tell the program.
    pub fn resize(&self, rows: u16, columns: u16) {
        set_size(&self.line, rows, columns);
        kill_process(self.pid(), Signal::WINCH).unwrap();
    }

    /// The shell's terminal in the guest, of 33 by 111 characters at first, has this one's size, follows it, and its keys end
    /// programs.
    pub fn is_the_guests(&mut self) {
        self.type_keys(b"stty size; echo $((6*7))\r");
        self.expect("33 111\r\n42\r\n");
        self.resize(50, 99);
        // It comes as a signal to whoever has the terminal.
        self.type_keys(b"until [ \"$(stty size)\" = '50 99' ]; do sleep 0.1; done; echo $((6*8))\r");
        self.expect("\r\n48\r\n");
        self.type_keys(b"sleep 1000\r");
        self.expect("sleep 1000\r\n");
        std::thread::sleep(Duration::from_secs(1));
        self.type_keys(b"\x03");
    }

    /// The program's process.
    pub fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }
}

fn set_size(line: &impl AsFd, rows: u16, columns: u16) {
    tcsetwinsize(line, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Runs with nothing on stdin, and gives status, stdout and stderr.
pub fn run(arguments: &[&str]) -> (i32, String, String) {
    let output = guesthouse(arguments).stdin(Stdio::null()).output().unwrap();
    (
        output.status.code().unwrap(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

//! `guesthouse snapshot --live`, as a user has it: in the jail, with programs that run as they are.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::World;

impl World {
    /// How often a program was run as it is.
    fn stays(&self, id: &str) -> u64 {
        let socket = self.path("guesthouse/vms").join(id).join("api.sock");
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let line =
            text.lines().find(|line| line.contains("direct_stays")).unwrap_or_else(|| panic!("{text}"));
        line.split(' ').next_back().unwrap().parse().unwrap()
    }
}

/// False on hosts that do not say what is written.
fn is_told(world: &World, name: &str) -> bool {
    let output = world.run(&["snapshot", "--live", name, "probe"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || error.contains("take the snapshot without --live"), "{error}");
    output.status.success()
}

/// For each of 4096 pages at 0x1000_0000, all of which hold a number at both ends, looks whether it is still there and writes the
/// next one, turn by turn. Ends if one has another.
const TURNS: &[u8] = &[
    0x31, 0xc9, // xor ecx, ecx
    0x89, 0xcb, // turn: mov ebx, ecx
    0xff, 0xc1, // inc ecx
    0x48, 0xc7, 0xc7, 0x00, 0x00, 0x00, 0x10, // mov rdi, 0x10000000
    0x39, 0x1f, // page: cmp [rdi], ebx
    0x75, 0x22, // jne bad
    0x39, 0x9f, 0xfc, 0x0f, 0x00, 0x00, // cmp [rdi + 4092], ebx
    0x75, 0x1a, // jne bad
    0x89, 0x0f, // mov [rdi], ecx
    0x89, 0x8f, 0xfc, 0x0f, 0x00, 0x00, // mov [rdi + 4092], ecx
    0x48, 0x81, 0xc7, 0x00, 0x10, 0x00, 0x00, // add rdi, 4096
    0x48, 0x81, 0xff, 0x00, 0x00, 0x00, 0x11, // cmp rdi, 0x11000000
    0x75, 0xdc, // jne page
    0xeb, 0xcf, // jmp turn
    0xbf, 0x01, 0x00, 0x00, 0x00, // bad: mov edi, 1
    0xb8, 0x3c, 0x00, 0x00, 0x00, // mov eax, 60
    0x0f, 0x05, // syscall
];

/// A program of Linux's (ELF, System V ABI), with 16 MiB of zeros for its turns.
fn program() -> Vec<u8> {
    const CODE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 2 * 56;
    let size = HEADERS + TURNS.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    // ET_EXEC of EM_X86_64, version 1.
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    file.extend([CODE + HEADERS, 64, 0].iter().flat_map(|word| word.to_le_bytes()));
    // No flags; lengths of headers and how many there are.
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 2, 0, 64, 0, 0, 0, 0, 0]);
    // PT_LOAD: flags (R + X, R + W), offset, address twice, length in the file, in memory, alignment.
    for (flags, offset, addr, len, memory) in
        [(5u8, 0u64, CODE, size, size), (6, 0, 0x1000_0000, 0, 16 << 20)]
    {
        file.extend([1, 0, 0, 0, flags, 0, 0, 0]);
        file.extend([offset, addr, addr, len, memory, 4096].iter().flat_map(|word| word.to_le_bytes()));
    }
    file.extend(TURNS);
    file
}

const BEGIN: &str = "chmod +x /tmp/turns; /tmp/turns </dev/null >/dev/null 2>&1 & echo $! >/tmp/turns.pid";
const LIVES: &str = "kill -0 $(cat /tmp/turns.pid); sleep 0.5; kill -0 $(cat /tmp/turns.pid); echo lives";

#[test]
fn a_program_that_runs_as_it_is_finds_all_that_it_wrote() {
    let world = World::new();
    fs::write(world.path("turns"), program()).unwrap();
    let run = ["run", "-d", "--name", "a", "--engine", "dbt", "--cpus", "2", "--memory", "128M"];
    let id = world.ok(&run).trim().to_owned();
    if !is_told(&world, "a") {
        return;
    }
    let turns = world.path("turns");
    world.ok(&["cp", turns.to_str().unwrap(), "a:/tmp/turns"]);
    world.exec("a", BEGIN);
    for round in 0..4 {
        let before = world.stays(&id);
        std::thread::sleep(Duration::from_millis(300));
        let folder = format!("round{round}");
        world.ok(&["snapshot", "--live", "a", &folder]);
        assert!(world.stays(&id) > before, "it is the translator's");
        let engine = if round % 2 == 0 { "dbt" } else { "interp" };
        world.ok(&["restore", "-d", "--rm", "--check", "--name", "b", "--engine", engine, &folder]);
        assert_eq!(world.exec("b", LIVES), "lives\n", "{round} {engine}");
        // RAM is a file by now.
        let again = format!("again{round}");
        world.ok(&["snapshot", "--live", "--stop", "b", &again]);
        world.ok(&["restore", "-d", "--rm", "--name", "c", &again]);
        assert_eq!(world.exec("c", LIVES), "lives\n", "{round} {engine}");
        world.ok(&["kill", "c"]);
    }
    assert_eq!(world.exec("a", LIVES), "lives\n");
}

#[test]
fn who_dies_in_the_midst_of_a_live_snapshot_leaves_none() {
    let world = World::new();
    world.ok(&["run", "-d", "--name", "a", "--memory", "256M"]);
    world.exec("a", "head -c 100000000 /dev/urandom >/tmp/data");
    if !is_told(&world, "a") {
        return;
    }
    let both = world.run(&["snapshot", "--live", "--compress", "a", "snap"]);
    assert_eq!(both.status.code(), Some(2));
    for delay in [0, 5, 20, 60] {
        // The one who asks: the machine goes on, and is asked again.
        let mut asks = world.command(&["snapshot", "--live", "a", "snap"]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        asks.kill().unwrap();
        asks.wait().unwrap();
        assert_eq!(world.exec("a", "echo here"), "here\n");
        let _ = fs::remove_dir_all(world.path("snap"));
    }
    world.dies_meanwhile(&["snapshot", "--live", "a", "snap"]);
}

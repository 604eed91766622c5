use std::fs;
use std::os::unix::fs::FileExt;

use iced_x86::{Code, Decoder, DecoderOptions};
use interp::core::Mode;

use super::*;
use crate::cache::arena::{Arena, CODE};
use crate::runtime::stubs::Stubs;

const MODE: Mode = Mode {
    user: false,
    user_pages: true,
    sse: true,
    avx: false,
    x87: true,
    smap: true,
    bases: true,
    tsc: true,
    code32: None,
};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn reports(&self, code: bool) -> Arc<Reports> {
        let map = PerfMap::create(&self.path("map")).unwrap();
        let trace = Output::create(&self.path("trace")).unwrap();
        Arc::new(Reports { map: Some(Mutex::new(map)), trace: Some(Mutex::new(trace)), code })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }
}

/// Tells of one translation: `mov eax, 1` and a CPUID that is not translated.
fn make(tracer: &mut Tracer, bases: [u64; 2]) {
    let guest = [0xb8, 1, 0, 0, 0, 0x0f, 0xa2];
    let insns: Vec<_> = Decoder::with_ip(64, &guest, 0x123, DecoderOptions::NONE).iter().collect();
    let mut marks = Marks::default();
    marks.begin([1, 0]);
    marks.begin([6, 0]);
    marks.left(Code::Cpuid);
    let place = Place { mode: MODE, lin: 0xffff_8000_0000_0123, phys: 0x5123 };
    let code: [&[u8]; 2] = [&[0x90, 0xb8, 1, 0, 0, 0, 0xeb, 0xf8], &[0xc3]];
    tracer.made(&Translation { place, windows: false, insns: &insns, marks, code, bases });
}

#[test]
fn a_map_names_code_until_it_is_dropped() {
    let folder = Folder::new();
    let reports = folder.reports(false);
    let [mut one, mut other] = [0, 1].map(|vcpu| reports.tracer(vcpu));
    make(&mut one, [0x10_0000, 0x18_0000]);
    make(&mut other, [0x20_0000, 0x28_0000]);
    one.idle();
    let name = "kernel+ac-avx:ffff800000000123@5123";
    let both = |at: u64| format!("{:x} 8 {name}\n{:x} 1 {name}:cold\n", at, at + 0x8_0000);
    assert_eq!(folder.text("map"), both(0x10_0000) + &both(0x20_0000));
    // What is made next is in the place of what is gone.
    one.dropped(&(0x10_0000..0x19_0000), std::iter::once((Code::Cpuid, 7)));
    let place = Place { mode: MODE, lin: 0x1000, phys: 0x1000 };
    one.joint("link", place, [&[0x90; 3], &[]], [0x10_0000, 0x18_0000]);
    one.idle();
    assert_eq!(folder.text("map"), both(0x20_0000) + "100000 3 link:kernel+ac-avx:1000@1000\n");
    assert_eq!(one.operations()[&Code::Cpuid], 7);
}

#[test]
fn a_trace_has_a_line_for_each_and_ends_with_sums() {
    #[derive(Debug)]
    #[allow(dead_code)] // shown
    struct Exits {
        links: u32,
        signals: u32,
    }
    let folder = Folder::new();
    let mut tracer = folder.reports(false).tracer(3);
    make(&mut tracer, [0x10_0000, 0x18_0000]);
    tracer.dropped(&(0..0), std::iter::empty());
    make(&mut tracer, [0x10_0000, 0x18_0000]);
    tracer.finish(&Exits { links: 2, signals: 5 }, &[(Code::Cpuid, 9), (Code::Wrmsr, 1)]);
    let line = "vcpu3 mode=kernel+ac-avx lin=ffff800000000123 phys=5123 bytes=7 insns=2 hot=8 cold=1 window=no left=Cpuid\n";
    let end = "vcpu3 end made=2 dropped=1 emptied=1\nvcpu3 exits links=2 signals=5\nvcpu3 interpreted Cpuid=9 Wrmsr=1\n";
    assert_eq!(folder.text("trace"), format!("{line}vcpu3 dropped translations=1\n{line}{end}"));
}

#[test]
fn guest_and_host_code_stand_side_by_side() {
    let folder = Folder::new();
    let mut tracer = folder.reports(true).tracer(0);
    let mut arena = Arena::new(false, CODE).unwrap();
    let stubs = Stubs::new(&mut arena, false);
    tracer.stubs(&stubs, arena.code().start, arena.data() as u64);
    make(&mut tracer, [0x10_0000, 0x18_0000]);
    tracer.idle();
    let rows: Vec<String> = folder
        .text("trace")
        .lines()
        .skip(1)
        .map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(rows, ["0 nop", "123 mov $1,%eax 1 mov $1,%eax", "128 cpuid 6 jmp 0", "cold 0 ret"]);
    let map = folder.text("map");
    assert!(map.contains(&format!("{:x} 1 stub:ret\n", stubs.ret)), "{map}");
}

#[test]
fn profilers_take_named_code_as_no_files() {
    for (profiled, backing) in [(true, "/dev/zero"), (false, "/memfd:")] {
        let mut arena = Arena::new(profiled, CODE).unwrap();
        let [at, _] = arena.next();
        arena.add([&[42], &[]]);
        // What was written is what would be executed.
        let mut byte = [0];
        let memory = fs::File::open("/proc/self/mem").unwrap();
        memory.read_exact_at(&mut byte, at).unwrap();
        assert_eq!(byte, [42]);
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let line = maps.lines().find(|line| line.starts_with(&format!("{at:x}-"))).unwrap();
        assert!(line.contains(" r-xs ") && line.contains(backing), "{line}");
    }
}

#[test]
fn a_file_planted_at_the_maps_place_is_not_written() {
    let folder = Folder::new();
    fs::write(folder.path("precious"), "precious").unwrap();
    std::os::unix::fs::symlink(folder.path("precious"), folder.path("map")).unwrap();
    PerfMap::create(&folder.path("map")).unwrap().add(1, 1, "name");
    assert_eq!(folder.text("precious"), "precious");
    assert_eq!(folder.text("map"), "1 1 name\n");
}

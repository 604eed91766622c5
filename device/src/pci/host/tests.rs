use super::*;
use crate::pci::{Bar, PciWindows, command};

/// A function with 4 KiB of memory that reads as offsets.
struct Probe {
    config: Mutex<ConfigSpace>,
    written: Mutex<Vec<(u64, Vec<u8>)>>,
}

impl Device for Probe {
    fn name(&self) -> &'static str {
        "probe"
    }

    fn reset(&self) {
        self.config.lock().reset();
    }
}

impl PciFunction for Probe {
    fn read_config(&self, offset: u16, data: &mut [u8]) {
        self.config.lock().read(offset, data);
    }

    fn write_config(&self, offset: u16, data: &[u8]) -> bool {
        self.config.lock().write(offset, data)
    }

    fn place(&self, bar: u8, address: u64) {
        self.config.lock().place(bar, address);
    }

    fn wants(&self) -> Vec<(u8, u64)> {
        self.config.lock().bars().map(|(index, bar)| (index, bar.len)).collect()
    }

    fn ranges(&self) -> Vec<BarRange> {
        self.config.lock().ranges()
    }

    fn read_bar(&self, _bar: u8, offset: u64, data: &mut [u8]) {
        bytes::put(data, offset);
    }

    fn write_bar(&self, _bar: u8, offset: u64, data: &[u8]) -> Action {
        self.written.lock().push((offset, data.to_vec()));
        Action::None
    }
}

fn probe() -> Arc<Probe> {
    let identity = Identity { vendor: 0x1234, device: 0x5678, revision: 0, class: 0, subsystem: (0, 0) };
    let mut config = ConfigSpace::new(&identity);
    config.add_bar(0, Bar { len: 0x1000, wide: true });
    Arc::new(Probe { config: Mutex::new(config), written: Mutex::default() })
}

struct Board {
    bus: Arc<PciBus>,
    ports: ConfigPorts,
    ecam: Ecam,
    memory: PciMemory,
    probes: [Arc<Probe>; 2],
}

fn board() -> Board {
    let windows = PciWindows { low: 0xc000_0800..0xc001_0000, high: 1 << 44..1 << 45 };
    let mut bus = PciBus::new(windows, Arc::new(HostBridge::new()));
    let probes = [probe(), probe()];
    for probe in &probes {
        bus.add(probe.clone()).unwrap();
    }
    let bus = Arc::new(bus);
    bus.reset();
    let ports = ConfigPorts::new(bus.clone(), Arc::new(ResetControl::new()));
    Board { ports, ecam: Ecam::new(bus.clone()), memory: PciMemory::new(bus.clone()), bus, probes }
}

fn load(part: &dyn Registers, offset: u64, len: usize) -> u64 {
    let mut data = [0; 8];
    part.read(offset, &mut data[..len]);
    u64::from_le_bytes(data)
}

fn store(part: &dyn Registers, offset: u64, len: usize, value: u64) -> Action {
    part.write(offset, &value.to_le_bytes()[..len])
}

#[test]
fn ports_and_memory_reach_the_same_registers() {
    let b = board();
    let _ = store(&b.ports, 0, 4, 0x8000_0800);
    assert_eq!(load(&b.ports, 0, 4), 0x8000_0800);
    assert_eq!(load(&b.ports, 4, 4), 0x5678_1234);
    assert_eq!(load(&b.ports, 6, 2), 0x5678);
    assert_eq!(load(&b.ecam, 0x8000, 4), 0x5678_1234);
    let _ = store(&b.ports, 0, 4, 0x8000_0804);
    let _ = store(&b.ports, 4, 2, command::MEMORY.into());
    assert_eq!(load(&b.ecam, 0x8004, 2), 2);
    for nobody in [0x8000_1800u64, 0x8000_0900, 0x8001_0800, 0x0000_0800] {
        let _ = store(&b.ports, 0, 4, nobody);
        assert_eq!(load(&b.ports, 4, 4), 0xffff_ffff, "{nobody:#x}");
    }
    assert_eq!(load(&b.ecam, 0x1_8000, 4), 0xffff_ffff);
    assert_eq!(load(&b.ecam, 0x8100, 4), 0, "no extended space");
}

#[test]
fn the_reset_control_register_is_a_byte_of_the_address_port() {
    let b = board();
    let _ = store(&b.ports, 0, 4, 0x8000_ffff);
    assert_eq!(load(&b.ports, 0, 4), 0x8000_fffc, "four bytes are an address");
    assert_eq!(store(&b.ports, 1, 1, ResetControl::RESET.into()), Action::Reset);
    assert_eq!(load(&b.ports, 1, 1), 2);
    assert_eq!(store(&b.ports, 0, 2, 0x0600), Action::None);
    assert_eq!(load(&b.ports, 0, 4), 0x8000_fffc);
}

#[test]
fn memory_is_where_the_guest_moves_it() {
    let b = board();
    let first = 0xc000_1000;
    assert_eq!(load(&b.ecam, 0x8010, 4), first | 4, "as firmware leaves it");
    assert_eq!(load(&b.ecam, 0x1_0010, 4), 0xc000_2004);
    assert_eq!(load(&b.memory, first + 0x10, 4), 0xffff_ffff, "not enabled yet");
    let _ = store(&b.ecam, 0x8004, 2, 2);
    assert_eq!(load(&b.memory, first + 0x10, 4), 0x10);
    assert_eq!(load(&b.memory, first + 0xffe, 4), 0xffff_ffff, "across its end");
    let _ = store(&b.ecam, 0x8014, 4, 0x1000);
    assert_eq!(load(&b.memory, first + 0x10, 4), 0xffff_ffff);
    let _ = store(&b.memory, 0x1000_c000_1020, 8, 7);
    assert_eq!(*b.probes[0].written.lock(), [(0x20, 7u64.to_le_bytes().to_vec())]);
    // Two at one place: the lower slot answers.
    let _ = store(&b.ecam, 0x1_0010, 8, 0x1000_c000_1000);
    let _ = store(&b.ecam, 0x1_0004, 2, 2);
    let _ = store(&b.memory, 0x1000_c000_1020, 4, 7);
    assert_eq!((b.probes[0].written.lock().len(), b.probes[1].written.lock().len()), (2, 0));
    b.bus.reset();
    assert_eq!(load(&b.memory, 0x1000_c000_1020, 4), 0xffff_ffff);
}

#[test]
fn a_full_bus_says_so() {
    let mut bus = PciBus::new(PciWindows { low: 0..0, high: 0..0 }, Arc::new(HostBridge::new()));
    while usize::from(bus.next_slot()) < PciBus::SLOTS {
        bus.add(probe()).unwrap();
    }
    let error = bus.add(probe()).unwrap_err().to_string();
    assert!(error.contains("31 devices"), "{error}");
    bus.reset();
}

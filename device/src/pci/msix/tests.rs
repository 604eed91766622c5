use parking_lot::Mutex;

use super::*;
use crate::pci::{Identity, Msi};

#[derive(Default)]
struct Sent(Mutex<Vec<(u64, u32)>>);

impl MsiSink for Sent {
    fn send(&self, address: u64, data: u32) {
        self.0.lock().push((address, data));
    }
}

impl Sent {
    fn take(&self) -> Vec<(u64, u32)> {
        std::mem::take(&mut self.0.lock())
    }
}

fn config() -> ConfigSpace {
    ConfigSpace::new(&Identity { vendor: 1, device: 2, revision: 0, class: 0, subsystem: (0, 0) })
}

fn set_control(config: &mut ConfigSpace, control: u16, command: u16) {
    config.write(0x42, &control.to_le_bytes());
    config.write(0x04, &command.to_le_bytes());
}

#[test]
fn a_masked_vector_waits_for_its_mask_to_fall() {
    let (mut config, sent) = (config(), Sent::default());
    let mut msix = Msix::new(&mut config, 3, 2);
    assert_eq!((config.word(0x42), config.double_word(0x44), config.double_word(0x48)), (2, 2, 0x802));
    set_control(&mut config, ENABLE, command::BUS_MASTER);
    msix.write(0x10, &0xfee0_1007u64.to_le_bytes());
    msix.write(0x18, &0x41u32.to_le_bytes());
    msix.trigger(1, &config, &sent);
    let mut pending = [0; 8];
    msix.read(Msix::PENDING, &mut pending);
    assert_eq!((sent.take(), pending[0]), (vec![], 2));
    msix.write(0x1c, &0u32.to_le_bytes());
    msix.settle(&config, &sent);
    assert_eq!(sent.take(), [(0xfee0_1004, 0x41)]);
    msix.settle(&config, &sent);
    msix.trigger(3, &config, &sent);
    assert_eq!(sent.take(), [], "sent once, and there is no fourth");
    msix.trigger(1, &config, &sent);
    assert_eq!(sent.take().len(), 1);
}

#[test]
fn the_function_mask_and_bus_mastering_hold_all_messages_back() {
    let (mut config, sent) = (config(), Sent::default());
    let mut msix = Msix::new(&mut config, 128, 0);
    msix.write(127 * 16 + 8, &[7, 0, 0, 0, 0, 0, 0, 0]);
    for (control, command) in [(ENABLE | MASK_ALL, command::BUS_MASTER), (ENABLE, 0)] {
        set_control(&mut config, control, command);
        msix.trigger(127, &config, &sent);
        assert_eq!(sent.take(), []);
        set_control(&mut config, ENABLE, command::BUS_MASTER);
        msix.settle(&config, &sent);
        assert_eq!(sent.take(), [(0, 7)]);
    }
}

#[test]
fn odd_accesses_are_harmless() {
    let mut config = config();
    let mut msix = Msix::new(&mut config, 2, 0);
    let before = msix.save();
    for offset in [1, 2, 6, 0x20, 0x800, 0xffc, u64::MAX - 7] {
        for len in [1, 2, 4, 8] {
            msix.read(offset, &mut [0; 8][..len]);
            msix.write(offset, &[0xff; 8][..len]);
        }
    }
    assert_eq!(msix.save(), before);
    msix.write(0xc, &[0; 4]);
    let mut byte = [0xff; 2];
    msix.read(0x1c, &mut byte[..1]);
    assert_eq!(byte[0], 1, "bytes can be read");
}

#[test]
fn tables_of_other_functions_are_refused() {
    let mut config = config();
    let mut msix = Msix::new(&mut config, 2, 0);
    let state = msix.save();
    msix.restore(&state, "x").unwrap();
    assert!(msix.restore(&MsixState { pending: [4, 0], ..state.clone() }, "x").is_err());
    assert!(msix.restore(&MsixState { table: vec![MASKED; 3], ..state.clone() }, "x").is_err());
    let odd = Entry { address: 1, ..MASKED };
    assert!(msix.restore(&MsixState { table: vec![odd; 2], ..state }, "x").is_err());
}

#[test]
fn the_plain_capability_sends_one_message() {
    let (mut config, sent) = (config(), Sent::default());
    let msi = Msi::new(&mut config);
    assert!(!msi.is_enabled(&config));
    config.write(0x42, &[1, 0, 3, 0x20, 0xe0, 0xfe, 0, 0, 0, 0, 0x33, 0]);
    assert!(msi.is_enabled(&config));
    msi.trigger(&config, &sent);
    assert_eq!(sent.take(), [], "not before it may master the bus");
    config.write(4, &command::BUS_MASTER.to_le_bytes());
    msi.trigger(&config, &sent);
    assert_eq!(sent.take(), [(0xfee0_2000, 0x33)]);
}

//! Doorbells follow the devices' registers, and the engine.

use super::*;
use crate::pc::Notification;

/// Configuration space of the first device.
const SLOT: u32 = 0x8000_0800;
const BAR0: u32 = 0x10;

fn configure(machine: &Machine, offset: u32, value: u32) {
    let pc = machine.pc();
    let _ = pc.ports.write(0xcf8, &(SLOT | offset).to_le_bytes());
    let _ = pc.ports.write(0xcfc, &value.to_le_bytes());
}

fn rung(machine: &Machine) -> Vec<Notification> {
    machine.shared().doorbells.lock().list().to_vec()
}

#[test]
fn kvm_rings_where_the_guest_has_put_the_registers() {
    let kernel = Kernel::new(halt);
    let machine = machine_on(EngineKind::Kvm, kernel.spec(), Arc::new(NullBackend));
    configure(&machine, 4, 2);
    let first = rung(&machine);
    assert!(!first.is_empty() && first == machine.pc().notifications());
    configure(&machine, BAR0, 0xd800_0000);
    let moved = rung(&machine);
    assert!(moved.iter().any(|n| n.addr == 0xd800_3000 && n.transport == 0), "{moved:x?}");
    assert_eq!(moved.len(), first.len());
    // Where interrupt controllers are, or another device is already, theirs are the writes.
    configure(&machine, BAR0, 0xfec0_0000);
    assert!(rung(&machine).iter().all(|n| n.transport != 0));
    configure(&machine, 4, 0);
    assert_eq!(rung(&machine), machine.pc().notifications());
    // Other engines hear of each write.
    machine.start().unwrap();
    machine.move_to(engine::choose(EngineKind::Dbt).unwrap().engine.as_ref()).unwrap();
    assert_eq!(rung(&machine), []);
    configure(&machine, BAR0, 0xd800_0000);
    configure(&machine, 4, 2);
    machine.move_to(engine::choose(EngineKind::Kvm).unwrap().engine.as_ref()).unwrap();
    assert!(rung(&machine).iter().any(|n| n.addr == 0xd800_3000));
}

#[test]
fn boards_without_pci_have_theirs_where_the_devices_are() {
    let kernel = Kernel::new(halt);
    let spec = MachineSpec { board: crate::BoardKind::Microvm, ..kernel.spec() };
    let machine = machine_on(EngineKind::Kvm, spec, Arc::new(NullBackend));
    let rung = rung(&machine);
    assert!(rung.iter().any(|n| n.addr == 0xd000_1050 && n.data == Some(1)), "{rung:x?}");
}

//! A guest that rings: the descriptor is readable, and the machine hears of other writes only.
#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::os::fd::AsFd;
use std::sync::Arc;

use cpu::x86::CpuModel;
use cpu::{Clock, CpuIo, CpuState, Doorbell, Engine, Irqchip, Signals, VcpuExit, VmConfig};
use interp::Interp;
use kvm::{Helpers, Kvm};
use memory::GuestRam;
use rustix::event::{EventfdFlags, eventfd};

/// Bytes of RAM; what is behind is a device.
const RAM: u64 = 0x8000;
const DEVICE: u64 = 0xc000;
/// In real mode: mov [0xc000], al; mov dword [0xc004], 1; the same with 2; hlt.
const CODE: &[u8] = &[
    0xa2, 0x00, 0xc0, 0x66, 0xc7, 0x06, 0x04, 0xc0, 1, 0, 0, 0, 0x66, 0xc7, 0x06, 0x04, 0xc0, 2, 0, 0, 0,
    0xf4,
];

#[derive(Default)]
struct Device(RefCell<Vec<(u64, u8)>>);

impl CpuIo for Device {
    fn port_read(&self, _: u16, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn port_write(&self, _: u16, _: &[u8]) {}
    fn mmio_read(&self, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn mmio_write(&self, addr: u64, data: &[u8]) {
        self.0.borrow_mut().push((addr, data[0]));
    }
    fn take_interrupt(&self) -> Option<u8> {
        None
    }
    fn task_priority(&self) -> u8 {
        0
    }
    fn set_task_priority(&self, _: u8) {}
    fn apic_msr_read(&self, _: u32) -> Option<u64> {
        None
    }
    fn apic_msr_write(&self, _: u32, _: u64) -> bool {
        false
    }
    fn poll(&self) {}
}

#[test]
fn a_doorbell_is_rung_without_the_machine() {
    let interp: Arc<dyn Engine> = Arc::new(Interp::new());
    let engine = Kvm::trusted(Helpers { step: interp.clone(), stretch: interp });
    let ram = Arc::new(GuestRam::new(RAM).unwrap());
    ram.write(0x1000, CODE).unwrap();
    let config = VmConfig {
        ram,
        clock: Arc::new(Clock::new()),
        model: Arc::new(CpuModel::best_for_host()),
        vcpus: 1,
        irqchip: Irqchip::Userspace,
    };
    let vm = engine.create_vm(config).unwrap();
    assert!(vm.has_doorbells());
    let mut vcpu = vm.create_vcpu(0, Arc::new(Signals::new())).unwrap();
    let mut state = CpuState::reset();
    (state.segments[1].selector, state.segments[1].base, state.rip) = (0, 0, 0x1000);
    let mut run = || {
        vcpu.set_state(&state).unwrap();
        let device = Device::default();
        assert_eq!(vcpu.run(&device).unwrap(), VcpuExit::Halt);
        device.0.into_inner()
    };
    assert_eq!(run(), [(DEVICE, 0), (DEVICE + 4, 1), (DEVICE + 4, 2)]);
    let events = [(); 2].map(|()| eventfd(0, EventfdFlags::NONBLOCK).unwrap());
    let rung = |event: usize| {
        let mut count = [0; 8];
        rustix::io::read(&events[event], &mut count).map_or(0, |_| u64::from_ne_bytes(count))
    };
    let any = Doorbell { addr: DEVICE, data: None, event: events[0].as_fd() };
    let two = Doorbell { addr: DEVICE + 4, data: Some(2), event: events[1].as_fd() };
    assert!(vm.doorbell(&any, true) && vm.doorbell(&two, true));
    assert_eq!(run(), [(DEVICE + 4, 1)]);
    assert_eq!((rung(0), rung(1)), (1, 1));
    assert!(vm.doorbell(&any, false) && !vm.doorbell(&any, false));
    assert_eq!(run(), [(DEVICE, 0), (DEVICE + 4, 1)]);
    assert_eq!((rung(0), rung(1)), (0, 1));
}

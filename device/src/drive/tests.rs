use proptest::prelude::*;

use super::*;

#[test]
fn ports_answer_where_a_pc_has_them() {
    let board = Board::new().unwrap();
    let read = |port| {
        let mut data = [0];
        board.ports.read(port, &mut data);
        data[0]
    };
    assert_eq!(read(0x3fd), 0x60);
    assert_eq!(read(0xe9), 0xe9);
    assert_eq!(read(0x92), 0x02);
    assert_eq!(read(0xcf8), 0xff);
    assert_eq!(board.ports.write(0xf4, &[42, 0, 0, 0]), Action::DebugExit(42));
    assert_eq!(board.ports.write(0x92, &[0x03]), Action::Reset);
    assert_eq!(board.ports.write(0x92, &[0x03]), Action::None, "an edge");
    assert_eq!(board.ports.write(0xcf9, &[0x02]), Action::None);
    assert_eq!(board.ports.write(0xcf9, &[ResetControl::RESET]), Action::Reset);
    assert_eq!(board.ports.write(0x64, &[0xfe]), Action::Reset);
    assert_eq!(board.ports.write(Board::POWER_BASE + 4, &0x3400u16.to_le_bytes()), Action::PowerOff);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn nothing_a_guest_does_breaks_the_board(script in prop::collection::vec(any::<u8>(), 0..2000)) {
        let board = Board::new().unwrap();
        board.play(&script);
        for (signals, lapic) in board.signals.iter().zip(&board.lapics) {
            let pending = signals.load() & Signals::INTR != 0;
            prop_assert_eq!(lapic.take_interrupt().is_some(), pending);
        }
        prop_assert!(board.round_trip().is_ok());
    }

    #[test]
    fn nothing_a_guest_does_breaks_a_part(script in prop::collection::vec(any::<u8>(), 0..500)) {
        let board = Board::new().unwrap();
        let parts: [(&dyn Registers, u16); 7] = [
            (board.uart.as_ref(), 16),
            (board.keyboard.as_ref(), 4),
            (board.power.as_ref(), 16),
            (board.pit.as_ref(), 8),
            (board.rtc.as_ref(), 4),
            (board.fabric.pic().as_ref(), 8),
            (board.fabric.ioapic().as_ref(), 0x80),
        ];
        for (part, span) in parts {
            drive(part, span, &script);
            part.reset();
        }
    }

    /// Ports that some part claims, mostly, so that the script gets deep.
    #[test]
    fn busy_ports(accesses in prop::collection::vec(
        (prop::sample::select(vec![0x20u16, 0x21, 0x40, 0x43, 0x60, 0x61, 0x64, 0x70, 0x71, 0xa0, 0xa1, 0x3f8, 0x3f9,
            0x3fa, 0x3fc, 0x4d0, 0x600, 0x602, 0x604]), any::<u32>(), 0..3u32, any::<bool>()), 0..300)
    ) {
        let board = Board::new().unwrap();
        for (port, value, size, write) in accesses {
            let mut data = value.to_le_bytes();
            let size = 1usize << size;
            if write {
                let _ = board.ports.write(port, &data[..size]);
            } else {
                board.ports.read(port, &mut data[..size]);
            }
            board.timers.poll();
        }
        prop_assert!(board.round_trip().is_ok());
    }
}

#[test]
fn small_parts_keep_their_bytes() {
    fn survives<T: SaveRestore + Registers>(part: &T, fresh: &T, value: u8) {
        let _ = part.write(0, &[value]);
        fresh.restore(&part.save()).unwrap();
        let (mut a, mut b) = ([0], [0]);
        part.read(0, &mut a);
        fresh.read(0, &mut b);
        assert_eq!(a, b, "{}", part.name());
        fresh.reset();
        fresh.read(0, &mut b);
        assert_ne!(a, b, "{}", part.name());
    }
    survives(&Port92::new(), &Port92::new(), 0x08);
    survives(&PostCodes::new(), &PostCodes::new(), 0x55);
    survives(&ResetControl::new(), &ResetControl::new(), 0x02);
}

#[test]
fn the_debug_console_passes_on_what_it_gets() {
    #[derive(Default)]
    struct Sink(parking_lot::Mutex<Vec<u8>>);
    impl crate::CharBackend for Sink {
        fn write(&self, bytes: &[u8]) {
            self.0.lock().extend(bytes);
        }
    }
    let sink = Arc::new(Sink::default());
    let console = DebugConsole::new(sink.clone());
    let _ = console.write(0, b"hi");
    assert_eq!(*sink.0.lock(), b"hi");
}

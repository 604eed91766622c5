use super::*;

fn space() -> ConfigSpace {
    let identity =
        Identity { vendor: 0x1af4, device: 0x1042, revision: 1, class: 0x01_8000, subsystem: (0x1af4, 2) };
    let mut space = ConfigSpace::new(&identity);
    space.add_bar(0, Bar { len: 0x4000, wide: true });
    space.add_bar(2, Bar { len: 0x1000, wide: false });
    space.set_interrupt(17);
    space
}

#[test]
fn a_bar_tells_its_size_and_moves() {
    let mut space = space();
    assert!(space.write(0x10, &[0xff; 8]));
    assert_eq!((space.double_word(0x10), space.double_word(0x14)), (0xffff_c004, 0xffff_ffff));
    space.write(0x18, &[0xff; 4]);
    assert_eq!(space.double_word(0x18), 0xffff_f000);
    space.write(0x1c, &[0xff; 4]);
    assert_eq!(space.double_word(0x1c), 0, "no BAR, nothing to write");
    assert!(space.ranges().is_empty(), "it does not answer yet");
    space.place(0, 0x12_3456_8000);
    space.place(2, 0xc000_1000);
    assert!(space.write(0x04, &command::MEMORY.to_le_bytes()));
    assert_eq!(
        space.ranges(),
        [
            BarRange { bar: 0, start: 0x12_3456_8000, len: 0x4000 },
            BarRange { bar: 2, start: 0xc000_1000, len: 0x1000 }
        ]
    );
    assert!(!space.write(0x3c, &[5]), "the interrupt line moves no memory");
    assert!(space.write(0x0f, &[0, 0]), "but the byte before a BAR and its first does");
}

#[test]
fn a_bar_that_cannot_be_is_left_out() {
    let mut space = space();
    space.add_bar(5, Bar { len: 0x1000, wide: true });
    space.add_bar(6, Bar { len: 0x1000, wide: false });
    space.add_bar(3, Bar { len: 0x1800, wide: false });
    space.add_bar(3, Bar { len: 1 << 32, wide: false });
    assert_eq!(space.bars().count(), 2);
}

#[test]
fn capabilities_are_a_list_that_ends_before_the_space_does() {
    let mut space = space();
    assert_eq!(space.word(6) & 0x10, 0);
    let first = space.add_capability(9, &[1, 2, 3], &[0, 0xff]);
    let second = space.add_capability(0x11, &[0; 10], &[]);
    assert_eq!((first, second), (0x40, 0x48));
    assert_eq!(space.word(6) & 0x10, 0x10);
    let mut bytes = [0; 5];
    space.read(0x34, &mut bytes[..1]);
    assert_eq!(bytes[0], first);
    space.write(0x40, &[0xff; 5]);
    space.read(0x40, &mut bytes);
    assert_eq!(bytes, [9, second, 1, 0xff, 3]);
    while space.add_capability(9, &[0; 14], &[]) != 0 {}
    assert_eq!(space.add_capability(9, &[0; 200], &[]), 0);
}

#[test]
fn a_reset_forgets_what_the_guest_wrote() {
    let mut space = space();
    let fresh = space.clone();
    space.write(0, &[0xff; 256]);
    assert_eq!((space.word(0), space.command()), (0x1af4, 0x406));
    space.set_interrupt_status(true);
    assert_eq!(space.word(6) & 8, 8);
    space.write(0x3c, &[17]);
    space.reset();
    assert_eq!(space.bytes, fresh.bytes);
}

#[test]
fn another_functions_state_is_refused() {
    let mut space = space();
    space.write(0, &[0x5a; 256]);
    let state = space.save();
    let mut other = self::space();
    other.restore(&state, "x").unwrap();
    assert_eq!(other.bytes, space.bytes);
    let mut wrong = state.clone();
    wrong.0[2] ^= 1;
    assert!(other.restore(&wrong, "x").is_err());
    wrong.0.pop();
    assert!(other.restore(&wrong, "x").is_err());
}

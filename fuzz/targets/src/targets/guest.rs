//! Files that become a guest: archives, packages, the catalogue, the manifest in the cache; and what a guest's agent
//! sends.

use ::guest::{Catalogue, LineDecoder, LineEvent, Manifest, cpio, encode_input};

use super::{one_line, samples};
use crate::Target;
use crate::input::Input;

/// newc archives.
pub const CPIO: Target = Target {
    name: "cpio",
    about: "a newc archive",
    seeds: || vec![samples::cpio(), [samples::cpio(), samples::cpio()].concat()],
    words: &["070701", "TRAILER!!!\0", "00000000", "ffffffff", "fffffffd", "000081a4"],
    run: |data| {
        let mut rest = data;
        // Archives may follow each other.
        while let Some((archive, tail)) = cpio::read(rest) {
            assert!(tail.len() < rest.len());
            rest = tail;
            let written = archive.write();
            let again = cpio::read(&written).map(|a| a.0);
            // A member that is called like the trailer ends what is written early.
            if archive.iter().all(|(path, ..)| path != b"TRAILER!!!") {
                assert_eq!(again.as_ref(), Some(&archive));
            }
        }
    },
};

/// The tar stream of a package.
pub const PACKAGE: Target = Target {
    name: "package",
    about: "the tar stream of a Debian package",
    seeds: || {
        let kernel = samples::tar("./boot/vmlinuz-6.1", b"MZ kernel", b'0');
        let other = samples::tar("./usr/share/doc/x", &[7; 600], b'0');
        let link = samples::tar("./boot/vmlinuz-6", b"", b'2');
        let long = samples::tar("././@LongLink", b"./boot/vmlinuz-long\0", b'L');
        let pax = samples::tar("PaxHeader", b"20 size=99999999999\n22 path=boot/vmlinuz-\n", b'x');
        vec![
            [other.clone(), link, kernel.clone(), vec![0; 1024]].concat(),
            [long, kernel.clone()].concat(),
            [pax, kernel].concat(),
            samples::tar("boot/vmlinuz-sparse", &[1; 512], b'S'),
        ]
    },
    words: &["ustar\0", "00000000000", "77777777777", "./boot/vmlinuz-", "size=", "path="],
    run: |data| {
        let patterns = ["boot/vmlinuz-*".to_owned(), "bin/busybox".to_owned()];
        if let Ok(Some((path, _))) = ::guest::first_match(data, &patterns) {
            assert!(path.starts_with("boot/vmlinuz-") || path == "bin/busybox", "{path}");
        }
    },
};

/// `guests.toml`.
pub const CATALOGUE: Target = Target {
    name: "catalogue",
    about: "a catalogue of guests (guests.toml)",
    seeds: || vec![include_bytes!("../../../../guests.toml").to_vec()],
    words: &["[guest.x]", "default", "\"\"", "\"../x\"", "files", "kernel", "[", "]", "=", "-1", "\u{20ac}"],
    run: |data| match Catalogue::parse(&String::from_utf8_lossy(data)) {
        Err(error) => one_line(&error),
        Ok(catalogue) => {
            assert!(catalogue.get(&catalogue.default).is_ok());
            assert!(catalogue.iter().all(|entry| !entry.name.contains(['/', '.'])));
        }
    },
};

/// `manifest.json` of a built guest.
pub const MANIFEST: Target = Target {
    name: "manifest",
    about: "the manifest of a built guest in the cache",
    seeds: || {
        let file = "{\"name\":\"vmlinuz\",\"origin\":\"boot/vmlinuz-6\",\"sha256\":\"00\"}";
        let package = "{\"name\":\"p\",\"version\":\"1\",\"sha256\":\"00\"}";
        let text = format!(
            "{{\"guest\":\"debian-12\",\"key\":\"00\",\"packages\":[{package}],\"files\":[{file},{file}]}}"
        );
        vec![text.into_bytes()]
    },
    words: &["{", "}", "[", "]", "null", "-1", "1e999", "\\u0000", "\\ud800", "\"\"", "files"],
    run: |data| {
        if let Ok(manifest) = serde_json::from_slice::<Manifest>(data) {
            let text = serde_json::to_vec(&manifest).unwrap_or_default();
            assert_eq!(serde_json::from_slice(&text).ok(), Some(manifest));
        }
    },
};

/// What the agent in a guest sends over the serial line.
pub const LINE: Target = Target {
    name: "line",
    about: "the serial line from a guest's agent",
    seeds: || vec![b"\x05boot\r\n\x10g\x10oout\x10\x10\x10eerr\x10oput\x10x".to_vec()],
    words: &["\x10", "\x10\x10", "\x10o", "\x10e", "\x10g"],
    run: |data| {
        let mut input = Input::new(data);
        let cut = usize::from(input.u8());
        let all = input.rest();
        let (a, b) = all.split_at(cut.min(all.len()));
        assert_eq!(decoded(&[a, b]), decoded(&[all]), "pieces matter");
        let sent = [b"\x10o".to_vec(), encode_input(all)].concat();
        assert_eq!(decoded(&[&sent]).1, all, "encoded data does not survive");
    },
};

fn decoded(pieces: &[&[u8]]) -> (Vec<u8>, Vec<u8>, Vec<u8>, usize) {
    let mut streams = (Vec::new(), Vec::new(), Vec::new(), 0);
    let mut decoder = LineDecoder::default();
    for piece in pieces {
        decoder.decode(piece, |event| match event {
            LineEvent::Console(d) => streams.0.extend_from_slice(d),
            LineEvent::Stdout(d) => streams.1.extend_from_slice(d),
            LineEvent::Stderr(d) => streams.2.extend_from_slice(d),
            LineEvent::Grant => streams.3 += 1,
        });
    }
    streams
}

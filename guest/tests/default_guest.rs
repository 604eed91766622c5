//! The default guest, really built: needs the host's package manager and its network, or an earlier run.

use guest::{Cache, Cancel, Catalogue, cpio};

#[test]
fn the_default_guest_is_built_and_kept() {
    let catalogue = Catalogue::builtin().unwrap();
    let entry = catalogue.get(&catalogue.default).unwrap();
    let cache = Cache::of_user().unwrap();
    let built = cache.get_or_build(entry, &Cancel::default(), &mut |step| eprintln!("{step}")).unwrap();
    // The magic of the Linux boot protocol in the image's header.
    let kernel = std::fs::read(&built.kernel).unwrap();
    assert_eq!(kernel.get(0x202..0x206), Some(b"HdrS".as_slice()));
    let initrd = std::fs::read(&built.initrd).unwrap();
    let (archive, rest) = cpio::read(&initrd).unwrap();
    assert!(rest.is_empty());
    let paths: Vec<_> = archive.iter().map(|(path, _, _)| path).collect();
    for path in ["bin/busybox", "bin/sh", "dev/console", "init", "sbin/guesthouse-agent"] {
        assert!(paths.contains(&path.as_bytes()), "{path}");
    }
    assert_eq!(cache.get(entry), Some(built));
}

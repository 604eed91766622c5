//! `guesthouse image`, as a user and his scripts see it. qemu-img is the judge of the images.
#![allow(clippy::unwrap_used)] // how a test fails

mod common;

use std::path::Path;
use std::process::Command;

use common::run;

fn qemu_img(folder: &Path, arguments: &str) {
    let status = Command::new("qemu-img").args(arguments.split(' ')).current_dir(folder).status();
    let status = status.unwrap_or_else(|e| panic!("qemu-img: {e}: install qemu-utils"));
    assert!(status.success(), "{arguments}");
}

#[test]
fn an_image_is_made_based_on_another_resized_copied_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let [base, top, copy] = ["base.raw", "top.qcow2", "copy.qcow2"].map(path);
    let good = |arguments: &[&str]| {
        let (status, stdout, stderr) = run(&[&["image"], arguments].concat());
        assert_eq!((status, stderr.as_str()), (0, ""), "{arguments:?}");
        stdout
    };
    good(&["create", &base, "3M"]);
    std::fs::write(&base, vec![5; 3 << 20]).unwrap();
    good(&["create", "--backing", "base.raw", "-F", "raw", &top]);
    good(&["resize", &top, "+1M"]);
    let info: serde_json::Value = serde_json::from_str(&good(&["info", "--json", &top])).unwrap();
    assert_eq!((&info["virtual-size"], &info["format"]), (&(4 << 20).into(), &"qcow2".into()));
    assert_eq!(info["backing-filename"], "base.raw");
    assert!(good(&["info", &top]).contains("virtual size: 4M"));
    good(&["convert", "--backing", "-O", "qcow2", &top, &copy]);
    qemu_img(folder.path(), "compare -q top.qcow2 copy.qcow2");
    assert!(good(&["check", &copy]).contains("whole"));
    // A reference count too many, and one too few.
    let whole = std::fs::read(&copy).unwrap();
    for (count, status) in [(2, 2), (0, 2)] {
        let mut image = whole.clone();
        let table = u64::from_be_bytes(image[48..56].try_into().unwrap()) as usize;
        let block = u64::from_be_bytes(image[table..table + 8].try_into().unwrap()) as usize;
        image[block + 2 * 8 + 1] = count;
        std::fs::write(&copy, image).unwrap();
        let (code, stdout, _) = run(&["image", "check", "--json", &copy]);
        let found: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(code, status, "{found}");
        assert!(found["corruptions"].as_u64().unwrap() > 0);
    }
}

#[test]
fn what_cannot_be_is_refused_in_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("there"), [0; 512]).unwrap();
    let [there, new, nowhere] = ["there", "new", "no/where"].map(path);
    for (arguments, word) in [
        (&["create", &there, "1M"][..], "--force"),
        (&["create", &new], "size"),
        (&["create", &new, "77"], "512"),
        (&["create", &new, "1X"], "1X"),
        (&["create", &nowhere, "1M"], "no/where"),
        (&["create", "-b", "there", &new], "--backing-format"),
        (&["create", "-b", "gone", "-F", "raw", "-O", "qcow2", &new], "gone"),
        (&["convert", &nowhere, &new], "no/where"),
        (&["info", &nowhere], "no/where"),
        (&["info", "-f", "qcow2", &there], "there"),
        (&["resize", &there, "-1K"], "size"),
        (&["resize", &there, "0"], "--shrink"),
        (&["check", "-f", "vmdk", &there], "vmdk"),
    ] {
        let (status, stdout, stderr) = run(&[&["image"], arguments].concat());
        assert_eq!(status, 2, "{arguments:?}: {stderr}");
        assert_eq!((stdout.as_str(), stderr.lines().count()), ("", 1), "{arguments:?}: {stderr}");
        assert!(stderr.contains(word), "{arguments:?}: {stderr}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

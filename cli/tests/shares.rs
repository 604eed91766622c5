//! Shared folders, used by a real kernel.
#![allow(clippy::unwrap_used)] // how a test fails

mod common;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;

use common::guesthouse;

/// Runs a script in the default guest with a folder at /mnt/share; its standard output.
fn guest(share: &Path, options: &str, arguments: &[&str], script: &str) -> String {
    let share = format!("{}:share{options}", share.display());
    let arguments = [&["run", "--share", &share], arguments, &["--", "sh", "-ec", script]].concat();
    let output = guesthouse(&arguments).stdin(Stdio::null()).output().unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|b| String::from_utf8_lossy(&b).into_owned());
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {stdout}{stderr}");
    stdout
}

#[test]
fn both_sides_read_what_the_other_writes_on_either_board() {
    for board in ["pc", "microvm"] {
        let folder = tempfile::tempdir().unwrap();
        let data = common::bytes(3_000_000);
        fs::write(folder.path().join("data"), &data).unwrap();
        let script = r#"
            cd /mnt/share
            cp data copy
            mkdir -p a/b/c
            for i in $(seq 1 100); do echo $i >a/b/$i; done
            rm a/b/1*
            ln -s ../data a/link
            mkfifo a/fifo
            chmod 640 copy
            touch -d '2001-02-03 00:00:00' copy
            sha256sum <a/link
            ls a/b | wc -l
        "#;
        let out = guest(folder.path(), "", &["--board", board, "--cpus", "2"], script);
        assert!(out.ends_with("\n89\n"), "{out}");
        let copy = folder.path().join("copy");
        assert!(fs::read(&copy).unwrap() == data);
        let stat = fs::metadata(&copy).unwrap();
        assert_eq!((stat.mode() & 0o7777, stat.mtime()), (0o640, 981_158_400));
        assert_eq!(fs::read_link(folder.path().join("a/link")).unwrap(), Path::new("../data"));
        assert!(fs::metadata(folder.path().join("a/fifo")).unwrap().file_type().is_fifo());
        assert_eq!(fs::read(folder.path().join("a/b/22")).unwrap(), b"22\n");
    }
}

#[test]
fn a_read_only_share_is_read() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a"), "kept\n").unwrap();
    let script = r#"
        cat /mnt/share/a
        # Not even by a guest that does not mind.
        umount /mnt/share
        mount -t virtiofs share /mnt/share
        cd /mnt/share
        for change in 'echo >a' 'echo >b' 'rm a' 'mkdir b' 'mv a b' 'ln a b' 'chmod 777 a' 'touch a' 'truncate -s 0 a'; do
            if sh -c "$change" 2>/dev/null; then echo "$change is possible"; fi
        done
    "#;
    assert_eq!(guest(folder.path(), ",ro", &[], script), "kept\n");
    assert_eq!(fs::read(folder.path().join("a")).unwrap(), b"kept\n");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn nothing_in_a_share_leads_out_of_it() {
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret");
    fs::write(&secret, "secret of the host").unwrap();
    let folder = outside.path().join("share");
    fs::create_dir(&folder).unwrap();
    symlink(&secret, folder.join("absolute")).unwrap();
    symlink("../secret", folder.join("relative")).unwrap();
    symlink(outside.path(), folder.join("folder")).unwrap();
    symlink("/dev/null", folder.join("null")).unwrap();
    let script = r#"
        cd /mnt/share
        for name in absolute relative folder/secret ../share/../secret; do
            cat $name 2>/dev/null || echo $name leads nowhere
        done
        ls /mnt/share/..
        # Made by the guest, they are no better; a device of its own is none of the host's.
        mkdir made
        ln -s ../../secret made/up
        cat made/up 2>/dev/null || echo nowhere
        mknod made/null c 1 3 2>/dev/null || echo no devices
        echo through >null
        [ -c null ] && echo the guest has its own
    "#;
    let out = guest(&folder, "", &[], script);
    let expected = [
        "absolute leads nowhere",
        "relative leads nowhere",
        "folder/secret leads nowhere",
        "../share/../secret leads nowhere",
        "share",
        "nowhere",
        "no devices",
        "the guest has its own",
    ];
    assert_eq!(out.lines().collect::<Vec<_>>(), expected);
    assert_eq!(fs::read(&secret).unwrap(), b"secret of the host");
}

#[test]
fn the_guest_sees_what_the_host_changes_within_two_seconds() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a"), "before\n").unwrap();
    fs::create_dir(folder.path().join("gone")).unwrap();
    let host = folder.path().to_owned();
    let changer = std::thread::spawn(move || {
        // The guest says when it has looked.
        while !host.join("seen").exists() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        fs::write(host.join("a"), "after it\n").unwrap();
        fs::remove_dir(host.join("gone")).unwrap();
        fs::write(host.join("new"), "").unwrap();
        fs::write(host.join("done"), "").unwrap();
    });
    let script = r#"
        cd /mnt/share
        cat a; ls; [ ! -e new ]
        touch seen
        tries=0
        until [ -e done ]; do tries=$((tries + 1)); [ $tries -lt 500 ]; sleep 0.02; done
        sleep 1.2
        cat a; ls
    "#;
    let out = guest(folder.path(), "", &[], script);
    changer.join().unwrap();
    assert_eq!(out, "before\na\ngone\nafter it\na\ndone\nnew\nseen\n");
}

#[test]
fn caching_is_for_the_user_to_choose() {
    for cache in ["none", "always"] {
        let folder = tempfile::tempdir().unwrap();
        let script = r#"
            cd /mnt/share
            for i in $(seq 1 50); do echo $i >>log; done
            dd if=/dev/urandom of=data bs=777 count=333 2>/dev/null
            sha256sum <data
            sync
            umount /mnt/share 2>/dev/null || cd /; umount /mnt/share
            mount -t virtiofs share /mnt/share
            sha256sum </mnt/share/data
        "#;
        let out = guest(folder.path(), &format!(",cache={cache}"), &[], script);
        let sums: Vec<_> = out.lines().collect();
        assert!(sums.len() == 2 && sums[0] == sums[1], "{out}");
        let log: String = (1..=50).map(|i| format!("{i}\n")).collect();
        assert_eq!(fs::read_to_string(folder.path().join("log")).unwrap(), log);
    }
}

#[test]
fn set_id_programs_are_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let script = "cd /mnt/share; cp /bin/busybox busybox; if chmod 4755 busybox 2>/dev/null; then exit 1; fi; ./busybox echo runs";
    assert_eq!(guest(folder.path(), "", &[], script), "runs\n");
    assert_eq!(fs::metadata(folder.path().join("busybox")).unwrap().permissions().mode() & 0o6000, 0);
}

#[test]
fn a_folder_that_cannot_be_shared_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let folder = folder.path().display();
    for (share, words) in [
        (format!("{folder}/none:a"), "none cannot be shared"),
        (format!("{}:a", file.display()), "file cannot be shared"),
        (format!("{folder}:a b"), "share tag \"a b\""),
        (format!("{folder}:{}", "x".repeat(37)), "up to 36 letters"),
    ] {
        let (status, _, stderr) = common::run(&["run", "--share", &share, "--", "true"]);
        assert_eq!((status, stderr.lines().count()), (2, 1), "{stderr}");
        assert!(stderr.contains(words), "{stderr}");
    }
}

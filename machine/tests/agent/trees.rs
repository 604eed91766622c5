//! Trees into a guest and out of it.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use agent::protocol::{Exit, Start, stream};
use agent::tree::{Place, Rights, pack, source_name, unpack};
use agent::{Client, Output};
use machine::BoardKind;

use crate::{Guest, bytes, finish, words};

fn builtin(argv: &[&str]) -> Start {
    Start { builtin: true, input: argv[0] == "unpack", ..words(argv) }
}

fn put(guest: &Guest, from: &Path, to: &str) -> (u8, String) {
    let client = guest.start(&builtin(&["unpack", to]));
    let mut input = client.input();
    let from = from.to_owned();
    let writer = std::thread::spawn(move || {
        let packed = pack(&from, &source_name(&from), &mut input, &mut |text| panic!("{text}"));
        input.end().unwrap();
        packed.unwrap();
    });
    let done = finish(client);
    let _ = writer.join();
    (done.status, done.errors)
}

fn get(guest: &Guest, from: &str, to: &Path) -> String {
    let mut client = guest.start(&builtin(&["pack", from]));
    let mut errors = String::new();
    let mut said = |text: &[u8]| errors.push_str(&String::from_utf8_lossy(text));
    let place = Place::of(to.as_os_str().as_bytes()).unwrap();
    let mut complaints = Vec::new();
    let input = client.reader(&mut said);
    unpack(place.folder, place.rename.as_deref(), Rights::Plain, input, &mut |text| complaints.push(text))
        .unwrap();
    let exit = rest(client, &mut said);
    format!("{}{errors}{}", complaints.concat(), if exit.status() == 0 { "" } else { " failed" })
}

/// How it ended. What it says of errors may come behind the end of its output.
fn rest(client: Client, said: &mut dyn FnMut(&[u8])) -> Exit {
    let take = |output: Output<'_>| {
        if output.stream == stream::ERROR {
            said(output.data);
        }
        Ok(())
    };
    client.run(take).unwrap()
}

#[test]
fn trees_keep_names_modes_times_and_links() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("a tree");
    let inner = tree.join("new\nline").join("deeper");
    fs::create_dir_all(&inner).unwrap();
    let time = UNIX_EPOCH + Duration::new(1_234_567_890, 123_456_789);
    let long = "n".repeat(200);
    let data = bytes(3_000_001);
    for (path, content) in
        [(tree.join("plain"), &data[..5]), (inner.join(&long), &data), (tree.join("empty"), &[])]
    {
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o4751)).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    }
    symlink("/etc/passwd", tree.join("absolute")).unwrap();
    symlink("../../..", inner.join("up")).unwrap();
    fs::set_permissions(&inner, fs::Permissions::from_mode(0o500)).unwrap();
    fs::File::open(&inner).unwrap().set_modified(time).unwrap();

    let guest = Guest::boot(BoardKind::Pc);
    // As something new, then into something that is there.
    assert_eq!(put(&guest, &tree, "/tmp/new"), (0, String::new()));
    assert_eq!(put(&guest, &tree, "/tmp/new"), (0, String::new()));
    let script = r#"cd /tmp/new; ls | tr '?' '\n'; stat -c '%a %Y' plain; readlink absolute
        set -- new*; stat -c '%a %Y' "$1/deeper"; cat "$1"/deeper/nnn* | sha256sum"#;
    let sum = Command::new("sha256sum").stdin(fs::File::open(inner.join(&long)).unwrap()).output().unwrap();
    let sum = String::from_utf8_lossy(&sum.stdout).into_owned();
    let names = "a tree\nabsolute\nempty\nnew\nline\nplain\n";
    let expected = format!("{names}4751 1234567890\n/etc/passwd\n500 1234567890\n{sum}");
    let listed = guest.sh(script);
    assert_eq!(listed.text(), expected, "{}", listed.errors);
    // And back.
    assert_eq!(get(&guest, "/tmp/new/a tree", &folder.path().join("back")), "");
    let back = folder.path().join("back");
    let meta = back.join("plain").metadata().unwrap();
    // A guest makes nobody here somebody else.
    assert_eq!((meta.permissions().mode() & 0o7777, meta.modified().unwrap()), (0o751, time));
    assert_eq!(fs::read_link(back.join("absolute")).unwrap(), Path::new("/etc/passwd"));
    let deeper = back.join("new\nline").join("deeper");
    assert!(fs::read(deeper.join(&long)).unwrap() == data);
    assert_eq!(fs::read_link(deeper.join("up")).unwrap(), Path::new("../../.."));
    assert_eq!(deeper.metadata().unwrap().modified().unwrap(), time);
    // Single files, what is in a folder, what is not there, what is no file.
    assert_eq!(put(&guest, &tree.join("plain"), "/tmp/renamed"), (0, String::new()));
    assert_eq!(put(&guest, &tree.join("."), "/tmp/contents"), (0, String::new()));
    assert_eq!(guest.sh("wc -c </tmp/renamed; ls /tmp/contents | wc -l").text(), "5\n4\n");
    let (status, errors) = put(&guest, &tree.join("plain"), "/nowhere/x");
    assert!(status == 1 && errors.contains("/nowhere/x: "), "{errors}");
    let mut client = guest.start(&builtin(&["pack", "/nowhere"]));
    let mut errors = Vec::new();
    let mut said = |text: &[u8]| errors.extend_from_slice(text);
    assert_eq!(std::io::copy(&mut client.reader(&mut said), &mut std::io::sink()).unwrap(), 0);
    assert_eq!(rest(client, &mut said).status(), 1);
    assert!(String::from_utf8_lossy(&errors).contains("/nowhere: No such file"));
    assert!(guest.sh("mkdir /tmp/odd; mkfifo /tmp/odd/fifo; echo x >/tmp/odd/file").status == 0);
    let said = get(&guest, "/tmp/odd", &folder.path().join("odd"));
    assert!(said.contains("fifo is neither file, folder nor link") && said.ends_with(" failed"), "{said}");
    assert_eq!(fs::read_to_string(folder.path().join("odd/file")).unwrap(), "x\n");
}

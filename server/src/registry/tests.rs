use std::io::Write;
use std::os::unix::fs::symlink;

use super::*;

fn registry() -> (tempfile::TempDir, Registry) {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::at(folder.path().join("guesthouse")).unwrap();
    (folder, registry)
}

#[test]
fn a_machine_is_found_by_name_id_and_the_beginning_of_its_id() {
    let (_temporary, registry) = registry();
    let (_web, status) = registry.create(Some("web"), true).unwrap();
    let (_other, _) = registry.create(None, true).unwrap();
    for text in ["web", &status.id, &status.id[..11]] {
        let entry = registry.find(text).unwrap();
        assert!(entry.alive && entry.label() == "web", "{text}");
    }
    assert_eq!(registry.list().unwrap().len(), 2);
    for wrong in ["", "wEb", "..", "../vms", "web/", "zz", "\u{e9}", "a b\n"] {
        assert!(matches!(registry.find(wrong), Err(ServerError::Unknown(_))), "{wrong:?}");
    }
}

#[test]
fn a_name_is_a_plain_one_and_one_machines() {
    let (_temporary, registry) = registry();
    for wrong in ["", ".", "..", "-a", "_a", "a/b", "a b", "a\n", "\u{e9}", "a\0", &"a".repeat(64)] {
        let error = registry.create(Some(wrong), true).unwrap_err().to_string();
        assert!(error.contains(&format!("{wrong:?}")) && !error.contains('\n'), "{error}");
    }
    let (first, status) = registry.create(Some("A.b_c-1"), true).unwrap();
    let error = registry.create(Some("A.b_c-1"), true).unwrap_err().to_string();
    assert!(error.contains(&status.id) && error.contains("guesthouse stop"), "{error}");
    // It ends without a word: the name remains its until it is removed.
    let mut words = first.last_words().unwrap();
    drop(first);
    let entry = registry.find("A.b_c-1").unwrap();
    assert_eq!((entry.alive, entry.status.state, &entry.status.outcome), (false, State::Dead, &None));
    words.write_all(b"\rrefused\n").unwrap();
    assert_eq!(registry.find("A.b_c-1").unwrap().status.outcome.as_deref(), Some("refused"));
    assert!(registry.create(Some("A.b_c-1"), true).unwrap_err().to_string().contains("guesthouse rm"));
    entry.remove().unwrap();
    registry.create(Some("A.b_c-1"), true).unwrap();
}

#[test]
fn what_was_to_leave_nothing_is_removed_by_whoever_finds_it() {
    let (_temporary, registry) = registry();
    let (folder, _) = registry.create(Some("gone"), false).unwrap();
    let path = folder.path().to_owned();
    drop(folder);
    assert!(path.exists());
    assert!(registry.list().unwrap().is_empty() && !path.exists());
    assert!(registry.names().join("gone").symlink_metadata().is_err());
    // Also when its name is wanted.
    let (folder, _) = registry.create(Some("gone"), false).unwrap();
    drop(folder);
    registry.create(Some("gone"), false).unwrap();
    assert_eq!(registry.list().unwrap().len(), 0, "nobody holds it");
}

#[test]
fn a_running_machine_is_not_removed() {
    let (_temporary, registry) = registry();
    let (folder, _) = registry.create(None, false).unwrap();
    let entry = registry.list().unwrap().remove(0);
    assert!(matches!(entry.remove(), Err(ServerError::Running(_))));
    assert!(!entry.wait_for_end(std::time::Duration::from_millis(5)));
    drop(folder);
    assert!(entry.wait_for_end(std::time::Duration::from_millis(5)));
    entry.remove().unwrap();
}

#[test]
fn a_machine_has_not_ended_while_it_removes_its_folder() {
    let (_temporary, registry) = registry();
    let (folder, _) = registry.create(None, false).unwrap();
    let entry = registry.list().unwrap().remove(0);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| entry.wait_for_end(std::time::Duration::from_secs(60)));
        std::thread::sleep(std::time::Duration::from_millis(50));
        folder.remove().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(!waiting.is_finished());
        drop(folder);
        assert!(waiting.join().unwrap());
    });
}

#[test]
fn many_at_once_want_one_name_and_one_gets_it() {
    let (_temporary, registry) = registry();
    let got: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8).map(|_| scope.spawn(|| registry.create(Some("one"), false).ok())).collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(got.len(), 1);
    assert_eq!(registry.list().unwrap().len(), 1);
}

#[test]
fn foreign_and_broken_things_in_the_folders_do_no_harm() {
    let (temporary, registry) = registry();
    let outside = temporary.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "x").unwrap();
    fs::create_dir(registry.vms().join("not-an-id")).unwrap();
    fs::create_dir(registry.vms().join("0123456789ab")).unwrap();
    fs::create_dir(registry.vms().join("0123456789ac")).unwrap();
    fs::write(registry.vms().join("0123456789ac/status.json"), "{]").unwrap();
    symlink(&outside, registry.vms().join("0123456789ad")).unwrap();
    symlink(&outside, registry.names().join("out")).unwrap();
    symlink("../vms/ffffffffffff", registry.names().join("stale")).unwrap();
    assert!(registry.list().unwrap().is_empty());
    assert!(registry.find("out").is_err() && registry.find("stale").is_err());
    assert!(outside.join("precious").exists() && registry.vms().join("not-an-id").exists());
    registry.create(Some("stale"), false).unwrap();
}

#[test]
fn a_folder_of_others_is_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let link = temporary.path().join("guesthouse");
    symlink(temporary.path(), &link).unwrap();
    assert!(matches!(Registry::at(link), Err(ServerError::NotOurs { .. })));
    let open = temporary.path().join("open");
    DirBuilder::new().mode(0o777).create(&open).unwrap();
    Registry::at(open.clone()).unwrap();
    assert_eq!(open.symlink_metadata().unwrap().mode() & 0o077, 0);
}

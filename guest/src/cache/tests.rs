use super::*;
use crate::Catalogue;

fn entry() -> GuestEntry {
    let catalogue = Catalogue::builtin().unwrap();
    catalogue.get(&catalogue.default).unwrap().clone()
}

/// A guest as `build` leaves it, of small files.
fn plant(cache: &Cache, entry: &GuestEntry) {
    let folder = cache.guests().join(&entry.name);
    fs::create_dir_all(&folder).unwrap();
    let record = |name: &str, data: &[u8]| FileRecord {
        name: name.into(),
        origin: String::new(),
        sha256: sha256(data),
    };
    let files = [record(KERNEL, b"kernel"), record(INITRD, b"initrd")];
    let manifest = Manifest { guest: entry.name.clone(), key: entry.key(), packages: Vec::new(), files };
    fs::write(folder.join(KERNEL), b"kernel").unwrap();
    fs::write(folder.join(INITRD), b"initrd").unwrap();
    fs::write(folder.join(MANIFEST), serde_json::to_vec(&manifest).unwrap()).unwrap();
}

#[test]
fn a_built_guest_is_found_until_its_entry_changes() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path());
    let entry = entry();
    assert_eq!(cache.get(&entry), None);
    plant(&cache, &entry);
    assert!(cache.get(&entry).is_some());
    let mut changed = entry.clone();
    changed.append.push_str(" more");
    assert_eq!(cache.get(&changed), None);
}

#[test]
fn a_damaged_guest_is_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path());
    let entry = entry();
    for damage in [KERNEL, INITRD, MANIFEST] {
        plant(&cache, &entry);
        fs::write(cache.guests().join(&entry.name).join(damage), b"x").unwrap();
        assert_eq!(cache.get(&entry), None, "{damage}");
    }
}

/// What a file looks like is not known as long as it may change unseen.
fn settle(path: &Path) {
    let at = std::time::SystemTime::now() + Duration::from_secs(10);
    while Seal::of([(path, "")].into_iter()).is_ok_and(|seal| !seal.is_settled()) {
        assert!(std::time::SystemTime::now() < at);
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn files_that_were_read_are_taken_for_the_same_until_they_change() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path());
    let entry = entry();
    plant(&cache, &entry);
    let place = cache.guests().join(&entry.name);
    let (kernel, initrd, seal) = (place.join(KERNEL), place.join(INITRD), place.join("seal.json"));
    assert!(cache.get(&entry).is_some());
    assert!(!seal.exists(), "files that were just written are read again");
    settle(&initrd);
    assert!(cache.get(&entry).is_some() && seal.exists());
    // Not read: the seal alone says what they are.
    let text = fs::read_to_string(&seal).unwrap();
    assert!(cache.get(&entry).is_some());
    for wrong in [&text[1..], "", "{}", &text.replace(r#""size":6"#, r#""size":7"#)] {
        fs::write(&seal, wrong).unwrap();
        assert!(cache.get(&entry).is_some(), "read again: {wrong}");
        assert_eq!(fs::read_to_string(&seal).unwrap(), text);
    }

    // Another content of the same size, and the time of the old one.
    let modified = fs::metadata(&kernel).unwrap().modified().unwrap();
    let mut file = OpenOptions::new().write(true).open(&kernel).unwrap();
    file.write_all(b"kernal").unwrap();
    file.set_modified(modified).unwrap();
    assert_eq!(cache.get(&entry), None);
    file.write_all(b"x").unwrap();
    assert_eq!(cache.get(&entry), None);

    // Another file in its place, as large and as old.
    plant(&cache, &entry);
    settle(&initrd);
    assert!(cache.get(&entry).is_some());
    fs::write(place.join("other"), b"inatrd").unwrap();
    let modified = fs::metadata(&initrd).unwrap().modified().unwrap();
    OpenOptions::new().write(true).open(place.join("other")).unwrap().set_modified(modified).unwrap();
    fs::rename(place.join("other"), &initrd).unwrap();
    assert_eq!(cache.get(&entry), None);
    fs::remove_file(&initrd).unwrap();
    assert_eq!(cache.get(&entry), None);
}

#[test]
fn a_seal_of_other_files_holds_nothing_and_a_whole_check_believes_none() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path());
    let entry = entry();
    plant(&cache, &entry);
    let place = cache.guests().join(&entry.name);
    fs::write(place.join(KERNEL), b"kernal").unwrap();
    settle(&place.join(KERNEL));
    // As if the disk had forgotten what it was told.
    let built = Built {
        kernel: place.join(KERNEL),
        initrd: place.join(INITRD),
        manifest: serde_json::from_slice(&fs::read(place.join(MANIFEST)).unwrap()).unwrap(),
    };
    Seal::of(built.files()).unwrap().put(&place);
    assert!(cache.get(&entry).is_some());
    assert_eq!(cache.check(&entry), None);
    // A manifest with other hashes is another guest.
    plant(&cache, &entry);
    settle(&place.join(KERNEL));
    assert!(cache.get(&entry).is_some());
    let text = fs::read_to_string(place.join(MANIFEST)).unwrap();
    fs::write(place.join(MANIFEST), text.replace(&sha256(b"kernel"), &sha256(b"kernal"))).unwrap();
    assert_eq!(cache.get(&entry), None);
}

#[test]
fn a_process_that_waits_takes_what_the_other_built() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path());
    let entry = entry();
    fs::create_dir_all(cache.guests()).unwrap();
    let path = cache.guests().join(format!("{}.lock", entry.name));
    let held = lock(&path, &entry.name, &Cancel::default(), &mut |_| {}).unwrap();
    let mut steps = Vec::new();
    let mut held = Some(held);
    let built = cache
        .build(&entry, false, &Cancel::default(), &mut |step| {
            if step == Step::Waiting {
                plant(&cache, &entry);
                held.take();
            }
            steps.push(step);
        })
        .unwrap();
    assert_eq!(steps, [Step::Waiting]);
    assert_eq!(fs::read(built.kernel).unwrap(), b"kernel");
}

#[test]
fn cancelling_leaves_nothing_half_built() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path());
    let cancel = Cancel::default();
    cancel.cancel();
    let error = cache.build(&entry(), false, &cancel, &mut |_| {}).unwrap_err();
    assert!(matches!(error, GuestError::Interrupted(_)), "{error}");
    let left: Vec<_> = fs::read_dir(cache.guests()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["debian-12.lock"]);
}

#[test]
fn an_unwritable_cache_is_named_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, b"").unwrap();
    let error =
        Cache::at(&file).build(&entry(), false, &Cancel::default(), &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains(&*file.to_string_lossy()) && error.contains("--kernel FILE"), "{error}");
    assert!(!error.contains('\n'), "{error}");
}

#[test]
fn leftovers_of_a_killed_process_go() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("g.building");
    fs::create_dir_all(path.join("deep")).unwrap();
    let work = WorkFolder::new(path.clone()).unwrap();
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    drop(work);
    assert!(!path.exists());
}

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

//! Files out of a Debian package, without installing it and without root: the host's `dpkg-deb` undoes the
//! compression, the tar stream is read here. The package is not trusted: nothing is written to disk.

use std::io::{self, Read};
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};

use crate::GuestError;

/// No kernel and no program is larger.
const MAX_FILE: u64 = 256 << 20;

/// The first file of the package that matches one of the patterns: its path and content.
pub(crate) fn extract(
    deb: &Path,
    patterns: &[String],
    guest: &str,
) -> Result<Option<(String, Vec<u8>)>, GuestError> {
    read(deb, guest, |stream| first_match(stream, patterns))
}

/// Kernel modules by name, wherever the package has them.
pub(crate) fn modules(deb: &Path, names: &[&str], guest: &str) -> Result<Vec<(String, Vec<u8>)>, GuestError> {
    let mut found = Vec::new();
    let all = read(deb, guest, |stream| modules_in(stream, names, &mut found))?;
    match names.iter().find(|name| !found.iter().any(|(have, _)| have == *name)) {
        Some(name) if all.is_none() => {
            Err(GuestError::Deb { path: deb.to_owned(), fact: format!("it has no module {name}") })
        }
        _ => Ok(found),
    }
}

/// Collects modules until all are there.
fn modules_in(
    stream: impl Read,
    names: &[&str],
    found: &mut Vec<(String, Vec<u8>)>,
) -> io::Result<Option<()>> {
    let mut archive = tar::Archive::new(stream);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = relative(&entry.path_bytes());
        let file = path.rsplit('/').next().and_then(|file| file.strip_suffix(".ko"));
        if let Some(name) = names.iter().find(|name| file == Some(**name)) {
            let data = content(&mut entry, &path)?;
            found.push(((*name).to_owned(), data));
            if found.len() == names.len() {
                return Ok(Some(()));
            }
        }
    }
    Ok(None)
}

/// Reads the tar stream of a package until `find` has found something.
pub(crate) fn read<T>(
    deb: &Path,
    guest: &str,
    find: impl FnOnce(ChildStdout) -> io::Result<Option<T>>,
) -> Result<Option<T>, GuestError> {
    let mut child = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(deb)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => GuestError::NoProgram { guest: guest.to_owned(), program: "dpkg-deb" },
            _ => GuestError::Io { action: "start", path: "dpkg-deb".into(), source: e },
        })?;
    let found = match child.stdout.take() {
        Some(stdout) => find(stdout),
        None => Ok(None),
    };
    if matches!(found, Ok(Some(_))) {
        let _ = child.kill(); // the rest does not matter
    }
    let status = child.wait();
    let bad = |fact: String| GuestError::Deb { path: deb.to_owned(), fact };
    match found {
        Ok(Some(found)) => Ok(Some(found)),
        Ok(None) if status.is_ok_and(|s| s.success()) => Ok(None),
        Ok(None) => Err(bad("dpkg-deb cannot unpack it".into())),
        Err(e) => Err(bad(format!("its content is damaged ({e})"))),
    }
}

/// Looks for a regular file in a tar stream, by patterns as in `guests.toml`: its path and content.
///
/// # Errors
/// A damaged stream, or a file of more than 256 MiB.
pub fn first_match(stream: impl Read, patterns: &[String]) -> io::Result<Option<(String, Vec<u8>)>> {
    let mut archive = tar::Archive::new(stream);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = relative(&entry.path_bytes());
        if entry.header().entry_type().is_file() && patterns.iter().any(|p| matches_pattern(p, &path)) {
            let data = content(&mut entry, &path)?;
            return Ok(Some((path, data)));
        }
    }
    Ok(None)
}

/// A path in a package as one in a guest.
pub(crate) fn relative(path: &[u8]) -> String {
    String::from_utf8_lossy(path).trim_start_matches("./").trim_matches('/').to_owned()
}

/// All of a file.
pub(crate) fn content(entry: &mut tar::Entry<'_, impl Read>, path: &str) -> io::Result<Vec<u8>> {
    if entry.size() > MAX_FILE {
        return Err(io::Error::other(format!("{path} has {} bytes", entry.size())));
    }
    let mut data = Vec::new();
    entry.read_to_end(&mut data)?;
    if data.len() as u64 != entry.size() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(data)
}

fn matches_pattern(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => path.strip_prefix(start).is_some_and(|rest| !rest.contains('/')),
        None => pattern == path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, data) in [("./boot/config-1", b"c".as_slice()), ("./boot/vmlinuz-1", b"kernel")] {
            let mut header = tar::Header::new_ustar();
            header.set_size(data.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, path, data).unwrap();
        }
        tar.into_inner().unwrap()
    }

    #[test]
    fn the_file_is_found_by_its_pattern() {
        let patterns = ["boot/vmlinuz-*".to_owned()];
        let found = first_match(sample().as_slice(), &patterns).unwrap();
        assert_eq!(found, Some(("boot/vmlinuz-1".into(), b"kernel".to_vec())));
        assert_eq!(first_match(sample().as_slice(), &["boot/initrd-*".to_owned()]).unwrap(), None);
    }

    #[test]
    fn modules_are_found_by_name() {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, data) in [("./lib/modules/1/a/b.ko", b"b".as_slice()), ("./lib/modules/1/ab.ko", b"ab")] {
            let mut header = tar::Header::new_ustar();
            header.set_size(data.len() as u64);
            tar.append_data(&mut header, path, data).unwrap();
        }
        let (tar, mut found) = (tar.into_inner().unwrap(), Vec::new());
        assert!(modules_in(tar.as_slice(), &["ab", "b"], &mut found).unwrap().is_some());
        assert_eq!(found, [("b".to_owned(), b"b".to_vec()), ("ab".to_owned(), b"ab".to_vec())]);
        assert!(modules_in(tar.as_slice(), &["ab", "c"], &mut Vec::new()).unwrap().is_none());
    }

    #[test]
    fn a_cut_stream_is_an_error_or_finds_nothing() {
        let tar = sample();
        for len in 0..2200.min(tar.len()) {
            let found = first_match(&tar[..len], &["boot/vmlinuz-*".to_owned()]);
            if let Ok(Some((_, data))) = found {
                assert_eq!(data, b"kernel");
            }
        }
    }

    #[test]
    fn a_file_that_is_no_package_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.deb");
        std::fs::write(&path, b"not a package").unwrap();
        let error = extract(&path, &["a".to_owned()], "g").unwrap_err().to_string();
        assert!(error.contains("x.deb") && !error.contains('\n'), "{error}");
    }

    #[test]
    fn a_star_stays_in_its_folder() {
        assert!(matches_pattern("bin/busybox", "bin/busybox"));
        assert!(!matches_pattern("boot/*", "boot/a/b"));
    }
}

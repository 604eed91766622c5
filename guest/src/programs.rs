//! Packages unpacked whole into a guest, with all that they depend on. Nothing is installed: what a package would run
//! then is not run.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::Path;

use crate::apt::{Apt, Package};
use crate::catalogue::Programs;
use crate::cpio::{Archive, Node};
use crate::{GuestError, deb};

/// The packages and those that they depend on.
pub(crate) fn resolve(apt: &Apt<'_>, programs: &Programs) -> Result<Vec<Package>, GuestError> {
    let mut seen: BTreeSet<String> = programs.without.iter().cloned().collect();
    let mut wanted = programs.packages.clone();
    let mut packages = Vec::new();
    loop {
        wanted.retain(|name| seen.insert(name.clone()));
        if wanted.is_empty() {
            break;
        }
        let names: Vec<&str> = wanted.iter().map(String::as_str).collect();
        let found = apt.show_all(&names)?;
        wanted = found.iter().flat_map(|package| package.depends.iter().cloned()).collect();
        packages.extend(found);
    }
    // What others depend on and is no package is a name that other packages provide: if one of them is needed, it is
    // among those asked for.
    match programs.packages.iter().find(|name| !packages.iter().any(|package| package.name == **name)) {
        Some(name) => Err(GuestError::Package {
            package: name.clone(),
            fact: "the package lists do not have it".into(),
        }),
        None => Ok(packages),
    }
}

/// Adds all of a package but the paths that begin as one of `skip` does. What the archive has already stays.
pub(crate) fn unpack(
    package: &Path,
    skip: &[String],
    guest: &str,
    to: &mut Archive,
) -> Result<(), GuestError> {
    // Nothing is ever found, so that the package is read to its end.
    deb::read(package, guest, |stream| add_all(stream, skip, to).map(|()| None::<()>)).map(|_| ())
}

/// The folders that a distribution has twice, once as a link.
pub(crate) fn add_links(to: &mut Archive) {
    for folder in ["lib", "lib64"] {
        to.add(folder, 0o777, Node::Link(format!("usr/{folder}").into()));
    }
}

fn add_all(stream: impl Read, skip: &[String], to: &mut Archive) -> io::Result<()> {
    let mut archive = tar::Archive::new(stream);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = deb::relative(&entry.path_bytes());
        if path.is_empty() || skip.iter().any(|start| path.starts_with(start.as_str())) {
            continue;
        }
        if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(io::Error::other(format!("'{path}' is no path")));
        }
        let target = entry.link_name_bytes().unwrap_or_default().into_owned();
        let node = match entry.header().entry_type() {
            kind if kind.is_file() => Node::File(deb::content(&mut entry, &path)?),
            kind if kind.is_dir() => Node::Directory,
            kind if kind.is_symlink() => Node::Link(target),
            // A second name for a file before it: here a second file.
            kind if kind.is_hard_link() => match to.get(&place(&deb::relative(&target))) {
                Some(node) => node.clone(),
                None => return Err(io::Error::other(format!("{path} links to what is not there"))),
            },
            _ => continue,
        };
        let path = place(&path);
        if to.get(&path).is_none() {
            to.add(&path, entry.header().mode()?, node);
        }
    }
    Ok(())
}

/// Where the guest has a path: of the folders that there are twice, its programs are in the short ones.
fn place(path: &str) -> String {
    const PLACES: [(&str, &str); 4] =
        [("usr/bin", "bin"), ("usr/sbin", "sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")];
    for (from, to) in PLACES {
        match path.strip_prefix(from) {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => return format!("{to}{rest}"),
            _ => {}
        }
    }
    path.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path, its kind, and what is in it or where it leads.
    type Entry = (&'static str, tar::EntryType, &'static str);

    fn unpacked(entries: &[Entry]) -> io::Result<Archive> {
        let mut tar = tar::Builder::new(Vec::new());
        for &(path, kind, text) in entries {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(kind);
            header.set_mode(0o755);
            // By hand: the library refuses to write some of the paths that are to be refused.
            header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
            let data = if kind.is_file() { text } else { "" };
            header.set_size(data.len() as u64);
            if !kind.is_file() && !text.is_empty() {
                header.set_link_name(text)?;
            }
            header.set_cksum();
            tar.append(&header, data.as_bytes())?;
        }
        let mut archive = Archive::new();
        archive.add("bin/sh", 0o777, Node::Link(b"busybox".to_vec()));
        add_all(tar.into_inner()?.as_slice(), &["usr/share/doc/".to_owned()], &mut archive)?;
        Ok(archive)
    }

    #[test]
    fn a_package_is_laid_out_as_the_guest_is() {
        use tar::EntryType as Kind;
        let archive = unpacked(&[
            ("./usr/bin/", Kind::Directory, ""),
            ("./usr/bin/perl", Kind::Regular, "x"),
            ("./usr/bin/perl5", Kind::Link, "./usr/bin/perl"),
            ("./usr/bin/sh", Kind::Symlink, "dash"),
            ("./lib64/ld.so", Kind::Symlink, "/lib/ld.so"),
            ("./usr/share/doc/perl/copyright", Kind::Regular, "c"),
        ])
        .unwrap();
        assert_eq!(archive.get("bin/perl5"), Some(&Node::File(b"x".to_vec())));
        assert_eq!(archive.get("bin/sh"), Some(&Node::Link(b"busybox".to_vec())));
        assert_eq!(archive.get("usr/lib64/ld.so"), Some(&Node::Link(b"/lib/ld.so".to_vec())));
        assert!(
            archive.iter().all(|(path, ..)| !path.starts_with(b"usr/bin") && !path.starts_with(b"usr/share"))
        );
    }

    #[test]
    fn paths_stay_in_the_archive() {
        use tar::EntryType as Kind;
        assert!(unpacked(&[("./a/../../b", Kind::Regular, "x")]).is_err());
        assert!(unpacked(&[("./a", Kind::Link, "/etc/passwd")]).is_err());
    }
}

//! What the host has to give an ordinary user who installs a whole system: ids of other users', in a user namespace
//! (user_namespaces(7), subuid(5)).

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

/// What the host says of it.
struct Host<'a> {
    /// Where programs are looked for.
    path: &'a OsStr,
    /// `/etc/subuid` and `/etc/subgid`.
    lists: [String; 2],
    /// `/etc/passwd`.
    users: String,
    uid: u32,
    /// `/proc/sys/...`: a switch's file, and what it says where namespaces are not for everybody.
    switches: Vec<(&'static str, bool)>,
}

/// Switches of kernels, and what they say where user namespaces are for root alone.
const SWITCHES: [(&str, &str, &str); 3] = [
    ("user/max_user_namespaces", "0", "user.max_user_namespaces=10000"),
    ("kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
    ("kernel/apparmor_restrict_unprivileged_userns", "1", "kernel.apparmor_restrict_unprivileged_userns=0"),
];

/// What is missing and how root adds it; nothing for root, and if nothing is known to be missing.
pub fn missing() -> Option<String> {
    let uid = rustix::process::geteuid().as_raw();
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let is_off = |(file, off, remedy)| (remedy, text(&format!("/proc/sys/{file}")).trim() == off);
    let host = Host {
        path: &std::env::var_os("PATH").unwrap_or_default(),
        lists: ["/etc/subuid", "/etc/subgid"].map(text),
        users: text("/etc/passwd"),
        uid,
        switches: SWITCHES.map(is_off).into(),
    };
    if uid == 0 { None } else { host.missing() }
}

impl Host<'_> {
    fn missing(&self) -> Option<String> {
        let uid = self.uid.to_string();
        let user = self.users.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1) == Some(&uid)).then_some(name)
        });
        let user = user.unwrap_or(&uid);
        let has = |list: &String| {
            list.lines().filter_map(|line| line.split(':').next()).any(|n| n == user || n == uid)
        };
        let there = |program: &str| {
            std::env::split_paths(self.path).any(|folder| Path::new(&folder).join(program).is_file())
        };
        if !there("newuidmap") || !there("newgidmap") {
            return Some("newuidmap is not there: apt-get install uidmap".to_owned());
        }
        if !self.lists.iter().all(has) {
            let range = "100000-165535";
            return Some(format!(
                "user {user} has no ids beside his own: usermod --add-subuids {range} --add-subgids {range} {user}"
            ));
        }
        let (switch, _) = self.switches.iter().find(|(_, off)| *off)?;
        Some(format!("user namespaces are for root alone: sysctl {switch}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let list = || "me:100000:65536\n".to_owned();
        let mut host = Host {
            path: folder.path().as_os_str(),
            lists: [list(), String::new()],
            users: "root:x:0:0\nme:x:1000:1000::/home/me:/bin/sh\n".to_owned(),
            uid: 1000,
            switches: vec![("a=1", false), ("b=2", true)],
        };
        assert!(host.missing().unwrap().contains("apt-get install uidmap"));
        for program in ["newuidmap", "newgidmap"] {
            fs::write(folder.path().join(program), "").unwrap();
        }
        assert!(host.missing().unwrap().ends_with("--add-subgids 100000-165535 me"));
        host.lists[1] = "1000:100000:65536\n".to_owned();
        assert!(host.missing().unwrap().ends_with("sysctl b=2"));
        host.switches.clear();
        assert_eq!(host.missing(), None);
        host.uid = 1001;
        assert!(host.missing().unwrap().contains("user 1001 has no ids"));
    }
}

//! Whose rights a program gets, by the files that every system has.

use std::fs;
use std::os::unix::ffi::OsStrExt;

use crate::sys;

/// Where programs are looked for.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A user.
pub struct User {
    pub name: String,
    pub home: String,
    pub shell: String,
    /// The rights to take; none for those that the agent has.
    pub rights: Option<Rights>,
}

pub struct Rights {
    pub user: u32,
    pub group: u32,
    pub groups: Vec<u32>,
}

/// The user that `USER[:GROUP]` means, names or numbers; the agent's own for nothing.
pub fn find(text: &[u8]) -> Result<User, String> {
    let text = std::str::from_utf8(text).map_err(|_| "a user's name is no text".to_owned())?;
    let (name, group) = text.split_once(':').map_or((text, None), |(name, group)| (name, Some(group)));
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let own = sys::user_id();
    let number = if text.is_empty() { Some(own) } else { name.parse().ok() };
    // Name, password, number, group, comment, home, shell.
    let mut entries = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let entry = entries.find_map(|fields| {
        let [entry, _, id, group, _, home, shell] = fields[..] else { return None };
        let (id, group) = (id.parse::<u32>().ok()?, group.parse::<u32>().ok()?);
        let it = if text.is_empty() { id == own } else { entry == name || number == Some(id) };
        it.then(|| (entry.to_owned(), id, group, home.to_owned(), shell.to_owned()))
    });
    let known = entry.is_some();
    let (name, id, first, home, shell) = match (entry, number) {
        (Some(entry), _) => entry,
        (None, Some(number)) => (number.to_string(), number, number, "/".to_owned(), String::new()),
        (None, None) => return Err(format!("the guest has no user {name:?}")),
    };
    let shell = if shell.is_empty() { "/bin/sh".to_owned() } else { shell };
    if text.is_empty() {
        return Ok(User { name, home, shell, rights: None });
    }
    // Name, password, number, members.
    let entries = || {
        groups.lines().filter_map(|line| {
            let [group, _, id, members] = line.split(':').collect::<Vec<_>>()[..] else { return None };
            Some((group, id.parse::<u32>().ok()?, members))
        })
    };
    let group = match group {
        None => first,
        Some(group) => match (entries().find(|entry| entry.0 == group), group.parse()) {
            (Some((_, id, _)), _) | (None, Ok(id)) => id,
            _ => return Err(format!("the guest has no group {group:?}")),
        },
    };
    let member = |members: &str| known && members.split(',').any(|member| member == name);
    let mut list: Vec<u32> = entries().filter(|entry| member(entry.2)).map(|entry| entry.1).collect();
    list.push(group);
    Ok(User { name, home, shell, rights: Some(Rights { user: id, group, groups: list }) })
}

impl User {
    /// What every program's environment has, but for what `more` says otherwise.
    pub fn environment(&self, terminal: bool, more: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut list = vec![
            format!("PATH={PATH}").into_bytes(),
            format!("HOME={}", self.home).into_bytes(),
            format!("USER={}", self.name).into_bytes(),
            format!("LOGNAME={}", self.name).into_bytes(),
            format!("SHELL={}", self.shell).into_bytes(),
        ];
        if terminal {
            list.push(b"TERM=xterm".to_vec());
        }
        if let Some(language) = std::env::var_os("LANG") {
            list.push([b"LANG=", language.as_bytes()].concat());
        }
        let name = |text: &[u8]| text.split(|&byte| byte == b'=').next().unwrap_or_default().to_vec();
        for text in more {
            list.retain(|other| name(other) != name(text));
            list.push(text.clone());
        }
        list
    }
}

//! What one run of the default guest is to do: handed over as one more archive behind its initramfs, which
//! keeps every byte of the arguments as it is.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use crate::cpio::{Archive, Node};

/// How a command is connected to the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandMode {
    /// The line is the command's terminal.
    Terminal,
    /// The line carries the command's standard streams ([`LineDecoder`](crate::LineDecoder)); its exit status
    /// comes by the debug-exit port.
    Stream,
    /// As `Stream`, but the guest powers off at the end.
    Console,
}

/// Size of the user's terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// One run of the default guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Session {
    /// The terminal at the host's end of the line, if there is one, and its name in terminfo.
    pub terminal: Option<(WindowSize, String)>,
    /// Names of the machine's ports, which it waits for.
    pub ports: Vec<String>,
    /// Tags of the machine's shared folders, which it mounts as `/mnt/TAG`; true for those that cannot be changed.
    pub shares: Vec<(String, bool)>,
    /// The program and its arguments; without one the guest starts a shell on the line.
    pub command: Option<(CommandMode, Vec<OsString>)>,
}

impl Session {
    /// The archive to append to the initramfs.
    pub fn archive(&self) -> Vec<u8> {
        let mut archive = Archive::new();
        if let Some((size, name)) = &self.terminal {
            let harmless = |c: char| c.is_ascii_alphanumeric() || "-+._".contains(c);
            let name = if !name.is_empty() && name.chars().all(harmless) { name } else { "vt100" };
            let text = format!("{} {} {name}\n", size.rows, size.columns);
            archive.add("etc/guesthouse/terminal", 0o644, Node::File(text.into()));
        }
        if !self.ports.is_empty() {
            let list: String = self.ports.iter().map(|name| format!("{name}\n")).collect();
            archive.add("etc/guesthouse/ports", 0o644, Node::File(list.into()));
        }
        if !self.shares.is_empty() {
            let line =
                |(tag, readonly): &(String, bool)| format!("{tag} {}\n", if *readonly { "ro" } else { "rw" });
            let list: String = self.shares.iter().map(line).collect();
            archive.add("etc/guesthouse/shares", 0o644, Node::File(list.into()));
        }
        if let Some((mode, argv)) = &self.command {
            let mut text = vec![match mode {
                CommandMode::Terminal => b't',
                CommandMode::Stream => b's',
                CommandMode::Console => b'c',
            }];
            for argument in argv {
                text.extend_from_slice(argument.as_bytes());
                text.push(0);
            }
            archive.add("etc/guesthouse/command", 0o600, Node::File(text));
        }
        archive.write()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    fn file(session: &Session, path: &str) -> Option<Vec<u8>> {
        let bytes = session.archive();
        let (archive, _) = crate::cpio::read(&bytes)?;
        let file = archive.iter().find(|e| e.0 == path.as_bytes())?;
        if let Node::File(data) = file.2 { Some(data.clone()) } else { None }
    }

    #[test]
    fn arguments_keep_every_byte() {
        let argv = vec!["sh".into(), "it's \"x\"\n ".into(), OsString::from_vec(vec![0xff, 1]), "".into()];
        let session = Session { command: Some((CommandMode::Stream, argv)), ..Session::default() };
        assert_eq!(
            file(&session, "etc/guesthouse/command").unwrap(),
            b"ssh\0it's \"x\"\n \0\xff\x01\0\0".as_slice()
        );
    }

    #[test]
    fn ports_are_listed() {
        let session = Session { ports: vec!["a".into(), "b.0".into()], ..Session::default() };
        assert_eq!(file(&session, "etc/guesthouse/ports").unwrap(), b"a\nb.0\n");
        assert_eq!(file(&Session::default(), "etc/guesthouse/ports"), None);
    }

    #[test]
    fn shares_are_listed_with_what_may_be_done_to_them() {
        let shares = vec![("src".into(), false), ("data".into(), true)];
        let session = Session { shares, ..Session::default() };
        assert_eq!(file(&session, "etc/guesthouse/shares").unwrap(), b"src rw\ndata ro\n");
    }

    #[test]
    fn a_terminal_name_cannot_carry_shell_syntax() {
        let size = WindowSize { rows: 24, columns: 80 };
        let session = Session { terminal: Some((size, "x; reboot".into())), ..Session::default() };
        assert_eq!(file(&session, "etc/guesthouse/terminal").unwrap(), b"24 80 vt100\n");
    }
}

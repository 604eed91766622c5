//! What a switch is asked by those who connect to its socket: one message, one answer. A member's frames follow, or what
//! a capture sees.
//!
//! Messages are JSON; the socket keeps their bounds (SOCK_SEQPACKET).

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags, recv, send, sockopt};
use serde::{Deserialize, Serialize};

use super::home::Folder;
use super::report::Report;
use super::vlan::Vlan;
use crate::Mac;

/// Of the messages and of what follows.
const VERSION: u32 = 1;
/// Most bytes of a request, and of an answer.
pub const MOST_ASKED: usize = 4096;
const MOST_ANSWERED: usize = 200_000;
/// How long a switch has for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes that the host keeps for who reads slowly: several large frames.
const SOCKET_BUFFER: usize = 4 << 20;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Message<T> {
    version: u32,
    content: T,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Request {
    /// To be a member.
    Join(Join),
    /// Who is there.
    Inspect,
    /// To see all frames: what follows is a file for packet analysers.
    Capture,
    /// To end; with members only if it is `force`d.
    Stop {
        /// Members lose their network.
        force: bool,
    },
}

/// What a member is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// Its card.
    pub mac: Mac,
    /// What others call it.
    #[serde(default)]
    pub name: Option<String>,
    /// The VLAN of its frames without a tag.
    #[serde(default)]
    pub vlan: Option<Vlan>,
    /// Those of frames with a tag.
    #[serde(default)]
    pub trunk: Vec<Vlan>,
    /// The address that it wants.
    #[serde(default)]
    pub ip: Option<Ipv4Addr>,
    /// Most bytes in a second, in each direction.
    #[serde(default)]
    pub rate: Option<u64>,
    /// It may use others' addresses.
    #[serde(default)]
    pub spoof: bool,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// It is a member and has these addresses.
    Joined(Vec<(Vlan, Ipv4Addr)>),
    /// Who is there.
    Report(Report),
    /// It is done, or begins.
    Done,
    /// Why not.
    Refused(String),
}

fn encode<T: Serialize>(content: T) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(&Message { version: VERSION, content })?)
}

impl Request {
    /// As it is sent.
    pub(super) fn encode(&self) -> io::Result<Vec<u8>> {
        encode(self)
    }

    /// As it arrived.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let message: Message<Self> =
            serde_json::from_slice(bytes).map_err(|e| format!("the request is not understood ({e})"))?;
        if message.version != VERSION {
            return Err(format!("version {} is not spoken here, but {VERSION}", message.version));
        }
        let request = message.content;
        if let Self::Join(Join { name: Some(name), .. }) = &request {
            check_host_name(name)?;
        }
        Ok(request)
    }
}

impl Answer {
    /// As it is sent.
    pub(super) fn encode(&self) -> io::Result<Vec<u8>> {
        encode(self)
    }

    /// As it arrived.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let message: Result<Message<Self>, _> = serde_json::from_slice(bytes);
        message.map(|message| message.content).map_err(|e| format!("the answer is not understood ({e})"))
    }
}

/// Says whether a member may be called so: a label of a DNS name.
///
/// # Errors
/// What is wrong with it.
pub fn check_host_name(name: &str) -> Result<(), String> {
    let letters = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if letters && (1..=63).contains(&name.len()) && !name.starts_with('-') && !name.ends_with('-') {
        return Ok(());
    }
    Err(format!("{name:?} is no host name: give letters, digits and hyphens, 63 at most"))
}

/// Large frames fit, several of them.
pub(super) fn make_room(socket: &OwnedFd) {
    // The host gives what it allows.
    let _ = sockopt::set_socket_send_buffer_size(socket, SOCKET_BUFFER);
}

/// Asks a switch; its answer.
///
/// # Errors
/// It is not there, or does not answer.
pub fn ask(folder: &Folder, request: &Request) -> io::Result<Answer> {
    attach(folder, request).map(|(answer, _)| answer)
}

/// The same, and the socket by which more follows.
///
/// # Errors
/// It is not there, or does not answer.
pub fn attach(folder: &Folder, request: &Request) -> io::Result<(Answer, OwnedFd)> {
    let socket = folder.connect()?;
    make_room(&socket);
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(PATIENCE))?;
    send(&socket, &request.encode()?, SendFlags::NOSIGNAL)?;
    let mut answer = Vec::with_capacity(MOST_ANSWERED);
    recv(&socket, rustix::buffer::spare_capacity(&mut answer), RecvFlags::empty())?;
    let answer = Answer::decode(&answer).map_err(io::Error::other)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, None)?;
    Ok((answer, socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_what_they_were() {
        let join = Join {
            mac: Mac([2; 6]),
            name: Some("web".into()),
            vlan: None,
            trunk: vec![Vlan::DEFAULT],
            ip: Some([10, 5, 0, 7].into()),
            rate: Some(1000),
            spoof: false,
        };
        for request in
            [Request::Join(join), Request::Inspect, Request::Capture, Request::Stop { force: true }]
        {
            assert_eq!(Request::decode(&request.encode().unwrap()), Ok(request));
        }
        for answer in [
            Answer::Done,
            Answer::Refused("no".into()),
            Answer::Joined(vec![(Vlan::DEFAULT, [10, 5, 0, 7].into())]),
        ] {
            assert_eq!(Answer::decode(&answer.encode().unwrap()), Ok(answer));
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for wrong in [
            &b""[..],
            b"{}",
            b"\xff",
            br#"{"version":2,"content":"inspect"}"#,
            br#"{"version":1,"content":{"join":{"mac":"01:00:00:00:00:00"}}}"#,
            br#"{"version":1,"content":{"join":{"mac":"02:00:00:00:00:00","vlan":0}}}"#,
            br#"{"version":1,"content":{"join":{"mac":"02:00:00:00:00:00","name":"a.b"}}}"#,
            br#"{"version":1,"content":{"join":{"mac":"02:00:00:00:00:00","nam":"a"}}}"#,
        ] {
            assert!(Request::decode(wrong).is_err(), "{}", String::from_utf8_lossy(wrong));
        }
        assert!(Request::decode(br#"{"version":1,"content":{"join":{"mac":"02:00:00:00:00:00"}}}"#).is_ok());
    }
}

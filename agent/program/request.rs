//! What the agent does itself.

use std::io;
use std::process::{Command, Stdio};

use crate::protocol::{Exit, Request};
use crate::user::PATH;
use crate::{card, sys};

/// Does it; the status for the host.
pub fn answer(request: &Request) -> Exit {
    let done = match request {
        Request::Ping => Ok(()),
        Request::PowerOff => begin("poweroff", &[]),
        Request::Reboot => begin("reboot", &[]),
        Request::Hostname(name) => sys::set_hostname(name),
        Request::Time(time) => sys::set_time(*time),
        Request::Random(seed) => sys::add_random(*seed),
        Request::Card(from, to) => card::change(*from, *to),
    };
    match done {
        Ok(()) => Exit::Code(0),
        Err(e) => Exit::Failed(1, e.to_string()),
    }
}

/// Starts a program. The system's end is asked for so, as its administrator would; the answer is on its way before that.
pub fn begin(program: &str, arguments: &[&str]) -> io::Result<()> {
    let mut command = Command::new(program);
    command.args(arguments).env("PATH", PATH);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // Its end is noticed with that of all others.
    command.spawn().map(drop)
}

//! `guesthouse agent`: the program for guests that do not have it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;

/// What `--help` has at its end.
pub const HELP: &str = "\
The program is static, needs nothing but Linux with its virtio console driver, and makes `exec`,
`cp` and a clean `stop` work in any guest. The guests that Guesthouse builds have it already.

To install it in a guest with systemd, as /usr/local/sbin/guesthouse-agent, with this in
/etc/systemd/system/guesthouse-agent.service, and `systemctl enable --now guesthouse-agent`:

  [Unit]
  Description=Guesthouse agent
  ConditionVirtualization=vm
  [Service]
  ExecStart=/usr/local/sbin/guesthouse-agent
  Restart=on-failure
  RestartSec=5
  KillMode=process
  [Install]
  WantedBy=multi-user.target

Copies of a machine (`clone`) get other addresses of their cards by it. Where the system's DHCP
client does not see that a link went and came back, it runs /etc/guesthouse/new-address DEVICE.

Examples:
  guesthouse agent guesthouse-agent          write it here
  guesthouse agent - | ssh root@vm 'cat >/usr/local/sbin/guesthouse-agent'";

/// Writes the program to a file, or to stdout.
pub fn run(path: &Path) -> anyhow::Result<()> {
    if path.as_os_str() == "-" {
        return Ok(io::stdout().write_all(::agent::PROGRAM)?);
    }
    let name = path.file_name().with_context(|| format!("{} names no file: give one", path.display()))?;
    let beside = path.with_file_name(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let write = || {
        let mut file = File::options().write(true).create_new(true).mode(0o755).open(&beside)?;
        file.write_all(::agent::PROGRAM)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write()
        .inspect_err(|_| drop(fs::remove_file(&beside)))
        .with_context(|| format!("{} cannot be written: give a file in a folder of yours", path.display()))
}

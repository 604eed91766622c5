//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use crate::image::ImageAction;
use crate::life::{LifeAction, LifeArguments};
use crate::net::NetAction;
use crate::net_args::net;
use crate::share_args::share;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use cpu::TraceFile;
use machine::{
    BoardKind, ConsoleKind, DiskSpec, EngineKind, Irqchip, MAX_CPUS, NetSpec, PortSpec, Protocol, ShareSpec,
    Size, VsockSpec,
};

const EXAMPLES: &str = "\
Examples:
  guesthouse run                             boot the default guest to a shell
  guesthouse run -- uname -a                 run a command in it; its exit status is ours
  tar c . | guesthouse run -- tar t          streams pass through, also binary ones
  guesthouse run --cpus 4 --memory 1G        a larger machine
  guesthouse run debian                      a whole Debian, which is built first
  guesthouse run --kernel /boot/vmlinuz --initrd /boot/initrd.img
  guesthouse run --disk debian.qcow2         boot the system on a disk
  guesthouse run --disk disk.raw -- fdisk -l the default guest with a disk, /dev/vda
  guesthouse image create disk.qcow2 20G     an empty disk
  guesthouse run --net user,forward=2222:22  with a network; the host's port 2222 is the guest's 22
  guesthouse run --share src:src -- ls /mnt/src
                                             with a folder of the host's
  guesthouse run -d --name web debian        one in the background: see ps, console, logs, stop, rm
  guesthouse net create lan                  a switch; machines join it with --net lan,name=web
  guesthouse doctor                          what this host offers, and the engine `auto` takes
  guesthouse completions bash                completions for your shell

Exit status:
  0      the guest powered itself off
  1      the machine could not go on for a reason of the host's
  2      wrong usage or input: one line on stderr says which, why, and what to do
  3      the guest's CPU stopped: triple fault, or an instruction that is not implemented
  n      with `-- COMMAND`: the command's own (126 cannot be executed, 127 not found, 128+n by
         signal n); otherwise the byte a guest writes to the debug-exit port 0xf4
  128+n  guesthouse itself was ended by signal n (130 interrupt, 141 no reader, 143 termination,
         159 a system call that the jail of its process refuses)";

const RUN_HELP: &str = "\
Keys, while the terminal belongs to the guest:
  Ctrl-A x       end the machine
  Ctrl-A h       show these keys
  Ctrl-A Ctrl-A  send Ctrl-A to the guest

Without a terminal, stdin and stdout are the guest's console; with `-- COMMAND` they are the
command's, and its stderr and anything else the guest says go to stderr.

Examples:
  guesthouse run
  guesthouse run -- sh -c 'cat /proc/cpuinfo | grep name'
  echo hello | guesthouse run -- sha256sum
  guesthouse run --kernel vmlinux --boot pvh --append 'console=ttyS0 panic=-1' --no-reboot
  guesthouse run --port agent=agent.sock     and on the host: socat - UNIX:agent.sock
  guesthouse run --kernel mykernel --boot multiboot --module first.bin --module second.bin";

/// Boots an operating system in a virtual machine of its own, without root.
#[derive(Debug, Parser)]
#[command(name = "guesthouse", version, after_help = EXAMPLES, disable_help_subcommand = true)]
pub struct Arguments {
    /// What to log to stderr: a level (error, warn, info, debug, trace) or target=level, comma-separated.
    #[arg(long, global = true, value_name = "FILTER", default_value = "warn")]
    pub log: String,
    /// This is the machine's own process, which `run --detach` has started.
    #[arg(long, hide = true)]
    pub background: bool,
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Boot a machine: the default guest, or the given kernel.
    Run(Box<RunArguments>),
    /// Have a machine go on where `guesthouse snapshot` has written it down.
    Restore(crate::run::RestoreArguments),
    /// Machines that run or did.
    #[command(flatten)]
    Life(LifeAction),
    /// Say what this host offers, which engine `auto` takes, and why.
    Doctor {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// List the guests that need no files of yours, or build one.
    Guests {
        /// Build this guest now, from the newest packages, even if it is there already.
        #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "")]
        build: Option<String>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Make, copy, check and resize disk images.
    #[command(subcommand)]
    Image(ImageAction),
    /// Make, list and remove switches between machines.
    #[command(subcommand)]
    Net(NetAction),
    /// Write the guest agent, for a guest that does not have it.
    #[command(after_help = crate::agent::HELP)]
    Agent {
        /// Where to; `-` is stdout.
        file: PathBuf,
    },
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// `guesthouse run`.
#[derive(Debug, Args)]
#[command(after_help = RUN_HELP)]
pub struct RunArguments {
    /// The guest to boot; `guesthouse guests` lists them. Or a file FILE.toml with a machine's definition, as `guesthouse inspect
    /// --toml` prints it; what else the command line says is added to it or replaces what it says.
    #[arg(value_name = "GUEST", conflicts_with_all = ["kernel", "guest"])]
    pub name: Option<String>,
    /// The same, as an option.
    #[arg(long, value_name = "NAME", conflicts_with = "kernel")]
    pub guest: Option<String>,
    /// Kernel to boot: bzImage, ELF vmlinux (PVH), or multiboot.
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk for that kernel.
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// Kernel command line; for a default guest, what to add to its own.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub append: Option<String>,
    /// Guest RAM, such as 512M or 2G [default: 512M].
    #[arg(long, short, value_name = "SIZE")]
    pub memory: Option<Size>,
    /// Take guest RAM from the host's huge pages, of 2M or 1G, which somebody has put aside (/sys/kernel/mm/hugepages). They are the
    /// machine's to its end: no balloon, no copies.
    #[arg(long, value_name = "SIZE", num_args = 0..=1, require_equals = true, default_missing_value = "2M")]
    pub hugepages: Option<Size>,
    /// Memory that the guest is asked to give back to the host. What it frees by itself goes back without being asked for.
    #[arg(long, value_name = "SIZE")]
    pub balloon: Option<Size>,
    /// Virtual CPUs [default: 1].
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_CPUS)))]
    pub cpus: Option<u32>,
    /// CPUs' worth of time of the host's that the whole machine may use: 0.2 is a fifth of one.
    #[arg(long, value_name = "CPUS")]
    pub cpu_cap: Option<f64>,
    /// The machine's share of CPU time beside others that want the same: 1 to 10000; others have 100. More than 100 needs
    /// privileges.
    #[arg(long, value_name = "WEIGHT")]
    pub cpu_weight: Option<u32>,
    /// Control group of the host's (a folder below /sys/fs/cgroup, version 2, or 1 of the controller cpu) that the machine's
    /// process joins. Cap and weight are written into it.
    #[arg(long, value_name = "FOLDER")]
    pub cgroup: Option<PathBuf>,
    /// How fast a disk or a card is served: `disk0,iops=1000,bps=50M` (the first `--disk`), `net0,bps=10M`, or one direction,
    /// `net0.tx` from the guest, `net0.rx` to it; `pps=N` are frames, `bps` bytes in a second, `burst=SIZE` bytes that may go
    /// at once after a pause. May be repeated; `guesthouse limit` changes it later.
    #[arg(long, value_name = "DEVICE,RATE...", value_parser = crate::limit_args::limit)]
    pub limit: Vec<crate::limit_args::DeviceLimit>,
    /// Parts of the machine; `microvm` has no PCI and no parts of an AT but a serial port and a clock [default: pc].
    #[arg(long, value_name = "NAME", value_parser = one_of::<BoardKind>(BoardKind::NAMES))]
    pub board: Option<BoardKind>,
    /// How to run the guest's code [default: auto].
    #[arg(long, value_name = "NAME", value_parser = one_of::<EngineKind>(EngineKind::NAMES))]
    pub engine: Option<EngineKind>,
    /// Whose interrupt controllers the guest has on KVM: `userspace`, all are Guesthouse's; `split`, local APICs are KVM's, so
    /// that timers, HLT and messages between CPUs do not leave the kernel; `kernel`, I/O APIC and 8259s as well, for systems
    /// that interrupt by them [default: auto, split where KVM runs every mode].
    #[arg(long, value_name = "KIND", value_parser = one_of::<Irqchip>(Irqchip::NAMES))]
    pub irqchip: Option<Irqchip>,
    /// What the guest's CPUID says; without it the best model that this host can run (`guesthouse doctor`
    /// lists them).
    #[arg(long, value_name = "MODEL")]
    pub cpu_model: Option<String>,
    /// Boot protocol; `auto` looks at the kernel [default: auto].
    #[arg(long, value_name = "PROTOCOL", value_parser = one_of::<Protocol>(Protocol::NAMES))]
    pub boot: Option<Protocol>,
    /// End, with status 0, when the guest asks for a reset.
    #[arg(long)]
    pub no_reboot: bool,
    /// Have copies (`guesthouse clone`) begin in tens of milliseconds from the first one on; the guest's start takes about 5 % more of
    /// the host's time.
    #[arg(long)]
    pub clonable: bool,
    /// With the engine dbt: translate programs of the guest that run for long as well, instead of having the host's CPU run them as
    /// they are, two to four times as fast, each in a process that can make no system call.
    #[arg(long)]
    pub no_direct: bool,
    /// Module for a multiboot or PVH kernel: a file and, after a blank, its arguments. May be repeated.
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub module: Vec<String>,
    /// Disk of the machine: a raw or qcow2 image or a block device, as /dev/vda, vdb ... May be repeated. Options:
    /// `readonly`: the guest cannot write it; `snapshot`: what it writes is gone at the end; `format=raw` or
    /// `qcow2`, instead of a look at the content; `backing=yes`: files that the image names as its base may be
    /// opened; `werror=stop`: the guest stands still while the host cannot write, instead of getting an error;
    /// `serial=TEXT`: its serial number.
    #[arg(long, value_name = "PATH[,OPTION...]", value_parser = disk)]
    pub disk: Vec<DiskSpec>,
    /// Keep the disks as they are: what the guest writes is gone at the end.
    #[arg(long)]
    pub snapshot: bool,
    /// Write /tmp/perf-PID.map, so that `perf report` names what the translator made of the guest's code: mode, linear and
    /// guest-physical address. The file stays for the report.
    #[arg(long)]
    pub perf_map: bool,
    /// Write a line for everything that the translator makes of the guest's code, and a summary at the end, to a file;
    /// `-` is stderr, since stdout is the guest's. With `,code` guest instructions and host code stand side by side.
    #[arg(long, value_name = "FILE[,code]", value_parser = trace_file)]
    pub dbt_trace: Option<TraceFile>,
    /// Network card: `user` is a network of the guest's own behind the host's sockets, which needs no privileges.
    /// It may have `,forward=[udp:][ADDRESS:]PORT:PORT` (a port of the host's, one of the guest's; any number of them),
    /// `,loopback=yes` (10.0.2.2 is the host's 127.0.0.1), `,outside=no` (nothing but that and forwarded ports),
    /// `,mac=ADDRESS` and `,capture=FILE` (all frames, for tcpdump and the like). `tap=DEVICE` is a TAP
    /// device of the host's, which may have `mac` and `capture`; `none` is none. Any other word is a switch that machines
    /// share (`guesthouse net`): `,name=NAME` is what they call this one, `,vlan=ID` its VLAN, `,trunk=ID+ID` VLANs that it
    /// gets by tags, `,ip=ADDRESS` the address that it is to have, `,rate=SIZE` most bytes in a second each way, and
    /// `,spoof=yes` lets it use others' addresses, as bridges and routers do; `mac` and `capture` as above. May be
    /// repeated. A guest that is a whole system has `user` if nothing is said.
    #[arg(long, value_name = "KIND[,OPTION...]", value_parser = net)]
    pub net: Vec<Option<NetSpec>>,
    /// Where your terminal, or stdin and stdout, is plugged in: `serial` is the serial port, ttyS0; `virtio` is a virtio
    /// console, hvc0, which knows the terminal's size. The other one's output is shown as well [default: serial].
    #[arg(long, value_name = "NAME", value_parser = one_of::<ConsoleKind>(ConsoleKind::NAMES))]
    pub console: Option<ConsoleKind>,
    /// A stream of bytes between the guest, as /dev/virtio-ports/NAME, and whoever connects to the Unix socket PATH, one
    /// at a time. May be repeated.
    #[arg(long, value_name = "NAME=PATH", value_parser = port)]
    pub port: Vec<PortSpec>,
    /// Folder of the host's for the guest, under a tag: the default guest has it as /mnt/TAG, another one mounts it with
    /// `mount -t virtiofs TAG /mnt`. May be repeated. Options: `ro`: the guest cannot change it; `cache=auto`: the
    /// guest sees what the host changes after a second, `none`: at once, `always`: not at all, for folders that only
    /// it uses; `suid`: it may make set-user-id programs.
    #[arg(long, value_name = "DIR:TAG[,OPTION...]", value_parser = share)]
    pub share: Vec<ShareSpec>,
    /// Its name, and what becomes of it.
    #[command(flatten)]
    pub life: LifeArguments,
    /// Sockets (AF_VSOCK) between the guest, whose address is CID, or 3, and programs on the host: whoever connects to the
    /// Unix socket PATH and says `CONNECT PORT` and a line feed gets to that port of the guest's, after a line `OK`; the
    /// guest, calling port N of the host (address 2), gets to who listens at PATH_N.
    #[arg(long, value_name = "[CID=]PATH", value_parser = vsock)]
    pub vsock: Option<VsockSpec>,
    /// Program to run in the default guest instead of a shell, with its arguments.
    #[arg(last = true, value_name = "COMMAND", conflicts_with = "initrd")]
    pub command: Vec<OsString>,
}

const DISK_OPTIONS: &str = "readonly, snapshot, format=FORMAT, backing=yes, werror=stop or serial=TEXT";

fn yes_or_no(answer: &str) -> Result<bool, String> {
    match answer {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err(format!("{answer:?} is neither yes nor no")),
    }
}

/// `PATH[,OPTION...]`. Options are looked for from the end, so that a path may have commas.
fn disk(text: &str) -> Result<DiskSpec, String> {
    let mut disk = DiskSpec::default();
    let mut rest = text;
    while let Some((path, option)) = rest.rsplit_once(',') {
        match option.split_once('=') {
            None if option == "readonly" => disk.readonly = true,
            None if option == "snapshot" => disk.snapshot = true,
            Some(("format", format)) => disk.format = Some(format.parse()?),
            Some(("backing", answer)) => disk.backing = yes_or_no(answer)?,
            Some(("werror", "stop")) => disk.patient = true,
            Some(("werror", "report")) => disk.patient = false,
            Some(("serial", serial)) => serial.clone_into(&mut disk.serial),
            _ if std::path::Path::new(rest).exists() => break,
            _ => return Err(format!("{option:?} is no option of a disk: give {DISK_OPTIONS}")),
        }
        rest = path;
    }
    if rest.is_empty() {
        return Err("no file is named: give PATH[,OPTION...]".to_owned());
    }
    disk.path = rest.into();
    Ok(disk)
}

/// `NAME=PATH`.
fn port(text: &str) -> Result<PortSpec, String> {
    match text.split_once('=') {
        Some((name, path)) if !path.is_empty() => Ok(PortSpec { name: name.to_owned(), path: path.into() }),
        _ => Err(format!("{text:?} names no socket: give NAME=PATH")),
    }
}

/// `[CID=]PATH`.
fn vsock(text: &str) -> Result<VsockSpec, String> {
    let number = |cid: &str| !cid.is_empty() && cid.bytes().all(|byte| byte.is_ascii_digit());
    match text.split_once('=').filter(|(cid, _)| number(cid)) {
        Some((cid, path)) => {
            let cid =
                cid.parse().map_err(|_| format!("{cid} is no address: give one from 3 to 4294967294"))?;
            Ok(VsockSpec { cid, path: path.into() })
        }
        None => Ok(VsockSpec { path: text.into(), ..VsockSpec::default() }),
    }
}

/// `FILE[,code]`.
fn trace_file(text: &str) -> Result<TraceFile, String> {
    let (path, code) = match text.rsplit_once(',') {
        Some((path, "code")) => (path, true),
        Some((_, option)) if !std::path::Path::new(text).exists() => {
            return Err(format!("{option:?} is no option of a trace: give FILE or FILE,code"));
        }
        _ => (text, false),
    };
    if path.is_empty() {
        return Err("no file is named: give FILE[,code], or - for stderr".to_owned());
    }
    Ok(TraceFile { path: path.into(), code })
}

/// A parser that knows all names, for help and completions.
pub fn one_of<T>(names: impl IntoIterator<Item = &'static str>) -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err = String> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(names).try_map(|name| name.parse())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use machine::Format;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn help_is_no_wider_than_it_is_shown() {
        let mut commands = vec![Arguments::command()];
        while let Some(command) = commands.pop() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let wide = help.lines().find(|line| line.chars().count() > 100);
            assert_eq!(wide, None, "{}", command.get_name());
            commands.extend(command.get_subcommands().cloned());
        }
    }

    #[test]
    fn a_disk_has_a_path_and_options() {
        let spec = |path: &str, readonly, serial: &str| {
            Ok(DiskSpec { path: path.into(), readonly, serial: serial.to_owned(), ..DiskSpec::default() })
        };
        assert_eq!(disk("a.raw"), spec("a.raw", false, ""));
        assert_eq!(disk("a.raw,serial=x=1,readonly"), spec("a.raw", true, "x=1"));
        let all = disk("a,snapshot,format=qcow2,backing=yes,werror=stop").unwrap();
        assert_eq!((all.snapshot, all.format, all.backing), (true, Some(Format::Qcow2), true));
        assert!(all.patient && disk("a,werror=ignore").is_err());
        assert!(disk("a,format=vmdk").is_err() && disk("a,backing=maybe").is_err());
        assert!(disk("a.raw,readonyl").unwrap_err().contains("readonyl"));
        assert!(disk(",readonly").is_err());
        let folder = tempfile::tempdir().unwrap();
        let odd = folder.path().join("a,b");
        std::fs::write(&odd, []).unwrap();
        let odd = odd.to_str().unwrap();
        assert_eq!(disk(&format!("{odd},readonly")), spec(odd, true, ""));
    }

    #[test]
    fn a_port_has_a_name_and_a_socket() {
        assert_eq!(port("a=b=c"), Ok(PortSpec { name: "a".to_owned(), path: "b=c".into() }));
        for wrong in ["a", "a=", ""] {
            assert!(port(wrong).unwrap_err().contains("NAME=PATH"), "{wrong}");
        }
    }

    #[test]
    fn sockets_have_a_path_and_may_have_an_address() {
        let spec = |cid, path: &str| Ok(VsockSpec { cid, path: path.into() });
        assert_eq!(vsock("v.sock"), spec(3, "v.sock"));
        assert_eq!(vsock("7=a=b"), spec(7, "a=b"));
        assert_eq!(vsock("a=b"), spec(3, "a=b"));
        assert!(vsock("4294967296=a").unwrap_err().contains("no address"));
    }

    #[test]
    fn a_trace_has_a_file_and_may_have_code() {
        let file = |path: &str, code| Ok(TraceFile { path: path.into(), code });
        assert_eq!(trace_file("t.txt"), file("t.txt", false));
        assert_eq!(trace_file("a,code,code"), file("a,code", true));
        assert_eq!(trace_file("-,code"), file("-", true));
        assert!(trace_file("t.txt,cod").unwrap_err().contains("cod"));
        assert!(trace_file(",code").is_err() && trace_file("").is_err());
    }

    #[test]
    fn a_command_keeps_its_own_flags() {
        let arguments =
            Arguments::try_parse_from(["guesthouse", "run", "--cpus", "2", "--", "ls", "--help"]).unwrap();
        let Action::Run(run) = arguments.action else { panic!("{arguments:?}") };
        assert_eq!(run.command, ["ls", "--help"]);
        assert_eq!(run.cpus, Some(2));
    }
}

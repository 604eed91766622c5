//! Definitions of machines, from files and from the network.

use machine::{MachineSpec, Size};

use super::one_line;
use crate::Target;

/// A definition in TOML and JSON, and a size.
pub const SPEC: Target = Target {
    name: "machine-spec",
    about: "a machine's definition in TOML and in JSON, and sizes",
    seeds: || {
        [
            "kernel = \"vmlinuz\"\ninitrd = \"i\"\ncmdline = \"quiet\"\nmemory = \"1G\"\ncpus = 4\n\
             engine = \"interp\"\nboot = \"pvh\"\nno_reboot = true\n[[modules]]\npath = \"m\"\nargs = \"a\"\n\
             [[disks]]\npath = \"d\"\nreadonly = true\nserial = \"s\"\n",
            "guest = \"debian-12\"\ncommand = [\"true\"]\n[[shares]]\npath = \"../s\"\ntag = \"t\"\n",
            "kernel = \"k\"\nconsole = \"virtio\"\n[[ports]]\nname = \"a.0\"\npath = \"a\"\n",
            "{\"kernel\":\"k\",\"memory\":\"512M\",\"cpus\":2,\"cpu_model\":\"x86-64-v2\",\"engine\":\"auto\",\
             \"modules\":[{\"path\":\"m\"}]}",
            "1536MiB",
            "64k",
        ]
        .map(|s| s.as_bytes().to_vec())
        .to_vec()
    },
    words: &[
        "kernel",
        "memory",
        "cpus",
        "modules",
        "[[modules]]",
        "console",
        "[[ports]]",
        "name",
        "path",
        "engine",
        "boot",
        "cpu_model",
        "true",
        "-1",
        "0",
        "64",
        "65",
        "4294967296",
        "1e400",
        "nan",
        "inf",
        "512M",
        "18446744073709551615T",
        "K",
        "MiB",
        "''",
        "\"",
        "\u{20ac}",
        "{",
        "[",
        "1979-05-27T07:32:00Z",
    ],
    run,
};

fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(size) = text.parse::<Size>() {
        // What is written reads back, but for what no machine has: parts of a KiB.
        assert_eq!(
            String::from(size).parse::<Size>().ok(),
            Some(Size::bytes(size.get())).filter(|s| s.get() != 0)
        );
    }
    for mut spec in
        [toml::from_str::<MachineSpec>(&text).ok(), serde_json::from_str(&text).ok()].into_iter().flatten()
    {
        spec.resolve_paths(std::path::Path::new("/f"));
        if let Err(error) = spec.validate() {
            one_line(&error);
        }
        if let Ok(json) = serde_json::to_string(&spec)
            && let Ok(again) = serde_json::from_str::<MachineSpec>(&json)
        {
            assert_eq!(again, spec);
        }
    }
}

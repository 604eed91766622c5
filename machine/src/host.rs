//! What the host can give.

use std::path::Path;

use rustix::process::{Resource, getrlimit};

/// Bytes of memory that a guest can have here, and what limits it: available memory and swap, the control
/// group's limit, or this process's limit of address space. A host that does not say is taken to have enough.
pub fn memory() -> (u64, &'static str) {
    let limits = [
        (
            std::fs::read_to_string("/proc/meminfo").ok().and_then(|t| available(&t)),
            "MemAvailable and SwapFree",
        ),
        (cgroup(), "memory.max of the control group"),
        (getrlimit(Resource::As).current, "the address space limit, ulimit -v"),
    ];
    let known = limits.into_iter().filter_map(|(bytes, what)| Some((bytes?, what)));
    known.min_by_key(|&(bytes, _)| bytes).unwrap_or((u64::MAX, ""))
}

/// The limit of this process's control group (version 2), as containers have one.
fn cgroup() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = groups.lines().find_map(|l| l.strip_prefix("0::/"))?;
    let path = Path::new("/sys/fs/cgroup").join(group).join("memory.max");
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn available(meminfo: &str) -> Option<u64> {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|l| l.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()
    };
    let kib = field("MemAvailable:")?.saturating_add(field("SwapFree:").unwrap_or(0));
    Some(kib.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read() {
        let text = "MemTotal: 16 kB\nMemFree: 1 kB\nMemAvailable:    1024 kB\nSwapFree:        512 kB\n";
        assert_eq!(available(text), Some(1536 << 10));
        assert_eq!(available("MemTotal: 16 kB"), None);
        assert!(memory().0 > 1 << 20);
    }
}

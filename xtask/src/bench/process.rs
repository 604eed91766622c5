//! What the kernel says of a running process (proc_pid_stat(5), proc_pid_smaps(5)).

use std::fs;

use anyhow::{Context, Result};

/// CPU time of a process that runs or has ended but was not waited for, all its threads and children, in seconds.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let own = cpu_ticks(&read(pid, "stat")?).with_context(|| format!("/proc/{pid}/stat"))?;
    // Those that have ended meanwhile are in the process's own numbers by now, or will be.
    let children = children(pid).into_iter().filter_map(|child| cpu_ticks(&read(child, "stat").ok()?));
    let ticks = own + children.sum::<u64>();
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Memory of a process in KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident, without that of the guest's RAM.
    pub resident: u64,
    /// Resident, with pages that it shares counted in part; without the guest's RAM.
    pub proportional: u64,
    /// Only this process has it; without the guest's RAM.
    pub private: u64,
    /// Of the guest's RAM.
    pub guest: u64,
}

/// Memory of a process whose guest has `ram` KiB.
pub fn memory(pid: u32, ram: u64) -> Result<Memory> {
    let of_guest = guest_ram(&read(pid, "smaps")?, ram)
        .with_context(|| format!("no mapping of process {pid} is as large as the guest's RAM"))?;
    let all = read(pid, "smaps_rollup")?;
    let sum = |names: &[&str]| names.iter().filter_map(|name| field(&all, name)).sum::<u64>();
    let beyond = |names: &[&str]| sum(names).saturating_sub(of_guest);
    Ok(Memory {
        resident: beyond(&["Rss"]),
        proportional: beyond(&["Pss"]),
        private: beyond(&["Private_Clean", "Private_Dirty"]),
        guest: of_guest,
    })
}

/// What is the process's alone, guest RAM and all, and what it maps of others', in KiB.
pub fn private_and_shared(pid: u32) -> Result<(u64, u64)> {
    let all = read(pid, "smaps_rollup")?;
    let sum = |names: &[&str]| names.iter().filter_map(|name| field(&all, name)).sum::<u64>();
    Ok((sum(&["Private_Dirty", "Private_Clean"]), sum(&["Shared_Dirty", "Shared_Clean"])))
}

/// The processes that threads of a process have made.
fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

fn read(pid: u32, file: &str) -> Result<String> {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).with_context(|| format!("{path} cannot be read"))
}

/// `utime` and `stime`, the 14th and 15th field, and those of children that were waited for; the second is a name that may hold
/// anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    fields.by_ref().take(4).map(|field| field.parse::<u64>().ok()).sum()
}

/// What is resident of the smallest mapping that can be the guest's RAM.
fn guest_ram(smaps: &str, ram: u64) -> Option<u64> {
    let mut sizes = Vec::new();
    for line in smaps.lines() {
        if let Some(size) = field(line, "Size") {
            sizes.push((size, 0));
        } else if let (Some(resident), Some(mapping)) = (field(line, "Rss"), sizes.last_mut()) {
            mapping.1 = resident;
        }
    }
    sizes.into_iter().filter(|&(size, _)| size >= ram).min().map(|(_, resident)| resident)
}

/// The number of a line `name:  number kB`.
fn field(text: &str, name: &str) -> Option<u64> {
    let value =
        |line: &str| line.strip_prefix(name)?.strip_prefix(':')?.split_whitespace().next()?.parse().ok();
    text.lines().find_map(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_ram_is_the_mapping_of_its_size() {
        let smaps = "7f00-7f80 rw-p 0 00:00 0\nSize:  100 kB\nKernelPageSize: 4 kB\nRss:   99 kB\nPss: 99 kB\n\
                     8000-9000 rw-p 0 00:00 0\nSize:  524288 kB\nRss:  6000 kB\n\
                     a000-b000 ---p 0 00:00 0\nSize: 1048576 kB\nRss:  0 kB\n";
        assert_eq!(guest_ram(smaps, 524_288), Some(6000));
        assert_eq!(guest_ram(smaps, 2_000_000), None);
    }

    #[test]
    fn a_name_with_brackets_and_blanks_is_passed_over() {
        let stat = "7 (a) R 1) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 7 3 20 0 4 0 1 1 1";
        assert_eq!(cpu_ticks(stat), Some(310));
    }

    #[test]
    fn this_process_has_used_memory_and_time() {
        let pid = std::process::id();
        let memory = memory(pid, 0).unwrap();
        assert!(memory.resident > 100 && memory.proportional <= memory.resident, "{memory:?}");
        assert!(cpu_seconds(pid).unwrap() >= 0.0);
    }
}

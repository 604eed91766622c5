//! What to tell of a CPU that cannot go on.

use std::fmt;

use cpu::x86::{cr0, cr4, efer, gpr, rflags, seg, seg_attr};
use cpu::{CpuFault, CpuState};
use memory::GuestRam;

/// A CPU and where it stood.
#[derive(Debug, Clone)]
pub struct Report {
    /// Its index.
    pub vcpu: u32,
    /// Why it stopped.
    pub reason: String,
    /// The bytes at RIP, as far as they are mapped.
    pub bytes: Vec<u8>,
    /// "real", "v8086", "16-bit protected", "32-bit protected", "compatibility" or "64-bit".
    pub mode: &'static str,
    /// All registers.
    pub state: CpuState,
    /// Instructions it had run, where the engine counts them.
    pub instructions: u64,
}

impl Report {
    /// Of a triple fault.
    pub fn triple_fault(vcpu: u32, state: CpuState, ram: &GuestRam, instructions: u64) -> Self {
        let bytes = code_bytes(ram, &state);
        Self { vcpu, reason: "triple fault".to_owned(), bytes, mode: mode(&state), state, instructions }
    }

    /// Of an engine that gave up.
    pub fn engine_fault(vcpu: u32, state: CpuState, fault: CpuFault, instructions: u64) -> Self {
        Self { vcpu, reason: fault.reason, bytes: fault.bytes, mode: fault.mode, state, instructions }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = &self.state;
        writeln!(
            f,
            "{} on vcpu {} in {} mode after {} instructions",
            self.reason, self.vcpu, self.mode, self.instructions
        )?;
        let bytes: Vec<_> = self.bytes.iter().map(|b| format!("{b:02x}")).collect();
        let bytes = if bytes.is_empty() { "not mapped".to_owned() } else { bytes.join(" ") };
        writeln!(f, "  rip {:016x}  bytes {bytes}", s.rip)?;
        const NAMES: [(&str, usize); 8] = [
            ("rax", gpr::RAX),
            ("rbx", gpr::RBX),
            ("rcx", gpr::RCX),
            ("rdx", gpr::RDX),
            ("rsi", gpr::RSI),
            ("rdi", gpr::RDI),
            ("rbp", gpr::RBP),
            ("rsp", gpr::RSP),
        ];
        for row in NAMES.chunks(4) {
            let row: Vec<_> = row.iter().map(|&(name, i)| format!("{name} {:016x}", s.gpr[i])).collect();
            writeln!(f, "  {}", row.join("  "))?;
        }
        for row in [8..12, 12..16] {
            let row: Vec<_> = row.map(|i| format!("r{i:<2} {:016x}", s.gpr[i])).collect();
            writeln!(f, "  {}", row.join("  "))?;
        }
        let selectors = [("cs", seg::CS), ("ss", seg::SS), ("ds", seg::DS), ("es", seg::ES), ("fs", seg::FS)];
        let selectors: Vec<_> = selectors
            .iter()
            .chain(&[("gs", seg::GS)])
            .map(|&(name, i)| format!("{name} {:04x}", s.segments[i].selector))
            .collect();
        writeln!(
            f,
            "  {}  cs base {:x}  rflags {:08x}",
            selectors.join("  "),
            s.segments[seg::CS].base,
            s.rflags
        )?;
        write!(
            f,
            "  cr0 {:x}  cr2 {:x}  cr3 {:x}  cr4 {:x}  efer {:x}  idt {:x}+{:x}",
            s.cr0, s.cr2, s.cr3, s.cr4, s.efer, s.idtr.base, s.idtr.limit
        )
    }
}

fn mode(s: &CpuState) -> &'static str {
    let cs = s.segments[seg::CS].attr;
    let wide = cs & seg_attr::DB != 0;
    match () {
        () if s.cr0 & cr0::PE == 0 => "real",
        () if s.efer & efer::LMA != 0 && cs & seg_attr::L != 0 => "64-bit",
        () if s.efer & efer::LMA != 0 => "compatibility",
        () if s.rflags & rflags::VM != 0 => "v8086",
        () if wide => "32-bit protected",
        () => "16-bit protected",
    }
}

/// Up to 15 bytes from CS:RIP.
fn code_bytes(ram: &GuestRam, s: &CpuState) -> Vec<u8> {
    let long = s.efer & efer::LMA != 0 && s.segments[seg::CS].attr & seg_attr::L != 0;
    let start = if long { s.rip } else { s.segments[seg::CS].base.wrapping_add(s.rip) & 0xffff_ffff };
    let byte = |i| {
        let phys = physical(ram, s, start.wrapping_add(i))?;
        let mut byte = [0];
        ram.read(phys, &mut byte).ok()?;
        Some(byte[0])
    };
    (0..15).map_while(byte).collect()
}

/// Walks the page tables without touching them (Intel SDM volume 3, chapter 5). Only for reports: permissions
/// and reserved bits do not matter.
fn physical(ram: &GuestRam, s: &CpuState, linear: u64) -> Option<u64> {
    const PRESENT: u64 = 1;
    const LARGE: u64 = 1 << 7;
    const FRAME: u64 = 0x000f_ffff_ffff_f000;
    if s.cr0 & cr0::PG == 0 {
        return Some(linear);
    }
    // Bits of the index and shift of each level, and the size of an entry.
    let (levels, entry_len): (&[(u32, u64)], u64) = match () {
        () if s.efer & efer::LMA != 0 => (&[(39, 511), (30, 511), (21, 511), (12, 511)], 8),
        () if s.cr4 & cr4::PAE != 0 => (&[(30, 3), (21, 511), (12, 511)], 8),
        () => (&[(22, 1023), (12, 1023)], 4),
    };
    let mut table = if entry_len == 8 && levels.len() == 3 { s.cr3 & 0xffff_ffe0 } else { s.cr3 & FRAME };
    for &(shift, mask) in levels {
        let at = table.wrapping_add((linear >> shift & mask) * entry_len);
        let entry = if entry_len == 8 { ram.load_u64(at)? } else { u64::from(ram.load_u32(at)?) };
        if entry & PRESENT == 0 {
            return None;
        }
        let large = entry & LARGE != 0 && matches!(shift, 21 | 22 | 30) && levels.len() != 2
            || entry & LARGE != 0 && shift == 22 && s.cr4 & cr4::PSE != 0;
        let page = (1u64 << shift) - 1;
        if large || shift == 12 {
            return Some((entry & FRAME & !page) | (linear & page));
        }
        table = entry & FRAME;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_shows_where_the_cpu_stood() {
        let ram = GuestRam::new(2 << 20).unwrap();
        ram.write(0x1234, &[0x0f, 0x0b]).unwrap();
        let mut state = CpuState::startup(1);
        state.rip = 0x234;
        let text = Report::triple_fault(3, state, &ram, 42).to_string();
        assert!(text.starts_with("triple fault on vcpu 3 in real mode after 42 instructions\n"), "{text}");
        assert!(text.contains("rip 0000000000000234  bytes 0f 0b 00"), "{text}");
        assert!(text.contains("cs 0100") && text.lines().count() < 10, "{text}");
    }

    #[test]
    fn code_is_found_through_every_kind_of_page_table() {
        let ram = GuestRam::new(4 << 20).unwrap();
        let put = |at: u64, entry: u64| ram.write(at, &entry.to_le_bytes()).unwrap();
        let mut s = CpuState::reset();
        s.cr0 = cr0::PE | cr0::PG;
        // Two levels, small and large.
        s.cr3 = 0x1000;
        put(0x1000, 0x2001);
        put(0x2000, 0x5001);
        assert_eq!(physical(&ram, &s, 0xabc), Some(0x5abc));
        put(0x1000 + 4, 0x40_0081);
        assert_eq!(physical(&ram, &s, 0x40_0abc), None, "without PSE it is a table outside RAM");
        s.cr4 = cr4::PSE;
        assert_eq!(physical(&ram, &s, 0x40_0abc), Some(0x40_0abc));
        // PAE.
        s.cr4 = cr4::PAE;
        s.cr3 = 0x3020;
        put(0x3020, 0x4001);
        put(0x4000, 0x20_0081);
        assert_eq!(physical(&ram, &s, 0x1234), Some(0x20_1234));
        // Four levels.
        s.efer = efer::LMA;
        s.cr3 = 0x6000;
        put(0x6000 + 511 * 8, 0x7001);
        put(0x7000 + 510 * 8, 0x8001);
        put(0x8000, 0x9001);
        put(0x9000 + 8, 0x5001);
        assert_eq!(physical(&ram, &s, 0xffff_ffff_8000_1008), Some(0x5008));
        assert_eq!(physical(&ram, &s, 0xffff_ffff_8000_2008), None);
    }
}

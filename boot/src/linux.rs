//! The 64-bit Linux boot protocol (Linux, Documentation/arch/x86/boot.rst), for a bzImage or an ELF vmlinux.
//!
//! Not done: the 16- and 32-bit entry points, setup_data, EFI hand-over.

mod header;
mod params;

pub use header::{HEADER_END, Header, is_bzimage};

use cpu::CpuState;
use cpu::x86::gpr;
use memory::GuestRam;

use crate::elf::Elf;
use crate::layout::Space;
use crate::{BootError, BootSpec, initrd};

/// Where the 64-bit entry point is in a loaded bzImage.
const ENTRY_64: u64 = 0x200;
/// Initrds stay below this address if the kernel does not say otherwise.
pub const INITRD_LIMIT: u64 = 0x8000_0000;
/// Command line that any kernel of the last fifteen years takes (`COMMAND_LINE_SIZE` less the NUL).
const CMDLINE_MAX: u64 = 2047;

/// Loads a bzImage or vmlinux.
pub fn load(ram: &GuestRam, spec: &BootSpec) -> Result<CpuState, BootError> {
    let mut space = Space::new(ram, spec)?;
    if is_bzimage(spec.kernel.data) { bzimage(&mut space, spec) } else { vmlinux(&mut space, spec) }
}

fn bzimage(space: &mut Space, spec: &BootSpec) -> Result<CpuState, BootError> {
    let header = Header::parse(spec)?;
    header.check_64(spec)?;
    let code = header.code(spec.kernel.data);
    // The kernel moves itself to its preferred address if it is loaded below, so this is what it needs
    // wherever it is loaded: the image, and room to unpack it.
    space.claim(header.pref_address, header.init_size.max(code.len() as u64))?;
    space.ram.load(header.pref_address, code)?;

    let mut params = params::Params::from_header(&header.raw);
    params.code32_start(header.pref_address as u32);
    finish(space, spec, params, header.initrd_limit, header.cmdline_max, header.pref_address + ENTRY_64)
}

fn vmlinux(space: &mut Space, spec: &BootSpec) -> Result<CpuState, BootError> {
    let elf = Elf::parse(spec.kernel)?;
    elf.place(space)?;
    let entry = elf.physical_entry();
    finish(space, spec, params::Params::default(), INITRD_LIMIT, CMDLINE_MAX, entry)
}

fn finish(
    space: &mut Space,
    spec: &BootSpec,
    mut params: params::Params,
    initrd_limit: u64,
    cmdline_max: u64,
    entry: u64,
) -> Result<CpuState, BootError> {
    check_cmdline(spec, cmdline_max)?;
    let at = space.low(params::LEN as u64, 4096)?;
    let mut state = crate::entry::long(space, entry)?;
    params.cmdline(space.put_string(spec.cmdline)?);
    if let Some((start, len)) = initrd::place(space, spec, initrd_limit)? {
        params.initrd(start, len);
    }
    params.rsdp(spec.rsdp);
    params.memory_map(&space.map);
    space.ram.write(at, params.bytes())?;
    state.gpr[gpr::RSI] = at;
    Ok(state)
}

/// Refuses a command line that the kernel would cut off.
pub fn check_cmdline(spec: &BootSpec, max: u64) -> Result<(), BootError> {
    let len = spec.cmdline.len();
    if len as u64 > max {
        return Err(BootError::CommandLine { file: spec.kernel.name.to_owned(), len, max });
    }
    Ok(())
}

#[cfg(test)]
mod tests;

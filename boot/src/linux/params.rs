//! `boot_params`, the zero page (Linux, Documentation/arch/x86/zero-page.rst).

use super::header::{HEADER_END, HEADER_START};
use crate::layout::MemoryMap;

/// Length of the zero page.
pub const LEN: usize = 4096;

const ACPI_RSDP_ADDR: usize = 0x070;
const E820_ENTRIES: usize = 0x1e8;
const VID_MODE: usize = 0x1fa;
const TYPE_OF_LOADER: usize = 0x210;
const LOADFLAGS: usize = 0x211;
const CODE32_START: usize = 0x214;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21c;
const CMD_LINE_PTR: usize = 0x228;
const E820_TABLE: usize = 0x2d0;

/// The page, in the making. Everything that is not set is zero; so is screen_info: there is no screen.
pub struct Params(Box<[u8; LEN]>);

impl Default for Params {
    /// Of an image without a setup header: the fields that a kernel checks.
    fn default() -> Self {
        let mut raw = vec![0; HEADER_END - HEADER_START];
        let mut set = |at: usize, data: &[u8]| raw[at - HEADER_START..][..data.len()].copy_from_slice(data);
        set(0x1fe, &0xaa55u16.to_le_bytes());
        set(0x202, b"HdrS");
        set(0x206, &0x020fu16.to_le_bytes());
        set(0x211, &[1]); // LOADED_HIGH
        set(0x230, &0x100_0000u32.to_le_bytes()); // kernel_alignment
        Self::from_header(&raw)
    }
}

impl Params {
    /// With the setup header of a bzImage.
    pub fn from_header(raw: &[u8]) -> Self {
        let mut params = Self(Box::new([0; LEN]));
        params.set(HEADER_START, raw);
        params.set(VID_MODE, &0xffffu16.to_le_bytes()); // "normal"
        params.set(TYPE_OF_LOADER, &[0xff]); // a loader without an assigned number
        params.0[LOADFLAGS] &= 0x1f; // KEEP_SEGMENTS and CAN_USE_HEAP are for the 16-bit entry
        params
    }

    pub fn code32_start(&mut self, at: u32) {
        self.set(CODE32_START, &at.to_le_bytes());
    }

    pub fn cmdline(&mut self, at: u64) {
        self.set(CMD_LINE_PTR, &(at as u32).to_le_bytes());
    }

    pub fn initrd(&mut self, start: u64, len: u64) {
        self.set(RAMDISK_IMAGE, &(start as u32).to_le_bytes());
        self.set(RAMDISK_SIZE, &(len as u32).to_le_bytes());
    }

    pub fn rsdp(&mut self, at: u64) {
        self.set(ACPI_RSDP_ADDR, &at.to_le_bytes());
    }

    /// A PC has five regions; the page has room for 128.
    pub fn memory_map(&mut self, map: &MemoryMap) {
        let regions = map.regions();
        self.0[E820_ENTRIES] = regions.len() as u8;
        for (i, region) in regions.iter().enumerate() {
            let at = E820_TABLE + i * 20;
            self.set(at, &region.start.to_le_bytes());
            self.set(at + 8, &region.len.to_le_bytes());
            self.set(at + 16, &(region.kind as u32).to_le_bytes());
        }
    }

    pub fn bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    fn set(&mut self, at: usize, data: &[u8]) {
        self.0[at..at + data.len()].copy_from_slice(data);
    }
}

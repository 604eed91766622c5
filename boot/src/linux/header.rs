//! The setup header of a bzImage.

use crate::bytes::{array, slice, u8_at, u16_at, u32_at, u64_at};
use crate::{BootError, BootSpec, Protocol, unpack};

/// The setup header begins here in the file and in `boot_params`.
pub const HEADER_START: usize = 0x1f1;
/// It ends here at the latest: the e820 table of `boot_params` follows.
pub const HEADER_END: usize = 0x290;
/// `xloadflags`: the kernel has the 64-bit entry point.
const XLF_KERNEL_64: u16 = 1 << 0;
/// `loadflags`: the protected-mode code belongs at 1 MiB or above.
const LOADED_HIGH: u8 = 1 << 0;
/// First version with `xloadflags`.
const VERSION_64: u16 = 0x020c;
/// First kernel whose image has no checksum any more (6.15).
const NO_CHECKSUM: (u32, u32) = (6, 15);

/// True if the file has the boot sector and the setup header's magic.
pub fn is_bzimage(data: &[u8]) -> bool {
    u16_at(data, 0x1fe) == Some(0xaa55) && array(data, 0x202) == Some(*b"HdrS")
}

/// What a loader wants to know of a bzImage.
#[derive(Debug, Clone)]
pub struct Header {
    /// The header's bytes, [`HEADER_START`] to [`HEADER_END`], as they go to `boot_params`.
    pub raw: Vec<u8>,
    /// Where the kernel wants to be.
    pub pref_address: u64,
    /// Bytes it needs there until it has read its memory map.
    pub init_size: u64,
    /// The initrd ends at or below this address.
    pub initrd_limit: u64,
    /// Longest command line, without the NUL.
    pub cmdline_max: u64,
    version: u16,
    loadflags: u8,
    xloadflags: u16,
    code_start: usize,
    code_len: usize,
}

impl Header {
    /// Reads the header and checks that the file is whole.
    pub fn parse(spec: &BootSpec) -> Result<Self, BootError> {
        let (file, data) = (spec.kernel.name, spec.kernel.data);
        let truncated = |what, need: usize| BootError::Truncated {
            file: file.to_owned(),
            what,
            need: need as u64,
            have: data.len() as u64,
        };
        let header = Self::fields(data).ok_or_else(|| truncated("setup header", HEADER_END))?;
        let end = header.code_start + header.code_len;
        if end > data.len() || header.code_len == 0 {
            return Err(truncated("kernel code", end.max(header.code_start + 1)));
        }
        header.check_integrity(spec, end)?;
        Ok(header)
    }

    fn fields(data: &[u8]) -> Option<Self> {
        // The header's own length is in the jump over it (offset 0x201).
        let end = (0x202 + usize::from(u8_at(data, 0x201)?)).min(HEADER_END);
        let mut raw = data.get(HEADER_START..HEADER_END)?.to_vec();
        raw[end - HEADER_START..].fill(0);
        let setup_sects = match u8_at(data, 0x1f1)? {
            0 => 4,
            n => usize::from(n),
        };
        Some(Self {
            raw,
            pref_address: u64_at(data, 0x258)?,
            init_size: u64::from(u32_at(data, 0x260)?),
            initrd_limit: u64::from(u32_at(data, 0x22c)?) + 1,
            cmdline_max: u64::from(u32_at(data, 0x238)?),
            version: u16_at(data, 0x206)?,
            loadflags: u8_at(data, 0x211)?,
            xloadflags: u16_at(data, 0x236)?,
            code_start: (setup_sects + 1) * 512,
            code_len: u32_at(data, 0x1f4)? as usize * 16,
        })
    }

    /// Images before 6.15 end in a CRC that makes the CRC of all 0xffff_ffff; later ones have none, so
    /// unpacking the payload has to do.
    fn check_integrity(&self, spec: &BootSpec, end: usize) -> Result<(), BootError> {
        let data = spec.kernel.data;
        if checksum(data, end) == Some(u32::MAX) {
            return Ok(());
        }
        if self.version >= 0x0208 && release(data).is_some_and(|r| r < NO_CHECKSUM) {
            let fact = "its checksum does not match".to_owned();
            return Err(BootError::Corrupt { file: spec.kernel.name.to_owned(), fact });
        }
        unpack::check(spec.kernel.name, "payload", self.payload(spec)?)
    }

    /// Refuses a kernel without the 64-bit entry point, and fields that cannot be.
    pub fn check_64(&self, spec: &BootSpec) -> Result<(), BootError> {
        let file = || spec.kernel.name.to_owned();
        if self.version < VERSION_64 || self.xloadflags & XLF_KERNEL_64 == 0 {
            let v = self.version;
            return Err(BootError::Unsupported {
                file: file(),
                protocol: Protocol::Linux,
                fact: format!("it has no 64-bit entry point (header {}.{:02})", v >> 8, v & 0xff),
                remedy: "give a 64-bit kernel of version 3.8 or later",
            });
        }
        if self.loadflags & LOADED_HIGH == 0 || !(0x10_0000..0xffff_0000).contains(&self.pref_address) {
            let fact = format!("its setup header asks for address {:#x}", self.pref_address);
            return Err(BootError::Corrupt { file: file(), fact });
        }
        Ok(())
    }

    /// The part that is loaded; `parse` has checked that it is all there.
    pub fn code<'a>(&self, data: &'a [u8]) -> &'a [u8] {
        data.get(self.code_start..self.code_start + self.code_len).unwrap_or_default()
    }

    /// The compressed vmlinux (header 2.08 and later).
    pub fn payload<'a>(&self, spec: &BootSpec<'a>) -> Result<&'a [u8], BootError> {
        let data = spec.kernel.data;
        let field = |at| u32_at(data, at).map(u64::from).unwrap_or(0);
        let (offset, len) = (field(0x248), field(0x24c));
        let payload = slice(self.code(data), offset, len);
        payload.filter(|p| self.version >= 0x0208 && !p.is_empty()).ok_or_else(|| BootError::Corrupt {
            file: spec.kernel.name.to_owned(),
            fact: format!("its payload ({offset:#x}+{len:#x}) is not inside its code"),
        })
    }
}

/// CRC-32 of the image as it was before it was signed: `end` bytes with the PE header's checksum and
/// certificate entry taken as zero. `None` if the file is too short.
fn checksum(data: &[u8], end: usize) -> Option<u32> {
    let data = data.get(..end)?;
    let mut crc = flate2::Crc::new();
    let Some((sum, certificate)) = signature_fields(data) else {
        crc.update(data);
        return Some(crc.sum());
    };
    crc.update(data.get(..sum)?);
    crc.update(&[0; 4]);
    crc.update(data.get(sum + 4..certificate)?);
    crc.update(&[0; 8]);
    crc.update(data.get(certificate + 8..)?);
    Some(crc.sum())
}

/// Offsets of CheckSum and of the certificate table's entry in the PE32+ optional header.
fn signature_fields(data: &[u8]) -> Option<(usize, usize)> {
    let pe = u32_at(data, 0x3c).filter(|_| data.starts_with(b"MZ"))? as usize;
    let optional = pe.checked_add(24)?;
    let known = array(data, pe)? == *b"PE\0\0" && u16_at(data, optional)? == 0x20b;
    known.then_some((optional + 64, optional + 144))
}

/// Major and minor number of the kernel's version string.
fn release(data: &[u8]) -> Option<(u32, u32)> {
    let at = usize::from(u16_at(data, 0x20e).filter(|&at| at != 0)?) + 0x200;
    let mut numbers = data.get(at..at + 16)?.split(|b| !b.is_ascii_digit()).map(|digits| {
        let text = std::str::from_utf8(digits).ok()?;
        text.parse().ok()
    });
    Some((numbers.next()??, numbers.next()??))
}

//! The six arithmetic flags, kept as the last result and its carries; a flag is computed when it is read.

use cpu::x86::rflags;

/// `res` is the result, sign-extended: ZF and, up to corrections, SF and PF come from it. `aux` holds CF in bit
/// 63, CF^OF in bit 62, AF in bit 3, a correction of SF in bit 0 and one of PF in bit 8, so that any
/// combination of flags can be expressed (POPF, SAHF).
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Flags {
    pub res: u64,
    pub aux: u64,
}

const CF: u64 = 1 << 63;
const CARRIES: u64 = 3 << 62;
const AF: u64 = 1 << 3;
const SF_FIX: u64 = 1 << 0;
const PF_FIX: u64 = 1 << 8;

impl Flags {
    #[inline(always)]
    pub fn cf(self) -> bool {
        self.aux & CF != 0
    }
    #[inline(always)]
    pub fn of(self) -> bool {
        (self.aux ^ (self.aux << 1)) & CF != 0
    }
    #[inline(always)]
    pub fn zf(self) -> bool {
        self.res == 0
    }
    #[inline(always)]
    pub fn sf(self) -> bool {
        (self.res >> 63) ^ (self.aux & SF_FIX) != 0
    }
    #[inline(always)]
    pub fn af(self) -> bool {
        self.aux & AF != 0
    }
    #[inline(always)]
    pub fn pf(self) -> bool {
        let byte = (self.res ^ (self.aux >> 8)) as u8;
        (0x9669u32 >> ((byte ^ (byte >> 4)) & 0xf)) & 1 != 0
    }

    /// After a logical operation with a sign-extended result.
    #[inline(always)]
    pub fn logic(res: u64) -> Self {
        Self { res, aux: 0 }
    }

    /// After an addition or subtraction: `carries` has the carry out of every bit of a `bits`-wide result.
    #[inline(always)]
    pub fn arith(res: u64, carries: u64, bits: u32) -> Self {
        Self { res, aux: ((carries << (64 - bits)) & CARRIES) | (carries & AF) }
    }

    /// The same with CF replaced (INC, DEC).
    #[inline(always)]
    pub fn with_cf(self, cf: bool) -> Self {
        self.with_cf_of(cf, self.of())
    }

    /// The same with CF and OF replaced (rotates, shifts, multiplications).
    #[inline(always)]
    pub fn with_cf_of(self, cf: bool, of: bool) -> Self {
        let carries = (u64::from(cf) << 63) | (u64::from(cf ^ of) << 62);
        Self { res: self.res, aux: (self.aux & !CARRIES) | carries }
    }

    /// The same with ZF replaced.
    pub fn with_zf(self, zf: bool) -> Self {
        Self::from_bits((self.bits() & !rflags::ZF) | if zf { rflags::ZF } else { 0 })
    }

    /// The flags at their places in RFLAGS.
    pub fn bits(self) -> u64 {
        let bit = |set: bool, flag: u64| if set { flag } else { 0 };
        bit(self.cf(), rflags::CF)
            | bit(self.pf(), rflags::PF)
            | bit(self.af(), rflags::AF)
            | bit(self.zf(), rflags::ZF)
            | bit(self.sf(), rflags::SF)
            | bit(self.of(), rflags::OF)
    }

    /// Flags with the given values at their places in RFLAGS.
    pub fn from_bits(bits: u64) -> Self {
        let set = |flag: u64| bits & flag != 0;
        let res = u64::from(!set(rflags::ZF)); // 0: PF reads 1; 1: PF reads 0
        let pf_fix = set(rflags::PF) == (res != 0);
        let aux = if set(rflags::AF) { AF } else { 0 }
            | if set(rflags::SF) { SF_FIX } else { 0 }
            | if pf_fix { PF_FIX } else { 0 };
        Self { res, aux }.with_cf_of(set(rflags::CF), set(rflags::OF))
    }

    /// Condition `code` 0 to 15 as encoded in Jcc, SETcc and CMOVcc.
    #[inline(always)]
    pub fn condition(self, code: u8) -> bool {
        let base = match code >> 1 {
            0 => self.of(),
            1 => self.cf(),
            2 => self.zf(),
            3 => self.cf() | self.zf(),
            4 => self.sf(),
            5 => self.pf(),
            6 => self.sf() != self.of(),
            _ => self.zf() | (self.sf() != self.of()),
        };
        base != (code & 1 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_survives() {
        for n in 0..64u64 {
            let places = [rflags::CF, rflags::PF, rflags::AF, rflags::ZF, rflags::SF, rflags::OF];
            let bits = (0..6).filter(|i| n >> i & 1 != 0).map(|i| places[i as usize]).sum();
            assert_eq!(Flags::from_bits(bits).bits(), bits);
        }
    }

    #[test]
    fn parity_counts_the_low_byte() {
        for n in 0..=255u64 {
            assert_eq!(Flags::logic(n | 0xff00).pf(), (n as u8).count_ones().is_multiple_of(2));
        }
    }
}

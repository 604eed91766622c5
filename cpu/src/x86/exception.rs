//! Exceptions.

/// Exception vectors.
#[allow(missing_docs)]
pub mod vector {
    pub const DE: u8 = 0;
    pub const DB: u8 = 1;
    pub const NMI: u8 = 2;
    pub const BP: u8 = 3;
    pub const OF: u8 = 4;
    pub const BR: u8 = 5;
    pub const UD: u8 = 6;
    pub const NM: u8 = 7;
    pub const DF: u8 = 8;
    pub const TS: u8 = 10;
    pub const NP: u8 = 11;
    pub const SS: u8 = 12;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
    pub const MF: u8 = 16;
    pub const AC: u8 = 17;
    pub const MC: u8 = 18;
    pub const XM: u8 = 19;
}

/// An exception that an instruction raised, not yet delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exception {
    /// Vector 0 to 31.
    pub vector: u8,
    /// Error code, for the vectors that push one.
    pub code: Option<u32>,
    /// Linear address for CR2 (#PF), or bits to set in DR6 (#DB).
    pub payload: u64,
}

impl Exception {
    /// An exception without an error code.
    pub const fn new(vector: u8) -> Self {
        Self { vector, code: None, payload: 0 }
    }

    /// An exception with an error code.
    pub const fn with_code(vector: u8, code: u32) -> Self {
        Self { vector, code: Some(code), payload: 0 }
    }

    /// #GP(code).
    pub const fn gp(code: u32) -> Self {
        Self::with_code(vector::GP, code)
    }

    /// #UD.
    pub const fn ud() -> Self {
        Self::new(vector::UD)
    }

    /// #PF(code) at a linear address.
    pub const fn page_fault(code: u32, address: u64) -> Self {
        Self { vector: vector::PF, code: Some(code), payload: address }
    }

    /// #DB with the DR6 bits that it sets.
    pub const fn debug(dr6: u64) -> Self {
        Self { vector: vector::DB, code: None, payload: dr6 }
    }

    /// Traps are reported after the instruction, with RIP behind it.
    pub const fn is_trap(self) -> bool {
        matches!(self.vector, vector::BP | vector::OF)
    }
}

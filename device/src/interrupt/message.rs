//! Interrupt messages between APICs (Intel SDM volume 3, 12.6 and 12.11).

/// Delivery mode (encodings of ICR, LVT, redirection entries and MSI data, bits 8-10).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// To every APIC of the destination.
    Fixed,
    /// To the one with the lowest priority.
    LowestPriority,
    /// System management interrupt: accepted and dropped, there is no SMM.
    Smi,
    /// Non-maskable.
    Nmi,
    /// Processor initialisation.
    Init,
    /// Start-up (ICR only).
    Startup,
    /// The vector comes from the 8259.
    ExtInt,
}

impl Delivery {
    /// From bits 8-10 of `register`; `None` for the reserved encoding. 110b is start-up in the ICR and
    /// reserved elsewhere.
    pub fn decode(register: u64) -> Option<Self> {
        match register >> 8 & 7 {
            0 => Some(Self::Fixed),
            1 => Some(Self::LowestPriority),
            2 => Some(Self::Smi),
            4 => Some(Self::Nmi),
            5 => Some(Self::Init),
            6 => Some(Self::Startup),
            7 => Some(Self::ExtInt),
            _ => None,
        }
    }
}

/// Whom a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// All APICs.
    Broadcast,
    /// The APIC with this id.
    Physical(u32),
    /// Matched against logical destination registers; eight bits unless the sender is in x2APIC mode.
    Logical(u32),
}

impl Destination {
    /// From the eight-bit field of an I/O APIC, an MSI address or the xAPIC ICR.
    pub fn from_u8(field: u8, logical: bool) -> Self {
        match (field, logical) {
            (0xff, _) => Self::Broadcast,
            (id, false) => Self::Physical(id.into()),
            (mask, true) => Self::Logical(mask.into()),
        }
    }

    /// From the 32-bit field of the x2APIC ICR.
    pub fn from_u32(field: u32, logical: bool) -> Self {
        match (field, logical) {
            (u32::MAX, _) => Self::Broadcast,
            (id, false) => Self::Physical(id),
            (mask, true) => Self::Logical(mask),
        }
    }
}

/// An interrupt message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Whom it is for.
    pub destination: Destination,
    /// What it does there.
    pub delivery: Delivery,
    /// Vector, where the delivery mode has one.
    pub vector: u8,
    /// Level-triggered: its EOI is broadcast to the I/O APIC.
    pub level: bool,
}

impl Message {
    /// A message-signalled interrupt as a device writes it (Intel SDM volume 3, 12.11): `None` if the address
    /// is outside 0xfee0_0000-0xfeef_ffff or the delivery mode is not one.
    pub fn from_msi(address: u64, data: u32) -> Option<Self> {
        if address >> 20 != 0xfee {
            return None;
        }
        let delivery = Delivery::decode(data.into()).filter(|d| *d != Delivery::Startup)?;
        // The redirection hint (bit 3) is one; lowest-priority delivery says the same.
        let destination = Destination::from_u8((address >> 12) as u8, address >> 2 & 1 != 0);
        Some(Self { destination, delivery, vector: data as u8, level: data >> 15 & 1 != 0 })
    }
}

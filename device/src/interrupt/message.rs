//! Interrupt messages between APICs (Intel SDM volume 3, 12.6 and 12.11).

/// Where messages are written to.
const MSI_BASE: u64 = 0xfee0_0000;
/// Level-triggered, and asserted.
const MSI_LEVEL: u32 = 3 << 14;

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

    fn encode(self) -> u32 {
        match self {
            Self::Fixed => 0,
            Self::LowestPriority => 1,
            Self::Smi => 2,
            Self::Nmi => 4,
            Self::Init => 5,
            Self::Startup => 6,
            Self::ExtInt => 7,
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
        if address >> 20 != MSI_BASE >> 20 {
            return None;
        }
        let delivery = Delivery::decode(data.into()).filter(|d| *d != Delivery::Startup)?;
        // The redirection hint (bit 3) is one; lowest-priority delivery says the same.
        let destination = Destination::from_u8((address >> 12) as u8, address >> 2 & 1 != 0);
        Some(Self { destination, delivery, vector: data as u8, level: data >> 15 & 1 != 0 })
    }

    /// The same message as a device would write it: address and data. Of a destination, eight bits.
    pub fn to_msi(&self) -> (u64, u32) {
        let (field, logical) = match self.destination {
            Destination::Broadcast => (0xff, false),
            Destination::Physical(id) => (id, false),
            Destination::Logical(mask) => (mask, true),
        };
        let address = MSI_BASE | u64::from(field & 0xff) << 12 | u64::from(logical) << 2;
        let level = if self.level { MSI_LEVEL } else { 0 };
        (address, self.delivery.encode() << 8 | level | u32::from(self.vector))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_written_as_it_is_read() {
        for (address, data) in [
            (0xfee0_0000, 0x31),
            (0xfeef_f000, 0x4431 & !0x4000),
            (0xfee3_0004, 0xc1a0),
            (0xfee0_1000, 0x500),
            (0xfee0_2000, 0x0141),
        ] {
            let message = Message::from_msi(address, data).unwrap();
            assert_eq!(message.to_msi(), (address, data), "{message:?}");
        }
        let start = Message {
            destination: Destination::Physical(3),
            delivery: Delivery::Startup,
            vector: 8,
            level: false,
        };
        assert_eq!(start.to_msi(), (0xfee0_3000, 0x608));
    }
}

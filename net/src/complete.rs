//! Completes what a frame leaves to whoever sends it on, for a guest that does not take it: checksums are filled in, and
//! large frames of TCP are cut.

use crate::user::checksum::Sum;
use crate::{Abilities, Offload, Segmentation};

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
const TCP: usize = 20;
/// TCP's flags that only the last segment has (FIN, PSH), and the one that only the first has (CWR).
const LAST: u8 = 0x09;
const FIRST: u8 = 0x80;

/// What there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing: the guest does the rest.
    Nothing,
    /// The checksum.
    Checksum,
    /// It has to be cut.
    Cut,
}

/// What the guest does not take of a frame.
pub fn need(offload: &Offload, takes: Abilities) -> Need {
    match offload.segments {
        Some((Segmentation::Tcp4, _)) if !takes.tcp4 => Need::Cut,
        Some((Segmentation::Tcp6, _)) if !takes.tcp6 => Need::Cut,
        _ if offload.checksum.is_some() && !takes.checksum => Need::Checksum,
        _ => Need::Nothing,
    }
}

/// Fills in the checksum; false if its place is not in the frame.
pub fn checksum(bytes: &mut [u8], offload: &Offload) -> bool {
    let Some((start, offset)) = offload.checksum else { return true };
    let Some(covered) = bytes.get_mut(usize::from(start)..) else { return false };
    let mut sum = Sum::default();
    // The field holds the sum of the pseudo header, which is covered with the rest.
    sum.add(covered);
    // A sum of zero is sent as its other form, which says that there is one (RFC 768).
    let sum = if sum.finish() == 0 { 0xffff } else { sum.finish() };
    match covered.get_mut(usize::from(offset)..).and_then(|field| field.first_chunk_mut()) {
        Some(field) => {
            *field = sum.to_be_bytes();
            true
        }
        None => false,
    }
}

/// The segments that a large frame stands for, whole each. None for a frame that is not what it claims to be.
pub fn cut(bytes: &[u8], offload: &Offload) -> Option<Vec<Vec<u8>>> {
    let (kind, size) = offload.segments.filter(|(_, size)| *size > 0)?;
    let is_v4 = kind == Segmentation::Tcp4;
    let ip = bytes.get(ETHERNET..)?;
    let ip_len = if is_v4 { usize::from(ip.first()? & 0xf) * 4 } else { IPV6 };
    let (version, protocol) = (ip.first()? >> 4, *ip.get(if is_v4 { 9 } else { 6 })?);
    // Extension headers are in nobody's large frames.
    if version != if is_v4 { 4 } else { 6 } || protocol != 6 || ip_len < IPV4 {
        return None;
    }
    let tcp = ip.get(ip_len..)?;
    let tcp_len = usize::from(tcp.get(12)? >> 4) * 4;
    let data = tcp.get(tcp_len..).filter(|data| tcp_len >= TCP && !data.is_empty())?;
    let (headers, sequence) =
        (bytes.get(..ETHERNET + ip_len + tcp_len)?, u32::from_be_bytes(*tcp.get(4..)?.first_chunk()?));
    let count = data.len().div_ceil(size.into());
    let segment = |(i, piece): (usize, &[u8])| {
        let mut frame = [headers, piece].concat();
        let ip = frame.get_mut(ETHERNET..)?;
        let len = ip.len();
        if is_v4 {
            ip.get_mut(2..)?.first_chunk_mut().map(|field| *field = (len as u16).to_be_bytes())?;
            let id = u16::from_be_bytes(*ip.get(4..)?.first_chunk()?).wrapping_add(i as u16);
            ip.get_mut(4..)?.first_chunk_mut().map(|field| *field = id.to_be_bytes())?;
            ip.get_mut(10..)?.first_chunk_mut().map(|field| *field = [0; 2])?;
            let mut sum = Sum::default();
            sum.add(ip.get(..ip_len)?);
            ip.get_mut(10..)?.first_chunk_mut().map(|field| *field = sum.finish().to_be_bytes())?;
        } else {
            ip.get_mut(4..)?.first_chunk_mut().map(|field| *field = ((len - ip_len) as u16).to_be_bytes())?;
        }
        let mut sum = Sum::default();
        // Both addresses, the protocol and the length.
        sum.add(ip.get(if is_v4 { 12..20 } else { 8..40 })?);
        sum.add(&[0, protocol]);
        sum.add(&((len - ip_len) as u16).to_be_bytes());
        let tcp = ip.get_mut(ip_len..)?;
        let at = sequence.wrapping_add((i * usize::from(size)) as u32);
        tcp.get_mut(4..)?.first_chunk_mut().map(|field| *field = at.to_be_bytes())?;
        let flags = tcp.get_mut(13)?;
        *flags &= !(if i > 0 { FIRST } else { 0 } | if i + 1 < count { LAST } else { 0 });
        tcp.get_mut(16..)?.first_chunk_mut().map(|field| *field = [0; 2])?;
        sum.add(tcp);
        tcp.get_mut(16..)?.first_chunk_mut().map(|field| *field = sum.finish().to_be_bytes())?;
        Some(frame)
    };
    data.chunks(size.into()).enumerate().map(segment).collect()
}

#[cfg(test)]
mod tests;

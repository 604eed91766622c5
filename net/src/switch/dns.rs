//! DNS (RFC 1035): the names of members, alone and under `lan`. Other names are for others to answer.

use std::net::Ipv4Addr;

/// Behind members' names.
pub const DOMAIN: &str = "lan";
/// The port of name servers.
pub const PORT: u16 = 53;

const HEADER: usize = 12;
const TYPE_A: u16 = 1;
const TYPE_PTR: u16 = 12;
const TYPE_ANY: u16 = 255;
const CLASS_IN: u16 = 1;
/// Seconds that an answer holds: members come and go.
const TTL: u32 = 5;
/// Response codes.
const NO_ERROR: u8 = 0;
const NO_SUCH_NAME: u8 = 3;
const REFUSED: u8 = 5;
/// Longest name, and label.
const LONGEST: usize = 253;

/// A question.
#[derive(Debug, PartialEq, Eq)]
pub struct Question<'a> {
    header: [u8; HEADER],
    /// As it came, to be repeated.
    raw: &'a [u8],
    /// In small letters, with dots between labels.
    pub name: String,
    kind: u16,
}

/// What is known of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// A member, and its address if it has one here.
    Member(Option<Ipv4Addr>),
    /// The member with the address in the question.
    Name(String),
    /// A name of this network's, which nobody has.
    Nobody,
    /// It is another network's, and there is no way there.
    Refused,
}

/// Parses a query with one question.
pub fn parse(message: &[u8]) -> Option<Question<'_>> {
    let (&header, body) = message.split_first_chunk::<HEADER>()?;
    // A query of the standard kind, with one question.
    if header[2] & 0xf8 != 0 || header[4..6] != [0, 1] {
        return None;
    }
    let (mut name, mut at) = (String::new(), 0usize);
    loop {
        let len = usize::from(*body.get(at)?);
        at += 1;
        if len == 0 {
            break;
        }
        let label = body.get(at..at + len).filter(|_| len < 64)?;
        at += len;
        if !name.is_empty() {
            name.push('.');
        }
        name.extend(
            label.iter().map(|&b| {
                if b.is_ascii_graphic() && b != b'.' { b.to_ascii_lowercase() as char } else { '?' }
            }),
        );
        if name.len() > LONGEST {
            return None;
        }
    }
    let &[a, b, c, d] = body.get(at..at + 4)?.first_chunk::<4>()?;
    let class = u16::from_be_bytes([c, d]);
    let raw = body.get(..at + 4).filter(|_| class == CLASS_IN)?;
    Some(Question { header, raw, name, kind: u16::from_be_bytes([a, b]) })
}

impl Question<'_> {
    /// The member's name that it asks for: one label, alone or under the domain.
    pub fn member(&self) -> Option<&str> {
        let name =
            self.name.strip_suffix(DOMAIN).and_then(|name| name.strip_suffix('.')).unwrap_or(&self.name);
        (!name.is_empty() && !name.contains('.') || name.len() < self.name.len()).then_some(name)
    }

    /// The address whose name it asks for.
    pub fn reverse(&self) -> Option<Ipv4Addr> {
        let mut parts = self.name.strip_suffix(".in-addr.arpa").filter(|_| self.kind == TYPE_PTR)?.split('.');
        let mut octets = [0; 4];
        for octet in octets.iter_mut().rev() {
            *octet = parts.next()?.parse().ok()?;
        }
        parts.next().is_none().then(|| octets.into())
    }

    /// The message that answers it.
    pub fn answer(&self, known: &Known) -> Vec<u8> {
        let (code, answer) = match known {
            Known::Member(Some(ip)) if matches!(self.kind, TYPE_A | TYPE_ANY) => {
                (NO_ERROR, Some((TYPE_A, ip.octets().to_vec())))
            }
            Known::Member(_) => (NO_ERROR, None),
            Known::Name(name) => (NO_ERROR, Some((TYPE_PTR, encode(&[name, DOMAIN])))),
            Known::Nobody => (NO_SUCH_NAME, None),
            Known::Refused => (REFUSED, None),
        };
        let [id_high, id_low, flags, ..] = self.header;
        // A response with the query's opcode and wish for recursion; of authority, and recursion is there.
        let mut message = vec![
            id_high,
            id_low,
            flags & 0x79 | 0x84,
            0x80 | code,
            0,
            1,
            0,
            u8::from(answer.is_some()),
            0,
            0,
            0,
            0,
        ];
        message.extend(self.raw);
        if let Some((kind, data)) = answer {
            // The name is the question's.
            message.extend([0xc0, HEADER as u8]);
            message.extend(kind.to_be_bytes());
            message.extend(CLASS_IN.to_be_bytes());
            message.extend(TTL.to_be_bytes());
            message.extend((data.len() as u16).to_be_bytes());
            message.extend(data);
        }
        message
    }
}

/// A name of short labels.
fn encode(labels: &[&str]) -> Vec<u8> {
    let mut name: Vec<u8> =
        labels.iter().flat_map(|label| [&[label.len() as u8][..], label.as_bytes()].concat()).collect();
    name.push(0);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(labels: &[&str], kind: u16) -> Vec<u8> {
        let mut message = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend(encode(labels));
        message.extend(kind.to_be_bytes());
        message.extend(CLASS_IN.to_be_bytes());
        message
    }

    #[test]
    fn members_are_found_alone_and_under_the_domain() {
        for (labels, member) in [
            (&["Web"][..], Some("web")),
            (&["web", "lan"], Some("web")),
            (&["web", "example", "org"], None),
            (&["lan"], Some("lan")),
            (&["a", "b", "lan"], Some("a.b")),
            (&["weblan"], Some("weblan")),
        ] {
            assert_eq!(parse(&query(labels, TYPE_A)).unwrap().member(), member, "{labels:?}");
        }
    }

    #[test]
    fn answers_repeat_the_question() {
        let asked = query(&["web"], TYPE_A);
        let question = parse(&asked).unwrap();
        let answer = question.answer(&Known::Member(Some([10, 5, 0, 7].into())));
        assert_eq!(answer[..12], [0xab, 0xcd, 0x85, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        assert_eq!(answer[12..asked.len()], asked[12..]);
        assert_eq!(answer[asked.len()..], [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 5, 0, 7]);
        let none = |known, kind| parse(&query(&["web"], kind)).unwrap().answer(&known)[3..8].to_vec();
        assert_eq!(
            none(Known::Member(Some([10, 5, 0, 7].into())), 28),
            [0x80, 0, 1, 0, 0],
            "no address of the other kind"
        );
        assert_eq!(none(Known::Nobody, TYPE_A), [0x83, 0, 1, 0, 0]);
        assert_eq!(none(Known::Refused, TYPE_A), [0x85, 0, 1, 0, 0]);
    }

    #[test]
    fn addresses_have_names() {
        let asked = query(&["7", "0", "5", "10", "in-addr", "arpa"], TYPE_PTR);
        let question = parse(&asked).unwrap();
        assert_eq!(question.reverse(), Some([10, 5, 0, 7].into()));
        assert!(question.answer(&Known::Name("web".to_owned())).ends_with(b"\x00\x09\x03web\x03lan\x00"));
        for wrong in [
            &["5", "10", "in-addr", "arpa"][..],
            &["1", "7", "0", "5", "10", "in-addr", "arpa"],
            &["x", "0", "5", "10", "in-addr", "arpa"],
        ] {
            assert_eq!(parse(&query(wrong, TYPE_PTR)).unwrap().reverse(), None);
        }
    }

    #[test]
    fn what_is_no_question_is_not_parsed() {
        let whole = query(&["web", "lan"], TYPE_A);
        for len in 0..whole.len() {
            assert_eq!(parse(&whole[..len]), None, "{len}");
        }
        let with = |at: usize, byte: u8| {
            let mut bad = whole.clone();
            bad[at] = byte;
            bad
        };
        for bad in [with(2, 0x81), with(5, 2), with(12, 0xc0), with(12, 0x40), with(whole.len() - 1, 3)] {
            assert_eq!(parse(&bad), None, "{bad:?}");
        }
        let long = query(&["a234567890123456789012345678901234567890"; 7], TYPE_A);
        assert_eq!(parse(&long), None);
    }
}

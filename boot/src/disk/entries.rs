//! Entries of the Boot Loader Specification (type 1): a file each, lines of a key and a value.

use super::Choice;
use super::grub::{known, words};

/// What an entry boots, and its version for comparison with others.
pub fn parse(text: &str) -> Option<(String, Choice)> {
    let (mut version, mut kernel, mut initrds, mut options) = (String::new(), None, Vec::new(), Vec::new());
    for line in text.lines() {
        let line = line.trim();
        let Some((key, value)) = line.split_once(char::is_whitespace) else { continue };
        let value = value.trim();
        match key {
            "version" => version = value.to_owned(),
            "linux" => kernel = Some(value.to_owned()),
            "initrd" => {
                initrds.extend(value.split_whitespace().filter(|f| !f.contains('$')).map(str::to_owned))
            }
            "options" => options.push(known(&words(value))),
            _ => {}
        }
    }
    let options = options.join(" ");
    Some((version, Choice { kernel: kernel?, initrds, options }))
}

/// Orders versions as people do: numbers by their value, everything else as text.
pub fn compare(a: &str, b: &str) -> std::cmp::Ordering {
    parts(a).cmp(&parts(b))
}

/// Runs of digits without leading zeroes, by length and text, and what is between them.
fn parts(version: &str) -> Vec<(usize, &str)> {
    let bytes = version.as_bytes();
    let (mut parts, mut start) = (Vec::new(), 0);
    for end in 1..=bytes.len() {
        let same = |a: u8, b: u8| a.is_ascii_digit() == b.is_ascii_digit();
        if end == bytes.len() || !same(bytes[end - 1], bytes[end]) {
            let part = version.get(start..end).unwrap_or_default();
            match bytes[start].is_ascii_digit() {
                true => {
                    let number = part.trim_start_matches('0');
                    parts.push((number.len() + 1, number));
                }
                false => parts.push((0, part)),
            }
            start = end;
        }
    }
    parts
}

//! GRUB's configuration, as far as it says what is booted: the menu, its default, and in an entry the first kernel
//! and the first initial RAM disks. It is a program; conditions are not evaluated, words with variables are left out.

use super::Choice;

/// An item of the menu.
#[derive(Debug, Default)]
struct Item {
    title: String,
    id: String,
    /// Of a menu in the menu, that of the first entry in it, which is the `entry`-th of the file.
    choice: Option<Choice>,
    entry: u32,
}

/// What boots by default: the chosen entry, or the first that boots anything.
pub fn parse(text: &str) -> Option<Choice> {
    let (mut items, mut depth, mut default) = (Vec::<Item>::new(), 0u32, String::new());
    let mut entry = 0;
    for line in text.lines() {
        let words = words(line);
        let Some(first) = words.first() else { continue };
        let opens = words.last().is_some_and(|word| word == "{");
        match (first.as_str(), &words[1..]) {
            ("menuentry" | "submenu", [title, rest @ ..]) => {
                if depth == 0 {
                    items.push(Item { title: title.clone(), id: id(rest), choice: None, entry: 0 });
                }
                entry += 1;
            }
            ("linux" | "linux16" | "linuxefi", [kernel, rest @ ..]) => {
                if let Some(item) = items.last_mut().filter(|item| item.choice.is_none()) {
                    let (kernel, options) = (kernel.clone(), known(rest));
                    item.choice = Some(Choice { kernel, initrds: Vec::new(), options });
                    item.entry = entry;
                }
            }
            ("initrd" | "initrd16" | "initrdefi", files) => {
                let choice =
                    items.last_mut().filter(|item| item.entry == entry).and_then(|item| item.choice.as_mut());
                if let Some(choice) = choice.filter(|choice| choice.initrds.is_empty()) {
                    choice.initrds = files.iter().filter(|f| !f.contains('$')).cloned().collect();
                }
            }
            ("set", [assignment]) => {
                if let Some(value) = assignment.strip_prefix("default=").filter(|v| !v.contains('$')) {
                    default = value.to_owned();
                }
            }
            _ => {}
        }
        if opens {
            depth += 1;
        } else if first == "}" {
            depth = depth.saturating_sub(1);
        }
    }
    // `a>b`: b in the menu a.
    let wanted = default.split('>').next().unwrap_or_default();
    let chosen = match wanted.parse::<usize>() {
        Ok(index) => items.get(index),
        Err(_) => items.iter().find(|item| !wanted.is_empty() && (item.id == wanted || item.title == wanted)),
    };
    let chosen = chosen.and_then(|item| item.choice.clone());
    chosen.or_else(|| items.into_iter().find_map(|item| item.choice))
}

/// The word behind `--id` or what stands for it.
fn id(words: &[String]) -> String {
    let at = words.iter().position(|word| word == "--id" || word == "$menuentry_id_option");
    at.and_then(|at| words.get(at + 1)).cloned().unwrap_or_default()
}

/// The words without variables.
pub fn known(words: &[String]) -> String {
    words.iter().filter(|word| !word.contains('$')).cloned().collect::<Vec<_>>().join(" ")
}

/// A line as a shell splits it; comments end it.
pub fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('#', None) if word.is_none() => break,
            (c, Some(q)) if c == q => quote = None,
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            ('\\', None | Some('"')) => word.get_or_insert_default().extend(chars.next()),
            (c, None) if c.is_whitespace() || c == ';' => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

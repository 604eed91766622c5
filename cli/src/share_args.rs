//! What `--share` takes.

use machine::ShareSpec;

const OPTIONS: &str = "ro, cache=auto, cache=none, cache=always or suid";

/// `DIR:TAG[,OPTION...]`. The tag is looked for from the end, so that a path may have colons and commas.
pub fn share(text: &str) -> Result<ShareSpec, String> {
    let (path, rest) = text.rsplit_once(':').unwrap_or((text, ""));
    let (tag, options) = rest.split_once(',').unwrap_or((rest, ""));
    if path.is_empty() || tag.is_empty() {
        return Err(format!("{text:?} is no folder with a tag: give DIR:TAG[,OPTION...]"));
    }
    let mut share = ShareSpec { path: path.into(), tag: tag.to_owned(), ..ShareSpec::default() };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            None if option == "ro" => share.readonly = true,
            None if option == "suid" => share.suid = true,
            Some(("cache", cache)) => share.cache = cache.parse()?,
            _ => return Err(format!("{option:?} is no option of a share: give {OPTIONS}")),
        }
    }
    Ok(share)
}

#[cfg(test)]
mod tests {
    use super::*;
    use machine::Cache;

    #[test]
    fn a_share_has_a_folder_a_tag_and_options() {
        let spec =
            |path: &str, tag: &str| ShareSpec { path: path.into(), tag: tag.into(), ..ShareSpec::default() };
        assert_eq!(share("src:code"), Ok(spec("src", "code")));
        assert_eq!(share("a:b,c:d"), Ok(spec("a:b,c", "d")));
        let all = ShareSpec { readonly: true, suid: true, cache: Cache::None, ..spec("/a", "b") };
        assert_eq!(share("/a:b,ro,cache=none,suid"), Ok(all));
        for (wrong, named) in [
            ("src", "\"src\""),
            (":a", "\":a\""),
            ("a:", "\"a:\""),
            ("a:b,rw", "\"rw\""),
            ("a:b,cache=maybe", "maybe"),
        ] {
            assert!(share(wrong).unwrap_err().contains(named), "{wrong}");
        }
    }
}

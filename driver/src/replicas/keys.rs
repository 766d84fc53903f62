//! Names of networks as parts of keys.

/// The longest name that fits into a key, in bytes.
const NAME_MAX: usize = 180;

/// A network's name as a part of a key: what can't be in one stands as a colon and two hexadecimal digits a byte.
pub fn key_of(name: &str) -> Option<String> {
    use std::fmt::Write;
    let mut key = String::new();
    for byte in name.bytes() {
        match byte.is_ascii_alphanumeric() || b"._-".contains(&byte) {
            true => key.push(char::from(byte)),
            // Writing to a text can't fail.
            false => write!(key, ":{byte:02x}").ok()?,
        }
    }
    (1..=NAME_MAX).contains(&key.len()).then_some(key)
}

/// The name that a key is of.
pub fn name_of(key: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = key.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b':' {
            let (digits, after) = after.split_at_checked(2)?;
            let digits = std::str::from_utf8(digits).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = after;
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    let name = String::from_utf8(bytes).ok()?;
    (key_of(&name).as_deref() == Some(key)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_keys_go_both_ways() {
        for name in ["app", "shop_front", "a b", "a:b", "ü", "a/b.c-d"] {
            let key = key_of(name).unwrap();
            assert_eq!(name_of(&key).as_deref(), Some(name));
            assert!(
                format!("net/{key}")
                    .parse::<tombolo_cluster::table::Key>()
                    .is_ok(),
                "{key}"
            );
        }
        for strange in ["", ":", ":4", ":zz", ":61", ":ff", "a b"] {
            assert_eq!(name_of(strange), None, "{strange}");
        }
        assert_eq!((key_of(""), key_of(&"ü".repeat(61))), (None, None));
    }
}

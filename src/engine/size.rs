//! Sizes as people write them: 24GB or 24G is 24e9 bytes, 24GiB or 24Gi is 24 * 2^30.

const UNITS: [(&str, u64); 9] = [
    ("", 1),
    ("k", 1_000),
    ("ki", 1 << 10),
    ("m", 1_000_000),
    ("mi", 1 << 20),
    ("g", 1_000_000_000),
    ("gi", 1 << 30),
    ("t", 1_000_000_000_000),
    ("ti", 1 << 40),
];

/// More bytes than any machine has: beyond it a number is a mistake.
const MOST: u64 = 1_000_000_000_000_000_000;

/// Bytes. Units in any case, with or without the B, after a space or none; a bare number is bytes.
///
/// # Errors
/// A sentence that says how to write a size.
pub fn parse(text: &str) -> Result<u64, String> {
    let whole = text.trim();
    let number = whole.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = whole[number.len()..].to_ascii_lowercase();
    let factor = UNITS.iter().find(|(name, _)| *name == unit.strip_suffix('b').unwrap_or(&unit)).map(|(_, factor)| *factor);
    factor
        .and_then(|factor| bytes(number.trim_end(), factor))
        .filter(|bytes| (1..MOST).contains(bytes))
        .ok_or_else(|| format!("'{text}' is no size: write a number and a unit, like 24GB, 16GiB or 500MB (G is GB, 10^9 bytes; Gi is GiB, 2^30)"))
}

/// Whole numbers exactly, others to what a double holds.
fn bytes(number: &str, factor: u64) -> Option<u64> {
    match number.parse::<u64>() {
        Ok(n) => n.checked_mul(factor),
        // A cast stays within the type's range and makes 0 of what is no number.
        Err(_) => number.parse::<f64>().ok().map(|n| (n * factor as f64) as u64),
    }
}

/// For people: three digits and a decimal unit.
pub fn show(bytes: u64) -> String {
    let b = bytes as f64;
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", b / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", b / 1e6),
        _ => format!("{:.2} GB", b / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_text_is_a_size_or_a_sentence(text in "\\PC{0,12}|[-+.0-9eE]{1,8} ?[kKmMgGtT]?i?[bB]?") {
            match parse(&text) {
                Ok(bytes) => prop_assert!((1..MOST).contains(&bytes)),
                Err(said) => prop_assert!(said.contains(&text) && said.contains("24GB")),
            }
        }

        #[test]
        fn whole_numbers_of_a_unit_are_exact(n in 1u64..1_000_000, unit in 0usize..UNITS.len(), space in any::<bool>(), b in any::<bool>()) {
            let (name, factor) = UNITS[unit];
            let text = format!("{n}{}{name}{}", if space { " " } else { "" }, if b { "B" } else { "" });
            prop_assert_eq!(parse(&text).ok(), Some(n * factor).filter(|bytes| *bytes < MOST));
        }
    }

    #[test]
    fn sizes_are_read() {
        let good = [
            ("24GB", 24_000_000_000),
            ("24G", 24_000_000_000),
            ("24g", 24_000_000_000),
            ("24 GB", 24_000_000_000),
            (" 24\tgb ", 24_000_000_000),
            ("1.5e9", 1_500_000_000),
            ("1e9", 1_000_000_000),
            ("1E3M", 1_000_000_000),
            ("64M", 64_000_000),
            ("1.5MB", 1_500_000),
            (".5k", 500),
            ("2t", 2_000_000_000_000),
            ("24gib", 24 << 30),
            ("24 GiB", 24 << 30),
            ("24Gi", 24 << 30),
            ("64KiB", 65536),
            ("100", 100),
            ("7B", 7),
            ("9007199254740993", 9_007_199_254_740_993),
            ("999999999999999999", 999_999_999_999_999_999),
        ];
        for (text, bytes) in good {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        let bad = [
            "",
            " ",
            "abc",
            "GB",
            "B",
            "i",
            "e",
            "1e",
            "5e5e",
            "-1",
            "-1GB",
            "-0",
            "nan",
            "inf",
            "infGB",
            "1inf",
            "0",
            "0x10",
            "0.2B",
            "1e-9",
            "9999999999TB",
            "1e400",
            "18446744073709551616",
            "99999999999999999999999999999999GB",
            "24 XB",
            "24 G B",
            "24GBB",
            "24ib",
            "1.2.3MB",
            "24,5GB",
            "1_000",
            "٣GB",
            "24ＧB",
            "24 ГБ",
        ];
        for bad in bad {
            let said = parse(bad).expect_err(bad);
            assert!(said.contains(&format!("'{bad}'")) && said.contains("like 24GB"), "{said}");
        }
    }

    /// Whatever is typed: a size within its range, or a sentence.
    #[test]
    fn odd_strings_are_read_or_refused() {
        let words = [
            "",
            "-",
            "+",
            ".",
            "e",
            "E",
            "9",
            "0",
            "1",
            "18446744073709551615",
            " ",
            "\u{a0}",
            "G",
            "i",
            "B",
            "b",
            "k",
            "T",
            "nan",
            "inf",
            "é",
            "\0",
            "\u{1f4be}",
            "_",
            ",",
        ];
        for n in 0..words.len().pow(4) {
            let text: String = (0..4).map(|place| words[n / words.len().pow(place) % words.len()]).collect();
            match parse(&text) {
                Ok(bytes) => assert!((1..MOST).contains(&bytes), "{text:?}"),
                Err(said) => assert!(said.contains("is no size"), "{text:?}"),
            }
        }
    }
}

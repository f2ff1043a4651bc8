//! Sizes as people write them: 24GB is 24e9 bytes, 24GiB is 24 * 2^30.

const UNITS: [(&str, f64); 9] = [
    ("KIB", 1024.0),
    ("MIB", 1048576.0),
    ("GIB", 1073741824.0),
    ("TIB", 1099511627776.0),
    ("KB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("TB", 1e12),
    ("B", 1.0),
];

/// Bytes; a bare number is bytes.
///
/// # Errors
/// A sentence that says how to write a size.
pub fn parse(text: &str) -> Result<u64, String> {
    let upper = text.trim().to_ascii_uppercase();
    let found = UNITS.iter().find_map(|(unit, factor)| Some((upper.strip_suffix(unit)?, *factor)));
    let (number, factor) = found.unwrap_or((&upper, 1.0));
    let plain = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    match number.parse::<f64>() {
        Ok(n) if plain && n * factor >= 1.0 && n * factor < 1e18 => Ok((n * factor) as u64),
        _ => Err(format!("'{text}' is no size: write a number and a unit, like 24GB, 16GiB or 500MB")),
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

    #[test]
    fn sizes_are_read() {
        let good = [("24GB", 24_000_000_000), ("24gib", 24 << 30), ("1.5MB", 1_500_000), ("100", 100), ("7B", 7), ("64KiB", 65536)];
        for (text, bytes) in good {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for bad in ["", "abc", "GB", "-1GB", "1e3GB", "nan", "inf", "0", "0.2B", "9999999999TB", "24 XB", "1.2.3MB"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}

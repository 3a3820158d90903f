//! Numbers in texts: the whole text a number, or a number and its unit.

use crate::reading::Value;

/// Characters that a unit behind a number may have.
const LONGEST_UNIT: usize = 8;

/// Reads a plain decimal number, `true` or `false`; `None` for anything else, and for what isn't finite.
pub fn plain(text: &str) -> Option<Value> {
    match text {
        "true" | "True" | "TRUE" => return Some(Value::Bool(true)),
        "false" | "False" | "FALSE" => return Some(Value::Bool(false)),
        _ => {}
    }
    // Rust also reads `inf` and `nan`: a number begins with a digit, a sign or a point.
    let first = text.bytes().next()?;
    if !(first.is_ascii_digit() || matches!(first, b'-' | b'+' | b'.')) {
        return None;
    }
    if let Ok(whole) = text.parse::<i64>() {
        return Some(Value::Int(whole));
    }
    if let Ok(whole) = text.parse::<u64>() {
        return Some(Value::of_unsigned(whole));
    }
    text.parse::<f64>().ok().filter(|n| n.is_finite()).map(Value::Float)
}

/// Reads a number, or a number, space and unit: `21.5 °C`, `80%`.
pub fn read(text: &str) -> Option<(Value, Option<&str>)> {
    let text = text.trim();
    if let Some(value) = plain(text) {
        return Some((value, None));
    }
    let end = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '-' | '+' | '.')))?;
    let (number, unit) = text.split_at(end);
    let spaced = unit.starts_with(' ');
    let unit = unit.trim();
    let fits =
        unit.chars().count() <= LONGEST_UNIT && !unit.contains(|c: char| c.is_ascii_digit() || c == ' ');
    if !fits || !(spaced || matches!(unit, "%" | "°" | "°C" | "°F")) {
        return None;
    }
    plain(number).map(|value| (value, Some(unit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_may_have_its_unit_behind_it_and_nothing_else() {
        for (text, expected) in [
            ("21.5", Some((Value::Float(21.5), None))),
            (" -7 ", Some((Value::Int(-7), None))),
            ("1.500000e+01", Some((Value::Float(15.0), None))),
            ("18446744073709551615", Some((Value::Great(u64::MAX), None))),
            ("true", Some((Value::Bool(true), None))),
            ("21.5 °C", Some((Value::Float(21.5), Some("°C")))),
            ("80%", Some((Value::Int(80), Some("%")))),
            ("230 V", Some((Value::Int(230), Some("V")))),
            ("2024-05-01", None),
            ("10.0.0.1", None),
            ("3 of 7", None),
            ("7a", None),
            ("nan", None),
            ("-inf", None),
            ("1e400", None),
            ("", None),
            ("on", None),
        ] {
            assert_eq!(read(text), expected, "{text:?}");
        }
    }
}

//! The `value` decoder: the whole payload is one number, truth value or text.

use tributary_contract::reject::RejectReason;

use super::Reject;
use crate::reading::Value;

/// Reads `payload` as one value: an integer, a finite number, `true` or `false`, else a text.
pub fn decode(payload: &[u8], text_limit: usize) -> Result<Value, Reject> {
    let text = std::str::from_utf8(super::without_bom(payload))
        .map_err(|e| Reject::new(RejectReason::Malformed, format!("expected UTF-8 text: {e}")))?;
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Err(Reject::new(RejectReason::NoReading, "the payload is empty"));
    }
    match trimmed {
        "true" => return Ok(Value::Bool(true)),
        "false" => return Ok(Value::Bool(false)),
        _ => {}
    }
    if let Ok(whole) = trimmed.parse::<i64>() {
        return Ok(Value::Int(whole));
    }
    match trimmed.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(Value::Float(number)),
        Ok(_) => Err(Reject::new(
            RejectReason::Malformed,
            format!("{:?} isn't a finite number", super::shown(trimmed)),
        )),
        Err(_) => as_text(trimmed, text_limit),
    }
}

fn as_text(text: &str, limit: usize) -> Result<Value, Reject> {
    if text.contains('\0') {
        return Err(Reject::new(RejectReason::Malformed, "expected text, got NUL bytes"));
    }
    if text.len() > limit {
        let detail = format!("the text has {} bytes, the limit is {limit}", text.len());
        return Err(Reject::new(RejectReason::TextTooLong, detail));
    }
    Ok(Value::Text(text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_numbers_and_words_stay_texts() {
        for (payload, value) in [
            ("21.50", Value::Float(21.5)),
            (" 22\n", Value::Int(22)),
            ("9007199254740993", Value::Int(9_007_199_254_740_993)),
            ("9223372036854775808", Value::Float(9.223_372_036_854_776e18)),
            ("1e3", Value::Float(1000.0)),
            ("true", Value::Bool(true)),
            ("false", Value::Bool(false)),
            ("ON", Value::Text("ON".into())),
            ("off", Value::Text("off".into())),
            ("\u{feff}7", Value::Int(7)),
        ] {
            assert_eq!(decode(payload.as_bytes(), 4096), Ok(value), "{payload:?}");
        }
    }

    #[test]
    fn what_is_no_value_is_rejected_with_its_reason() {
        for (payload, reason) in [
            (&b""[..], RejectReason::NoReading),
            (b"  ", RejectReason::NoReading),
            (b"\xff\xfe\x00\x01", RejectReason::Malformed),
            (b"\xed\xa0\x80", RejectReason::Malformed),
            (b"\x00", RejectReason::Malformed),
            (b"NaN", RejectReason::Malformed),
            (b"-inf", RejectReason::Malformed),
            (b"1e400", RejectReason::Malformed),
            (b"abcde", RejectReason::TextTooLong),
        ] {
            assert_eq!(decode(payload, 4).unwrap_err().reason, reason, "{payload:?}");
        }
        let digits = vec![b'9'; 300_000];
        assert_eq!(decode(&digits, 4096).unwrap_err().reason, RejectReason::Malformed);
    }
}

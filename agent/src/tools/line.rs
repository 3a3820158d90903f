//! A reading as a line: JSON and CSV with the columns of the table `readings`.

use serde_json::{Value as Json, json};
use tributary_contract::id::GatewayId;
use tributary_contract::series::Tags;
use tributary_contract::table::Table;

use super::walk::Reading;
use crate::reading::Value;

/// Names of the columns, as the table has them.
pub fn names() -> Vec<&'static str> {
    Table::Readings.columns().iter().map(|c| c.name).collect()
}

/// All tags of a reading. Those of its series go first where both have a key, as in the table.
fn tags(r: &Reading) -> Tags {
    let own = r.row.row_tags.as_deref().into_iter().flatten();
    own.chain(&r.series.tags).map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// The values of the columns in the order of [`names`]. No segment is known here: the last is null.
fn cells(r: &Reading, gateway: &GatewayId) -> Vec<Json> {
    let (row, series) = (&r.row, &r.series);
    let tags = tags(r);
    let truth = if let Value::Bool(b) = row.value { Some(b) } else { None };
    vec![
        json!(row.ts.to_string()),
        json!(series.device),
        json!(series.metric),
        json!(row.value.numeric()),
        json!(row.value.inexact_int()),
        json!(truth),
        json!(row.value.exact_text()),
        json!(series.unit),
        if tags.is_empty() { Json::Null } else { json!(tags) },
        json!(series.id.to_string()),
        json!(row.quality.to_column()),
        json!(row.received_at.to_string()),
        json!(series.source),
        json!(row.seq),
        json!(gateway.as_str()),
        json!(r.epoch.to_string()),
        Json::Null,
    ]
}

/// An object, nulls included.
pub fn json(r: &Reading, gateway: &GatewayId) -> String {
    // In the order of the columns, which a map of this library doesn't keep.
    let pairs: Vec<String> =
        names().into_iter().zip(cells(r, gateway)).map(|(name, cell)| format!("\"{name}\":{cell}")).collect();
    format!("{{{}}}\n", pairs.join(","))
}

/// The head of a CSV file.
pub fn csv_head() -> String {
    names().join(",") + "\r\n"
}

/// A record of a CSV file (RFC 4180); nulls are empty, an empty text is `""`, tags are a JSON object.
pub fn csv(r: &Reading, gateway: &GatewayId) -> String {
    let field = |cell: &Json| match cell {
        Json::Null => String::new(),
        Json::String(text) => quoted(text),
        Json::Object(_) => quoted(&cell.to_string()),
        other => other.to_string(),
    };
    cells(r, gateway).iter().map(field).collect::<Vec<_>>().join(",") + "\r\n"
}

fn quoted(text: &str) -> String {
    if !text.is_empty() && !text.contains([',', '"', '\n', '\r']) {
        return text.to_owned();
    }
    format!("\"{}\"", text.replace('"', "\"\""))
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use tributary_contract::id::Epoch;
    use tributary_contract::quality::Quality;
    use tributary_contract::series::SeriesId;
    use tributary_contract::time::Timestamp;

    use super::*;
    use crate::buffer::reader::RowState;
    use crate::buffer::row::{Row, SeriesEntry};

    pub(in crate::tools) fn reading(device: &str, value: Value, seq: u64) -> Reading {
        let tags = Tags::from([("site".to_owned(), "a,\"b\"".to_owned())]);
        let at = Timestamp(1_772_323_200_000_000);
        Reading {
            batch: 1,
            epoch: Epoch(7),
            state: RowState::Waiting,
            row: Row {
                seq,
                ts: at,
                received_at: at,
                series: 0,
                value,
                quality: Quality::GOOD,
                row_tags: Some(Arc::new(Tags::from([("n".to_owned(), seq.to_string())]))),
                kept_back: false,
            },
            series: Arc::new(SeriesEntry {
                id: SeriesId::of(device, "t", &tags),
                tags,
                value_type: "mixed",
                first_ts: at,
                last_ts: at,
                ..SeriesEntry::of("plant", device, "t")
            }),
        }
    }

    #[test]
    fn a_line_has_the_columns_of_the_table_and_reads_back() {
        let gateway = GatewayId::new("gw-1").unwrap();
        assert_eq!(cells(&reading("d", Value::Int(1), 1), &gateway).len(), names().len());
        let line = json(&reading("d", Value::Int((1 << 53) + 1), 9), &gateway);
        let row: Json = serde_json::from_str(&line).unwrap();
        assert_eq!(row["value"], json!(9_007_199_254_740_992.0));
        assert_eq!(row["value_int"], json!(9_007_199_254_740_993_i64));
        assert_eq!(row["tags"], json!({"n": "9", "site": "a,\"b\""}));
        assert_eq!((&row["ts"], &row["segment_number"]), (&json!("2026-03-01T00:00:00Z"), &Json::Null));
        assert!(line.starts_with("{\"ts\":") && line.ends_with("}\n"));
    }

    #[test]
    fn csv_keeps_null_apart_from_an_empty_text_and_quotes_what_would_break_a_record() {
        let gateway = GatewayId::new("gw-1").unwrap();
        let record = csv(&reading("a\nb", Value::Text(String::new()), 3), &gateway);
        let expected = format!(
            "2026-03-01T00:00:00Z,\"a\nb\",t,,,,\"\",,\"{{\"\"n\"\":\"\"3\"\",\"\"site\"\":\"\"a,\\\"\"b\\\"\"\"\"}}\",{},,\
             2026-03-01T00:00:00Z,plant,3,gw-1,0000000000000007,\r\n",
            reading("a\nb", Value::Int(1), 0).series.id
        );
        assert_eq!(record, expected);
        assert_eq!(csv_head().split(',').count(), names().len());
    }
}

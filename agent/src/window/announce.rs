//! What is told of a closed window on the broker, before its segment is made: on which topic, and what.
//!
//! The topic is a template of the window's definition. The message is one JSON object with the names of the columns of
//! `aggregates`, statistics as chosen, what is null left out. It says what was known when the window closed; the table has
//! the last word: late readings come as another message, and as the next revision there.

use serde::Serialize;
use tributary_contract::id::GatewayId;
use tributary_contract::series::Tags;

use super::emit::{AggregateRow, LAST_TEXT};
use crate::buffer::row::SeriesEntry;
use crate::config::{Function, Names};

/// What a topic may name of a window of that series.
pub fn names_of<'a>(gateway: &'a GatewayId, window: &'a str, entry: &'a SeriesEntry) -> Names<'a> {
    Names {
        gateway: gateway.as_str(),
        definition: window,
        namespace: entry.namespace.as_str(),
        source: &entry.source,
        device: &entry.device,
        metric: &entry.metric,
    }
}

#[derive(Serialize)]
struct Message<'a> {
    window_name: &'a str,
    window_start: String,
    window_end: String,
    device: &'a str,
    metric: &'a str,
    #[serde(skip_serializing_if = "Tags::is_empty")]
    tags: &'a Tags,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<&'a str>,
    series: String,
    samples: u64,
    #[serde(flatten)]
    statistics: serde_json::Map<String, serde_json::Value>,
    coverage: f64,
    late: u64,
    partial: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    quality: Option<String>,
    source: &'a str,
    gateway: &'a str,
}

/// The message of a closed window.
pub fn message(row: &AggregateRow, entry: &SeriesEntry, gateway: &GatewayId) -> Vec<u8> {
    let a = &row.aggregate;
    let mut statistics: serde_json::Map<String, serde_json::Value> =
        Function::ALL.into_iter().filter_map(|f| Some((f.column(), row.statistic(f)?.into()))).collect();
    if let Some(changes) = row.changes() {
        statistics.insert(Function::Changes.column(), changes.into());
    }
    if let Some(text) = &row.text {
        statistics.insert(LAST_TEXT.into(), text.to_string().into());
    }
    let message = Message {
        window_name: &row.window,
        window_start: row.start.to_string(),
        window_end: row.end.to_string(),
        device: &entry.device,
        metric: &entry.metric,
        tags: &entry.tags,
        unit: entry.unit.as_deref(),
        series: entry.id.to_string(),
        samples: a.samples,
        statistics,
        coverage: a.coverage,
        late: row.late,
        partial: row.partial,
        quality: row.quality.to_column(),
        source: &entry.source,
        gateway: gateway.as_str(),
    };
    // Texts and finite numbers: nothing in it can fail to be JSON.
    serde_json::to_vec(&message).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use tributary_contract::quality::{Doubt, Quality};
    use tributary_contract::series::SeriesId;
    use tributary_contract::time::Timestamp;

    use super::*;
    use crate::config::{Functions, MINUTE};
    use crate::window::fold::{Sample, fold};

    fn entry() -> SeriesEntry {
        SeriesEntry { id: SeriesId(1), unit: Some("°C".into()), ..SeriesEntry::of("plant", "d", "m") }
    }

    fn gateway() -> GatewayId {
        GatewayId::new("gw-1").unwrap()
    }

    #[test]
    fn the_message_has_the_chosen_statistics_by_the_names_of_their_columns() {
        let samples = [1.0, 4.0, 2.5].iter().zip(0..).map(|(value, seq)| Sample {
            ts: Timestamp(seq as i64 * 20_000_000),
            seq,
            value: *value,
        });
        let samples: Vec<Sample> = samples.collect();
        let row = AggregateRow {
            start: Timestamp(0),
            end: Timestamp(MINUTE),
            window: "1m".into(),
            series: 0,
            text: None,
            aggregate: fold(&samples, None, Timestamp(0), Timestamp(MINUTE)).unwrap(),
            revision: 1,
            late: 0,
            partial: false,
            quality: Quality::GOOD.with(Doubt::OutOfRange),
            functions: [Function::Max, Function::Mean, Function::Changes].into_iter().collect(),
        };
        let told: serde_json::Value = serde_json::from_slice(&message(&row, &entry(), &gateway())).unwrap();
        assert_eq!(
            told,
            serde_json::json!({
                "window_name": "1m", "window_start": "1970-01-01T00:00:00Z", "window_end": "1970-01-01T00:01:00Z",
                "device": "d", "metric": "m", "unit": "°C", "series": "0000000000000001", "samples": 3,
                "value_max": 4.0, "value_mean": 2.5, "value_changes": 2, "coverage": 1.0, "late": 0, "partial": false,
                "quality": "out-of-range", "source": "plant", "gateway": "gw-1",
            })
        );
        let all = AggregateRow { functions: Functions::USUAL, ..row };
        let told: serde_json::Value = serde_json::from_slice(&message(&all, &entry(), &gateway())).unwrap();
        let statistics = told.as_object().unwrap().keys().filter(|k| k.starts_with("value_")).count();
        assert_eq!((statistics, told["time_weighted_mean"].is_number()), (10, true));
    }
}

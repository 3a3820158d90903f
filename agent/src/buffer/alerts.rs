//! Alerts that wait for their segment, and the state that they came of. Edge: SQLite.

use rusqlite::{Connection, params};
use tributary_contract::id::Namespace;
use tributary_contract::time::Timestamp;

use super::error::BufferError;
use super::row::AlertRow;
use super::{Buffer, corrupt, keep, side};

/// The version of the schema that first had them.
pub(super) const SINCE: i64 = 3;

/// The setting that keeps the state of the alerts.
pub const STATE: &str = "alerts";

pub(super) const ALERT_COLUMNS: &str =
    "id, namespace, ts, device, metric, series, rule, severity, state, value, expected, score";

impl Buffer {
    /// Makes alerts durable with the state that they came of. What is there by the same name stays as it is.
    pub fn save_alerts(&mut self, alerts: &[AlertRow], state: &[u8]) -> Result<(), BufferError> {
        self.guarded(|b| {
            b.transact(["alerts: before", "alerts: after"], |tx| {
                alerts.iter().try_for_each(|alert| save(tx, alert))?;
                keep(tx, STATE, state)
            })
        })
    }

    /// Alerts that no segment holds, in the order of their names. Seal those of one namespace and day of `ts` together.
    pub fn alerts_to_seal(&mut self) -> Result<Vec<AlertRow>, BufferError> {
        self.guarded(|b| side::ALERTS.waiting(&b.sql, usize::MAX, read_alert))
    }
}

fn save(tx: &Connection, alert: &AlertRow) -> Result<(), BufferError> {
    tx.prepare_cached(
        "INSERT INTO alert (id, namespace, ts, device, metric, series, rule, severity, state, value, expected,
                            score)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) ON CONFLICT (id) DO NOTHING",
    )?
    .execute(params![
        alert.id(),
        alert.namespace.as_str(),
        alert.ts.0,
        alert.device,
        alert.metric,
        alert.series.to_string(),
        alert.rule,
        alert.severity,
        alert.state(),
        alert.value,
        alert.expected,
        alert.score,
    ])?;
    Ok(())
}

/// Reads a row of [`ALERT_COLUMNS`].
pub(super) fn read_alert(r: &rusqlite::Row<'_>) -> Result<AlertRow, BufferError> {
    let (id, namespace, series, state): (String, String, String, String) =
        (r.get(0)?, r.get(1)?, r.get(5)?, r.get(8)?);
    let alert = AlertRow {
        namespace: Namespace::new(namespace)?,
        ts: Timestamp(r.get(2)?),
        device: r.get(3)?,
        metric: r.get(4)?,
        series: series.parse().map_err(|_| corrupt("series of an alert")(series.clone()))?,
        rule: r.get(6)?,
        severity: r.get(7)?,
        open: match state.as_str() {
            "open" => true,
            "closed" => false,
            _ => return Err(corrupt("state of an alert")(state)),
        },
        value: r.get(9)?,
        expected: r.get(10)?,
        score: r.get(11)?,
    };
    if alert.id() == id { Ok(alert) } else { Err(corrupt("name of an alert")(id)) }
}

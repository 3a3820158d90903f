//! The six tables of the lake.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A table of one namespace. Each segment holds rows of one table and one UTC day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Table {
    /// Every reading as it came.
    Readings,
    /// One row per series and window; the newest revision counts.
    Aggregates,
    /// The dictionary of series; the newest row counts.
    Series,
    /// What was lost, thinned or declared void, and why.
    Gaps,
    /// Messages that could not be decoded.
    Rejects,
    /// Alerts raised at the edge.
    Alerts,
}

/// A text that names no table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown table {0:?}: expected one of readings, aggregates, series, gaps, rejects, alerts")]
pub struct TableError(pub String);

impl Table {
    /// All tables.
    pub const ALL: [Table; 6] =
        [Table::Readings, Table::Aggregates, Table::Series, Table::Gaps, Table::Rejects, Table::Alerts];

    /// The table's name in keys and in the catalog.
    pub const fn name(self) -> &'static str {
        match self {
            Table::Readings => "readings",
            Table::Aggregates => "aggregates",
            Table::Series => "series",
            Table::Gaps => "gaps",
            Table::Rejects => "rejects",
            Table::Alerts => "alerts",
        }
    }

    /// One sentence for the catalog's `comment` property.
    pub const fn doc(self) -> &'static str {
        match self {
            Table::Readings => "Every reading as delivered by the gateways, each once.",
            Table::Aggregates => {
                "One row per series and window. The newest revision per (gateway, window_name, series, window_start) \
                 counts."
            }
            Table::Series => {
                "What each series is: device, metric, tags, unit. The newest row per series counts."
            }
            Table::Gaps => {
                "What is missing from the other tables, and why; a row whose id another row cancels is void."
            }
            Table::Rejects => "Messages that could not be decoded, identical ones folded.",
            Table::Alerts => "Alerts that gateways opened and closed.",
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Table {
    type Err = TableError;
    fn from_str(s: &str) -> Result<Self, TableError> {
        Table::ALL.into_iter().find(|t| t.name() == s).ok_or_else(|| TableError(s.into()))
    }
}

impl TryFrom<String> for Table {
    type Error = TableError;
    fn try_from(s: String) -> Result<Self, TableError> {
        s.parse()
    }
}

impl From<Table> for String {
    fn from(t: Table) -> String {
        t.name().into()
    }
}

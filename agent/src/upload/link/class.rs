//! How urgent something is: status and alerts, then what was aggregated, then new readings, then backlog.

use tributary_contract::table::Table;

/// What goes over the link, the most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// The status object.
    Status,
    /// Alerts, however old.
    Alerts,
    /// New aggregates, and what is as small and as useful: the dictionary of series, gaps.
    Aggregates,
    /// New readings, and rejects.
    Live,
    /// Aggregates and the like that couldn't go while they were new.
    OldAggregates,
    /// Readings that couldn't go while they were new.
    Backlog,
}

impl Class {
    /// All, the most urgent first.
    pub const ALL: [Self; 6] =
        [Self::Status, Self::Alerts, Self::Aggregates, Self::Live, Self::OldAggregates, Self::Backlog];

    /// The class of a segment, by its table and whether it was sealed a short while ago.
    pub const fn of(table: Table, new: bool) -> Self {
        match (table, new) {
            (Table::Alerts, _) => Self::Alerts,
            (Table::Aggregates | Table::Series | Table::Gaps, true) => Self::Aggregates,
            (Table::Aggregates | Table::Series | Table::Gaps, false) => Self::OldAggregates,
            (Table::Readings | Table::Rejects, true) => Self::Live,
            (Table::Readings | Table::Rejects, false) => Self::Backlog,
        }
    }

    /// Whether `hours` and the order of the backlog are about it.
    pub const fn is_backlog(self) -> bool {
        matches!(self, Self::OldAggregates | Self::Backlog)
    }

    /// Whether it may take of the reserve of a budget.
    pub const fn has_reserve(self) -> bool {
        matches!(self, Self::Status | Self::Alerts)
    }
}

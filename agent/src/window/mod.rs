//! Windows: readings of one series in one interval of event time become one row of `aggregates`.
//!
//! **What comes in.** Rows of the journal, after their commit and again at a restart ([`Windows::observe`]); decisions
//! taken before ([`Windows::restore`]). Event time is a reading's own time, else the time of its receipt. A window is
//! `[start, end)`, aligned to 1970-01-01T00:00 in UTC or in a time zone ([`align::Grid`]), of one definition
//! ([`definition::Definition`]), and is watched per device, because a device is what has a clock and what falls silent.
//! Windows that hop overlap; each is folded from the journal by itself. Panes, folded once and merged, wouldn't pay: of an
//! open window nothing is held but a count, and neither percentiles nor a late reading before a pane's last can be merged.
//!
//! **What goes out.** [`Windows::due`] says which windows may close and which stretch of the journal to scan for
//! them; [`emit::Emitter`] folds that scan into rows of `aggregates` and into [`decision::Decided`], which the buffer
//! keeps in the transaction of the seal; [`Windows::applied`] takes note of it afterwards.
//!
//! **What closes a window.** The device's watermark: its greatest trusted event time less the definition's lateness,
//! once that has reached the window's end. Or silence: no reading of the device for `idle` by processing time, but only
//! while the connection is drained, and only windows whose end has passed on the gateway's clock too.
//!
//! **What late means.** A reading is late if a window of its device that ends no earlier than its own has been closed.
//! While the correction horizon lasts (counted from that closing, never shorter, at most a quarter longer) it emits its
//! window again, recomputed from the journal, as the next revision; afterwards it is only counted, and stays in
//! `readings`.
//!
//! **Which readings enter.** Those with a numeric view whose time and value can be believed; texts where `last` or `changes`
//! were chosen for their metric. A row is of numbers, or, where its window holds none, of texts.
//! `future` and `clock-unsynced` have no believable time: they enter no window and move no watermark, for one wrong
//! stamp would spoil windows that are right. `retained` and `queued` readings without a time of their own say when they
//! were delivered, not when they were measured: no window, no watermark. `out-of-range` and `device` are believed as to
//! time, not as to value: they move the watermark, are left out of all statistics, and leave their doubt in the window's
//! `quality`. `possible-duplicate` enters, and leaves its doubt.
//!
//! **What survives a crash.** Windows are never stored: they are folded from the journal's rows. Only decisions are,
//! each with the seq up to which it has seen the journal, so that a restart neither forgets a late reading nor takes a
//! decision twice.
//!
//! **What a full buffer takes.** Readings of closed windows leave with nothing lost but themselves: [`represent`] says for
//! which of them an aggregate stands. An open window that needs readings which must go is *frozen* first
//! ([`Windows::freeze`]): emitted as far as it is, with its mergeable part ([`merge`]), and marked `partial`. When it
//! closes it is emitted again, merged with what came since; if in the end all its readings are there still, it is whole.
//!
//! **What is deliberately absent.** A clock, a disk, and windows that end with a pause (sessions).

pub mod align;
pub mod definition;
pub mod watermark;
pub mod sketch;
pub mod fold;
pub mod merge;
pub mod decision;
pub mod plan;
pub mod needed;
pub mod open;
mod collect;
pub mod emit;
pub mod announce;
pub mod represent;

pub use decision::{Decided, Decision};
pub use open::Windows;
pub use plan::Plan;

use tributary_contract::quality::{Doubt, Quality};

use crate::buffer::row::Row;
use crate::reading::Value;

/// Whether the reading's event time can be believed, so that it may move a watermark.
pub fn has_trusted_time(row: &Row) -> bool {
    let waited = row.quality.has(Doubt::Retained) || row.quality.has(Doubt::Queued);
    let own_time = row.ts != row.received_at;
    !row.quality.has(Doubt::Future) && !row.quality.has(Doubt::ClockUnsynced) && (own_time || !waited)
}

/// Whether the value is believed; a value that isn't enters no statistic.
pub const fn has_trusted_value(quality: Quality) -> bool {
    !quality.has(Doubt::OutOfRange) && !quality.has(Doubt::Device)
}

/// The number with which the reading enters windows, if it does.
pub fn windowed_value(row: &Row) -> Option<f64> {
    row.value.numeric().filter(|v| is_believed(row) && v.is_finite())
}

/// Whether the reading is a text that enters windows of texts.
pub fn is_windowed_text(row: &Row) -> bool {
    matches!(row.value, Value::Text(_)) && is_believed(row)
}

fn is_believed(row: &Row) -> bool {
    has_trusted_time(row) && has_trusted_value(row.quality)
}

#[cfg(test)]
mod tests;

//! The ledger: what became of every object that ever lay under `segments/`.
//!
//! In: arrivals, verdicts, answers of the catalog. Out: what is new, what to commit next, what to tell gateways. The same
//! segment twice is normal and changes nothing; the same id with other bytes, or a second branch of a chain, is refused.
//! Each method is one transaction on stable storage, so a crash falls between two of them:
//!
//! | state        | means                                     | who goes on after a crash                            |
//! |--------------|-------------------------------------------|------------------------------------------------------|
//! | `seen`       | a listing showed it                       | the next listing shows it again, it is inspected     |
//! | `checked`    | it may be registered                      | it is counted when the next batch is formed          |
//! | `batched`    | its batch has a number, files are fixed   | the table is asked whether it has that batch         |
//! | `registered` | its rows are in the table                 | nobody; the receipt is due until it is written       |
//! | `quarantined`| it is refused, with a reason              | nobody; its copy is made until it is noted as made   |
//!
//! Absent on purpose: readings, footers, anything that the bucket or the tables can say.

pub mod batches;
pub mod closing;
pub mod decide;
pub mod gateways;
pub mod ledger;
pub mod own_gaps;
pub mod recover;
pub mod segments;
#[cfg(test)]
mod tests;

pub use batches::{Batch, BatchFile, Known, TableState};
pub use closing::Closed;
pub use gateways::{DueReceipt, EpochFacts, GatewayFacts, ReceiptFacts};
pub use ledger::{Ledger, LedgerError, LedgerHandle, Moment};
pub use own_gaps::{OwnGap, OwnReason};
pub use recover::{Again, Booked, Found, FoundReceipt, Rebuilt};
pub use segments::{Pending, Recorded, Seen, ToCopy};

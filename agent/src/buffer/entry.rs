//! The outbox entry: a sealed segment on its way to the bucket, and the states it passes.
//!
//! | From | Event | To | If we die here, at the next start |
//! |---|---|---|---|
//! | (none) | sealed | Sealed | the file without a row is read back from its manifest, never swept |
//! | Sealed | multipart opened | Uploading (upload id) | an unknown upload is left to the bucket's lifecycle rule |
//! | Uploading | part stored | Uploading (+ part) | missing parts are sent again; parts are idempotent |
//! | Sealed, Uploading | stored, or found with our digest | Delivered | look first: same digest is success |
//! | Uploading | upload id gone | Sealed | look first; absent means start again, the bytes are unchanged |
//! | Delivered | a newer receipt names it missing, or a day without receipt | Sealed | look first; absent means send again |
//! | Delivered | receipt: registered, digest agrees | (none), file removed | swept again; the row is gone first |
//! | Delivered | receipt: quarantined | Quarantined | stays, counted |
//! | Sealed, Uploading | refused for good | Held | stays on disk, counted, shown |
//! | Held | an operator or a restart tries again; found with our digest | Sealed; Delivered | as these |
//! | Sealed, Uploading, Held, Delivered | another object holds its name | Superseded, file removed | its rows are sealed again in a new epoch |

use serde::{Deserialize, Serialize};
use tributary_contract::digest::Digest;
use tributary_contract::id::{Epoch, Number};
use tributary_contract::key::SegmentKey;
use tributary_contract::time::Timestamp;

/// A sealed segment, from sealing until the receipt.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its number.
    pub number: Number,
    /// Its epoch; may be an older one.
    pub epoch: Epoch,
    /// Where it goes in the bucket.
    pub key: SegmentKey,
    /// Digest of its bytes.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// Its rows.
    pub rows: u64,
    /// How far it is.
    pub state: Progress,
    /// Failed attempts since the last success.
    pub attempts: u32,
    /// Not to be tried before.
    pub next_at: Timestamp,
}

/// How far a segment is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Progress {
    /// On disk, nothing of it known to be in the bucket.
    Sealed,
    /// A multipart upload is open.
    Uploading {
        /// The bucket's id of it.
        upload_id: String,
        /// Bytes of each part but the last.
        part_size: u64,
        /// Parts that the bucket has.
        parts: Vec<PartDone>,
    },
    /// The bucket has it, digest agreed.
    Delivered {
        /// Since when.
        at: Timestamp,
    },
    /// Refused for good by the bucket; stays on disk.
    Held {
        /// What the bucket said.
        reason: String,
    },
    /// Refused by the receiver; waits for a person.
    Quarantined {
        /// What the receipt said.
        reason: String,
    },
    /// Another object holds its name; its rows are sealed again.
    Superseded {
        /// What was found.
        reason: String,
    },
}

/// A part of a multipart upload that the bucket has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartDone {
    /// From 1.
    pub number: u32,
    /// The bucket's tag of it.
    pub etag: String,
    /// Its checksum as the bucket states it.
    pub checksum: String,
    /// Its bytes.
    pub size: u64,
}

impl Progress {
    /// The state's name, as the outbox and the status have it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Sealed => "sealed",
            Self::Uploading { .. } => "uploading",
            Self::Delivered { .. } => "delivered",
            Self::Held { .. } => "held",
            Self::Quarantined { .. } => "quarantined",
            Self::Superseded { .. } => "superseded",
        }
    }

    /// Why it doesn't go its way, if so.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Held { reason } | Self::Quarantined { reason } | Self::Superseded { reason } => {
                Some(reason)
            }
            Self::Sealed | Self::Uploading { .. } | Self::Delivered { .. } => None,
        }
    }

    /// Whether the table above allows the step to `next`.
    pub const fn may_become(&self, next: &Progress) -> bool {
        match (self, next) {
            (
                Self::Sealed | Self::Uploading { .. },
                Self::Sealed
                | Self::Uploading { .. }
                | Self::Delivered { .. }
                | Self::Held { .. }
                | Self::Superseded { .. },
            )
            | (
                Self::Held { .. },
                Self::Sealed | Self::Delivered { .. } | Self::Held { .. } | Self::Superseded { .. },
            )
            | (
                Self::Delivered { .. },
                Self::Sealed | Self::Delivered { .. } | Self::Quarantined { .. } | Self::Superseded { .. },
            ) => true,
            (Self::Held { .. }, Self::Uploading { .. } | Self::Quarantined { .. })
            | (Self::Sealed | Self::Uploading { .. }, Self::Quarantined { .. })
            | (Self::Delivered { .. }, Self::Uploading { .. } | Self::Held { .. })
            | (Self::Quarantined { .. } | Self::Superseded { .. }, _) => false,
        }
    }

    /// Whether the bucket isn't known to have it, and it is to be sent.
    pub const fn undelivered(&self) -> bool {
        match self {
            Self::Sealed | Self::Uploading { .. } | Self::Held { .. } => true,
            Self::Delivered { .. } | Self::Quarantined { .. } | Self::Superseded { .. } => false,
        }
    }

    /// Whether no receipt is known yet and one is to come.
    pub const fn outstanding(&self) -> bool {
        match self {
            Self::Sealed | Self::Uploading { .. } | Self::Held { .. } | Self::Delivered { .. } => true,
            Self::Quarantined { .. } | Self::Superseded { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> [Progress; 6] {
        let part = PartDone { number: 1, etag: "e".into(), checksum: "c".into(), size: 5 };
        [
            Progress::Sealed,
            Progress::Uploading { upload_id: "u".into(), part_size: 5, parts: vec![part] },
            Progress::Delivered { at: Timestamp(1) },
            Progress::Held { reason: "r".into() },
            Progress::Quarantined { reason: "r".into() },
            Progress::Superseded { reason: "r".into() },
        ]
    }

    #[test]
    fn only_the_steps_of_the_table_are_allowed() {
        // Rows: from; columns: to, in the order sealed, uploading, delivered, held, quarantined, superseded.
        let matrix = ["111101", "111101", "101011", "101101", "000000", "000000"];
        for (from, row) in all().iter().zip(matrix) {
            for (to, allowed) in all().iter().zip(row.chars()) {
                assert_eq!(from.may_become(to), allowed == '1', "{} -> {}", from.name(), to.name());
            }
        }
    }

    #[test]
    fn each_state_reads_back_from_its_stored_form() {
        for state in all() {
            let json = serde_json::to_string(&state).unwrap();
            assert!(json.contains(&format!("\"state\":\"{}\"", state.name())), "{json}");
            assert_eq!(serde_json::from_str::<Progress>(&json).unwrap(), state);
        }
    }
}

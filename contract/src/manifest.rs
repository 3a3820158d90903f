//! The manifest: what a segment says about itself, in the footer of its Parquet file.

use serde::{Deserialize, Serialize};

use crate::FORMAT_VERSION;
use crate::counters::{Counters, LawBroken};
use crate::digest::Digest;
use crate::id::{Epoch, GatewayId, Namespace, Number, SegmentId};
use crate::key::SegmentKey;
use crate::range::Ranges;
use crate::status::ShortStatus;
use crate::table::Table;
use crate::time::{Day, Timestamp};

/// The key of the Parquet footer's key-value metadata under which the manifest stands as JSON.
pub const MANIFEST_KEY: &str = "tributary.manifest";

/// The greatest manifest, in bytes of JSON, that a reader takes.
pub const MANIFEST_MAX_BYTES: usize = 256 * 1024;

/// What a segment says about itself and about its gateway at the moment of sealing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Format version; see [`FORMAT_VERSION`].
    pub version: u32,
    /// Who sealed it.
    pub gateway: GatewayId,
    /// In which life of its buffer.
    pub epoch: Epoch,
    /// Its number.
    pub number: Number,
    /// The segment sealed before it in this epoch, void numbers skipped; none for the first.
    pub previous: Option<Link>,
    /// Owner of the data.
    pub namespace: Namespace,
    /// Table of all rows.
    pub table: Table,
    /// UTC day of all rows.
    pub day: Day,
    /// How many rows.
    pub rows: u64,
    /// Least seq, for `readings`.
    pub min_seq: Option<u64>,
    /// Greatest seq, for `readings`.
    pub max_seq: Option<u64>,
    /// Least value of the table's day column.
    pub min_ts: Timestamp,
    /// Greatest value of the table's day column.
    pub max_ts: Timestamp,
    /// Once this and all earlier segments are in the table, every reading up to this event time that the gateway will
    /// send in time is there. None while nothing is known.
    pub watermark: Option<Timestamp>,
    /// Numbers of this epoch that will never come.
    #[serde(default)]
    pub void: Ranges,
    /// Numbers of this epoch that are sealed but of which no receipt is known yet, this one included.
    #[serde(default)]
    pub outstanding: Ranges,
    /// Older epochs of this gateway and the last number of each.
    #[serde(default)]
    pub closed: Vec<ClosedEpoch>,
    /// Counters of this epoch right after this segment was sealed.
    pub counters: Counters,
    /// How the gateway was.
    pub status: ShortStatus,
}

/// Names a segment of the same epoch by number and digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Number.
    pub number: Number,
    /// Digest.
    pub digest: Digest,
}

/// An epoch that will get no further numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosedEpoch {
    /// The epoch.
    pub epoch: Epoch,
    /// Its last number; 0 if it never sealed any.
    pub last: u64,
}

/// Why a manifest can't be believed.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Longer than [`MANIFEST_MAX_BYTES`].
    #[error("manifest of {0} bytes is longer than {MANIFEST_MAX_BYTES}")]
    TooLong(usize),
    /// Not the JSON of a manifest.
    #[error("manifest isn't readable: {0}")]
    Json(#[from] serde_json::Error),
    /// Written by a later format.
    #[error(
        "manifest has version {0}, this program knows up to {FORMAT_VERSION}: upgrade the receiver first"
    )]
    Version(u32),
    /// The object lies under another name.
    #[error("manifest says {field} {manifest}, its key says {key}")]
    Disagrees {
        /// Which field.
        field: &'static str,
        /// What the manifest says.
        manifest: String,
        /// What the key says.
        key: String,
    },
    /// A law doesn't hold.
    #[error("manifest's counters: {0}")]
    Law(#[from] LawBroken),
    /// A field contradicts another.
    #[error("manifest contradicts itself: {0}")]
    Contradiction(&'static str),
}

impl Manifest {
    /// JSON as it stands in the footer.
    pub fn to_json(&self) -> String {
        // No map with non-text keys and no failing serializer is in it.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads the footer's JSON and checks what can be checked without the file: size, version, laws, self-agreement.
    pub fn from_json(json: &str) -> Result<Self, ManifestError> {
        if json.len() > MANIFEST_MAX_BYTES {
            return Err(ManifestError::TooLong(json.len()));
        }
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        let head: Head = serde_json::from_str(json)?;
        if head.version == 0 || head.version > FORMAT_VERSION {
            return Err(ManifestError::Version(head.version));
        }
        let manifest: Self = serde_json::from_str(json)?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), ManifestError> {
        use ManifestError::Contradiction;
        self.counters.check()?;
        if self.rows == 0 {
            return Err(Contradiction("it has no rows"));
        }
        if self.min_ts > self.max_ts {
            return Err(Contradiction("min_ts is later than max_ts"));
        }
        if !self.day.holds(self.min_ts) || !self.day.holds(self.max_ts) {
            return Err(Contradiction("min_ts or max_ts lies outside its day"));
        }
        if self.min_seq.is_some() != self.max_seq.is_some() || self.min_seq > self.max_seq {
            return Err(Contradiction("min_seq and max_seq are no range"));
        }
        if (self.table == Table::Readings) != self.min_seq.is_some() {
            return Err(Contradiction("seq bounds belong to `readings` and to it alone"));
        }
        if self.previous.is_some_and(|p| p.number >= self.number) {
            return Err(Contradiction("previous isn't below its own number"));
        }
        if self.void.contains(self.number.get()) {
            return Err(Contradiction("it declares itself void"));
        }
        Ok(())
    }

    /// Checks that the manifest belongs to the object at `key`.
    pub fn agrees_with(&self, key: &SegmentKey) -> Result<(), ManifestError> {
        let pairs = [
            ("gateway", self.gateway.to_string(), key.id.gateway.to_string()),
            ("epoch", self.epoch.to_string(), key.id.epoch.to_string()),
            ("number", self.number.to_string(), key.id.number.to_string()),
            ("namespace", self.namespace.to_string(), key.namespace.to_string()),
            ("table", self.table.to_string(), key.table.to_string()),
            ("day", self.day.to_string(), key.day.to_string()),
        ];
        match pairs.into_iter().find(|(_, m, k)| m != k) {
            Some((field, manifest, key)) => Err(ManifestError::Disagrees { field, manifest, key }),
            None => Ok(()),
        }
    }

    /// Gateway, epoch and number.
    pub fn id(&self) -> SegmentId {
        SegmentId { gateway: self.gateway.clone(), epoch: self.epoch, number: self.number }
    }

    /// The key that this manifest demands.
    pub fn key(&self) -> SegmentKey {
        SegmentKey { id: self.id(), namespace: self.namespace.clone(), table: self.table, day: self.day }
    }
}

//! Keys of the objects in the bucket: built and parsed here only.

use std::fmt;

use crate::id::{Epoch, GatewayId, IdError, Namespace, SegmentId};
use crate::table::{Table, TableError};
use crate::time::{Day, DayError};

/// The part of a bucket that belongs to one installation: empty, or segments of a path without leading or trailing `/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Prefix(String);

/// Why a key is none of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The prefix has empty parts, `.` or `..`.
    #[error(
        "invalid prefix {0:?}: use parts of letters, digits, `.`, `_`, `=` or `-`, joined by single slashes"
    )]
    Prefix(String),
    /// The key isn't of the form of a segment's key.
    #[error(
        "key {0:?} isn't `<prefix>/segments/<gateway>/<epoch>/<number>-<namespace>.<table>-<day>.parquet`"
    )]
    Shape(String),
    /// A name in it is invalid.
    #[error("key {key:?}: {source}")]
    Id {
        /// The whole key.
        key: String,
        /// What is wrong with which name.
        source: IdError,
    },
    /// No such table.
    #[error("key {key:?}: {source}")]
    Table {
        /// The whole key.
        key: String,
        /// What was got.
        source: TableError,
    },
    /// No such day.
    #[error("key {key:?}: {source}")]
    Day {
        /// The whole key.
        key: String,
        /// What was got.
        source: DayError,
    },
}

impl Prefix {
    /// Checks `prefix`; slashes at its ends are dropped.
    pub fn new(prefix: &str) -> Result<Self, KeyError> {
        let trimmed = prefix.trim_matches('/');
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'=' | b'-');
        let part = |p: &str| !p.is_empty() && p != "." && p != ".." && p.bytes().all(good);
        if trimmed.is_empty() || trimmed.split('/').all(part) {
            Ok(Self(trimmed.to_owned()))
        } else {
            Err(KeyError::Prefix(prefix.to_owned()))
        }
    }

    /// The text, without slashes at its ends.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn join(&self, rest: fmt::Arguments<'_>) -> String {
        if self.0.is_empty() { rest.to_string() } else { format!("{}/{rest}", self.0) }
    }

    /// `<prefix>/segments/`: the folder of all gateways.
    pub fn segments(&self) -> String {
        self.join(format_args!("segments/"))
    }

    /// `<prefix>/segments/<gateway>/`: the folder of a gateway's epochs.
    pub fn segments_of(&self, gateway: &GatewayId) -> String {
        self.join(format_args!("segments/{gateway}/"))
    }

    /// `<prefix>/segments/<gateway>/<epoch>/`: the folder of one epoch.
    pub fn epoch(&self, gateway: &GatewayId, epoch: Epoch) -> String {
        self.join(format_args!("segments/{gateway}/{epoch}/"))
    }

    /// What to list after, so that only numbers above `number` come: `start-after` of one listing.
    pub fn after(&self, gateway: &GatewayId, epoch: Epoch, number: u64) -> String {
        // `~` sorts behind every byte that may follow a number.
        self.join(format_args!("segments/{gateway}/{epoch}/{number:010}~"))
    }

    /// `<prefix>/status/<gateway>.json`
    pub fn status(&self, gateway: &GatewayId) -> String {
        self.join(format_args!("status/{gateway}.json"))
    }

    /// `<prefix>/status/`: the folder of all status objects.
    pub fn statuses(&self) -> String {
        self.join(format_args!("status/"))
    }

    /// `<prefix>/receipts/<gateway>.json`
    pub fn receipt(&self, gateway: &GatewayId) -> String {
        self.join(format_args!("receipts/{gateway}.json"))
    }

    /// `<prefix>/receipts/`: the folder of all receipts.
    pub fn receipts(&self) -> String {
        self.join(format_args!("receipts/"))
    }

    /// `<prefix>/desired/<gateway>.json`
    pub fn desired(&self, gateway: &GatewayId) -> String {
        self.join(format_args!("desired/{gateway}.json"))
    }

    /// `<prefix>/quarantine/<rest of the key>`, for an object that lies at `key` below `segments/`.
    pub fn quarantine(&self, key: &str) -> String {
        let rest = key.strip_prefix(&self.segments()).unwrap_or(key);
        self.join(format_args!("quarantine/{rest}"))
    }

    /// `<prefix>/lake`: the Iceberg warehouse.
    pub fn lake(&self) -> String {
        self.join(format_args!("lake"))
    }
}

/// What a segment's key says: who, which number, whose, which table, which day.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SegmentKey {
    /// Gateway, epoch and number.
    pub id: SegmentId,
    /// Owner of the data.
    pub namespace: Namespace,
    /// Table of all rows.
    pub table: Table,
    /// UTC day of all rows.
    pub day: Day,
}

impl SegmentKey {
    /// The object's key under `prefix`.
    pub fn object_key(&self, prefix: &Prefix) -> String {
        let SegmentId { gateway, epoch, number } = &self.id;
        let (namespace, table, day) = (&self.namespace, self.table, self.day);
        prefix.join(format_args!("segments/{gateway}/{epoch}/{number}-{namespace}.{table}-{day}.parquet"))
    }

    /// The file's name: the last part of the key.
    pub fn file_name(&self) -> String {
        format!("{}-{}.{}-{}.parquet", self.id.number, self.namespace, self.table, self.day)
    }

    /// Reads a key. What [`SegmentKey::object_key`] wrote comes back the same; all else is refused.
    pub fn parse(prefix: &Prefix, key: &str) -> Result<Self, KeyError> {
        let shape = || KeyError::Shape(key.to_owned());
        let id = |source| KeyError::Id { key: key.to_owned(), source };
        let rest = key.strip_prefix(&prefix.segments()).ok_or_else(shape)?;
        let mut parts = rest.split('/');
        let (Some(gateway), Some(epoch), Some(file), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(shape());
        };
        let stem = file.strip_suffix(".parquet").ok_or_else(shape)?;
        let (number, stem) = stem.split_once('-').ok_or_else(shape)?;
        let (namespace, stem) = stem.split_once('.').ok_or_else(shape)?;
        let (table, day) = stem.split_once('-').ok_or_else(shape)?;
        Ok(Self {
            id: SegmentId {
                gateway: gateway.parse().map_err(id)?,
                epoch: epoch.parse().map_err(id)?,
                number: number.parse().map_err(id)?,
            },
            namespace: namespace.parse().map_err(id)?,
            table: table.parse().map_err(|source| KeyError::Table { key: key.to_owned(), source })?,
            day: day.parse().map_err(|source| KeyError::Day { key: key.to_owned(), source })?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::Number;

    fn example() -> SegmentKey {
        SegmentKey {
            id: SegmentId {
                gateway: GatewayId::new("gw-1").unwrap(),
                epoch: Epoch(0x1f2e),
                number: Number::new(42).unwrap(),
            },
            namespace: Namespace::default(),
            table: Table::Readings,
            day: "2016-01-01".parse().unwrap(),
        }
    }

    #[test]
    fn a_segment_key_reads_as_the_format_says() {
        let prefix = Prefix::new("/site/a/").unwrap();
        let key = example().object_key(&prefix);
        assert_eq!(
            key,
            "site/a/segments/gw-1/0000000000001f2e/0000000042-tributary.readings-2016-01-01.parquet"
        );
        assert_eq!(SegmentKey::parse(&prefix, &key).unwrap(), example());
        assert!(key.ends_with(&example().file_name()));
    }

    #[test]
    fn start_after_skips_a_number_with_all_its_tables_and_nothing_more() {
        let prefix = Prefix::default();
        let own = example();
        let after = prefix.after(&own.id.gateway, own.id.epoch, 42);
        assert!(own.object_key(&prefix) < after);
        let mut next = own;
        next.id.number = Number::new(43).unwrap();
        assert!(next.object_key(&prefix) > after);
    }

    #[test]
    fn path_tricks_are_refused() {
        let prefix = Prefix::new("p").unwrap();
        for key in [
            "p/segments/../0000000000001f2e/0000000042-tributary.readings-2016-01-01.parquet",
            "p/segments/gw-1/0000000000001f2e/x/0000000042-tributary.readings-2016-01-01.parquet",
            "p/segments/gw-1/0000000000001F2E/0000000042-tributary.readings-2016-01-01.parquet",
            "p/segments/gw-1/0000000000001f2e/42-tributary.readings-2016-01-01.parquet",
            "p/segments/gw-1/0000000000001f2e/0000000042-tributary.secrets-2016-01-01.parquet",
            "p/segments/gw-1/0000000000001f2e/0000000042-tributary.readings-2016-02-31.parquet",
            "q/segments/gw-1/0000000000001f2e/0000000042-tributary.readings-2016-01-01.parquet",
            "p/segments/gw-1/0000000000001f2e/0000000042-tributary.readings-2016-01-01.parquet.tmp",
        ] {
            assert!(SegmentKey::parse(&prefix, key).is_err(), "{key}");
        }
        for bad in ["a//b", "a/../b", "a b", "ä"] {
            assert!(Prefix::new(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn whatever_parses_is_spelled_only_one_way(key in "(p/)?segments/[a-z./0-9-]{0,80}(\\.parquet)?") {
            let prefix = Prefix::new("p").unwrap();
            if let Ok(parsed) = SegmentKey::parse(&prefix, &key) {
                prop_assert_eq!(parsed.object_key(&prefix), key);
            }
        }

        #[test]
        fn every_key_comes_back(gw in "[A-Za-z0-9:_-]{1,128}", e in any::<u64>(), n in 1u64..=Number::MAX,
                                ns in "[a-z0-9_]{1,20}", t in 0usize..6, d in -700_000i32..2_900_000) {
            let key = SegmentKey {
                id: SegmentId { gateway: GatewayId::new(gw).unwrap(), epoch: Epoch(e), number: Number::new(n).unwrap() },
                namespace: Namespace::new(ns).unwrap(),
                table: Table::ALL[t],
                day: Day(d),
            };
            let prefix = Prefix::new("a/b").unwrap();
            prop_assert_eq!(SegmentKey::parse(&prefix, &key.object_key(&prefix)).unwrap(), key);
        }
    }
}

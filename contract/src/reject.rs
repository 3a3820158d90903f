//! Closed lists of reasons: why a message was rejected, why a segment was quarantined, why something is missing.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $code:literal : $sentence:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $code)] $variant,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [$name] = &[$($name::$variant),*];

            /// The stable code, as tables, receipts and metrics have it.
            pub const fn code(self) -> &'static str {
                match self { $($name::$variant => $code),* }
            }

            /// One sentence for the operator.
            pub const fn sentence(self) -> &'static str {
                match self { $($name::$variant => $sentence),* }
            }

            /// The reason with that code.
            pub fn from_code(code: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|r| r.code() == code)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.code())
            }
        }
    };
}

codes! {
    /// Why a message was rejected by the agent. It is acknowledged, counted, and kept within a budget.
    RejectReason {
        /// Longer than the source allows.
        TooLarge = "too-large": "The payload is longer than the source's limit.",
        /// Not in the decoder's format.
        Malformed = "malformed": "The payload isn't in the format that the source's decoder reads.",
        /// Deeper than the limit.
        TooDeep = "too-deep": "The payload nests deeper than the limit.",
        /// More readings than the limit.
        TooManyReadings = "too-many-readings": "The payload holds more readings than the limit.",
        /// A text or name longer than the limit.
        TextTooLong = "text-too-long": "A name or text in the payload is longer than the limit.",
        /// Its own time can't be read.
        BadTime = "bad-time": "The payload's time can't be read, or lies outside the years 0000 to 9999.",
        /// A required field is absent or of the wrong type.
        MissingField = "missing-field": "A field that the source's settings name is absent or of another type.",
        /// Neither topic nor payload names the device or metric.
        NoName = "no-name": "Neither topic nor payload says which device or metric it is.",
        /// Nothing in it is a reading.
        NoReading = "no-reading": "The payload holds nothing that could be a reading.",
        /// More series than the limit.
        TooManySeries = "too-many-series": "The source already has as many series as its limit allows.",
        /// The topic can't be used.
        BadTopic = "bad-topic": "The topic holds characters that can't be in a name.",
    }
}

codes! {
    /// Why the receiver set a segment aside. The object stays; a person decides.
    QuarantineReason {
        /// The key isn't a segment's.
        BadKey = "bad-key": "The object's key isn't one that a gateway would write.",
        /// Not a readable Parquet file.
        Unreadable = "unreadable": "The object isn't a readable Parquet file.",
        /// Larger than the receiver takes.
        TooLarge = "too-large": "The object, or what it would inflate to, is larger than the receiver's limit.",
        /// No manifest, or one that can't be believed.
        BadManifest = "bad-manifest": "The footer holds no manifest, or one that contradicts itself.",
        /// Written by a later format.
        FutureVersion = "future-version": "The manifest's version is newer than this receiver: upgrade the receiver.",
        /// Manifest and key disagree.
        WrongName = "wrong-name": "The manifest names another gateway, epoch, number, table or day than the key.",
        /// The bytes don't have the digest that they claim.
        WrongDigest = "wrong-digest": "The object's bytes don't have the digest in its metadata.",
        /// Columns or field ids aren't the table's.
        ForeignSchema = "foreign-schema": "The columns or field ids aren't those of the table.",
        /// The rows aren't what the manifest says.
        WrongRows = "wrong-rows": "The rows disagree with the manifest: their number, day, gateway, epoch or segment.",
        /// A second branch of a chain.
        Forked = "forked": "Another segment of this gateway already claims the same place in the chain.",
        /// Same segment id, other bytes.
        Conflict = "conflict": "A segment with the same id and another digest is already known.",
        /// The gateway was revoked.
        Revoked = "revoked": "The gateway was revoked.",
    }
}

codes! {
    /// Why something is missing from the tables.
    GapReason {
        /// Only aggregates were kept, by choice.
        Summarised = "summarised": "Raw readings were thinned to their aggregates.",
        /// The budget was full.
        Shed = "shed": "Readings were dropped because the buffer's budget was full.",
        /// Damage of the buffer.
        Torn = "torn": "Readings were lost to damage of the buffer.",
        /// The broker lost its session.
        SessionLost = "session-lost": "The broker had no session for us: what it held meanwhile is lost.",
        /// A segment number that never comes.
        VoidSegment = "void-segment": "The gateway declared segment numbers void.",
        /// The clock.
        Clock = "clock": "Event times in this range can't be trusted.",
        /// End of retention on the gateway.
        Expired = "expired": "Raw readings reached the end of their retention on the gateway.",
        /// End of retention in the table.
        Retention = "retention": "Days were dropped from the table at the end of their retention.",
        /// An operator closed the epoch.
        EpochClosed = "epoch-closed": "An operator closed the epoch: numbers that hadn't arrived never will.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_read_back() {
        for &r in RejectReason::ALL {
            assert_eq!(RejectReason::from_code(r.code()), Some(r));
        }
        for &r in QuarantineReason::ALL {
            assert_eq!(QuarantineReason::from_code(r.code()), Some(r));
            assert_eq!(serde_json::to_string(&r).unwrap(), format!("{:?}", r.code()));
        }
        for &r in GapReason::ALL {
            assert_eq!(GapReason::from_code(r.code()), Some(r));
            assert!(r.sentence().ends_with('.'));
        }
    }
}

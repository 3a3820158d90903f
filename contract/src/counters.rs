//! The two conservation laws and the counters that they bind.
//!
//! *Messages:* `received = redelivered + rejected + accepted`.
//! *Readings:* `journaled + moved_in = waiting + sealed + summarised + shed + expired + torn + moved_out` and
//! `sealed = registered + outstanding + quarantined + discarded + superseded`.
//! `waiting` and `outstanding` are computed; all others only grow, each in the transaction that does what it counts.

use serde::{Deserialize, Serialize};

/// Counters of one gateway's one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Counted per MQTT message.
    pub messages: MessageCounters,
    /// Counted per reading.
    pub readings: ReadingCounters,
}

/// What became of messages. Counts only what a source matched and a durable commit holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MessageCounters {
    /// All that came.
    pub received: u64,
    /// Recognised as a copy of a message that is stored.
    pub redelivered: u64,
    /// Undecodable; kept and counted as rejects.
    pub rejected: u64,
    /// Stored as readings (a message may hold none).
    pub accepted: u64,
}

/// What became of readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReadingCounters {
    /// Written to the journal on receipt.
    pub journaled: u64,
    /// Taken over from another epoch of this buffer.
    pub moved_in: u64,
    /// In a segment of `readings`.
    pub sealed: u64,
    /// Only in aggregates, by choice of the operator.
    pub summarised: u64,
    /// Dropped under a full budget; a gap row says so.
    pub shed: u64,
    /// Dropped at the end of their retention, never meant to be sent; a gap row says so.
    pub expired: u64,
    /// Lost to damage of the buffer; a gap row says so.
    pub torn: u64,
    /// Handed to the next epoch of this buffer.
    pub moved_out: u64,
    /// Of `sealed`: in the table, by receipt.
    pub registered: u64,
    /// Of `sealed`: refused by the receiver, waiting for a person.
    pub quarantined: u64,
    /// Of `sealed`: given up by a person.
    pub discarded: u64,
    /// Of `sealed`: another object holds the name; sealed again under another epoch.
    pub superseded: u64,
}

/// A law that does not hold: which, and by how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LawBroken {
    /// Law of messages.
    #[error("messages: received {received} is not redelivered + rejected + accepted = {accounted}")]
    Messages {
        /// Left side.
        received: u64,
        /// Right side.
        accounted: u64,
    },
    /// More readings left the journal than entered it.
    #[error("readings: {entered} entered the journal, but {left} left it")]
    Waiting {
        /// `journaled + moved_in`
        entered: u64,
        /// Everything on the other side but `waiting`.
        left: u64,
    },
    /// More sealed readings have an end than were sealed.
    #[error(
        "readings: {sealed} were sealed, but {ended} are registered, quarantined, discarded or superseded"
    )]
    Outstanding {
        /// Sealed.
        sealed: u64,
        /// Everything on the other side but `outstanding`.
        ended: u64,
    },
}

impl ReadingCounters {
    const fn entered(&self) -> u64 {
        self.journaled.saturating_add(self.moved_in)
    }

    const fn left(&self) -> u64 {
        self.sealed
            .saturating_add(self.summarised)
            .saturating_add(self.shed)
            .saturating_add(self.expired)
            .saturating_add(self.torn)
            .saturating_add(self.moved_out)
    }

    const fn ended(&self) -> u64 {
        self.registered
            .saturating_add(self.quarantined)
            .saturating_add(self.discarded)
            .saturating_add(self.superseded)
    }

    /// Readings in the journal that have no end yet. Zero if the law is broken.
    pub const fn waiting(&self) -> u64 {
        self.entered().saturating_sub(self.left())
    }

    /// Readings in segments that have no end yet. Zero if the law is broken.
    pub const fn outstanding(&self) -> u64 {
        self.sealed.saturating_sub(self.ended())
    }
}

impl Counters {
    /// Checks both laws.
    pub const fn check(&self) -> Result<(), LawBroken> {
        let m = &self.messages;
        let accounted = m.redelivered.saturating_add(m.rejected).saturating_add(m.accepted);
        if m.received != accounted {
            return Err(LawBroken::Messages { received: m.received, accounted });
        }
        let r = &self.readings;
        if r.entered() < r.left() {
            return Err(LawBroken::Waiting { entered: r.entered(), left: r.left() });
        }
        if r.sealed < r.ended() {
            return Err(LawBroken::Outstanding { sealed: r.sealed, ended: r.ended() });
        }
        Ok(())
    }

    /// Whether no counter is smaller than in `earlier`: counters only grow.
    pub fn grew_from(&self, earlier: &Counters) -> bool {
        self.flat().iter().zip(earlier.flat()).all(|(now, before)| *now >= before)
    }

    fn flat(&self) -> [u64; 16] {
        let (m, r) = (&self.messages, &self.readings);
        [
            m.received,
            m.redelivered,
            m.rejected,
            m.accepted,
            r.journaled,
            r.moved_in,
            r.sealed,
            r.summarised,
            r.shed,
            r.expired,
            r.torn,
            r.moved_out,
            r.registered,
            r.quarantined,
            r.discarded,
            r.superseded,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lawful() -> Counters {
        Counters {
            messages: MessageCounters { received: 10, redelivered: 2, rejected: 1, accepted: 7 },
            readings: ReadingCounters {
                journaled: 20,
                sealed: 15,
                shed: 1,
                registered: 9,
                ..Default::default()
            },
        }
    }

    #[test]
    fn waiting_and_outstanding_follow_from_the_laws() {
        let c = lawful();
        assert_eq!(c.check(), Ok(()));
        assert_eq!((c.readings.waiting(), c.readings.outstanding()), (4, 6));
    }

    #[test]
    fn each_law_is_noticed_when_broken() {
        let mut c = lawful();
        c.messages.accepted += 1;
        assert!(matches!(c.check(), Err(LawBroken::Messages { .. })));
        let mut c = lawful();
        c.readings.torn = 5;
        assert!(matches!(c.check(), Err(LawBroken::Waiting { entered: 20, left: 21 })));
        let mut c = lawful();
        c.readings.discarded = 7;
        assert!(matches!(c.check(), Err(LawBroken::Outstanding { sealed: 15, ended: 16 })));
    }

    #[test]
    fn a_counter_that_shrank_is_noticed() {
        let (before, mut now) = (lawful(), lawful());
        assert!(now.grew_from(&before));
        now.readings.superseded += 1;
        assert!(now.grew_from(&before) && !before.grew_from(&now));
    }
}

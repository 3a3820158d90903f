//! Backfill requests of the object `desired`: which stand, how far each is, and what of it could not be found. Edge: SQLite.
//!
//! A request is taken as *pending*, in the transaction that takes the document's revision. Then the journal is looked
//! through for it once, and it becomes a wish, in one transaction with what was found. From then on it ends by itself: once
//! nothing of it waits, and none of the segments that were sealed meanwhile is without receipt. A document that doesn't have
//! it any more takes it back: what isn't sealed by then stays here.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};
use tributary_contract::desired::Backfill as Request;
use tributary_contract::digest::Digest;
use tributary_contract::status::{BackfillStatus, DesiredStatus};
use tributary_contract::time::Timestamp;

use super::Buffer;
use super::backfill::{What, Wish};
use super::error::BufferError;
use super::journal::{Mark, load_batch};
use super::{int, keep};
use crate::config::HOUR;

/// The setting that keeps them.
pub(super) const DESIRED: &str = "desired";
/// Requests in the status, and stretches of time of one of them: what is kept is what an operator can still see.
const SHOWN: usize = 20;
const ABSENT: usize = 8;

/// The document that was taken last.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Taken {
    /// Its revision; 0 before the first.
    pub revision: u64,
    /// Digest of its bytes: the same document read again is none that is out of date.
    pub content: Option<Digest>,
    /// What of it isn't done, a sentence each.
    pub not_applied: Vec<String>,
}

/// A document that is to be taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Taking {
    /// What to remember of it.
    pub taken: Taken,
    /// Its requests in their order, each with the reason why it is refused, if so.
    pub requests: Vec<(Request, Option<String>)>,
}

/// What was taken of the object `desired`, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Requests {
    taken: Taken,
    /// Key of the last wish.
    last_key: u32,
    all: Vec<Standing>,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Standing {
    request: Request,
    state: State,
    #[serde(default)]
    found: Found,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Pending,
    Refused(String),
    Sending(Sending),
    Done,
}

/// A request whose readings are on their way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Sending {
    /// Key of its wish.
    key: u32,
    /// The greatest seq that it means, in the epoch of that ordinal.
    through: u64,
    ordinal: u32,
    /// Ordinal and number of the last segment sealed before it.
    after: (u32, u64),
    /// The last one that may hold some of it, once nothing waits.
    until: Option<(u32, u64)>,
}

/// What was found of a request.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
struct Found {
    asked: u64,
    already: u64,
    given_up: u64,
    absent: Vec<(Timestamp, Timestamp)>,
}

/// A look through the journal for one request, as far as it got.
#[derive(Debug)]
pub struct Look {
    request: Request,
    wish: Wish,
    ordinal: u32,
    /// The last batch that was looked at, and the last one that is to be.
    looked: i64,
    last: i64,
    /// Readings that the request means, whatever became of them, and the hours since 1970 in which they lie.
    found: u64,
    hours: BTreeSet<i64>,
}

impl Look {
    /// The request's name.
    pub fn id(&self) -> &str {
        &self.request.id
    }
}

impl Requests {
    /// As the database has them. What can't be read is taken anew from the bucket.
    pub(super) fn read(kept: Option<Vec<u8>>) -> Self {
        kept.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default()
    }

    pub(super) fn save(&self, tx: &Connection) -> Result<(), BufferError> {
        // Numbers and texts: nothing in it can fail to be JSON.
        keep(tx, DESIRED, &serde_json::to_vec(self).unwrap_or_default())
    }

    fn sending(&self) -> impl Iterator<Item = (&Standing, &Sending)> {
        self.all.iter().filter_map(|one| match &one.state {
            State::Sending(sending) => Some((one, sending)),
            State::Pending | State::Refused(_) | State::Done => None,
        })
    }

    fn each_sending(&mut self) -> impl Iterator<Item = (&Request, &mut Found, &mut Sending)> {
        self.all.iter_mut().filter_map(|one| match &mut one.state {
            State::Sending(sending) => Some((&one.request, &mut one.found, sending)),
            State::Pending | State::Refused(_) | State::Done => None,
        })
    }

    pub(super) const fn last_key(&self) -> u32 {
        self.last_key
    }

    /// What stands, as wishes.
    pub(super) fn wishes(&self) -> impl Iterator<Item = Wish> {
        self.sending().map(|(one, s)| Wish {
            key: s.key,
            through: s.through,
            what: What::Requested(one.request.clone()),
        })
    }

    /// Whether one of them means seqs of another epoch than that of `ordinal`.
    pub(super) fn are_of_another_epoch(&self, ordinal: u32) -> bool {
        self.sending().any(|(_, sending)| sending.ordinal != ordinal)
    }

    /// From now on all that stand mean everything up to `through`: rows have other seqs now, and nobody knows which of them
    /// were there when it was asked.
    pub(super) fn reach(&mut self, ordinal: u32, through: u64) {
        for (_, _, sending) in self.each_sending() {
            (sending.ordinal, sending.through) = (ordinal, through);
        }
    }

    /// `rows` that the wish of `key` means are given up.
    pub(super) fn gave_up(&mut self, key: u32, rows: u64) {
        if let Some((_, found, _)) = self.each_sending().find(|(_, _, sending)| sending.key == key) {
            found.given_up += rows;
        }
    }
}

impl Buffer {
    /// The document that was taken last, and its requests.
    pub fn desired(&self) -> (Taken, Vec<Request>) {
        let requests = self.requests.all.iter().map(|one| one.request.clone());
        (self.requests.taken.clone(), requests.collect())
    }

    /// Takes a document: its revision, and its requests, those that are new as pending ones. What it has no more is taken back.
    pub fn take_desired(&mut self, taking: &Taking) -> Result<(), BufferError> {
        self.guarded(|b| {
            let mut known: BTreeMap<&str, &Standing> =
                b.requests.all.iter().map(|one| (one.request.id.as_str(), one)).collect();
            let standing = |(request, refused): &(Request, Option<String>)| {
                let state = refused.clone().map_or(State::Pending, State::Refused);
                let new = || Standing { request: request.clone(), state, found: Found::default() };
                known.remove(request.id.as_str()).cloned().unwrap_or_else(new)
            };
            let all = taking.requests.iter().map(standing).collect();
            let taken_back = known.values().any(|one| matches!(one.state, State::Sending(_)));
            let next = Requests { taken: taking.taken.clone(), all, ..b.requests };
            b.transact(["desired: before", "desired: after"], |tx| next.save(tx))?;
            b.requests = next;
            if taken_back {
                b.count_anew()?;
            }
            Ok(())
        })
    }

    /// Begins to look through the journal for the first pending request. None if none is pending, or while event times or
    /// sealed rows aren't known yet. Nothing is durable before [`Buffer::begin_request`], and until then nothing may be
    /// sealed or given up.
    pub fn look(&mut self) -> Option<Look> {
        let pending = self.requests.all.iter().find(|one| one.state == State::Pending);
        let one = pending.filter(|_| self.settled && self.held.is_empty() && !self.poisoned)?;
        let request = one.request.clone();
        let wish = Wish {
            key: self.requests.last_key.saturating_add(1),
            through: self.newest_seq(),
            what: What::Requested(request.clone()),
        };
        let mut wishes = self.waiting.wishes().to_vec();
        wishes.push(wish.clone());
        self.waiting.wish(wishes);
        let (ordinal, last) = (self.current.ordinal, self.next_batch - 1);
        Some(Look { request, wish, ordinal, looked: i64::MIN, last, found: 0, hours: BTreeSet::new() })
    }

    /// Looks through the next batches, at most `limit`: few enough that a commit needn't wait. True once there are no more.
    pub fn look_on(&mut self, look: &mut Look, limit: usize) -> Result<bool, BufferError> {
        self.guarded(|b| {
            let Look { request, looked, last, found, hours, .. } = look;
            let batches: Vec<i64> = {
                let mut select = b.sql.prepare_cached(
                    "SELECT id FROM batch
                     WHERE id > ?3 AND id <= ?4 AND rows > 0 AND min_ts < ?2 AND max_ts >= ?1 ORDER BY id LIMIT ?5",
                )?;
                let bounds =
                    params![request.from.0, request.to.0, *looked, *last, int(limit as u64)];
                let found = select.query_map(bounds, |r| r.get(0))?;
                found.collect::<Result<_, _>>()?
            };
            for batch in &batches {
                let stored = load_batch(&b.sql, *batch)?;
                let mark = Mark::load(&b.sql, *batch, stored.span.rows)?;
                for (i, row) in (0u32..).zip(stored.rows()?) {
                    let within = row.ts >= request.from && row.ts < request.to;
                    // What was moved lies in another batch.
                    if !within || mark.moved.contains(i) || mark.shed.contains(i) {
                        continue;
                    }
                    if b.dictionary.get(row.series).is_some_and(|entry| entry.is_asked_for(request)) {
                        *found += 1;
                        hours.insert(row.ts.0.div_euclid(HOUR));
                    }
                }
                if b.waiting.keeps(*batch) {
                    b.wait_again(*batch)?;
                }
            }
            *looked = batches.last().copied().unwrap_or(*last);
            Ok(batches.len() < limit)
        })
    }

    /// Has sent what was found to be kept back, and keeps what was found, in one transaction; tells how many readings that
    /// asks for. None if something else came between: then it is to be looked for again.
    pub fn begin_request(&mut self, look: Look) -> Result<Option<u64>, BufferError> {
        self.guarded(|b| {
            let Look { request, wish, ordinal, found, hours, .. } = look;
            let mut next = b.requests.clone();
            let one = next.all.iter_mut().find(|one| one.request == request && one.state == State::Pending);
            let stands = b.waiting.wishes().contains(&wish) && ordinal == b.current.ordinal;
            let Some(one) = one.filter(|_| stands) else {
                b.count_anew()?;
                return Ok(None);
            };
            let key = wish.key;
            let asked = b.waiting.wished_by_key().get(&key).copied().unwrap_or(0);
            let absent = absent(request.from, request.to, &hours);
            one.found = Found { asked, already: found.saturating_sub(asked), given_up: 0, absent };
            one.state = if asked == 0 {
                State::Done
            } else {
                let after = (ordinal, b.current.last_number);
                State::Sending(Sending { key, through: wish.through, ordinal, after, until: None })
            };
            next.last_key = key;
            b.transact(["request: before", "request: after"], |tx| next.save(tx))?;
            b.requests = next;
            b.wish_anew()?;
            Ok(Some(asked))
        })
    }

    /// Counts anew what waits of each wish that stands.
    fn count_anew(&mut self) -> Result<(), BufferError> {
        self.wish_anew()?;
        for batch in self.waiting.wished_batches() {
            self.wait_again(batch)?;
        }
        Ok(())
    }

    /// Sets what is wished for to what is asked for here and what stands of the requests, in the order in which it was asked
    /// for: a reading counts for the first that means it.
    pub(super) fn wish_anew(&mut self) -> Result<(), BufferError> {
        let requested = self.requests.wishes().map(|wish| ((wish.key, 0), wish));
        let mut wishes: Vec<((u32, u8), Wish)> = requested.collect();
        wishes.extend(self.local_wishes()?.into_iter().map(|(after, wish)| ((after, 1), wish)));
        wishes.sort_by_key(|(order, _)| *order);
        self.waiting.wish(wishes.into_iter().map(|(_, wish)| wish).collect());
        Ok(())
    }

    /// Ends requests of which nothing waits and no segment is without receipt; gives their names.
    pub fn end_requests(&mut self) -> Result<Vec<String>, BufferError> {
        if self.requests.sending().next().is_none() {
            return Ok(Vec::new());
        }
        self.guarded(|b| {
            let waiting = b.waiting.wished_by_key();
            let mut next = b.requests.clone();
            let last = (b.current.ordinal, b.current.last_number);
            let mut ended = Vec::new();
            for (request, _, sending) in next.each_sending() {
                if waiting.contains_key(&sending.key) {
                    sending.until = None;
                    continue;
                }
                let until = *sending.until.get_or_insert(last);
                if !b.is_without_receipt(request, sending.after, until)? {
                    ended.push(request.id.clone());
                }
            }
            for one in next.all.iter_mut().filter(|one| ended.contains(&one.request.id)) {
                one.state = State::Done;
            }
            if next != b.requests {
                b.transact(["request: before its end", "request: after its end"], |tx| next.save(tx))?;
                b.requests = next;
            }
            if !ended.is_empty() {
                b.wish_anew()?;
            }
            Ok(ended)
        })
    }

    /// Whether a segment of readings of the request's namespace, sealed behind `after` and up to `until`, has no receipt.
    fn is_without_receipt(
        &self,
        request: &Request,
        after: (u32, u64),
        until: (u32, u64),
    ) -> Result<bool, BufferError> {
        let mut select = self.sql.prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM outbox
                            WHERE tbl = 'readings' AND namespace = ?5
                              AND state IN ('sealed', 'uploading', 'held', 'delivered')
                              AND (epoch, number) > (?1, ?2) AND (epoch, number) <= (?3, ?4))",
        )?;
        let namespace = request.namespace.as_str();
        let bounds = params![after.0, int(after.1), until.0, int(until.1), namespace];
        Ok(select.query_row(bounds, |r| r.get(0))?)
    }

    /// What the status says of the document that was taken last; none before the first.
    pub fn desired_status(&self) -> Option<DesiredStatus> {
        let Requests { taken, all, .. } = &self.requests;
        if taken.revision == 0 {
            return None;
        }
        let any = self.requests.sending().next().is_some();
        let waiting = if any { self.waiting.wished_by_key() } else { BTreeMap::new() };
        let ended = |one: &&Standing| matches!(one.state, State::Done | State::Refused(_));
        let (under_way, over) = (all.iter().filter(|one| !ended(one)), all.iter().rev().filter(ended));
        let shown = under_way.chain(over).take(SHOWN).map(|one| one.status(&waiting));
        Some(DesiredStatus {
            revision: taken.revision,
            refused: None,
            not_applied: taken.not_applied.clone(),
            backfills: shown.collect(),
            more_backfills: all.len().saturating_sub(SHOWN) as u64,
        })
    }
}

impl Standing {
    fn status(&self, waiting: &BTreeMap<u32, u64>) -> BackfillStatus {
        let Found { asked, already, given_up, absent } = self.found.clone();
        let (state, refused, waiting) = match &self.state {
            State::Pending => ("pending", None, 0),
            State::Refused(why) => ("refused", Some(why.clone()), 0),
            State::Sending(sending) => ("sending", None, waiting.get(&sending.key).copied().unwrap_or(0)),
            State::Done => ("done", None, 0),
        };
        let (id, state) = (self.request.id.clone(), state.to_owned());
        // A new epoch may have brought what came after the request.
        let asked = asked.max(waiting + given_up);
        BackfillStatus { id, state, refused, asked, waiting, given_up, already, absent }
    }
}

/// The stretches of `from` to `to` in which no hour has a reading, the longest ones in the order of time. `hours` are counted
/// from 1970.
fn absent(from: Timestamp, to: Timestamp, hours: &BTreeSet<i64>) -> Vec<(Timestamp, Timestamp)> {
    let (mut out, mut at) = (Vec::new(), from);
    for hour in hours {
        let begin = Timestamp(hour.saturating_mul(HOUR));
        if begin > at {
            out.push((at, begin));
        }
        at = at.max(begin.plus(HOUR));
    }
    if at < to {
        out.push((at, to));
    }
    out.sort_by_key(|(from, to)| std::cmp::Reverse(to.since(*from)));
    out.truncate(ABSENT);
    out.sort();
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hours_without_a_reading_are_named_and_of_many_the_longest() {
        let at = |hours: i64| Timestamp(hours * HOUR);
        let of = |from, to, hours: &[i64]| absent(from, to, &hours.iter().copied().collect());
        assert_eq!(of(at(2), at(5), &[]), [(at(2), at(5))]);
        assert_eq!(of(at(2), at(5), &[2, 3, 4]), []);
        // An hour that is only partly asked for is there where any reading of the part is.
        let (half, late) = (at(2).plus(HOUR / 2), at(5).plus(9));
        assert_eq!(of(half, late, &[2, 4]), [(at(3), at(4)), (at(5), late)]);
        assert_eq!(of(half, late, &[3]), [(half, at(3)), (at(4), late)]);
        let (first, last) = (Timestamp(i64::MIN), Timestamp(i64::MAX));
        assert_eq!(of(first, last, &[0]), [(first, at(0)), (at(1), last)]);
        let holes: Vec<i64> = (0..40).map(|n| n * 3).chain([200]).collect();
        let found = of(at(0), at(201), &holes);
        assert_eq!(found.len(), ABSENT);
        assert!(found.contains(&(at(118), at(200))) && found.is_sorted());
    }
}

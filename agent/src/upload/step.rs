//! The upload of one segment as a pure state machine: what to ask next, and what an answer changes.

use tributary_contract::digest::Digest;
use tributary_contract::time::{DAY_MICROS, Timestamp};

use super::answer::Answer;
use super::backoff::{Backoff, Jitter};
use super::bucket::Found;
use super::classify::{Lost, Outcome};
use crate::buffer::entry::{Entry, PartDone, Progress};

/// Pauses between failed attempts: 1 s to 5 min.
pub const BACKOFF: Backoff = Backoff::new(1_000_000, 300_000_000);

/// S3 takes no more parts in one upload.
const MAX_PARTS: u64 = 10_000;

/// After a stored part the pauses begin again here, not at the first: a store that takes every part and never
/// completes must not be sent whole segments without a pause.
const ATTEMPTS_AFTER_PROGRESS: u32 = 3;

/// An entry under work: what is persisted, and the doubt that isn't. Forgetting the doubt costs a request, never data:
/// [`Task::resume`] finds one that is at least as careful.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// As it stands, or is to stand, in the outbox.
    pub entry: Entry,
    /// What has to be found out first.
    pub doubt: Doubt,
}

/// What has to be found out before anything is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// Nothing.
    None,
    /// Which parts the bucket has.
    Parts,
    /// Whether the bucket has the object, and whose it is.
    Look(Why),
}

/// Why a look is needed; it decides what an absent object, or one that isn't shown, means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The reply to a request that creates it was lost.
    ReplyLost,
    /// The multipart upload is gone.
    UploadGone,
    /// The name was taken when we came.
    NameTaken,
    /// Delivered a day ago, and no receipt since.
    NoReceipt,
    /// A receipt speaks of it in a way that doesn't fit what we know.
    Receipt,
}

/// One request to the bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Create the object in one request.
    Put,
    /// Open a multipart upload.
    CreateMultipart {
        /// Bytes of each part but the last.
        part_size: u64,
    },
    /// Ask which parts the bucket has.
    ListParts {
        /// Which upload.
        upload_id: String,
    },
    /// Send a part.
    UploadPart {
        /// Which upload.
        upload_id: String,
        /// Part number, from 1.
        number: u32,
        /// Where it begins in the file.
        offset: u64,
        /// Its bytes.
        length: u64,
    },
    /// Make the object of its parts.
    Complete {
        /// Which upload.
        upload_id: String,
        /// All parts by growing number.
        parts: Vec<PartDone>,
    },
    /// Look at the object.
    Look,
    /// Nothing to ask: delivered, or a person's or another epoch's business.
    Nothing,
}

/// What came of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The object is there: our Put or Complete was answered well.
    Stored,
    /// A multipart upload is open.
    Opened {
        /// Its id.
        upload_id: String,
        /// Bytes of each part but the last.
        part_size: u64,
    },
    /// The bucket has this part.
    PartStored(PartDone),
    /// The bucket has these parts and no others.
    Parts(Vec<PartDone>),
    /// The object is there, this is it.
    Found(Found),
    /// Anything else, classified.
    Failed {
        /// What to do about it.
        outcome: Outcome,
        /// The answer, for status and log.
        answer: Answer,
    },
}

impl Task {
    /// Takes an entry from the outbox whose last step isn't known: after a restart, or freshly sealed.
    pub fn resume(entry: Entry) -> Self {
        let doubt = match &entry.state {
            Progress::Uploading { .. } => Doubt::Parts,
            // A small question is cheaper than sending the bytes again to be told that the name is taken.
            Progress::Sealed if entry.attempts > 0 => Doubt::Look(Why::ReplyLost),
            Progress::Sealed
            | Progress::Delivered { .. }
            | Progress::Held { .. }
            | Progress::Quarantined { .. }
            | Progress::Superseded { .. } => Doubt::None,
        };
        Self { entry, doubt }
    }

    /// Takes an entry that has to be looked for, now. Once it is saved, the look survives a restart: a delivered entry
    /// whose time has come is looked for ([`unreceipted`](super::receipt::unreceipted)).
    pub fn look(mut entry: Entry, why: Why, now: Timestamp) -> Self {
        entry.next_at = now;
        Self { entry, doubt: Doubt::Look(why) }
    }

    /// Gives a held entry one more chance: a start is where an operator's repair shows.
    pub fn retry_held(mut entry: Entry, now: Timestamp) -> Self {
        if matches!(entry.state, Progress::Held { .. }) {
            entry.state = Progress::Sealed;
            return Self::look(entry, Why::ReplyLost, now);
        }
        Self::resume(entry)
    }

    /// What to remember of this task until its entry is due again; `None` when nothing is left to send. That nothing is
    /// in doubt is worth remembering, too: an object that was found absent would else be looked for again each time its
    /// pause is over, and never be sent.
    pub fn kept(&self) -> Option<Doubt> {
        let unsent = matches!(self.entry.state, Progress::Sealed | Progress::Uploading { .. });
        (unsent || self.doubt != Doubt::None).then_some(self.doubt)
    }
}

/// What to ask next. `part_size` (bytes) is both the greatest object sent in one request and the size of parts of an
/// upload that is opened now; one that is open keeps its own.
pub fn next_step(task: &Task, part_size: u64) -> Step {
    let entry = &task.entry;
    match (&entry.state, task.doubt) {
        (Progress::Quarantined { .. } | Progress::Superseded { .. }, _) => Step::Nothing,
        (
            Progress::Sealed
            | Progress::Uploading { .. }
            | Progress::Delivered { .. }
            | Progress::Held { .. },
            Doubt::Look(_),
        ) => Step::Look,
        (Progress::Sealed, Doubt::None | Doubt::Parts) => {
            if entry.size <= part_size {
                Step::Put
            } else {
                Step::CreateMultipart { part_size: part_size.max(entry.size.div_ceil(MAX_PARTS)).max(1) }
            }
        }
        (Progress::Uploading { upload_id, .. }, Doubt::Parts) => {
            Step::ListParts { upload_id: upload_id.clone() }
        }
        (Progress::Uploading { upload_id, part_size, parts }, Doubt::None) => {
            let missing = expected_parts(entry.size, *part_size)
                .find(|(number, _, _)| !parts.iter().any(|p| p.number == *number));
            match missing {
                Some((number, offset, length)) => {
                    Step::UploadPart { upload_id: upload_id.clone(), number, offset, length }
                }
                None => Step::Complete { upload_id: upload_id.clone(), parts: parts.clone() },
            }
        }
        (Progress::Delivered { .. } | Progress::Held { .. }, Doubt::None | Doubt::Parts) => Step::Nothing,
    }
}

/// The entry after `event`, which came at `now`. Pure; the caller saves it before the next step.
pub fn advance(task: &Task, event: &Event, now: Timestamp, jitter: Jitter) -> Task {
    let entry = task.entry.clone();
    if matches!(entry.state, Progress::Quarantined { .. } | Progress::Superseded { .. }) {
        return task.clone();
    }
    match event {
        Event::Stored => delivered(entry, now),
        Event::Opened { upload_id, part_size } => match entry.state {
            Progress::Sealed => {
                let state = Progress::Uploading {
                    upload_id: upload_id.clone(),
                    part_size: (*part_size).max(1),
                    parts: Vec::new(),
                };
                Task { entry: Entry { state, next_at: now, ..entry }, doubt: Doubt::None }
            }
            _ => task.clone(),
        },
        Event::PartStored(part) => match entry.state {
            Progress::Uploading { upload_id, part_size, mut parts } => {
                parts.retain(|p| p.number != part.number);
                parts.push(part.clone());
                parts.sort_by_key(|p| p.number);
                let state = Progress::Uploading { upload_id, part_size, parts };
                let attempts = entry.attempts.min(ATTEMPTS_AFTER_PROGRESS);
                Task { entry: Entry { state, attempts, next_at: now, ..entry }, doubt: Doubt::None }
            }
            _ => task.clone(),
        },
        Event::Parts(known) => match entry.state {
            // The bucket's list replaces ours: what it doesn't have is sent again, whatever we believed.
            Progress::Uploading { upload_id, part_size, .. } => {
                let parts = expected_parts(entry.size, part_size)
                    .filter_map(|(number, _, length)| {
                        known.iter().find(|p| p.number == number && p.size == length).cloned()
                    })
                    .collect();
                let state = Progress::Uploading { upload_id, part_size, parts };
                Task { entry: Entry { state, next_at: now, ..entry }, doubt: Doubt::None }
            }
            _ => task.clone(),
        },
        Event::Found(found) => found_object(entry, found, now),
        Event::Failed { outcome, answer } => failed(task, *outcome, answer, now, jitter),
    }
}

/// Part numbers, offsets and lengths of an object of `size` bytes.
fn expected_parts(size: u64, part_size: u64) -> impl Iterator<Item = (u32, u64, u64)> {
    let part_size = part_size.max(1);
    (1u32..).zip(0..size.div_ceil(part_size)).map(move |(number, i)| {
        let offset = i * part_size;
        (number, offset, part_size.min(size - offset))
    })
}

fn delivered(entry: Entry, now: Timestamp) -> Task {
    // An earlier time of delivery stays: a look that finds it again delivers nothing.
    let at = if let Progress::Delivered { at } = entry.state { at } else { now };
    let next_at = now.plus(DAY_MICROS);
    Task {
        entry: Entry { state: Progress::Delivered { at }, attempts: 0, next_at, ..entry },
        doubt: Doubt::None,
    }
}

fn found_object(entry: Entry, found: &Found, now: Timestamp) -> Task {
    match found.digest {
        Some(digest) if digest == entry.digest => delivered(entry, now),
        Some(digest) => {
            let reason = another_object(digest, found.size, &entry);
            Task { entry: Entry { state: Progress::Superseded { reason }, ..entry }, doubt: Doubt::None }
        }
        // Nothing is known that wasn't: what was delivered stays so, and is looked for again tomorrow.
        None if matches!(entry.state, Progress::Delivered { .. }) => delivered(entry, now),
        // It may well be ours: to seal its rows again could count them twice, to call it delivered could lose them.
        None => {
            let reason = format!(
                "an object with this name and no digest is in the bucket ({} bytes, ours has {}): look who wrote \
                 it, and whether the store keeps object metadata",
                found.size, entry.size
            );
            held(entry, reason)
        }
    }
}

fn another_object(digest: Digest, size: u64, entry: &Entry) -> String {
    format!(
        "another object holds the name: {size} bytes with digest {digest}, ours has {} bytes and {}",
        entry.size, entry.digest
    )
}

fn held(entry: Entry, reason: String) -> Task {
    Task { entry: Entry { state: Progress::Held { reason }, ..entry }, doubt: Doubt::None }
}

fn failed(task: &Task, outcome: Outcome, answer: &Answer, now: Timestamp, jitter: Jitter) -> Task {
    let entry = task.entry.clone();
    let attempts = entry.attempts.saturating_add(1);
    let pause = BACKOFF.delay(attempts, jitter);
    let later =
        |doubt| Task { entry: Entry { attempts, next_at: now.plus(pause), ..task.entry.clone() }, doubt };
    // Asked of something else than the object, these say what they always say.
    let looking = if let Doubt::Look(why) = task.doubt { Some(why) } else { None };
    match outcome {
        Outcome::Again | Outcome::Later => later(task.doubt),
        Outcome::LookFirst(Lost::Reply) => later(Doubt::Look(Why::ReplyLost)),
        Outcome::LookFirst(Lost::Upload) => {
            Task { entry: Entry { attempts, next_at: now, ..entry }, doubt: Doubt::Look(Why::UploadGone) }
        }
        Outcome::Conflict => {
            Task { entry: Entry { attempts, next_at: now, ..entry }, doubt: Doubt::Look(Why::NameTaken) }
        }
        Outcome::Absent => match looking {
            Some(why) => absent(entry, why, now, jitter),
            None => later(task.doubt),
        },
        Outcome::Unknown => match looking {
            // It is there, and we may not see whose it is. Only the operator can change that.
            Some(Why::NameTaken) | None => later(task.doubt),
            // No hint that anything is wrong: ask again tomorrow.
            Some(Why::NoReceipt) => {
                Task { entry: Entry { next_at: now.plus(DAY_MICROS), ..entry }, doubt: Doubt::None }
            }
            // Sending it create-only is harmless if it is there, and the only cure if it isn't.
            Some(why @ (Why::ReplyLost | Why::UploadGone | Why::Receipt)) => absent(entry, why, now, jitter),
        },
        Outcome::Refused => match entry.state {
            Progress::Sealed | Progress::Uploading { .. } => held(entry, answer.to_string()),
            // A refused look changes nothing about what is delivered or set aside.
            _ => later(task.doubt),
        },
        Outcome::Stop => {
            Task { entry: Entry { next_at: now.plus(BACKOFF.longest()), ..entry }, doubt: task.doubt }
        }
    }
}

/// The object isn't there: what has to be sent, and when.
fn absent(entry: Entry, why: Why, now: Timestamp, jitter: Jitter) -> Task {
    // A first failure's pause is over when the look comes; a row of them must not become a loop without pauses.
    let pause = if entry.attempts <= 1 { 0 } else { BACKOFF.delay(entry.attempts, jitter) };
    let next_at = now.plus(pause);
    match entry.state {
        Progress::Uploading { .. } if why != Why::UploadGone => {
            Task { entry: Entry { next_at, ..entry }, doubt: Doubt::Parts }
        }
        Progress::Sealed | Progress::Uploading { .. } | Progress::Delivered { .. } => {
            Task { entry: Entry { state: Progress::Sealed, next_at, ..entry }, doubt: Doubt::None }
        }
        Progress::Held { .. } | Progress::Quarantined { .. } | Progress::Superseded { .. } => {
            Task { entry, doubt: Doubt::None }
        }
    }
}

#[cfg(test)]
mod tests;

//! How full the buffer is, and what follows: what must leave the journal, what may be sealed, whether intake must rest.
//!
//! Measured are the files as they are. A page that the database freed isn't a byte that the file system has again: the
//! file never shrinks, but takes its free pages before it grows. So the budget is parted. The journal has a fixed share,
//! of which the pages *in use* count, and thinning makes pages free; the rest is for segments, whose files really go.
//! Where the file must not grow (the disk has too little left, or the whole has reached the budget), the journal lives on
//! in the pages that it has, and some of them are kept free.
//!
//! While the bucket is away, readings wait in the journal rather than in segments: a segment can't be shed reading by
//! reading and by priority, and whether the bucket has it already isn't known for sure. So only a small part of the budget
//! is ever sealed ahead of the link.

use std::fmt;

/// Bytes free on the file system below which files must not grow, whatever the settings say.
const FLOOR: u64 = 4 << 20;
/// What the write-ahead log takes at most in the ordinary course, bytes: it is written back at 2,000 pages.
const LOG: u64 = 5 << 19;
/// What it has taken where it no longer grows in the ordinary course, bytes.
const LOG_GROWN: u64 = 15 << 17;
/// Below this much free on the disk no commit is tried, bytes: what makes room and a start need some, too.
const LEAST_COMMIT: u64 = 512 << 10;
/// Below this much, beside what the log may grow, nothing is sealed as long as there is anything to deliver, bytes.
const LEAST_SEALING: u64 = 2 << 20;
/// What the database keeps free in its file from there on, bytes: twice what a commit takes.
const LAST_SPARE: u64 = 2 << 20;
/// So much above what must stay free on the disk, each commit is to be judged, bytes: a flood writes it in seconds.
const CLOSE: u64 = 8 << 20;
/// The least that a segment is made for, bytes.
const LEAST_SEGMENT: u64 = 64 << 10;
/// The least room in the database that is kept free when its file must not grow, bytes.
const LEAST_SPARE: u64 = 256 << 10;

/// What disk and database say at one moment, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sizes {
    /// The database's file.
    pub database: u64,
    /// Of it, pages that hold nothing.
    pub reusable: u64,
    /// The write-ahead log.
    pub log: u64,
    /// All segment files.
    pub segments: u64,
    /// Of these, readings that the bucket doesn't have.
    pub undelivered: u64,
    /// Of these, aggregates that nobody has tried to send yet.
    pub aggregates: u64,
    /// Everything else in the folder but the ballast.
    pub other: u64,
    /// Free on the file system; none where that isn't known.
    pub disk_free: Option<u64>,
}

/// What the operator set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The budget, bytes.
    pub max_bytes: u64,
    /// What must stay free on the file system, bytes.
    pub min_free: u64,
    /// Whether there are windows, so that aggregates need room too.
    pub windows: bool,
    /// The greatest segment, bytes.
    pub segment: u64,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verdict {
    /// Bytes that must leave the journal.
    pub journal: u64,
    /// Bytes of aggregates that must go.
    pub aggregates: u64,
    /// The bytes that the next segment of readings may have; none while readings wait in the journal.
    pub segment: Option<u64>,
    /// Whether segments, of whatever table, may be written.
    pub seals: bool,
    /// Whether the disk is so near its end that each commit is to be judged.
    pub close: bool,
    /// Why intake must rest, if it must.
    pub stop: Option<Stop>,
}

/// Why nothing is taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The budget is used up, and nothing can be given up as fast as more comes.
    Budget {
        /// Bytes in use.
        has: u64,
        /// The budget.
        may: u64,
    },
    /// The disk is full, and nothing in the database can be given up as fast as more comes.
    Disk {
        /// Free bytes.
        has: u64,
        /// What must stay free.
        least: u64,
    },
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |n: u64| bytesize::ByteSize(n).display().iec().to_string();
        match self {
            Self::Budget { has, may } => write!(
                f,
                "the buffer holds {}, its budget is {}: nothing is taken in until some is delivered or can be thinned",
                show(*has),
                show(*may)
            ),
            Self::Disk { has, least } => write!(
                f,
                "the disk has {} free, it must keep {}: nothing is taken in until there is more",
                show(*has),
                show(*least)
            ),
        }
    }
}

impl Limits {
    /// Bytes of the disk that must stay free.
    fn stays_free(&self) -> u64 {
        self.min_free.max(FLOOR)
    }
}

impl Sizes {
    /// Bytes of all files but the ballast.
    pub const fn files(&self) -> u64 {
        self.database.saturating_add(self.log).saturating_add(self.segments).saturating_add(self.other)
    }

    /// Bytes in use: without the database's free pages.
    pub const fn in_use(&self) -> u64 {
        self.files().saturating_sub(self.reusable)
    }
}

/// Judges `sizes`. `resting`: intake rests already; it does so until there is room again, not only until there is a
/// little less than too much.
pub fn judge(sizes: &Sizes, limits: &Limits, resting: bool) -> Verdict {
    let room = limits.max_bytes.saturating_sub(sizes.other);
    let for_segments = if limits.windows { room / 8 * 3 } else { room / 8 };
    let share = room.saturating_sub(for_segments).saturating_sub(sizes.log.max(LOG));
    let least = limits.stays_free();
    let disk_short = sizes.disk_free.is_some_and(|free| free < least);
    let grows = !disk_short && sizes.files() < limits.max_bytes;

    let live = sizes.database.saturating_sub(sizes.reusable);
    // A commit is appended to the log: until that has its size, it needs room of the disk.
    let growth = LOG_GROWN.saturating_sub(sizes.log);
    let less_than = |bytes: u64| sizes.disk_free.is_some_and(|free| free < bytes);
    let at_the_end = less_than(LEAST_SEALING + growth);
    let spare = (sizes.database / 16).max(LEAST_SPARE);
    let spare = if at_the_end { spare.max(LAST_SPARE.min(sizes.database / 2)) } else { spare };
    let of_share = share / 8 * 7;
    let (limit, most) = if grows {
        (of_share, share)
    } else {
        let held = sizes.database.saturating_sub(spare);
        (of_share.min(held), share.min(held.saturating_add(spare / 2)))
    };
    let commit = growth.max(LEAST_COMMIT);
    let no_commit = less_than(commit);
    // Down to a sixteenth below the limit: what is thinned a little at a time costs a transaction a little. Where no
    // commit has room, nothing that leaves the journal would help.
    let journal = if live > limit && !no_commit { live - (limit - limit / 16) } else { 0 };
    let full =
        live > most || no_commit || (resting && (live > limit || less_than(commit + LEAST_COMMIT / 2)));
    let stop = full.then_some(match (disk_short, sizes.disk_free) {
        (true, Some(has)) => Stop::Disk { has, least },
        _ => Stop::Budget { has: sizes.in_use(), may: limits.max_bytes },
    });

    let too_much = sizes.segments.saturating_sub(for_segments);
    let aggregates =
        if too_much > 0 { too_much.saturating_add(for_segments / 16).min(sizes.aggregates) } else { 0 };
    let seals = sizes.segments == 0 || !at_the_end;
    let close = less_than(least.saturating_add(CLOSE));
    let segment = segment(sizes, limits, room, for_segments, grows);
    Verdict { journal, aggregates, segment, seals, close, stop }
}

/// How great the next segment of readings may be.
fn segment(sizes: &Sizes, limits: &Limits, room: u64, for_segments: u64, grows: bool) -> Option<u64> {
    let great = limits.segment.min(room / 32).max(LEAST_SEGMENT);
    let least = limits.stays_free();
    if grows && sizes.disk_free.is_none_or(|free| free >= least.saturating_add(great)) {
        // Of a disk that is smaller than the budget, too, only a small part is sealed ahead.
        let room = sizes
            .disk_free
            .map_or(room, |free| room.min(sizes.files().saturating_add(free.saturating_sub(least))));
        let great = great.min(room / 32).max(LEAST_SEGMENT);
        let ahead = sizes.undelivered.saturating_add(great) <= room / 16;
        let fits = sizes.segments.saturating_add(great) <= for_segments;
        return ((ahead && fits) || sizes.segments == 0).then_some(great);
    }
    // One at a time: without it nothing would ever be delivered and let go of.
    let great = great.min(sizes.disk_free.map_or(great, |free| free / 4));
    (sizes.undelivered == 0 && great >= LEAST_SEGMENT).then_some(great)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn limits() -> Limits {
        Limits { max_bytes: 160 * MIB, min_free: 20 * MIB, windows: true, segment: 5 * MIB }
    }

    fn sizes(database: u64, reusable: u64) -> Sizes {
        Sizes {
            database: database * MIB,
            reusable: reusable * MIB,
            disk_free: Some(100 * MIB),
            ..Sizes::default()
        }
    }

    #[test]
    fn free_pages_of_the_database_count_as_room_for_the_journal_and_for_nothing_else() {
        // The journal's share is 5/8 of 160 MiB less the log, and thinning begins at 7/8 of that.
        let at = |database, reusable| judge(&sizes(database, reusable), &limits(), false);
        assert_eq!(at(85, 0), Verdict { segment: Some(5 * MIB), seals: true, ..Verdict::default() });
        let over = at(86, 0);
        assert!(over.journal > 0 && over.stop.is_none(), "{over:?}");
        assert_eq!(at(97, 12).journal, 0, "12 MiB are free inside");
        assert!(at(97, 0).stop.is_none() && at(98, 0).stop.is_some());
        let with_segments = Sizes { segments: 61 * MIB, aggregates: 50 * MIB, ..sizes(95, 90) };
        let verdict = judge(&with_segments, &limits(), false);
        assert!(verdict.aggregates >= MIB, "free pages make no room for segments: {verdict:?}");
    }

    #[test]
    fn what_was_begun_goes_on_until_there_is_room_again() {
        let (tight, well) = (sizes(90, 0), sizes(85, 0));
        assert_eq!(judge(&tight, &limits(), false).stop, None);
        assert!(judge(&tight, &limits(), true).stop.is_some());
        assert_eq!(judge(&well, &limits(), true).stop, None);
        let left = tight.database - judge(&tight, &limits(), false).journal;
        assert!(left <= 80 * MIB, "down by a sixteenth");
    }

    #[test]
    fn on_a_full_disk_the_journal_lives_on_in_the_pages_that_it_has() {
        let full = |reusable: u64| Sizes {
            reusable,
            log: 2 * MIB,
            disk_free: Some(MIB),
            undelivered: 1,
            segments: 1,
            ..sizes(32, 0)
        };
        let roomy = judge(&full(4 * MIB), &limits(), false);
        assert_eq!((roomy.journal, roomy.stop), (0, None), "there is room inside");
        let short = judge(&full(3 * MIB / 2), &limits(), false);
        assert!(short.journal > 0 && short.stop.is_none());
        let none = judge(&full(MIB / 2), &limits(), false);
        assert_eq!(none.stop, Some(Stop::Disk { has: MIB, least: 20 * MIB }));
        assert!(none.stop.unwrap().to_string().contains("must keep 20.0 MiB"), "{}", none.stop.unwrap());
        assert!(judge(&full(3 * MIB / 2), &limits(), true).stop.is_some(), "until there is room again");
    }

    #[test]
    fn a_log_that_has_still_to_grow_needs_room_of_the_disk_for_the_next_commit() {
        let at = |log: u64, free: u64, resting| {
            judge(&Sizes { log, disk_free: Some(free), ..sizes(32, 8) }, &limits(), resting).stop
        };
        assert_eq!(at(0, MIB, false), Some(Stop::Disk { has: MIB, least: 20 * MIB }));
        assert_eq!((at(MIB, MIB, false), at(2 * MIB, MIB, false)), (None, None));
        assert!(at(2 * MIB, 0, false).is_some(), "nothing is left for whatever makes room");
        assert!(at(MIB, MIB, true).is_some(), "until there is a little more");
        assert_eq!(at(MIB, 2 * MIB, true), None);
    }

    #[test]
    fn only_a_sixteenth_is_sealed_ahead_of_the_link_and_one_segment_at_a_time_on_a_full_disk() {
        let ahead = |undelivered: u64| {
            let disk_free = Some(1000 * MIB);
            let sizes = Sizes { undelivered, segments: undelivered, disk_free, ..sizes(10, 0) };
            judge(&sizes, &limits(), false).segment
        };
        assert_eq!((ahead(0), ahead(5 * MIB), ahead(6 * MIB)), (Some(5 * MIB), Some(5 * MIB), None));
        let full = |undelivered: u64, free: u64| {
            let sizes = Sizes { undelivered, segments: undelivered, disk_free: Some(free), ..sizes(10, 0) };
            judge(&sizes, &limits(), false).segment
        };
        assert_eq!(full(1, 8 * MIB), None);
        assert_eq!((full(0, 8 * MIB), full(0, 1000)), (Some(2 * MIB), None));
    }

    #[test]
    fn at_the_end_of_the_disk_each_commit_is_judged_and_one_always_finds_its_pages() {
        let tight = Limits { min_free: 0, ..limits() };
        let at = |free: u64, reusable: u64| {
            let sizes =
                Sizes { log: 2 * MIB, disk_free: Some(free), segments: 1, undelivered: 1, ..sizes(12, 0) };
            judge(&Sizes { reusable, ..sizes }, &tight, false)
        };
        assert!(!at(12 * MIB, 0).close && at(11 * MIB, 0).close);
        assert!(at(3 * MIB, MIB / 2).stop.is_none() && at(3 * MIB, MIB / 2).journal > 0);
        assert!(at(3 * MIB / 2, MIB / 2).stop.is_some(), "the next commit would need the disk");
        assert!(at(3 * MIB / 2, 3 * MIB / 2).stop.is_none() && at(3 * MIB / 2, 3 * MIB / 2).journal > 0);
        assert_eq!(at(MIB / 4, MIB / 2).journal, 0, "whatever goes, no commit has room");
    }

    #[test]
    fn a_segment_leaves_the_disk_its_room_and_the_last_of_it_is_no_segments() {
        let tight = Limits { min_free: 0, ..limits() };
        let at = |free: u64, undelivered: u64| {
            let sizes = Sizes { undelivered, segments: undelivered, disk_free: Some(free), ..sizes(10, 0) };
            let verdict = judge(&sizes, &tight, false);
            (verdict.segment, verdict.seals)
        };
        assert_eq!(at(9 * MIB, 1), (Some(15 * MIB / 32), true), "a part of what we have and may have yet");
        assert_eq!(at(8 * MIB, 1), (None, true), "it would take what must stay free");
        assert_eq!(at(8 * MIB, 0), (Some(2 * MIB), true), "one at a time");
        assert_eq!(at(MIB, 1), (None, false));
        assert_eq!(at(MIB, 0), (Some(MIB / 4), true), "else nothing would ever be delivered");
    }

    proptest! {
        #[test]
        fn a_journal_that_obeys_and_segments_that_obey_stay_within_the_budget(
            max in 16u64..4096, other in 0u64..8, log in 0u64..3, reusable in 0u64..100,
            database in 0u64..4096, segments in 0u64..4096, windows: bool, resting: bool,
        ) {
            let limits = Limits { max_bytes: max * MIB, min_free: 0, windows, segment: 5 * MIB };
            let sizes = Sizes {
                database: database * MIB, reusable: reusable.min(database) * MIB, log: log * MIB,
                segments: segments * MIB, aggregates: segments * MIB, other: other * MIB,
                disk_free: None, undelivered: 0,
            };
            let verdict = judge(&sizes, &limits, resting);
            let live = sizes.database - sizes.reusable;
            prop_assert!(verdict.journal <= live);
            if let Some(Stop::Budget { .. }) = verdict.stop {
                prop_assert!(verdict.journal > 0, "intake rests only where something has to go");
            }
            // Without a stop, without a debt of either share, and without free pages, all files fit.
            if verdict.stop.is_none() && sizes.reusable == 0 && sizes.segments <= limits.max_bytes / 8 {
                prop_assert!(sizes.files() <= limits.max_bytes, "{sizes:?} {verdict:?}");
            }
            if sizes.segments > 0 && verdict.segment.is_some_and(|s| s > 64 << 10) && sizes.files() < limits.max_bytes {
                prop_assert!(sizes.segments + verdict.segment.unwrap() <= limits.max_bytes / 8 * 3);
            }
        }
    }
}

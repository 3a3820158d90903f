//! What is remembered of one broker's messages, and the judgement of the next one by it.

use std::collections::{HashMap, VecDeque};

use tributary_contract::time::Timestamp;

use super::ids::Ids;
use super::{Arriving, BrokerTraits, Judgement, Kind, Remembered, Rule};

/// A broker that gives an id again within so many messages is taken to reuse ids at once.
const SOON: u64 = 4096;

/// Entries for which room is made at once, at least.
const LEAST_ROOM: usize = 256;

/// What is kept of a message: 24 bytes, for there are 100,000 of them.
#[derive(Debug, Clone)]
struct Entry {
    hash: u64,
    at: Timestamp,
    packet_id: u16,
    kind: Kind,
    /// Number of its [`Run`].
    run: u32,
}

/// The connection that brought some messages one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    /// Number of the connection since the start; what was restored is of life 0.
    life: u32,
    generation: u64,
}

/// Messages of one content. Counts are enough: copies of equal messages are equal too.
#[derive(Debug, Clone, Copy, Default)]
struct Group {
    /// The life of the connection that `current` and `absorbed` speak of.
    life: u32,
    /// Remembered from earlier lives.
    earlier: u32,
    /// Remembered from this life.
    current: u32,
    /// Copies of earlier ones absorbed in this life.
    absorbed: u32,
}

/// One broker's.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    traits: BrokerTraits,
    /// Generation of the live connection; 0 before the first.
    generation: u64,
    /// Number of the live connection since the start; what was restored is of life 0.
    life: u32,
    connected_at: Option<Timestamp>,
    /// Whether all that the present session delivered is remembered, but for what was acknowledged long ago.
    intact: bool,
    /// In order of arrival; the front has the ordinal `first`.
    entries: VecDeque<Entry>,
    first: u64,
    /// Of the entries, oldest first; the front has the number `first_run`.
    runs: VecDeque<Run>,
    first_run: u32,
    /// Ordinals below this are in a batch that was handed over: their acknowledgements may have been sent.
    handed_over: u64,
    /// The same, one and two batches ago.
    handed_over_before: [u64; 2],
    content: HashMap<u64, Group>,
    /// Ordinal of the last message remembered under each id.
    by_id: Ids,
    /// Hash of the copy absorbed by content under each id in this life.
    absorbed_ids: HashMap<u16, u64>,
    /// Messages without own time that may come again without DUP; `None` once the head of the connection is over.
    head: Option<HashMap<u64, u32>>,
    reuses_ids: bool,
}

impl Connection {
    pub(super) fn new(traits: BrokerTraits) -> Self {
        Self {
            traits,
            generation: 0,
            life: 0,
            connected_at: None,
            intact: false,
            entries: VecDeque::new(),
            first: 0,
            runs: VecDeque::new(),
            first_run: 0,
            handed_over: 0,
            handed_over_before: [0; 2],
            content: HashMap::new(),
            by_id: Ids::default(),
            absorbed_ids: HashMap::new(),
            head: None,
            reuses_ids: false,
        }
    }

    /// The journal lost some of its past.
    pub(super) const fn doubt_past(&mut self) {
        self.intact = false;
    }

    /// How many messages the broker may have on the way to us from now on.
    pub(super) fn set_window(&mut self, inflight_window: u16) {
        self.traits.inflight_window = inflight_window.max(1);
    }

    /// The wall clock stepped by `by` microseconds.
    pub(super) fn clock_stepped(&mut self, by: i64) {
        self.connected_at = self.connected_at.map(|at| at.plus(by));
        self.entries.iter_mut().for_each(|entry| entry.at = entry.at.plus(by));
    }

    /// What was remembered under an id is acknowledged.
    pub(super) fn forget_id(&mut self, packet_id: u16) {
        self.by_id.remove(packet_id);
        self.absorbed_ids.remove(&packet_id);
    }

    /// How many messages are remembered.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Remembers a message of the live connection.
    pub(super) fn remember(&mut self, r: &Remembered) {
        self.push(self.life, r);
    }

    fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    pub(super) fn hand_over(&mut self) {
        let next = self.next();
        if next > self.handed_over {
            let [before, _] = self.handed_over_before;
            self.handed_over_before = [self.handed_over, before];
            self.handed_over = next;
        }
    }

    /// How many messages the last two batches and the one being collected hold.
    fn last_batches(&self) -> usize {
        usize::try_from(self.next() - self.handed_over_before[1]).unwrap_or(usize::MAX)
    }

    /// How many of the last messages the broker may not know to be acknowledged.
    fn unacknowledged(&self) -> usize {
        self.last_batches().max(usize::from(self.traits.inflight_window))
    }

    fn entry(&self, ordinal: u64) -> Option<&Entry> {
        let at = usize::try_from(ordinal.checked_sub(self.first)?).ok()?;
        self.entries.get(at)
    }

    /// The message remembered last under a packet id, with its ordinal.
    fn last_under(&self, packet_id: u16) -> Option<(u64, &Entry)> {
        let ordinal = self.by_id.get(packet_id, self.first)?;
        Some((ordinal, self.entry(ordinal)?))
    }

    /// The connection that brought an entry.
    fn run(&self, entry: &Entry) -> Option<Run> {
        self.runs.get(entry.run.wrapping_sub(self.first_run) as usize).copied()
    }

    fn generation_of(&self, entry: &Entry) -> Option<u64> {
        self.run(entry).map(|run| run.generation)
    }

    pub(super) fn restore(&mut self, r: &Remembered, limit: usize) {
        self.intact = true;
        if r.kind == Kind::SessionBegan {
            self.begin_session();
        } else {
            self.note_reuse(r.packet_id, r.generation);
            self.push(0, r);
            while self.entries.len() > limit {
                self.drop_front();
            }
        }
    }

    pub(super) fn connect(&mut self, generation: u64, at: Timestamp) {
        self.generation = generation;
        self.life += 1;
        self.connected_at = Some(at);
        self.absorbed_ids.clear();
        self.head = Some(self.may_come_again());
    }

    /// The newest messages without own time that the broker may still have on the way, with how many of each. Copies that
    /// a flapping connection brought over and over are one message: else they would push out what is still to come.
    fn may_come_again(&self) -> HashMap<u64, u32> {
        let (window, batches) = (usize::from(self.traits.inflight_window), self.last_batches());
        let mut brought: HashMap<(Option<u64>, u64), u32> = HashMap::new();
        let mut messages: HashMap<u64, u32> = HashMap::new();
        let mut counted = 0;
        for (walked, entry) in self.entries.iter().rev().enumerate() {
            if counted >= window && walked >= batches {
                break;
            }
            match entry.kind {
                Kind::SessionBegan => {}
                Kind::Content => counted += 1,
                Kind::Session => {
                    let by_connection = brought.entry((self.generation_of(entry), entry.hash)).or_insert(0);
                    *by_connection += 1;
                    let most = messages.entry(entry.hash).or_insert(0);
                    if *by_connection > *most {
                        *most = *by_connection;
                        counted += 1;
                    }
                }
            }
        }
        messages
    }

    pub(super) fn begin_session(&mut self) {
        self.by_id.clear();
        self.absorbed_ids.clear();
        self.head = None;
        self.intact = true;
        self.reuses_ids = false;
    }

    fn push(&mut self, life: u32, r: &Remembered) {
        match r.kind {
            Kind::Content => {
                let group = self.content.entry(r.hash).or_default();
                group.roll(self.life);
                if life == self.life && life > 0 {
                    group.current += 1;
                } else {
                    group.earlier += 1;
                }
            }
            Kind::Session | Kind::SessionBegan => {}
        }
        self.by_id.insert(r.packet_id, self.next());
        let run = Run { life, generation: r.generation };
        if self.runs.back() != Some(&run) {
            self.runs.push_back(run);
        }
        // There are fewer runs than entries, and far fewer entries than that.
        let run = self.first_run.wrapping_add(self.runs.len().saturating_sub(1) as u32);
        if self.entries.len() == self.entries.capacity() {
            // Doubled, half of the room would lie idle.
            self.entries.reserve_exact((self.entries.len() / 4).max(LEAST_ROOM));
        }
        self.entries.push_back(Entry { hash: r.hash, at: r.at, packet_id: r.packet_id, kind: r.kind, run });
    }

    pub(super) fn trim(&mut self, now: Timestamp, window: i64, messages: usize) {
        let always = usize::from(self.traits.inflight_window).saturating_mul(2);
        while let Some(oldest) = self.entries.front() {
            let since = self.connected_at.map_or(oldest.at, |connected| connected.max(oldest.at));
            let expired = self.entries.len() > always && now.since(since) > window;
            if !expired && self.entries.len() <= messages {
                break;
            }
            self.drop_front();
        }
    }

    fn drop_front(&mut self) {
        let Some(entry) = self.entries.pop_front() else { return };
        let life = self.run(&entry).map_or(0, |run| run.life);
        if self.by_id.get(entry.packet_id, self.first) == Some(self.first) {
            self.by_id.remove(entry.packet_id);
        }
        self.first += 1;
        let runs = self
            .entries
            .front()
            .map_or(self.runs.len(), |oldest| oldest.run.wrapping_sub(self.first_run) as usize);
        self.runs.drain(..runs.min(self.runs.len()));
        self.first_run = self.first_run.wrapping_add(runs as u32);
        if entry.kind == Kind::Content
            && let Some(group) = self.content.get_mut(&entry.hash)
        {
            group.roll(self.life);
            if life == self.life && life > 0 {
                group.current = group.current.saturating_sub(1);
            } else {
                // The oldest is the one that absorbed first.
                group.earlier = group.earlier.saturating_sub(1);
                group.absorbed = group.absorbed.saturating_sub(1);
            }
            if group.earlier == 0 && group.current == 0 {
                self.content.remove(&entry.hash);
            }
        }
    }

    fn note_reuse(&mut self, packet_id: u16, generation: u64) {
        if let Some((ordinal, before)) = self.last_under(packet_id)
            && self.generation_of(before) == Some(generation)
            && self.next() - ordinal < SOON
        {
            self.reuses_ids = true;
        }
    }

    pub(super) fn judge(&mut self, arriving: &Arriving) -> Judgement {
        let resent = self.was_brought_by(arriving);
        let judgement = if arriving.own_time { self.by_content(arriving) } else { self.by_session(arriving) };
        if arriving.dup {
            if !resent {
                self.head = None;
            }
        } else {
            self.note_reuse(arriving.packet_id, arriving.generation);
            self.by_id.remove(arriving.packet_id);
            if judgement == Judgement::Fresh {
                self.head = None;
            }
        }
        judgement
    }

    /// Whether the live connection itself brought this message before: DUP then says how the broker repeats itself, and
    /// nothing of how it marks copies of what earlier connections brought.
    fn was_brought_by(&self, arriving: &Arriving) -> bool {
        let known = self.last_under(arriving.packet_id).map(|(_, entry)| entry);
        let same = |e: &Entry| e.hash == arriving.hash && self.generation_of(e) == Some(arriving.generation);
        known.is_some_and(same) || self.absorbed_ids.get(&arriving.packet_id) == Some(&arriving.hash)
    }

    fn by_session(&mut self, arriving: &Arriving) -> Judgement {
        if arriving.dup {
            let Some((ordinal, entry)) = self.last_under(arriving.packet_id) else {
                return if self.may_be_resent(arriving) {
                    Judgement::PossibleDuplicate
                } else {
                    self.unknown_dup()
                };
            };
            // Another message had the id before: the first delivery of this one never came.
            if entry.kind != Kind::Session || entry.hash != arriving.hash {
                return if self.may_be_resent(arriving) {
                    Judgement::PossibleDuplicate
                } else {
                    Judgement::Fresh
                };
            }
            let certain = ordinal >= self.handed_over || !self.reuses_ids;
            return if certain {
                Judgement::Redelivered(Rule::Session)
            } else {
                Judgement::PossibleDuplicate
            };
        }
        let candidate =
            self.head.as_mut().and_then(|head| head.get_mut(&arriving.hash)).filter(|left| **left > 0);
        if let Some(left) = candidate {
            *left -= 1;
            return Judgement::PossibleDuplicate;
        }
        if self.may_be_resent(arriving) { Judgement::PossibleDuplicate } else { Judgement::Fresh }
    }

    /// Whether a message without own time may be one that the broker sends again, though its id doesn't say so.
    fn may_be_resent(&self, arriving: &Arriving) -> bool {
        let same = |entry: &Entry| entry.kind == Kind::Session && entry.hash == arriving.hash;
        self.traits.resends && self.entries.iter().rev().take(self.unacknowledged()).any(same)
    }

    fn by_content(&mut self, arriving: &Arriving) -> Judgement {
        let copy = Judgement::Redelivered(Rule::Content);
        let repeated = self.absorbed_ids.get(&arriving.packet_id) == Some(&arriving.hash);
        if !arriving.dup {
            self.absorbed_ids.remove(&arriving.packet_id);
        }
        let Some(group) = self.content.get_mut(&arriving.hash) else {
            return if arriving.dup { self.unknown_dup() } else { Judgement::Fresh };
        };
        group.roll(self.life);
        // An id can't name another message before it is acknowledged: DUP under it is the same copy once more.
        if arriving.dup && repeated {
            return copy;
        }
        if group.absorbed < group.earlier {
            group.absorbed += 1;
            self.absorbed_ids.insert(arriving.packet_id, arriving.hash);
            return copy;
        }
        if self.traits.resends || arriving.dup && group.current > 0 { copy } else { Judgement::Fresh }
    }

    fn unknown_dup(&self) -> Judgement {
        if self.intact { Judgement::Fresh } else { Judgement::PossibleDuplicate }
    }
}

impl Group {
    fn roll(&mut self, life: u32) {
        if self.life != life {
            self.life = life;
            self.earlier += self.current;
            self.current = 0;
            self.absorbed = 0;
        }
    }
}

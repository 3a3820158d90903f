//! What one connection passes on, when, and under which packet ids.
//!
//! Pure: frames and instants in, packets out. Both sides have ids of their own. A message of the broker keeps its id
//! towards the agent unless that is taken there, by a message of the proxy's or by one whose answer is outstanding; the
//! PUBACK goes back under the broker's id. The agent's answer to a PUBLISH that wasn't the broker's ends here, and so
//! does every answer but the first to one that was sent twice. What the broker doesn't know to be acknowledged keeps its
//! name over connections, for it comes again with DUP.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Instant;

use super::behaviour::{Behaviour, Id, Lost, Names, Of, Pace, Redelivery};
use super::wire::{self, Frame, Packet, Version, WireError};

/// Messages of a session that can be redelivered.
const REMEMBERED: usize = 2000;

/// What is known of a client over its connections.
#[derive(Debug, Default)]
pub struct Session {
    /// Messages that are unacknowledged for the broker: its id to the agent's.
    names: HashMap<u16, u16>,
    /// The agent's ids in `names`.
    taken: HashSet<u16>,
    /// QoS 1 messages that the agent was given, oldest first.
    given: VecDeque<Given>,
    /// How many were before the first of `given`.
    forgotten: u64,
}

#[derive(Debug)]
struct Given {
    id: u16,
    retain: bool,
    topic: String,
    properties: Vec<u8>,
    payload: Vec<u8>,
    answered: bool,
}

/// One open connection.
#[derive(Debug)]
pub struct Relay {
    version: Version,
    client_id: String,
    receive_maximum: u16,
    /// The last id given to the agent.
    last_id: u16,
    aliases: HashMap<u16, String>,
    /// Unanswered messages by the agent's id.
    slots: HashMap<u16, Slot>,
    /// Answers that the agent owes.
    owed: u32,
    publishes: VecDeque<Waiting>,
    to_agent: VecDeque<Vec<u8>>,
    acknowledgements: VecDeque<Held>,
    to_broker: VecDeque<Vec<u8>>,
}

#[derive(Debug)]
struct Slot {
    /// The broker's id, as long as the broker waits for its answer.
    broker: Option<u16>,
    /// Answers that the agent owes.
    owed: u32,
    /// Which of the session's messages it is.
    given: u64,
}

/// A PUBLISH that is to be passed to the agent.
#[derive(Debug)]
struct Waiting {
    read: Instant,
    what: What,
}

#[derive(Debug)]
enum What {
    Brokers(Vec<u8>),
    Again { given: u64, id: Id, dup: bool },
}

#[derive(Debug)]
struct Held {
    read: Instant,
    broker_id: u16,
    bytes: Vec<u8>,
}

/// A packet that goes to the agent now.
#[derive(Debug, PartialEq, Eq)]
pub struct Passed {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Whether it is a PUBLISH.
    pub publish: bool,
    /// The broker's id, where the agent was given another one.
    pub brokers_id: Option<u16>,
    /// Whether it is a redelivery of the proxy's.
    pub injected: bool,
}

/// What becomes of a PUBACK of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It goes on, under the broker's id.
    Passed(u16),
    /// It is lost on command; the id is the broker's.
    Lost(u16),
    /// It answers nothing of the broker's.
    Kept,
    /// It answers nothing at all, and goes on unchanged: the fault is the agent's, and the broker shall see it.
    Unmatched,
}

/// Whether, or when, the next packet may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next<T> {
    /// This now.
    Now(T),
    /// The next one at that instant.
    At(Instant),
    /// Nothing before something else happens.
    Wait,
}

impl Default for Relay {
    fn default() -> Self {
        Self {
            version: Version::V3,
            client_id: String::new(),
            receive_maximum: u16::MAX,
            last_id: 0,
            aliases: HashMap::new(),
            slots: HashMap::new(),
            owed: 0,
            publishes: VecDeque::new(),
            to_agent: VecDeque::new(),
            acknowledgements: VecDeque::new(),
            to_broker: VecDeque::new(),
        }
    }
}

impl Relay {
    /// The name of the agent's session, empty before its CONNECT.
    #[must_use]
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// PUBLISH packets that wait.
    #[must_use]
    pub fn publishes_waiting(&self) -> u64 {
        self.publishes.len() as u64
    }

    /// PUBACKs of the agent that wait.
    #[must_use]
    pub fn acknowledgements_waiting(&self) -> u64 {
        self.acknowledgements.len() as u64
    }

    /// Takes in one packet of the broker.
    ///
    /// # Errors
    /// When it breaks the rules of MQTT.
    pub fn take_brokers(
        &mut self,
        session: &mut Session,
        frame: Frame<'_>,
        now: Instant,
    ) -> Result<(), WireError> {
        match wire::decode(frame, self.version)? {
            Packet::Publish { .. } => {
                let bytes = wire::packet(frame.first, frame.body);
                self.publishes.push_back(Waiting { read: now, what: What::Brokers(bytes) });
            }
            packet => {
                if let Packet::Connack { session_present: false, .. } = packet {
                    let forgotten = session.forgotten + session.given.len() as u64;
                    *session = Session { forgotten, ..Session::default() };
                }
                self.to_agent.push_back(wire::packet(frame.first, frame.body));
            }
        }
        Ok(())
    }

    /// Takes in one packet of the agent. Tells what becomes of it where it is a PUBACK; `answers` were passed
    /// or lost before it.
    ///
    /// # Errors
    /// When it breaks the rules of MQTT.
    pub fn take_agents(
        &mut self,
        session: &mut Session,
        frame: Frame<'_>,
        behaviour: &Behaviour,
        answers: u64,
        now: Instant,
    ) -> Result<Option<Answer>, WireError> {
        let mut bytes = None;
        match wire::decode(frame, self.version)? {
            Packet::Connect { version, client_id, receive_maximum, .. } => {
                self.version = version;
                client_id.clone_into(&mut self.client_id);
                self.receive_maximum = receive_maximum.max(1);
            }
            Packet::Puback { packet_id, .. } => {
                let answer = self.answered(session, packet_id, behaviour.lost_acknowledgements, answers);
                if let Answer::Passed(broker_id) = answer {
                    let bytes = wire::renamed(frame, broker_id, false);
                    self.acknowledgements.push_back(Held { read: now, broker_id, bytes });
                }
                if answer == Answer::Unmatched {
                    self.to_broker.push_back(wire::packet(frame.first, frame.body));
                }
                return Ok(Some(answer));
            }
            Packet::Subscribe { .. } if behaviour.retained_at_each_subscribe => {
                bytes = Some(wire::with_retained(frame, self.version)?);
            }
            _ => {}
        }
        self.to_broker.push_back(bytes.unwrap_or_else(|| wire::packet(frame.first, frame.body)));
        Ok(None)
    }

    fn answered(&mut self, session: &mut Session, id: u16, lost: Lost, answers: u64) -> Answer {
        let Some(slot) = self.slots.get_mut(&id) else { return Answer::Unmatched };
        (slot.owed, self.owed) = (slot.owed - 1, self.owed - 1);
        let (broker, given, done) = (slot.broker.take(), slot.given, slot.owed == 0);
        if done {
            self.slots.remove(&id);
        }
        if let Some(given) = session.given_mut(given) {
            given.answered = true;
        }
        match (broker, lost) {
            (None, _) => Answer::Kept,
            (Some(id), Lost::Every(n)) if (answers + 1).is_multiple_of(n.max(1)) => Answer::Lost(id),
            (Some(id), Lost::None | Lost::Every(_)) => Answer::Passed(id),
        }
    }

    /// The PUBACK taken in last isn't passed on: the connection ends before.
    pub fn forget_last_acknowledgement(&mut self) {
        self.acknowledgements.pop_back();
    }

    /// Has messages of the session given to the agent again, after what waits already. Returns how many. A message that
    /// was given twice is meant under its newest id; one whose id has named another since can't come under it again.
    pub fn redeliver(&mut self, session: &Session, redelivery: &Redelivery, now: Instant) -> usize {
        let unanswered: HashSet<u64> = self.slots.values().map(|slot| slot.given).collect();
        let numbered = session.given.iter().enumerate().rev();
        let (mut messages, mut ids) = (HashSet::new(), HashSet::new());
        let chosen: Vec<u64> = numbered
            .map(|(at, given)| (session.forgotten + at as u64, given))
            .filter(|(_, given)| {
                let is_newest = messages.insert((&given.topic, &given.payload));
                let has_id = ids.insert(given.id) || redelivery.id == Id::New;
                is_newest && has_id
            })
            .filter(|(number, given)| match redelivery.of {
                Of::Unanswered => unanswered.contains(number),
                Of::Answered => given.answered && !unanswered.contains(number),
            })
            .map(|(number, _)| number)
            .take(redelivery.messages)
            .collect();
        let Redelivery { id, dup, .. } = *redelivery;
        let waiting = |&given: &u64| Waiting { read: now, what: What::Again { given, id, dup } };
        self.publishes.extend(chosen.iter().rev().map(waiting));
        chosen.len()
    }

    /// The next packet for the agent.
    ///
    /// # Errors
    /// When a message of the broker breaks the rules of MQTT.
    pub fn next_for_agent(
        &mut self,
        session: &mut Session,
        behaviour: &Behaviour,
        now: Instant,
    ) -> Result<Next<Passed>, WireError> {
        loop {
            if let Some(bytes) = self.to_agent.pop_front() {
                return Ok(Next::Now(Passed { bytes, publish: false, brokers_id: None, injected: false }));
            }
            let Some(first) = self.publishes.front() else { return Ok(Next::Wait) };
            match due(behaviour.publishes, first.read, now) {
                Next::Now(()) => {}
                Next::At(at) => return Ok(Next::At(at)),
                Next::Wait => return Ok(Next::Wait),
            }
            let window = behaviour.window.unwrap_or(u16::MAX).min(self.receive_maximum).max(1);
            if self.owed >= u32::from(window) && first.waits_for_room() {
                return Ok(Next::Wait);
            }
            let Some(Waiting { what, .. }) = self.publishes.pop_front() else { return Ok(Next::Wait) };
            let passed = match what {
                What::Brokers(bytes) => Some(self.pass(session, bytes, behaviour.names)?),
                What::Again { given, id, dup } => self.again(session, given, id, dup)?,
            };
            if let Some(passed) = passed {
                return Ok(Next::Now(passed));
            }
        }
    }

    fn pass(&mut self, session: &mut Session, bytes: Vec<u8>, names: Names) -> Result<Passed, WireError> {
        let unchanged = |bytes| Passed { bytes, publish: true, brokers_id: None, injected: false };
        let Some(frame) = wire::next_frame(&bytes)? else { return Ok(unchanged(bytes)) };
        let Packet::Publish { dup, qos, retain, topic, alias, packet_id, properties, payload } =
            wire::decode(frame, self.version)?
        else {
            return Ok(unchanged(bytes));
        };
        if let (Some(alias), false) = (alias, topic.is_empty()) {
            self.aliases.insert(alias, topic.to_owned());
        }
        let (Some(broker_id), 1) = (packet_id, qos) else { return Ok(unchanged(bytes)) };
        let known = session.unname(broker_id);
        if let Some(id) = known
            && let Some(slot) = self.slots.get_mut(&id)
            && slot.broker == Some(broker_id)
        {
            // The broker itself sends it again on the live connection.
            (slot.owed, self.owed) = (slot.owed + 1, self.owed + 1);
            session.name(broker_id, id);
            let brokers_id = (id != broker_id).then_some(broker_id);
            let bytes = wire::renamed(frame, id, dup);
            return Ok(Passed { bytes, publish: true, brokers_id, injected: false });
        }
        let (wanted, dup) = match names {
            Names::Brokers => (if dup { known.unwrap_or(broker_id) } else { broker_id }, dup),
            Names::NewWithoutDup => (self.free(session, self.last_id.wrapping_add(1)), false),
        };
        let id = self.free(session, wanted);
        self.last_id = id;
        session.name(broker_id, id);
        let topic = match alias {
            Some(alias) if topic.is_empty() => self.aliases.get(&alias).cloned().unwrap_or_default(),
            _ => topic.to_owned(),
        };
        let given = session.give(Given {
            id,
            retain,
            topic,
            properties: properties.to_vec(),
            payload: payload.to_vec(),
            answered: false,
        });
        self.slots.insert(id, Slot { broker: Some(broker_id), owed: 1, given });
        self.owed += 1;
        let bytes = wire::renamed(frame, id, dup);
        let brokers_id = (id != broker_id).then_some(broker_id);
        Ok(Passed { bytes, publish: true, brokers_id, injected: false })
    }

    /// `None` where it can't be sent: forgotten, or its old id names another message by now.
    fn again(
        &mut self,
        session: &mut Session,
        number: u64,
        id: Id,
        dup: bool,
    ) -> Result<Option<Passed>, WireError> {
        let old = session.given_mut(number).map(|given| given.id);
        let id = match (id, old) {
            (_, None) => return Ok(None),
            (Id::New, Some(_)) => {
                self.last_id = self.free(session, self.last_id.wrapping_add(1));
                self.last_id
            }
            (Id::Old, Some(old)) => old,
        };
        match self.slots.get_mut(&id) {
            Some(slot) if slot.given == number => slot.owed += 1,
            Some(_) => return Ok(None),
            None => {
                self.slots.insert(id, Slot { broker: None, owed: 1, given: number });
            }
        }
        self.owed += 1;
        let version = self.version;
        let Some(given) = session.given_mut(number) else { return Ok(None) };
        let head = (id, dup, given.retain);
        let bytes = wire::publish_again(version, head, &given.topic, &given.properties, &given.payload)?;
        Ok(Some(Passed { bytes, publish: true, brokers_id: None, injected: true }))
    }

    /// `wanted`, or the next id that names nothing on this connection and nothing that the broker may send again.
    fn free(&self, session: &Session, wanted: u16) -> u16 {
        let mut id = wanted.max(1);
        while self.slots.contains_key(&id) || session.taken.contains(&id) {
            id = id.checked_add(1).unwrap_or(1);
        }
        id
    }

    /// The next packet for the broker.
    pub fn next_for_broker(&mut self, session: &mut Session, pace: Pace, now: Instant) -> Next<Vec<u8>> {
        // What the agent sends beside acknowledgements (SUBSCRIBE, pings) never depends on them; its DISCONNECT does.
        if let Some(bytes) = self.to_broker.front()
            && (bytes.first().is_none_or(|first| first >> 4 != 14) || self.acknowledgements.is_empty())
            && let Some(bytes) = self.to_broker.pop_front()
        {
            return Next::Now(bytes);
        }
        let Some(first) = self.acknowledgements.front() else { return Next::Wait };
        match due(pace, first.read, now) {
            Next::Now(()) => {}
            Next::At(at) => return Next::At(at),
            Next::Wait => return Next::Wait,
        }
        let Some(Held { broker_id, bytes, .. }) = self.acknowledgements.pop_front() else {
            return Next::Wait;
        };
        session.unname(broker_id);
        Next::Now(bytes)
    }

    /// Whether nothing more will go to the agent (or to the broker) once its sender has ended: all is passed on, or held
    /// until a command that comes too late.
    #[must_use]
    pub fn is_done(&self, towards_agent: bool, behaviour: &Behaviour) -> bool {
        if towards_agent {
            self.to_agent.is_empty() && (self.publishes.is_empty() || behaviour.publishes == Pace::Held)
        } else {
            let held = behaviour.acknowledgements == Pace::Held;
            self.acknowledgements.is_empty() && self.to_broker.is_empty() || held
        }
    }
}

impl Waiting {
    /// Whether it is a message of QoS 1: only these fill the window.
    fn waits_for_room(&self) -> bool {
        match &self.what {
            What::Brokers(bytes) => bytes.first().is_some_and(|first| (first >> 1) & 0b11 == 1),
            What::Again { .. } => true,
        }
    }
}

impl Session {
    fn name(&mut self, broker_id: u16, id: u16) {
        self.names.insert(broker_id, id);
        self.taken.insert(id);
    }

    fn unname(&mut self, broker_id: u16) -> Option<u16> {
        let id = self.names.remove(&broker_id)?;
        self.taken.remove(&id);
        Some(id)
    }

    /// Remembers a message and returns its number.
    fn give(&mut self, given: Given) -> u64 {
        self.given.push_back(given);
        if self.given.len() > REMEMBERED {
            self.given.pop_front();
            self.forgotten += 1;
        }
        self.forgotten + self.given.len() as u64 - 1
    }

    fn given_mut(&mut self, number: u64) -> Option<&mut Given> {
        self.given.get_mut(usize::try_from(number.checked_sub(self.forgotten)?).ok()?)
    }
}

fn due(pace: Pace, read: Instant, now: Instant) -> Next<()> {
    match pace {
        Pace::AtOnce => Next::Now(()),
        Pace::After(pause) if now >= read + pause => Next::Now(()),
        Pace::After(pause) => Next::At(read + pause),
        Pace::Held => Next::Wait,
    }
}

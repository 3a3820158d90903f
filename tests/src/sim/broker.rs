//! The broker and its sensors as a model: persistent sessions at QoS 1, windows, redelivery as each kind of broker does it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use tributary_agent::config::MqttVersion;
use tributary_agent::ingest::mqtt::{Command, Event, Filter};
use tributary_agent::ingest::{Ack, Publish, Session as Found};

use super::agent::Link;
use super::hub::Hub;
use super::script::{Kind, Script};

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// It carries its own time.
    Timed,
    /// It doesn't.
    Plain,
    /// Nobody can decode it.
    Rubbish,
    /// At QoS 0, with its own time.
    Loose,
}

/// One message as a sensor published it; its number is its value.
#[derive(Debug, Clone)]
pub struct Message {
    /// From 1.
    pub number: u32,
    /// What it is.
    pub sort: Sort,
    /// How many readings it holds.
    pub readings: u8,
    topic: String,
    payload: Bytes,
}

/// The broker.
pub struct Broker {
    hub: Arc<Hub>,
    kind: Kind,
    window: usize,
    begin_ms: i64,
    /// All messages so far; number n at place n - 1.
    pub messages: Vec<Message>,
    session: Option<Session>,
    saved: Option<Session>,
    /// Messages handed over since then.
    handed_since: usize,
    /// Messages of an older state that the broker went back to, until they are acknowledged anew; and whether a connection
    /// has begun since.
    restored: BTreeSet<u32>,
    restored_seen: bool,
    /// Of these, the ones that a further connection brings: nobody can know copies among them.
    pub unknowable: BTreeSet<u32>,
    connected: Option<Connected>,
}

#[derive(Debug, Clone, Default)]
struct Session {
    subscribed: bool,
    queue: VecDeque<u32>,
    /// Id and message, in order of sending; and whether it is to be sent (again) on this connection.
    inflight: VecDeque<(u16, u32, bool)>,
    last_id: u16,
}

struct Connected {
    generation: u64,
    /// What was handed to the agent on this connection under which id, newest last.
    handed: Vec<(u16, u32)>,
}

impl Broker {
    /// A broker without any session.
    pub fn new(hub: Arc<Hub>, script: &Script) -> Self {
        Self {
            hub,
            kind: script.kind,
            window: usize::from(script.window),
            begin_ms: script.begin.micros() / 1000,
            messages: Vec::new(),
            session: None,
            saved: None,
            handed_since: 0,
            restored: BTreeSet::new(),
            restored_seen: false,
            unknowable: BTreeSet::new(),
            connected: None,
        }
    }

    /// Whether there is a connection.
    pub fn is_connected(&self) -> bool {
        self.connected.is_some()
    }

    /// Whether everything was handed over and acknowledged.
    pub fn is_dry(&self) -> bool {
        self.session.as_ref().is_some_and(|s| s.subscribed && s.queue.is_empty() && s.inflight.is_empty())
    }

    /// A sensor publishes. Without a subscribed session nobody keeps it.
    pub fn publish(&mut self) {
        let number = u32::try_from(self.messages.len()).unwrap_or(u32::MAX) + 1;
        let sort = match self.hub.below(12) {
            0..6 => Sort::Timed,
            6..10 => Sort::Plain,
            10 => Sort::Rubbish,
            _ => Sort::Loose,
        };
        let readings = u8::try_from(1 + self.hub.below(3)).unwrap_or(1);
        let device = self.hub.below(3);
        let late = if self.hub.chance(0.2) { self.hub.below(60_000) as i64 } else { 0 };
        let measured = self.begin_ms + self.hub.steady() / 1000 - late;
        let fields: String = ["a", "b", "c"]
            .into_iter()
            .take(usize::from(readings))
            .map(|metric| format!(",\"{metric}\":{number}"))
            .collect();
        let (topic, payload) = match sort {
            Sort::Timed | Sort::Loose => ("timed", format!("{{\"t\":{measured}{fields}}}")),
            Sort::Plain => ("plain", format!("{{{}}}", fields.trim_start_matches(','))),
            Sort::Rubbish => ("plain", format!("{{\"a\":{number}")),
        };
        // A series of one source only.
        let topic = format!("{topic}/{topic}-{device}");
        self.messages.push(Message { number, sort, readings, topic, payload: payload.into() });
        let connected = self.connected.is_some();
        if let Some(session) = self.session.as_mut().filter(|s| s.subscribed)
            && (connected || sort != Sort::Loose)
        {
            session.queue.push_back(number);
        }
        self.hub.count("messages published", 1);
        self.hub.note(format!("sensor: message {number}, {sort:?}"));
    }

    /// The agent connects; events go into the link's queue.
    pub fn connect(&mut self, link: &mut Link) {
        link.generation += 1;
        let present = self.session.is_some();
        if std::mem::replace(&mut self.restored_seen, true) {
            self.unknowable.extend(&self.restored);
        }
        let session = self.session.get_or_insert_with(Session::default);
        if self.kind == Kind::Renumbers {
            // Sent again under new ids, before what never was sent.
            while let Some((_, number, _)) = session.inflight.pop_back() {
                session.queue.push_front(number);
            }
        }
        session.inflight.iter_mut().for_each(|(_, _, again)| *again = true);
        let found = match (present, &link.kept) {
            (true, _) => Found::Present,
            (false, Some(_)) => Found::Lost,
            (false, None) => Found::New,
        };
        if !present {
            link.kept = None;
        }
        self.connected = Some(Connected { generation: link.generation, handed: Vec::new() });
        self.hub.note(format!("link: connection {} finds its session {found:?}", link.generation & 0xffff));
        let at = link.received_at(&self.hub);
        link.push(Event::Connected {
            generation: link.generation,
            session: found,
            protocol: MqttVersion::V5,
            window: u16::try_from(self.window).unwrap_or(u16::MAX),
            marker: false,
            at,
        });
        if present && (!link.sure || link.kept.as_deref() != Some(&link.wanted())) {
            self.subscribe(link);
        }
    }

    fn subscribe(&mut self, link: &mut Link) {
        if let Some(session) = &mut self.session {
            session.subscribed = true;
        }
        let filters: Vec<Filter> = link.filters.clone();
        link.kept = Some(link.wanted());
        link.sure = true;
        let keep = link.kept.clone();
        link.push(Event::Subscribed { granted: filters.into_iter().map(|f| (f, Ok(1))).collect(), keep });
    }

    /// The connection breaks; what wasn't acknowledged on it never will be.
    pub fn cut(&mut self, link: Option<&mut Link>) {
        if self.connected.take().is_none() {
            return;
        }
        self.hub.count("connections cut", 1);
        self.hub.note("link: cut");
        if let Some(session) = &mut self.session {
            // What is sent at QoS 0 isn't kept.
            let messages = &self.messages;
            session.queue.retain(|n| messages[*n as usize - 1].sort != Sort::Loose);
        }
        if let Some(link) = link {
            link.sure = false;
            let alive = link.received_at(&self.hub);
            link.push(Event::Disconnected { error: "cut".into(), alive });
        }
    }

    /// The broker starts again without its sessions.
    pub fn lose_session(&mut self, link: Option<&mut Link>) {
        self.cut(link);
        self.session = None;
        self.hub.count("sessions lost", 1);
        self.hub.note("broker: sessions lost");
    }

    /// The broker starts again with the sessions as they once were: it has forgotten acknowledgements. Tells whether it
    /// goes back further than its in-flight window, which is as far as the agent promises to see copies without own time.
    pub fn forget(&mut self, link: Option<&mut Link>) -> Option<bool> {
        let Some(mut saved) = self.saved.take() else {
            self.saved = self.session.clone().filter(|s| s.subscribed);
            self.handed_since = 0;
            return None;
        };
        let far = self.handed_since + saved.inflight.len() + saved.queue.len() > self.window;
        self.cut(link);
        while let Some((_, number, _)) = saved.inflight.pop_back() {
            saved.queue.push_front(number);
        }
        // What is sent at QoS 0 is never kept on disk.
        saved.queue.retain(|n| self.messages[*n as usize - 1].sort != Sort::Loose);
        self.restored = saved.queue.iter().copied().collect();
        self.restored_seen = false;
        self.session = Some(saved);
        self.hub.count("broker memories lost", 1);
        self.hub.note("broker: back to an older state");
        Some(far)
    }

    /// Sends the next message, or one again; false if there is none to send.
    pub fn send(&mut self, link: &mut Link) -> bool {
        let Some(connected) = &mut self.connected else { return false };
        let Some(session) = self.session.as_mut().filter(|s| s.subscribed) else { return false };
        let again = session.inflight.iter().position(|(_, _, again)| *again);
        let (id, number, dup) = if let Some(at) = again {
            let (id, number, again) = &mut session.inflight[at];
            *again = false;
            (*id, *number, true)
        } else if session.queue.front().is_some_and(|n| self.messages[*n as usize - 1].sort == Sort::Loose) {
            (0, session.queue.pop_front().unwrap_or(0), false)
        } else if session.inflight.len() < self.window {
            let Some(number) = session.queue.pop_front() else { return false };
            loop {
                session.last_id = session.last_id % last_id(self.kind) + 1;
                if session.inflight.iter().all(|(id, _, _)| *id != session.last_id) {
                    break;
                }
            }
            session.inflight.push_back((session.last_id, number, false));
            (session.last_id, number, false)
        } else {
            return false;
        };
        connected.handed.push((id, number));
        self.handed_since += 1;
        let message = &self.messages[number as usize - 1];
        let at = link.received_at(&self.hub);
        self.hub.note(format!("broker: message {number} under id {id}{}", if dup { ", again" } else { "" }));
        link.push(Event::Publish(Publish {
            broker: 0,
            generation: link.generation,
            packet_id: id,
            qos: u8::from(message.sort != Sort::Loose),
            dup,
            retain: false,
            topic: message.topic.clone(),
            payload: message.payload.clone(),
            size: message.payload.len(),
            received_at: at,
        }));
        true
    }

    /// A broker that resends on the live connection does so with one message.
    pub fn resend(&mut self) {
        if self.kind == Kind::Resends
            && self.connected.is_some()
            && let Some(session) = &mut self.session
            && let Some(entry) = session.inflight.get_mut(0)
        {
            entry.2 = true;
        }
    }

    /// Takes what the agent told its connection; gives the messages whose PUBACK left the gateway. `arrives` says whether
    /// an acknowledgement also reaches the broker.
    pub fn hear(&mut self, link: &mut Link, mut arrives: impl FnMut() -> bool) -> Vec<u32> {
        let mut sent = Vec::new();
        while let Ok(command) = link.commands.try_recv() {
            match command {
                Command::Acknowledge(acks) => {
                    for ack in acks {
                        sent.extend(self.acknowledged(ack, &mut arrives));
                    }
                }
                Command::Permit(generation) => {
                    if self.connected.as_ref().is_some_and(|c| c.generation == generation) {
                        self.subscribe(link);
                    }
                }
                // Nobody here has asked for what an agent publishes.
                Command::Publish(_) | Command::Stop => {}
            }
        }
        sent
    }

    fn acknowledged(&mut self, ack: Ack, arrives: &mut impl FnMut() -> bool) -> Option<u32> {
        let connected = self.connected.as_mut().filter(|c| c.generation == ack.generation && ack.qos > 0)?;
        let at = connected.handed.iter().position(|(id, _)| *id == ack.packet_id);
        let Some(at) = at else {
            self.hub.violated(format!("id {} is acknowledged once more than it was sent", ack.packet_id));
            return None;
        };
        let (id, number) = connected.handed.remove(at);
        if arrives()
            && let Some(session) = &mut self.session
        {
            session.inflight.retain(|(known, _, _)| *known != id);
            self.restored.remove(&number);
        }
        self.hub.note(format!("agent: acknowledges message {number}"));
        Some(number)
    }
}

/// The highest id that a broker gives before it begins again.
const fn last_id(kind: Kind) -> u16 {
    match kind {
        Kind::Renumbers => 100,
        Kind::Marks | Kind::Resends => 60_000,
    }
}

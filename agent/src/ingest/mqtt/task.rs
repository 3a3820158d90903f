//! The task of one broker: connects again and again, subscribes, sends its marker, brings events, until told to stop.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tributary_contract::time::Timestamp;

use super::protocol::{self, Cause, Failure, Protocol, reason};
use super::rate::Rate;
use super::{Event, EventSender, Filter, Incoming, Link, Settings, Wanted};
use crate::config::MqttVersion;
use crate::ingest::stage::KEPT_PAYLOAD;
use crate::ingest::{Publish, Session};

/// A connection that lasted so long was a good one: the next attempt comes soon.
const GOOD: Duration = Duration::from_secs(30);
/// Nothing came for so long, and a marker should have: the session isn't subscribed.
const DEAF: Duration = Duration::from_secs(5);

/// So many connections in a row that the broker ended soon and without a word are told as what they may mean.
const SHORT: u32 = 3;

/// How one connection ended.
enum Ended {
    Stopped,
    Failed(Failure),
}

/// One broker's connections, one after the other.
pub(super) struct Task {
    settings: Settings,
    events: EventSender,
    wanted: Wanted,
    protocol: Protocol,
    /// Generation of the last connection.
    generation: u64,
    subscribed: Option<String>,
    /// Whether a session that the broker finds may be another one than the one that was subscribed.
    doubtful: bool,
    rate: Rate,
    /// The in-flight window of the live connection.
    window: u16,
    marker: Marker,
    /// What each SUBSCRIBE of the live connection that has no answer yet asked for.
    asked: VecDeque<Vec<Filter>>,
    /// Filters of sources that the broker refused on the live connection.
    refused: Vec<Filter>,
    /// How often in a row it refused some.
    refusals: u32,
}

/// What is known of markers.
#[derive(Debug, Clone, Copy, Default)]
struct Marker {
    /// The broker doesn't let us subscribe it.
    refused: bool,
    /// The live connection's is under way.
    awaited: bool,
    /// The live connection's came back.
    returned: bool,
    /// The connection before ended while its marker was under way. Perhaps for that: some brokers cut off who publishes
    /// where it may not. So the next one goes without.
    skip: bool,
}

impl Task {
    pub(super) fn new(settings: Settings, events: EventSender, wanted: Wanted) -> Self {
        Self {
            protocol: Protocol::new(settings.connection.version),
            generation: u64::from(settings.start) << 32,
            subscribed: settings.subscribed.clone(),
            doubtful: true,
            rate: Rate::default(),
            window: settings.connection.inflight_window,
            marker: Marker::default(),
            asked: VecDeque::new(),
            refused: Vec::new(),
            refusals: 0,
            settings,
            events,
            wanted,
        }
    }

    pub(super) async fn run(mut self) {
        let (mut attempt, mut short) = (0, 0_u32);
        loop {
            let (began, before) = (Instant::now(), self.generation);
            let acknowledged = self.wanted.sent.load(Ordering::Relaxed);
            let version = self.protocol.next();
            let Ended::Failed(failure) = self.connection(version).await else { return };
            self.wanted.live(None);
            let connected = self.generation > before;
            self.protocol.failed(version, &failure, connected);
            // Our own marker's acknowledgement brings nobody any further.
            let own = u64::from(std::mem::take(&mut self.marker.returned));
            let progress = self.wanted.sent.load(Ordering::Relaxed) > acknowledged + own;
            let progress = progress && failure.cause != Cause::TakenOver;
            let lasted = connected && began.elapsed() >= GOOD;
            attempt = protocol::attempt_after(attempt, lasted, progress);
            short = if connected && !lasted && failure.cause == Cause::NoAnswer { short + 1 } else { 0 };
            let error = match short {
                0..SHORT => failure.text,
                _ => format!("{}, {}", failure.text, reason::SHORT_LIVED),
            };
            self.marker.skip = std::mem::take(&mut self.marker.awaited);
            self.doubtful |= !connected || version == MqttVersion::V5 || self.marker.skip;
            let unnoticed = match failure.cause {
                Cause::Silent => self.settings.connection.keep_alive.saturating_mul(3) / 2,
                _ => 0,
            };
            let alive = self.now().plus(-unnoticed);
            if !self.emit(Event::Disconnected { error, alive }).await {
                return;
            }
            let wait = Instant::now() + protocol::backoff(attempt, fastrand::f64());
            while !self.wanted.stop {
                tokio::select! {
                    () = tokio::time::sleep_until(wait) => break,
                    () = self.wanted.receive() => {}
                }
            }
            if self.wanted.stop {
                return;
            }
        }
    }

    async fn connection(&mut self, version: MqttVersion) -> Ended {
        let configured = self.settings.connection.inflight_window;
        self.window = match version {
            MqttVersion::V5 => self.rate.window(configured, self.settings.commit_interval),
            MqttVersion::V311 => configured,
        };
        let mut link = match Link::open(&self.settings, version, self.window) {
            Ok(link) => link,
            Err(error) => return Ended::Failed(Failure::other(error.to_string())),
        };
        loop {
            if self.wanted.stop {
                if self.wanted.generation.is_some() {
                    link.finish(&mut self.wanted).await;
                }
                return Ended::Stopped;
            }
            let outcome = if std::mem::take(&mut self.wanted.permitted) {
                self.subscribe(&mut link, self.subscriptions(), &[]).map(|()| Incoming::Nothing)
            } else if std::mem::take(&mut self.wanted.ask) {
                self.subscribe(&mut link, self.refused.clone(), &[]).map(|()| Incoming::Nothing)
            } else if self.wanted.look_at.take_if(|at| Instant::now() >= *at).is_some() {
                tracing::info!("the marker didn't come back: the session is subscribed again");
                let again = self.subscribe(&mut link, self.subscriptions(), &[]);
                again.and_then(|()| self.mark(&mut link)).map(|_| Incoming::Nothing)
            } else {
                link.next(&mut self.wanted).await
            };
            let event = match outcome {
                Err(failure) => return Ended::Failed(failure),
                Ok(Incoming::Nothing) => continue,
                Ok(Incoming::Connected { session_present }) => {
                    let session = self.begin(session_present);
                    if session_present
                        && let Some(gone) = self.to_subscribe()
                        && let Err(failure) = self.subscribe(&mut link, self.subscriptions(), &gone)
                    {
                        return Ended::Failed(failure);
                    }
                    let skip = std::mem::take(&mut self.marker.skip);
                    let marker = if session_present && !skip { self.mark(&mut link) } else { Ok(false) };
                    let marker = match marker {
                        Ok(marker) => marker,
                        Err(failure) => return Ended::Failed(failure),
                    };
                    if marker && version == MqttVersion::V311 {
                        self.wanted.look_at = Some(Instant::now() + DEAF);
                    }
                    Event::Connected {
                        generation: self.generation,
                        session,
                        protocol: version,
                        window: self.window,
                        marker,
                        at: self.now(),
                    }
                }
                Ok(Incoming::Subscribed(codes)) => self.granted(codes),
                Ok(Incoming::Publish { packet_id, qos, dup, retain, topic, payload }) => {
                    let (size, received_at) = (payload.len(), self.now());
                    self.rate.arrived(received_at);
                    if self.settings.connection.marker.as_ref() == Some(&topic)
                        && payload[..] == *self.generation.to_string().as_bytes()
                    {
                        self.marker.awaited = false;
                        self.marker.returned = true;
                        self.wanted.look_at = None;
                    }
                    let kept = if size > self.settings.payload_limit {
                        Bytes::copy_from_slice(payload.get(..KEPT_PAYLOAD).unwrap_or(&payload))
                    } else {
                        payload
                    };
                    Event::Publish(Publish {
                        broker: self.settings.broker,
                        generation: self.generation,
                        packet_id,
                        qos,
                        dup,
                        retain,
                        topic,
                        payload: kept,
                        size,
                        received_at,
                    })
                }
            };
            if !self.emit(event).await && !self.wanted.stop {
                // Nobody takes events any more.
                self.wanted.stop = true;
            }
            if self.wanted.look_at.is_some() {
                // Something comes, so the marker may still be behind it.
                self.wanted.look_at = Some(Instant::now() + DEAF);
            }
        }
    }

    /// A connection begins.
    fn begin(&mut self, session_present: bool) -> Session {
        self.generation += 1;
        self.asked.clear();
        self.refused.clear();
        self.wanted.live(Some(self.generation));
        let session = match (session_present, &self.subscribed) {
            (true, _) => Session::Present,
            (false, Some(_)) => Session::Lost,
            (false, None) => Session::New,
        };
        if !session_present {
            self.subscribed = None;
        }
        session
    }

    /// Asks for `filters`, and gives up those of the paths `gone`.
    fn subscribe(&mut self, link: &mut Link, filters: Vec<Filter>, gone: &[String]) -> Result<(), Failure> {
        link.subscribe(&filters, gone)?;
        self.asked.push_back(filters);
        Ok(())
    }

    /// Sends a marker behind what waits at the broker, where there is one to send.
    fn mark(&mut self, link: &mut Link) -> Result<bool, Failure> {
        let Some(topic) = &self.settings.connection.marker else { return Ok(false) };
        if self.marker.refused {
            return Ok(false);
        }
        link.publish(topic, self.generation.to_string())?;
        self.marker.awaited = true;
        Ok(true)
    }

    /// What to subscribe: the sources' filters, and the marker's topic behind them.
    fn subscriptions(&self) -> Vec<Filter> {
        let marker = self.settings.connection.marker.iter().filter(|_| !self.marker.refused);
        let marker = marker.map(|topic| Filter { path: topic.clone(), qos: 1 });
        self.settings.filters.iter().cloned().chain(marker).collect()
    }

    /// `None` where the session surely has just our filters; else it is to be subscribed, and those filters that it has
    /// and we no longer want are to be given up.
    fn to_subscribe(&self) -> Option<Vec<String>> {
        let wanted = self.subscriptions();
        let had = self.subscribed.as_deref().unwrap_or("");
        if had == spelled(&wanted) && !self.doubtful {
            return None;
        }
        let paths = had.lines().filter_map(|line| line.split_once(' ')).map(|(_, path)| path);
        let gone = paths.filter(|path| wanted.iter().all(|f| f.path != *path));
        Some(gone.map(Into::into).collect())
    }

    fn granted(&mut self, codes: Vec<Result<u8, String>>) -> Event {
        let missing = || Err("the broker's answer says nothing about it".to_owned());
        let mut codes = codes.into_iter();
        let asked = self.asked.pop_front().unwrap_or_else(|| self.subscriptions());
        let mut granted: Vec<_> =
            asked.into_iter().map(|f| (f, codes.next().unwrap_or_else(missing))).collect();
        if let Some(topic) = &self.settings.connection.marker
            && let Some((_, outcome)) =
                granted.pop_if(|(f, _)| f.path == *topic && !self.settings.filters.contains(f))
            && let Err(why) = outcome
        {
            tracing::warn!(
                topic,
                "the broker refuses the marker ({why}): silence will tell what had waited there"
            );
            self.marker = Marker { refused: true, ..Marker::default() };
        }
        self.refused.retain(|f| granted.iter().all(|(of, _)| of != f));
        let refused = granted.iter().filter(|(_, outcome)| outcome.is_err()).map(|(f, _)| f.clone());
        self.refused.extend(refused);
        if self.refused.is_empty() {
            (self.refusals, self.wanted.ask_at) = (0, None);
        } else {
            // The session goes on with the others meanwhile; somebody may change what the broker allows.
            self.refusals = self.refusals.saturating_add(1);
            self.wanted.ask_at = Some(Instant::now() + protocol::ask_again(self.refusals, fastrand::f64()));
        }
        let keep = self.refused.is_empty().then(|| spelled(&self.subscriptions()));
        self.doubtful = false;
        // A session there is, whatever it refused: losing it is a loss.
        self.subscribed = Some(keep.clone().unwrap_or_default());
        Event::Subscribed { granted, keep }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis((self.settings.clock)().micros().div_euclid(1000))
    }

    /// Waits for room in the queue, taking up commands meanwhile. False when told to stop, or when nobody listens.
    async fn emit(&mut self, event: Event) -> bool {
        let send = self.events.send(self.settings.broker, event);
        tokio::pin!(send);
        loop {
            tokio::select! {
                biased;
                sent = &mut send => return sent,
                () = self.wanted.receive() => if self.wanted.stop {
                    return false;
                }
            }
        }
    }
}

fn spelled(filters: &[Filter]) -> String {
    filters.iter().map(|f| format!("{} {}", f.qos, f.path)).collect::<Vec<_>>().join("\n")
}

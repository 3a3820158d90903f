//! Faults on command: what the agent is given, what the broker is told, and under which packet ids.

use std::collections::BTreeMap;
use std::time::Instant;

use proptest::prelude::*;

use super::super::behaviour::{Behaviour, Cut, Id, Lost, Names, Of, Pace, Redelivery};
use super::super::relay::{Next, Passed, Relay, Session};
use super::*;

// --- bytes -----------------------------------------------------------------------------------------------------

fn frame(bytes: &[u8]) -> wire::Frame<'_> {
    wire::next_frame(bytes).unwrap().unwrap()
}

#[test]
fn a_renamed_packet_differs_in_its_id_and_dup_only() {
    for properties in [None, Some(&[0x01, 1][..])] {
        let before = publish(0b0011, 7, properties, "a/b", &"x".repeat(200));
        let after = publish(0b1011, 0x0908, properties, "a/b", &"x".repeat(200));
        assert_eq!(wire::renamed(frame(&before), 0x0908, true), after);
        assert_eq!(wire::renamed(frame(&after), 7, false), before);
    }
    let refusal = packet(0x40, &[0, 3, 0x87, 0]);
    assert_eq!(wire::renamed(frame(&refusal), 300, false), packet(0x40, &[1, 44, 0x87, 0]));
    let qos0 = publish(0b0000, 0, None, "a", "1");
    assert_eq!(wire::renamed(frame(&qos0), 9, true), qos0, "without id there is nothing to rename");
}

#[test]
fn a_publish_made_anew_names_its_topic_and_keeps_its_properties_but_for_the_alias() {
    let properties = [0x01, 1, 0x23, 0, 5, 0x02, 0, 0, 0, 9];
    let made = wire::publish_again(Version::V5, (300, true, true), "a/b", &properties, b"42").unwrap();
    assert_eq!(made, publish(0b1011, 300, Some(&[0x01, 1, 0x02, 0, 0, 0, 9]), "a/b", "42"));
    let made = wire::publish_again(Version::V3, (1, false, false), "a/b", &[], b"42").unwrap();
    assert_eq!(made, publish(0b0010, 1, None, "a/b", "42"));
}

#[test]
fn retain_handling_is_taken_out_of_each_filter_of_a_subscribe() {
    let subscribe = |options: u8| {
        let mut body = vec![0, 9, 2, 0x0b, 1]; // id; subscription id 1
        for filter in ["a/+", "b"] {
            body.extend(text(filter));
            body.push(options);
        }
        packet(0x82, &body)
    };
    let made = wire::with_retained(frame(&subscribe(0b01_1001)), Version::V5).unwrap();
    assert_eq!(made, subscribe(0b00_1001));
}

#[test]
fn a_connect_tells_how_many_unanswered_messages_its_client_takes() {
    let with = |properties: &[u8]| {
        let mut body = text("MQTT");
        body.extend([5, 0, 0, 60, u8::try_from(properties.len()).unwrap()]);
        body.extend_from_slice(properties);
        body.extend(text("gw"));
        let bytes = packet(0x10, &body);
        match wire::decode(frame(&bytes), Version::V3).unwrap() {
            Packet::Connect { receive_maximum, .. } => receive_maximum,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((with(&[0x11, 0, 0, 1, 0, 0x21, 0, 20]), with(&[])), (20, u16::MAX));
}

// --- ids, in both directions -----------------------------------------------------------------------------------

/// A relay with its session, and what both ends see.
struct Ends {
    relay: Relay,
    session: Session,
    behaviour: Behaviour,
    now: Instant,
    answers: u64,
}

impl Ends {
    fn new() -> Self {
        let mut ends = Self {
            relay: Relay::default(),
            session: Session::default(),
            behaviour: Behaviour::default(),
            now: Instant::now(),
            answers: 0,
        };
        ends.agent(&connect(4));
        ends
    }

    fn reconnect(&mut self, session_present: u8) {
        self.relay = Relay::default();
        self.agent(&connect(4));
        self.broker(&packet(0x20, &[session_present, 0]));
    }

    /// The broker sends; what comes out at the agent.
    fn broker(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.relay.take_brokers(&mut self.session, frame(bytes), self.now).unwrap();
        self.out_to_agent().into_iter().map(|passed| passed.bytes).collect()
    }

    fn out_to_agent(&mut self) -> Vec<Passed> {
        let mut out = Vec::new();
        while let Next::Now(passed) =
            self.relay.next_for_agent(&mut self.session, &self.behaviour, self.now).unwrap()
        {
            out.push(passed);
        }
        out
    }

    /// The agent sends; what comes out at the broker.
    fn agent(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let Self { relay, session, behaviour, now, answers } = self;
        let answer = relay.take_agents(session, frame(bytes), behaviour, *answers, *now).unwrap();
        self.answers += u64::from(answer.is_some());
        self.out_to_broker()
    }

    fn out_to_broker(&mut self) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        while let Next::Now(bytes) =
            self.relay.next_for_broker(&mut self.session, self.behaviour.acknowledgements, self.now)
        {
            out.push(bytes);
        }
        out
    }

    fn redeliver(&mut self, of: Of, id: Id, dup: bool) -> Vec<Vec<u8>> {
        let redelivery = Redelivery { messages: 100, of, id, dup };
        self.relay.redeliver(&self.session, &redelivery, self.now);
        self.out_to_agent().into_iter().map(|passed| passed.bytes).collect()
    }
}

fn one(id: u16, dup: bool, payload: &str) -> Vec<u8> {
    publish(if dup { 0b1010 } else { 0b0010 }, id, None, "t", payload)
}

const NOTHING: [Vec<u8>; 0] = [];

#[test]
fn the_answer_to_a_redelivery_never_reaches_the_broker() {
    let mut ends = Ends::new();
    assert_eq!(ends.broker(&one(4, false, "1")), [one(4, false, "1")]);
    assert_eq!(ends.agent(&puback(4)), [puback(4)]);
    assert_eq!(ends.redeliver(Of::Answered, Id::Old, true), [one(4, true, "1")]);
    assert_eq!(ends.agent(&puback(4)), NOTHING);
    assert_eq!(ends.redeliver(Of::Answered, Id::New, false), [one(5, false, "1")]);
    assert_eq!(ends.agent(&puback(5)), NOTHING);
    assert_eq!(
        ends.agent(&puback(5)),
        [puback(5)],
        "what answers nothing is the agent's fault, and is shown"
    );
}

#[test]
fn a_message_sent_twice_before_its_answer_is_answered_once_for_the_broker() {
    let mut ends = Ends::new();
    ends.broker(&one(4, false, "1"));
    assert_eq!(ends.redeliver(Of::Unanswered, Id::Old, true), [one(4, true, "1")]);
    assert_eq!(ends.agent(&puback(4)), [puback(4)]);
    // For the broker the id is free, for the agent it isn't.
    assert_eq!(ends.broker(&one(4, false, "2")), [one(5, false, "2")]);
    assert_eq!(ends.agent(&puback(4)), NOTHING);
    assert_eq!(ends.agent(&puback(5)), [puback(4)]);
}

#[test]
fn an_id_that_the_proxy_took_is_another_one_for_the_broker_and_is_mapped_back() {
    let mut ends = Ends::new();
    ends.broker(&one(1, false, "1"));
    assert_eq!(ends.redeliver(Of::Unanswered, Id::New, true), [one(2, true, "1")]);
    assert_eq!(ends.broker(&one(2, false, "2")), [one(3, false, "2")]);
    assert_eq!(ends.broker(&one(3, false, "3")), [one(4, false, "3")]);
    assert_eq!(ends.agent(&puback(2)), NOTHING);
    assert_eq!(ends.agent(&puback(4)), [puback(3)]);
    assert_eq!(ends.agent(&puback(3)), [puback(2)]);
    assert_eq!(ends.agent(&puback(1)), [puback(1)]);
}

#[test]
fn a_lost_acknowledgement_leaves_the_message_with_the_broker_and_its_name_to_the_message() {
    let mut ends = Ends::new();
    ends.broker(&one(1, false, "1"));
    ends.redeliver(Of::Unanswered, Id::New, true);
    assert_eq!(ends.broker(&one(2, false, "2")), [one(3, false, "2")]);
    ends.behaviour.lost_acknowledgements = Lost::Every(1);
    for id in [1, 2, 3] {
        assert_eq!(ends.agent(&puback(id)), NOTHING);
    }
    ends.behaviour = Behaviour::default();
    ends.reconnect(1);
    assert_eq!(ends.broker(&one(1, true, "1")), [one(1, true, "1")]);
    assert_eq!(ends.broker(&one(2, true, "2")), [one(3, true, "2")], "the id under which the agent knows it");
    assert_eq!(ends.broker(&one(3, false, "3")), [one(4, false, "3")]);
    assert_eq!(ends.agent(&puback(3)), [puback(2)]);
    assert_eq!(ends.agent(&puback(4)), [puback(3)]);
    ends.reconnect(0);
    assert_eq!(ends.broker(&one(2, false, "4")), [one(2, false, "4")], "a lost session begins anew");
}

#[test]
fn one_acknowledgement_in_so_many_is_lost() {
    let mut ends = Ends::new();
    ends.behaviour.lost_acknowledgements = Lost::Every(3);
    let mut reached = 0;
    for id in 1..=9 {
        ends.broker(&one(id, false, "x"));
        reached += ends.agent(&puback(id)).len();
    }
    assert_eq!(reached, 6);
}

#[test]
fn a_broker_can_be_made_to_redeliver_under_new_ids_without_dup() {
    let mut ends = Ends::new();
    ends.behaviour.names = Names::NewWithoutDup;
    assert_eq!(ends.broker(&one(70, false, "1")), [one(1, false, "1")]);
    assert_eq!(ends.broker(&one(71, false, "2")), [one(2, false, "2")]);
    assert_eq!(ends.agent(&puback(1)), [puback(70)]);
    ends.reconnect(1);
    assert_eq!(ends.broker(&one(71, true, "2")), [one(1, false, "2")]);
    assert_eq!(ends.broker(&one(72, false, "3")), [one(2, false, "3")]);
    assert_eq!(ends.agent(&puback(1)), [puback(71)]);
    assert_eq!(ends.agent(&puback(2)), [puback(72)]);
}

#[test]
fn the_window_is_never_exceeded_not_even_by_redeliveries() {
    let mut ends = Ends::new();
    ends.behaviour.window = Some(2);
    for id in 1..=4 {
        ends.broker(&one(id, false, &id.to_string()));
    }
    assert_eq!(ends.relay.publishes_waiting(), 2);
    assert_eq!(ends.redeliver(Of::Unanswered, Id::Old, true), NOTHING);
    assert_eq!(ends.broker(&publish(0, 0, None, "t", "q0")), NOTHING, "order is kept");
    ends.agent(&puback(1));
    assert_eq!(ends.out_to_agent().len(), 1);
    ends.agent(&puback(2));
    ends.agent(&puback(3));
    assert_eq!(ends.out_to_agent().len(), 2, "the fourth, and the first redelivery that still has its id");
    let mut v5 = Ends::new();
    let mut body = text("MQTT");
    body.extend([5, 0, 0, 60, 3, 0x21, 0, 1]);
    body.extend(text("gw"));
    v5.agent(&packet(0x10, &body));
    let message = |id, payload| publish(0b0010, id, Some(&[]), "t", payload);
    assert_eq!(v5.broker(&message(1, "1")).len(), 1);
    assert_eq!(v5.broker(&message(2, "2")).len(), 0, "the receive maximum of MQTT 5");
    assert_eq!(v5.agent(&puback(1)), [puback(1)]);
    assert_eq!(v5.out_to_agent().len(), 1);
}

#[test]
fn packets_wait_for_their_time_or_until_they_are_let_go() {
    let mut ends = Ends::new();
    ends.behaviour.publishes = Pace::Held;
    assert_eq!(ends.broker(&one(1, false, "1")), NOTHING);
    assert_eq!(ends.broker(&packet(0xd0, &[])), [packet(0xd0, &[])], "a ping's answer doesn't wait");
    let pause = Duration::from_secs(3);
    ends.behaviour = Behaviour { publishes: Pace::After(pause), ..Behaviour::default() };
    let at = ends.now + pause;
    assert_eq!(ends.relay.next_for_agent(&mut ends.session, &ends.behaviour, ends.now), Ok(Next::At(at)));
    ends.now = at;
    assert_eq!(ends.out_to_agent().len(), 1);
    ends.behaviour.acknowledgements = Pace::Held;
    assert_eq!(ends.agent(&puback(1)), NOTHING);
    assert_eq!(ends.agent(&packet(0xc0, &[])), [packet(0xc0, &[])]);
    assert_eq!(ends.agent(&packet(0xe0, &[])), NOTHING, "DISCONNECT doesn't overtake acknowledgements");
    ends.behaviour.acknowledgements = Pace::AtOnce;
    assert_eq!(ends.out_to_broker(), [puback(1), packet(0xe0, &[])]);
}

#[derive(Debug, Clone)]
enum Op {
    Publish,
    Answer(usize),
    Redeliver { answered: bool, old: bool, dup: bool },
    Behave { lose: u64, new_names: bool, held: bool },
    Reconnect,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => Just(Op::Publish),
        6 => (0..8_usize).prop_map(Op::Answer),
        2 => any::<(bool, bool, bool)>().prop_map(|(answered, old, dup)| Op::Redeliver { answered, old, dup }),
        1 => (0..4_u64, any::<bool>(), any::<bool>())
            .prop_map(|(lose, new_names, held)| Op::Behave { lose, new_names, held }),
        1 => Just(Op::Reconnect),
    ]
}

proptest! {
    /// Whatever is commanded: the broker is told of a message only that the agent has acknowledged it, and once a
    /// connection; and no id names two unanswered messages at the agent.
    #[test]
    fn whatever_is_commanded_both_sides_see_a_protocol_that_holds(ops in prop::collection::vec(op(), 1..120)) {
        const WINDOW: usize = 8;
        let mut ends = Ends::new();
        ends.behaviour.window = Some(WINDOW as u16);
        // At the broker: id to payload and whether it was sent on this connection. At the agent: what it owes, in order.
        let mut broker: BTreeMap<u16, (String, bool)> = BTreeMap::new();
        let mut agent: Vec<(u16, String)> = Vec::new();
        let mut acknowledged: Vec<String> = Vec::new();
        let mut published = 0;
        for op in ops {
            let mut given = Vec::new();
            match op {
                Op::Publish => {
                    let id = (1..).find(|id| !broker.contains_key(id)).unwrap();
                    published += 1;
                    broker.insert(id, (published.to_string(), true));
                    given = ends.broker(&one(id, false, &published.to_string()));
                }
                Op::Answer(at) => if !agent.is_empty() {
                    let (id, payload) = agent.remove(at % agent.len());
                    acknowledged.push(payload);
                    let told = ends.agent(&puback(id));
                    given = ends.out_to_agent().into_iter().map(|passed| passed.bytes).collect();
                    for bytes in told {
                        tell(&mut broker, &acknowledged, &bytes)?;
                    }
                },
                Op::Redeliver { answered, old, dup } => {
                    let of = if answered { Of::Answered } else { Of::Unanswered };
                    given = ends.redeliver(of, if old { Id::Old } else { Id::New }, dup);
                }
                Op::Behave { lose, new_names, held } => {
                    ends.behaviour.lost_acknowledgements = if lose == 0 { Lost::None } else { Lost::Every(lose) };
                    ends.behaviour.names = if new_names { Names::NewWithoutDup } else { Names::Brokers };
                    ends.behaviour.acknowledgements = if held { Pace::Held } else { Pace::AtOnce };
                    for bytes in ends.out_to_broker() {
                        tell(&mut broker, &acknowledged, &bytes)?;
                    }
                }
                Op::Reconnect => {
                    agent.clear();
                    ends.reconnect(1);
                    for (id, (payload, _)) in &broker {
                        given.extend(ends.broker(&one(*id, true, payload)));
                    }
                }
            }
            for bytes in given {
                let Packet::Publish { packet_id: Some(id), payload, .. } = decode(&bytes, Version::V3) else {
                    panic!("only messages are expected");
                };
                let payload = String::from_utf8(payload.to_vec()).unwrap();
                prop_assert!(agent.iter().all(|(other, same)| *other != id || *same == payload), "{} twice", id);
                agent.push((id, payload));
                prop_assert!(agent.len() <= WINDOW);
            }
        }
    }
}

/// The broker is told that a message of its own is acknowledged.
fn tell(
    broker: &mut BTreeMap<u16, (String, bool)>,
    acknowledged: &[String],
    bytes: &[u8],
) -> Result<(), TestCaseError> {
    let Packet::Puback { packet_id, .. } = decode(bytes, Version::V3) else {
        panic!("only PUBACKs are expected")
    };
    let known = broker.remove(&packet_id);
    let Some((payload, _)) = known else {
        return Err(TestCaseError::fail(format!("PUBACK {packet_id} answers nothing at the broker")));
    };
    prop_assert!(acknowledged.contains(&payload), "{} was never acknowledged by the agent", payload);
    Ok(())
}

// --- on sockets ------------------------------------------------------------------------------------------------

/// What comes out until the connection ends, however it ends.
async fn rest_of(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(HANG, stream.read_to_end(&mut rest)).await.unwrap();
    rest
}

async fn expect(stream: &mut TcpStream, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    tokio::time::timeout(HANG, stream.read_exact(&mut got)).await.unwrap().unwrap();
    assert_eq!(got, bytes);
}

#[tokio::test]
async fn a_cut_strikes_where_it_was_commanded() {
    let script = Script::new().await;
    let (mut agent, mut broker) = script.connect().await;
    script.proxy.cut_when(Cut::AfterPublishes(2));
    broker.write_all(&[one(1, false, "1"), one(2, false, "2"), one(3, false, "3")].concat()).await.unwrap();
    assert_eq!(rest_of(&mut agent).await, [one(1, false, "1"), one(2, false, "2")].concat());

    let (mut agent, mut broker) = script.connect().await;
    script.proxy.cut_when(Cut::WithinPublish(1));
    broker.write_all(&[one(1, true, "1"), one(2, true, "2")].concat()).await.unwrap();
    let torn = one(2, true, "2");
    assert_eq!(rest_of(&mut agent).await, [&one(1, true, "1")[..], &torn[..torn.len() / 2]].concat());

    for (cut, reached) in [
        (Cut::BeforeAcknowledgement(2), vec![puback(1)]),
        (Cut::AfterAcknowledgement(2), vec![puback(1), puback(2)]),
    ] {
        let (mut agent, mut broker) = script.connect().await;
        for id in 1..=3 {
            pass(&mut broker, &mut agent, &one(id, true, &id.to_string())).await;
        }
        script.proxy.cut_when(cut);
        pass(&mut agent, &mut broker, &puback(1)).await;
        agent.write_all(&[puback(2), puback(3)].concat()).await.unwrap();
        assert_eq!(rest_of(&mut broker).await, reached[1..].concat(), "{cut:?}");
    }
    let counts = script.proxy.counts();
    assert_eq!((counts.cuts, counts.connections), (4, 4));
}

#[tokio::test]
async fn a_redelivery_on_the_live_connection_is_recorded_as_the_proxys_own() {
    let script = Script::new().await;
    let (mut agent, mut broker) = script.connect().await;
    pass(&mut broker, &mut agent, &one(1, false, "1")).await;
    pass(&mut agent, &mut broker, &puback(1)).await;
    pass(&mut broker, &mut agent, &one(2, false, "2")).await;
    let again = |of, id, dup| script.proxy.redeliver(Redelivery { messages: 9, of, id, dup });
    assert_eq!(again(Of::Answered, Id::Old, true), 1);
    expect(&mut agent, &one(1, true, "1")).await;
    assert_eq!(again(Of::Unanswered, Id::New, false), 2);
    expect(&mut agent, &[one(3, false, "1"), one(4, false, "2")].concat()).await;
    agent.write_all(&[puback(1), puback(3), puback(4), puback(2)].concat()).await.unwrap();
    expect(&mut broker, &puback(2)).await;
    let counts = script.proxy.counts();
    assert_eq!((counts.publishes, counts.injected, counts.in_flight, counts.unmatched), (5, 3, 0, 0));
    let done: Vec<_> = script
        .lines()
        .into_iter()
        .filter_map(|line| Some(format!("{} {}", line["packet"].as_str()?, line["done"].as_str()?)))
        .collect();
    assert_eq!(done, [["publish injected"; 3], ["puback kept"; 3]].concat());
}

#[tokio::test]
async fn held_acknowledgements_count_as_given_and_are_lost_with_their_connection() {
    let script = Script::new().await;
    let (mut agent, mut broker) = script.connect().await;
    script.proxy.behave(Behaviour { acknowledgements: Pace::Held, ..Behaviour::default() });
    pass(&mut broker, &mut agent, &one(1, false, "1")).await;
    agent.write_all(&puback(1)).await.unwrap();
    let mut changes = script.proxy.changes();
    let held = changes.wait_for(|counts| counts.acknowledgements_kept_back == 1);
    tokio::time::timeout(HANG, held).await.unwrap().unwrap();
    assert!(script.proxy.is_acknowledged(1), "the agent said so: it must have it");
    script.proxy.cut();
    assert_eq!(rest_of(&mut broker).await, NOTHING.concat());

    let (mut agent, mut broker) = script.connect().await;
    pass(&mut broker, &mut agent, &one(1, true, "1")).await;
    agent.write_all(&puback(1)).await.unwrap();
    let held = changes.wait_for(|counts| counts.acknowledgements_kept_back == 1);
    tokio::time::timeout(HANG, held).await.unwrap().unwrap();
    script.proxy.behave(Behaviour::default());
    expect(&mut broker, &puback(1)).await;
}

#[tokio::test]
async fn lost_acknowledgements_are_counted_and_written_down_as_lost() {
    let script = Script::new().await;
    let (mut agent, mut broker) = script.connect().await;
    script.proxy.behave(Behaviour { lost_acknowledgements: Lost::Every(2), ..Behaviour::default() });
    for id in 1..=4 {
        pass(&mut broker, &mut agent, &one(id, false, &id.to_string())).await;
    }
    agent.write_all(&(1..=4).flat_map(puback).collect::<Vec<_>>()).await.unwrap();
    expect(&mut broker, &[puback(1), puback(3)].concat()).await;
    assert_eq!((script.proxy.counts().lost, script.proxy.acknowledged()), (2, 4));
    let lost: Vec<_> = script
        .lines()
        .into_iter()
        .filter(|line| line["done"] == "lost")
        .map(|line| (line["number"].as_u64(), line["at"].is_string()))
        .collect();
    assert_eq!(lost, [(Some(2), true), (Some(4), true)]);
}

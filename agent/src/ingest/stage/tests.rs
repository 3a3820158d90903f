//! The decision for one message, whole.

use bytes::Bytes;

use super::*;
use crate::config::{Decoder, MINUTE, MqttVersion, SECOND};
use crate::ingest::decode::tests::{config, source};

fn broker() -> Broker {
    Broker {
        host: "broker".into(),
        port: 1883,
        tls: false,
        client_id: "gw-1".into(),
        version: MqttVersion::V5,
        username: None,
        password_file: None,
        ca_file: None,
        cert_file: None,
        key_file: None,
        inflight_window: 20,
        marker: Some("tributary/gw-1/marker".into()),
        resends: false,
        keep_alive: MINUTE,
        session_expiry: MINUTE,
    }
}

fn stage() -> Stage {
    let mut c = config(vec![source("s/{device}/{metric}", Decoder::Auto)]);
    c.brokers = vec![broker()];
    c.limits.payload = 2000;
    let mut stage = Stage::new(&c).unwrap();
    stage.connected(0, 1, Session::New, at(0));
    stage.drain(at(0));
    stage
}

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millis(ms)
}

fn publish(generation: u64, packet_id: u16, topic: &str, payload: &str) -> Publish {
    Publish {
        broker: 0,
        generation,
        packet_id,
        qos: 1,
        dup: false,
        retain: false,
        topic: topic.into(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        size: payload.len(),
        received_at: at(5),
    }
}

fn lawful(c: &Collected) {
    let m = c.messages;
    assert_eq!(m.received, m.accepted + m.rejected + m.redelivered);
    assert_eq!(m.redelivered, c.redelivered.iter().sum::<u64>());
    assert_eq!((m.accepted, m.rejected), (c.accepted.len() as u64, c.rejected.len() as u64));
    assert_eq!(m.received, c.sources.iter().map(|s| s.messages).sum::<u64>());
}

#[test]
fn each_message_is_accounted_for_and_acknowledged_in_order_of_arrival() {
    let mut s = stage();
    s.take(publish(1, 1, "s/d/t", "21.5"));
    s.take(publish(1, 2, "other", "1"));
    s.take(publish(1, 3, "s/d/t", "{"));
    s.take(Publish { dup: true, ..publish(1, 1, "s/d/t", "21.5") });
    s.take(Publish { qos: 0, packet_id: 0, ..publish(1, 0, "s/d/t", "22") });
    s.take(publish(1, 4, "s/d/t", &"9".repeat(2001)));
    let c = s.drain(at(6));
    lawful(&c);
    assert_eq!(c.messages, MessageCounters { received: 5, redelivered: 1, rejected: 2, accepted: 2 });
    assert_eq!(c.redelivered, [1, 0]);
    assert_eq!(c.acks.iter().map(|a| a.packet_id).collect::<Vec<_>>(), [1, 2, 3, 1, 4]);
    assert!(c.acks.iter().all(|a| a.generation == 1 && a.broker == 0));
    assert_eq!((c.unmatched, c.unmatched_topics), (vec![1], vec!["other".to_owned()]));
    let tally = SourceTally { messages: 5, qos0: 1, rejected: 2, last_at: Some(at(5)) };
    assert_eq!(c.sources, [tally]);
    assert_eq!(c.memory.len(), 3, "what is stored, but for QoS 0");
    let reasons: Vec<_> = c.rejected.iter().map(|r| (r.reason, r.size, r.payload.len())).collect();
    assert_eq!(reasons, [(RejectReason::Malformed, 1, 1), (RejectReason::TooLarge, 2001, 1024)]);
}

#[test]
fn a_message_cut_on_its_way_in_is_rejected_with_its_whole_size() {
    let mut s = stage();
    s.take(Publish { size: 5_000_000, ..publish(1, 1, "s/d/t", "99") });
    let c = s.drain(at(6));
    assert_eq!((c.rejected[0].reason, c.rejected[0].size), (RejectReason::TooLarge, 5_000_000));
}

#[test]
fn a_lost_session_is_made_durable_before_the_connection_may_subscribe() {
    let mut s = stage();
    s.take(publish(1, 1, "s/d/t", "21.5"));
    s.drain(at(6));
    s.connected(0, 2, Session::Lost, at(7));
    assert_eq!(s.due(at(7)), Due::Now);
    let c = s.drain(at(7));
    assert!(c.needs_commit());
    assert_eq!(c.lost_sessions, [LostSession { broker: 0, since: Some(at(5)), at: at(7) }]);
    assert_eq!(c.subscribe, [Permit { broker: 0, generation: 2 }]);
    s.connected(0, 3, Session::Present, at(8));
    assert_eq!(s.due(at(8)), Due::Never, "a kept session needs nothing");
}

#[test]
fn a_possible_duplicate_is_stored_and_marked() {
    let mut s = stage();
    s.doubt_past();
    s.connected(0, 2, Session::Present, at(1));
    s.take(Publish { dup: true, ..publish(2, 9, "s/d/t", "21.5") });
    let c = s.drain(at(6));
    lawful(&c);
    assert!(c.accepted[0].readings[0].quality.has(Doubt::PossibleDuplicate));
}

#[test]
fn what_was_drained_is_recognised_after_a_restart() {
    let mut s = stage();
    s.take(publish(1, 1, "s/d/t", "21.5"));
    s.take(publish(1, 2, "s/d/t", r#"{"ts":1714550400,"value":1}"#));
    s.take(publish(1, 3, "s/d/t", "{"));
    let c = s.drain(at(6));
    let mut after = stage();
    after.restore(&c.memory);
    after.connected(0, 1 << 32, Session::Present, at(7));
    for (id, payload) in [(1, "21.5"), (2, r#"{"ts":1714550400,"value":1}"#), (3, "{")] {
        after.take(Publish { dup: true, ..publish(1 << 32, id, "s/d/t", payload) });
    }
    let c = after.drain(at(8));
    lawful(&c);
    assert_eq!((c.messages.redelivered, c.redelivered), (3, [2, 1]));
    assert_eq!(c.acks.len(), 3);
}

#[test]
fn a_batch_without_matched_messages_needs_no_commit() {
    let mut s = stage();
    s.take(publish(1, 1, "other", "1"));
    let c = s.drain(at(6));
    assert!(!c.needs_commit());
    assert_eq!(c.acks.len(), 1);
}

#[test]
fn a_batch_is_due_at_half_the_window_or_after_the_interval() {
    let mut s = stage();
    for id in 1..10 {
        s.take(publish(1, id, "s/d/t", "1"));
    }
    assert_eq!(s.due(at(6)), Due::At(at(5).plus(SECOND)));
    s.take(publish(1, 10, "s/d/t", "1"));
    assert_eq!(s.due(at(6)), Due::Now);
}

#[test]
fn a_node_without_birth_is_asked_for_it_at_its_own_broker_once_the_batch_is_durable() {
    let mut c = config(vec![source("spBv1.0/#", Decoder::SparkplugB)]);
    c.brokers = vec![broker()];
    let mut s = Stage::new(&c).unwrap();
    // One metric, alias 5, an Int32 of 3.
    let data = [0x12, 6, 0x10, 5, 0x20, 3, 0x50, 3];
    s.take(Publish { payload: Bytes::copy_from_slice(&data), ..publish(1, 1, "spBv1.0/g/NDATA/n", "") });
    let collected = s.drain(at(6));
    lawful(&collected);
    let asked: Vec<_> =
        collected.outgoing.iter().map(|(broker, message)| (*broker, message.topic.as_str())).collect();
    assert_eq!((collected.messages.rejected, asked), (1, vec![(0, "spBv1.0/g/NCMD/n")]));
    // The birth gives the alias its name, and is to be remembered with the batch.
    let birth = [0x08, 1, 0x12, 9, 0x0a, 1, b'm', 0x10, 5, 0x20, 3, 0x50, 7, 0x18, 0];
    s.take(Publish { payload: Bytes::copy_from_slice(&birth), ..publish(1, 2, "spBv1.0/g/NBIRTH/n", "") });
    s.take(Publish { payload: Bytes::copy_from_slice(&data), ..publish(1, 3, "spBv1.0/g/NDATA/n", "") });
    let collected = s.drain(at(7));
    assert_eq!((collected.messages.accepted, collected.remembered.len()), (2, 1));
    assert_eq!(collected.accepted[1].readings[0].metric, "m");
    let mut after = Stage::new(&c).unwrap();
    after.restore_decoder(0, &collected.remembered[0].1);
    after.take(Publish { payload: Bytes::copy_from_slice(&data), ..publish(2, 4, "spBv1.0/g/NDATA/n", "") });
    assert_eq!(after.drain(at(8)).accepted[0].readings[0].metric, "m", "births survive a restart");
}

#[test]
fn what_comes_before_the_marker_returns_is_marked_queued_where_it_has_no_own_time() {
    let mut s = stage();
    s.disconnected(0, at(0));
    let later = 11_000;
    s.connected(0, 2, Session::Present, at(later));
    s.marked(0);
    assert!(!s.is_drained(0, at(later + 5_000)));
    let arrive = |s: &mut Stage, id, topic: &str, payload: &str| {
        s.take(Publish { received_at: at(later + i64::from(id)), ..publish(2, id, topic, payload) });
    };
    arrive(&mut s, 1, "s/d/t", "21.5");
    arrive(&mut s, 2, "s/d/t", r#"{"ts":1714550400,"value":1}"#);
    arrive(&mut s, 3, "tributary/gw-1/marker", "1");
    arrive(&mut s, 4, "tributary/gw-2/marker", "2");
    arrive(&mut s, 5, "s/d/t", "22.5");
    arrive(&mut s, 6, "tributary/gw-1/marker", "2");
    assert!(s.is_drained(0, at(later + 7)));
    arrive(&mut s, 7, "s/d/t", "23.5");
    let c = s.drain(at(later + 8));
    lawful(&c);
    let queued: Vec<_> = c.accepted.iter().map(|a| a.readings[0].quality.has(Doubt::Queued)).collect();
    assert_eq!(queued, [true, false, true, false], "an old marker and another gateway's say nothing");
    assert_eq!(c.acks.iter().map(|a| a.packet_id).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!((c.unmatched, c.messages.rejected), (vec![0], 0), "a marker is no message of anybody's");
}

#[test]
fn after_a_short_absence_nothing_is_marked_queued() {
    let mut s = stage();
    s.disconnected(0, at(0));
    s.connected(0, 2, Session::Present, at(10_000));
    s.marked(0);
    s.take(Publish { received_at: at(10_001), ..publish(2, 1, "s/d/t", "21.5") });
    assert!(s.drain(at(10_002)).accepted[0].readings[0].quality.is_good());
}

#[test]
fn the_window_that_a_connection_agreed_on_is_the_one_that_counts() {
    let mut s = stage();
    s.connected(0, 2, Session::Present, at(1));
    s.set_window(0, 40);
    assert_eq!(s.window(0), 40);
    for id in 1..20 {
        s.take(publish(2, id, "s/d/t", "1"));
    }
    assert_eq!(s.due(at(6)), Due::At(at(5).plus(SECOND)));
    s.take(publish(2, 20, "s/d/t", "1"));
    assert_eq!(s.due(at(6)), Due::Now);
}

#[test]
fn what_a_gateway_tells_is_acknowledged_and_taken_in_by_no_source() {
    let mut c = config(vec![source("#", Decoder::Auto)]);
    c.brokers = vec![broker()];
    let publish_on = crate::config::TopicPattern::parse("site/results/{window}/{device}").unwrap();
    c.windows = vec![Window { publish: Some(publish_on), ..Window::tumbling("1m", MINUTE) }];
    let mut s = Stage::new(&c).unwrap();
    s.connected(0, 1, Session::New, at(0));
    s.drain(at(0));
    s.take(publish(1, 1, "site/results/1m/boiler", "{\"value\":1}"));
    s.take(publish(1, 2, "tributary/another-gateway/windows/1m/boiler/temp", "{\"value\":1}"));
    s.take(publish(1, 3, "site/results/5m/boiler", "{\"value\":1}"));
    let c = s.drain(at(6));
    assert_eq!(c.acks.iter().map(|a| a.packet_id).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!((c.messages.received, c.unmatched[0]), (1, 0), "only what nobody tells is a message");
}

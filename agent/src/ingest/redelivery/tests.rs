//! Copies of every kind that brokers make, and messages that only look like copies.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const HOUR: i64 = 3_600_000_000;

fn traits(resends: bool, inflight_window: u16) -> BrokerTraits {
    BrokerTraits { resends, inflight_window }
}

fn memory() -> Memory {
    Memory::new(&[traits(false, 20)], HOUR, 100_000)
}

fn message(generation: u64, packet_id: u16, dup: bool, content: &str) -> Arriving {
    Arriving {
        connection: 0,
        generation,
        packet_id,
        dup,
        own_time: content.contains("ts"),
        hash: hash("gw-1@broker:1883", "sensors/a/t", content.as_bytes()),
        at: Timestamp::from_millis(1000),
    }
}

/// Judges, and remembers what is to be stored, as the stage does.
fn take(memory: &mut Memory, arriving: Arriving) -> Judgement {
    let judgement = memory.judge(&arriving);
    if !matches!(judgement, Judgement::Redelivered(_)) {
        memory.remember(&arriving);
    }
    judgement
}

const FRESH: Judgement = Judgement::Fresh;
const DOUBT: Judgement = Judgement::PossibleDuplicate;
const SESSION: Judgement = Judgement::Redelivered(Rule::Session);
const CONTENT: Judgement = Judgement::Redelivered(Rule::Content);

fn began(generation: u64) -> Memory {
    let mut m = memory();
    m.session_lost(0, generation, Timestamp(0));
    m
}

fn reconnect(m: &mut Memory, generation: u64) {
    m.new_connection(0, generation, Timestamp::from_millis(1000));
}

#[test]
fn mosquitto_sends_the_same_ids_with_dup_and_each_copy_is_recognised() {
    let mut m = began(1);
    assert_eq!(take(&mut m, message(1, 1, false, "21.5")), FRESH);
    assert_eq!(take(&mut m, message(1, 2, false, "21.5")), FRESH);
    assert_eq!(take(&mut m, message(1, 3, false, "ts 1")), FRESH);
    reconnect(&mut m, 2);
    assert_eq!(take(&mut m, message(2, 1, true, "21.5")), SESSION);
    assert_eq!(take(&mut m, message(2, 2, true, "21.5")), SESSION);
    assert_eq!(take(&mut m, message(2, 3, true, "ts 1")), CONTENT);
    assert_eq!(take(&mut m, message(2, 4, true, "21.5")), FRESH, "its first delivery never came");
    assert_eq!(take(&mut m, message(2, 5, false, "21.5")), FRESH);
    reconnect(&mut m, 3);
    assert_eq!(take(&mut m, message(3, 1, true, "21.5")), SESSION, "again and again");
}

#[test]
fn rumqttd_sends_new_ids_from_one_without_dup_and_content_decides() {
    let mut m = began(1);
    assert_eq!(take(&mut m, message(1, 7, false, "ts 1")), FRESH);
    assert_eq!(take(&mut m, message(1, 8, false, "ts 2")), FRESH);
    reconnect(&mut m, 2);
    assert_eq!(take(&mut m, message(2, 1, false, "ts 1")), CONTENT);
    assert_eq!(take(&mut m, message(2, 2, false, "ts 2")), CONTENT);
    assert_eq!(take(&mut m, message(2, 3, false, "ts 2")), FRESH, "at most one copy a connection");
}

#[test]
fn without_dup_and_without_own_time_a_copy_at_the_head_of_a_connection_is_marked() {
    let mut m = began(1);
    take(&mut m, message(1, 7, false, "21.5"));
    take(&mut m, message(1, 8, false, "ts 8"));
    reconnect(&mut m, 2);
    assert_eq!(take(&mut m, message(2, 1, false, "21.5")), DOUBT);
    assert_eq!(take(&mut m, message(2, 2, false, "ts 8")), CONTENT, "a recognised copy is part of the head");
    assert_eq!(take(&mut m, message(2, 3, false, "21.5")), FRESH, "the one candidate was taken");
    reconnect(&mut m, 3);
    assert_eq!(take(&mut m, message(3, 1, false, "22.0")), FRESH, "the head is over");
    assert_eq!(take(&mut m, message(3, 2, false, "21.5")), FRESH);
    reconnect(&mut m, 4);
    assert_eq!(take(&mut m, message(4, 3, true, "ts new")), FRESH, "this broker marks its copies");
    assert_eq!(take(&mut m, message(4, 4, false, "21.5")), FRESH);
}

#[test]
fn copies_that_a_flapping_connection_brings_do_not_push_the_rest_out_of_the_head() {
    let mut m = Memory::new(&[traits(false, 4)], HOUR, 1000);
    m.session_lost(0, 1, Timestamp(0));
    let values = ["1", "2", "3", "4"];
    for (id, value) in (1..).zip(values) {
        assert_eq!(take(&mut m, message(1, id, false, value)), FRESH);
    }
    for generation in 2..6 {
        reconnect(&mut m, generation);
        assert_eq!(take(&mut m, message(generation, 1, false, "1")), DOUBT);
        assert_eq!(take(&mut m, message(generation, 2, false, "2")), DOUBT);
    }
    reconnect(&mut m, 9);
    for (id, value) in (1..).zip(values) {
        assert_eq!(take(&mut m, message(9, id, false, value)), DOUBT, "{value}");
    }
}

#[test]
fn a_message_that_is_sent_again_on_the_live_connection_does_not_end_its_head() {
    let mut m = Memory::new(&[traits(true, 20)], HOUR, 1000);
    m.session_lost(0, 1, Timestamp(0));
    take(&mut m, message(1, 1, false, "ts 1"));
    take(&mut m, message(1, 2, false, "21.5"));
    take(&mut m, message(1, 3, false, "22.5"));
    reconnect(&mut m, 2);
    assert_eq!(take(&mut m, message(2, 4, false, "ts 1")), CONTENT);
    assert_eq!(take(&mut m, message(2, 4, true, "ts 1")), CONTENT);
    assert_eq!(take(&mut m, message(2, 5, false, "21.5")), DOUBT);
    assert_eq!(take(&mut m, message(2, 5, true, "21.5")), SESSION);
    assert_eq!(
        take(&mut m, message(2, 6, false, "22.5")),
        DOUBT,
        "this broker lost its memory: it marks nothing"
    );
}

#[test]
fn aws_sends_again_on_the_live_connection() {
    let mut m = Memory::new(&[traits(true, 100)], HOUR, 1000);
    m.session_lost(0, 1, Timestamp(0));
    assert_eq!(take(&mut m, message(1, 1, false, "ts 1")), FRESH);
    assert_eq!(take(&mut m, message(1, 2, false, "ts 1")), CONTENT);
    assert_eq!(take(&mut m, message(1, 3, false, "ts 1")), CONTENT, "as long as it isn't acknowledged");
    reconnect(&mut m, 2);
    assert_eq!(take(&mut m, message(2, 4, false, "ts 1")), CONTENT);
    assert_eq!(take(&mut m, message(2, 5, false, "ts 1")), CONTENT);
    assert_eq!(take(&mut m, message(2, 6, false, "ts 2")), FRESH);
}

#[test]
fn without_own_time_a_message_sent_again_on_the_live_connection_is_marked_where_the_broker_is_said_to_do_so()
{
    let mut m = Memory::new(&[traits(true, 2)], HOUR, 1000);
    m.session_lost(0, 1, Timestamp(0));
    assert_eq!(take(&mut m, message(1, 1, false, "21.5")), FRESH);
    assert_eq!(take(&mut m, message(1, 1, true, "21.5")), SESSION, "by its id");
    assert_eq!(take(&mut m, message(1, 2, true, "21.5")), DOUBT, "DUP under a new id");
    assert_eq!(take(&mut m, message(1, 3, false, "21.5")), DOUBT, "a new id without DUP");
    assert_eq!(take(&mut m, message(1, 4, false, "22.0")), FRESH);
    for id in 5..9 {
        m.export();
        assert_eq!(take(&mut m, message(1, id, false, &format!("{id}"))), FRESH);
    }
    assert_eq!(take(&mut m, message(1, 9, false, "22.0")), FRESH, "long acknowledged");
    let mut undeclared = began(1);
    take(&mut undeclared, message(1, 1, false, "21.5"));
    assert_eq!(take(&mut undeclared, message(1, 2, false, "21.5")), FRESH);
}

#[test]
fn the_head_of_a_connection_reaches_as_far_as_acknowledgements_may_be_missing_whatever_the_window_is_said_to_be()
 {
    let four_batches_and_back = || {
        let mut m = Memory::new(&[traits(false, 2)], HOUR, 1000);
        m.session_lost(0, 1, Timestamp(0));
        for id in 1..=40 {
            take(&mut m, message(1, id, false, &format!("{id}")));
            if id % 10 == 0 {
                m.export();
            }
        }
        reconnect(&mut m, 2);
        m
    };
    let mut m = four_batches_and_back();
    for id in 21..=40 {
        assert_eq!(take(&mut m, message(2, id, false, &format!("{id}"))), DOUBT, "{id}");
    }
    let mut m = four_batches_and_back();
    assert_eq!(take(&mut m, message(2, 1, false, "20")), FRESH, "acknowledged three batches ago");
}

#[test]
fn two_equal_payloads_really_published_twice_are_both_stored() {
    let mut m = began(1);
    assert_eq!(take(&mut m, message(1, 1, false, "ts 1")), FRESH);
    assert_eq!(take(&mut m, message(1, 2, false, "ts 1")), FRESH);
    reconnect(&mut m, 2);
    assert_eq!(take(&mut m, message(2, 1, true, "ts 1")), CONTENT);
    assert_eq!(take(&mut m, message(2, 2, true, "ts 1")), CONTENT);
    assert_eq!(take(&mut m, message(2, 3, true, "ts 1")), FRESH, "a third whose first delivery never came");
}

#[test]
fn dup_on_the_same_connection_is_a_copy() {
    let mut m = began(1);
    take(&mut m, message(1, 1, false, "ts 1"));
    take(&mut m, message(1, 2, false, "21.5"));
    assert_eq!(take(&mut m, message(1, 1, true, "ts 1")), CONTENT);
    assert_eq!(take(&mut m, message(1, 2, true, "21.5")), SESSION);
    reconnect(&mut m, 2);
    assert_eq!(take(&mut m, message(2, 1, true, "ts 1")), CONTENT);
    assert_eq!(take(&mut m, message(2, 1, true, "ts 1")), CONTENT, "the same id twice is the same copy");
    assert_eq!(take(&mut m, message(2, 9, true, "ts 1")), FRESH, "another id is another message");
}

#[test]
fn an_id_that_comes_fresh_forgets_what_it_named() {
    let mut m = began(1);
    take(&mut m, message(1, 5, false, "21.5"));
    take(&mut m, message(1, 5, false, "22.0"));
    reconnect(&mut m, 2);
    assert_eq!(take(&mut m, message(2, 5, true, "21.5")), FRESH);
    let mut m = began(1);
    take(&mut m, message(1, 5, false, "21.5"));
    m.forget_id(0, 5);
    reconnect(&mut m, 2);
    assert_eq!(take(&mut m, message(2, 5, true, "21.5")), FRESH);
}

#[test]
fn where_ids_are_reused_at_once_a_handed_over_message_cannot_be_told_from_a_later_one() {
    let mut m = began(1);
    take(&mut m, message(1, 1, false, "20.0"));
    take(&mut m, message(1, 1, false, "21.5"));
    reconnect(&mut m, 2);
    assert_eq!(
        take(&mut m, message(2, 1, true, "21.5")),
        SESSION,
        "not committed, so not acknowledged: certain"
    );
    m.export();
    reconnect(&mut m, 3);
    assert_eq!(take(&mut m, message(3, 1, true, "21.5")), DOUBT);
}

#[test]
fn a_lost_session_ends_the_rule_by_id_but_not_the_one_by_content() {
    let mut m = began(1);
    take(&mut m, message(1, 1, false, "21.5"));
    take(&mut m, message(1, 2, false, "ts 1"));
    m.session_lost(0, 2, Timestamp(0));
    assert_eq!(take(&mut m, message(2, 1, true, "21.5")), FRESH);
    assert_eq!(take(&mut m, message(2, 2, false, "21.5")), FRESH);
    assert_eq!(take(&mut m, message(2, 3, false, "ts 1")), CONTENT);
}

#[test]
fn after_a_restart_every_connection_is_later() {
    let mut before = began(1);
    take(&mut before, message(1, 1, false, "21.5"));
    take(&mut before, message(1, 2, false, "ts 1"));
    let bytes = encode(&before.export());
    let mut m = memory();
    m.restore(decode(&bytes).unwrap());
    reconnect(&mut m, 1 << 32);
    assert_eq!(take(&mut m, message(1 << 32, 1, true, "21.5")), SESSION);
    assert_eq!(take(&mut m, message(1 << 32, 2, true, "ts 1")), CONTENT);
    assert_eq!(take(&mut m, message(1 << 32, 3, true, "22.0")), FRESH, "the memory is whole");
}

#[test]
fn a_session_that_began_anew_is_remembered_over_a_restart() {
    let mut before = began(1);
    take(&mut before, message(1, 1, false, "21.5"));
    before.session_lost(0, 2, Timestamp(0));
    let mut m = memory();
    m.restore(before.export());
    reconnect(&mut m, 3);
    assert_eq!(take(&mut m, message(3, 1, true, "21.5")), FRESH);
}

#[test]
fn dup_without_memory_of_the_session_is_stored_and_marked() {
    let mut m = memory();
    reconnect(&mut m, 1);
    assert_eq!(take(&mut m, message(1, 1, true, "21.5")), DOUBT);
    assert_eq!(take(&mut m, message(1, 2, true, "ts 1")), DOUBT);
    assert_eq!(take(&mut m, message(1, 3, false, "21.5")), FRESH);
    m.session_lost(0, 2, Timestamp(0));
    assert_eq!(take(&mut m, message(2, 4, true, "23.0")), FRESH);
    m.doubt_past();
    assert_eq!(take(&mut m, message(2, 5, true, "24.0")), DOUBT);
}

#[test]
fn time_and_count_bound_the_memory_but_an_outage_does_not_shorten_it() {
    let at = |mut a: Arriving, ms: i64| {
        a.at = Timestamp::from_millis(ms);
        a
    };
    let mut m = Memory::new(&[traits(false, 1)], HOUR, 5);
    m.session_lost(0, 1, Timestamp(0));
    for id in 1..=9 {
        take(&mut m, at(message(1, id, false, &format!("ts {id}")), i64::from(id)));
    }
    assert_eq!(m.len(), 5);
    let late = 10 * HOUR / 1000;
    m.new_connection(0, 2, Timestamp::from_millis(late));
    assert_eq!(take(&mut m, at(message(2, 1, false, "ts 4"), late)), FRESH, "beyond the count");
    for id in 6..=9 {
        assert_eq!(take(&mut m, at(message(2, id, true, &format!("ts {id}")), late)), CONTENT);
    }
    take(&mut m, at(message(2, 20, false, "ts 20"), late + HOUR / 1000 + 1));
    assert_eq!(m.len(), 2, "the last two windows are always kept");
}

/// The same rules by content said in the plainest way: a list of single messages.
#[derive(Default)]
struct Model {
    entries: Vec<(u64, u64, bool)>,
    generation: u64,
}

impl Model {
    fn connect(&mut self, generation: u64) {
        self.generation = generation;
        self.entries.iter_mut().for_each(|(_, _, absorbed)| *absorbed = false);
    }

    fn take(&mut self, hash: u64, dup: bool) -> Judgement {
        let now = self.generation;
        let same = |entry: &&mut (u64, u64, bool)| entry.0 == hash;
        if let Some(entry) = self.entries.iter_mut().filter(same).find(|e| e.1 < now && !e.2) {
            entry.2 = true;
            return CONTENT;
        }
        if dup && self.entries.iter().any(|e| e.0 == hash && e.1 == now) {
            return CONTENT;
        }
        self.entries.push((hash, now, false));
        FRESH
    }
}

#[derive(Debug, Clone)]
enum Op {
    Reconnect,
    Restart,
    Message { content: u8, dup: bool },
}

proptest! {
    #[test]
    fn rule_by_content_agrees_with_a_plain_list(ops in prop::collection::vec(
        prop_oneof![
            1 => Just(Op::Reconnect),
            1 => Just(Op::Restart),
            8 => (0..4_u8, any::<bool>()).prop_map(|(content, dup)| Op::Message { content, dup }),
        ],
        0..80,
    )) {
        let (mut m, mut model) = (began(1), Model::default());
        model.connect(1);
        let mut journal = Vec::new();
        let mut id = 0;
        for op in ops {
            match op {
                Op::Reconnect | Op::Restart => {
                    journal.extend(m.export());
                    if matches!(op, Op::Restart) {
                        m = memory();
                        m.restore(decode(&encode(&journal)).unwrap());
                    }
                    let next = model.generation + 1;
                    model.connect(next);
                    reconnect(&mut m, next);
                }
                Op::Message { content, dup } => {
                    id += 1;
                    let arriving = message(model.generation, id, dup, &format!("ts {content}"));
                    prop_assert_eq!(take(&mut m, arriving), model.take(arriving.hash, dup));
                }
            }
        }
    }

    /// A broker like Mosquitto, cut at any moment, with any part of our acknowledgements lost: whatever it delivers,
    /// each of its messages is stored exactly once, although all payloads are equal and have no time.
    #[test]
    fn a_broker_with_dup_and_kept_ids_never_loses_and_never_doubles(steps in prop::collection::vec(0..6_u8, 1..120)) {
        let mut m = began(1);
        let (mut generation, mut next_id) = (1, 1_u16);
        // At the broker: message number, packet id, whether it was sent at least once.
        let mut waiting: VecDeque<(u32, u16, bool)> = VecDeque::new();
        let (mut published, mut stored, mut journal) = (0, Vec::new(), Vec::new());
        let mut delivered = 0;
        for step in steps {
            match step {
                0 | 1 => {
                    waiting.push_back((published, next_id, false));
                    (published, next_id) = (published + 1, next_id + 1);
                }
                // Delivery, perhaps lost on the way because the connection breaks.
                2 | 3 => if let Some(slot) = waiting.get_mut(delivered) {
                    let dup = slot.2;
                    slot.2 = true;
                    if step == 3 && delivered % 2 == 1 {
                        continue;
                    }
                    delivered += 1;
                    if !matches!(take(&mut m, message(generation, slot.1, dup, "21.5")), Judgement::Redelivered(_)) {
                        stored.push(slot.0);
                    }
                },
                // Commit; the acknowledgement of the first reaches the broker, or none does.
                4 => {
                    journal.extend(m.export());
                    if delivered > 0 && published % 3 > 0 {
                        waiting.pop_front();
                        delivered -= 1;
                    }
                }
                _ => {
                    generation += 1;
                    delivered = 0;
                    reconnect(&mut m, generation);
                }
            }
        }
        generation += 1;
        reconnect(&mut m, generation);
        for (number, id, dup) in waiting {
            if !matches!(take(&mut m, message(generation, id, dup, "21.5")), Judgement::Redelivered(_)) {
                stored.push(number);
            }
        }
        stored.sort_unstable();
        prop_assert_eq!(stored, (0..published).collect::<Vec<_>>());
    }

    #[test]
    fn memory_comes_back_from_its_bytes(entries in prop::collection::vec(
        (0..3_u16, 0..3_u64, any::<u16>(), 0..3_u8, any::<u64>(), -1_000_000_000_000..5_000_000_000_000_i64),
        0..50,
    )) {
        let memory: Vec<Remembered> = entries.into_iter().map(|(connection, generation, packet_id, kind, hash, ms)| {
            let kind = [Kind::Session, Kind::Content, Kind::SessionBegan][usize::from(kind)];
            let generation = generation << 32;
            Remembered { connection, generation, packet_id, kind, hash, at: Timestamp::from_millis(ms) }
        }).collect();
        prop_assert_eq!(decode(&encode(&memory)).unwrap(), memory);
    }

    #[test]
    fn hostile_bytes_give_an_error_and_no_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = decode(&bytes);
        bytes.insert(0, 1);
        let _ = decode(&bytes);
    }
}

#[test]
fn a_batch_of_a_thousand_takes_about_ten_bytes_a_message() {
    let mut m = began(1);
    for id in 1..=1000 {
        take(&mut m, message(1, id, false, &format!("ts {id}")));
    }
    assert!(encode(&m.export()).len() < 10_100);
}

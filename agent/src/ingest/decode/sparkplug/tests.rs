//! What the Sparkplug decoder promises, on messages written here field by field.

use tributary_contract::quality::Doubt;
use tributary_contract::reject::RejectReason;

use super::*;
use crate::config::Decoder;
use crate::ingest::decode::tests::{config, source};
use crate::ingest::decode::{Decoded, Decoders};

const AT: Timestamp = Timestamp(1_714_550_500_000_000);
const MILLIS: u64 = 1_714_550_400_000;

fn varint(mut n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out
}

fn number(field: u64, n: u64) -> Vec<u8> {
    [varint(field << 3), varint(n)].concat()
}

fn bytes(field: u64, bytes: &[u8]) -> Vec<u8> {
    [varint(field << 3 | 2), varint(bytes.len() as u64), bytes.to_vec()].concat()
}

fn double(n: f64) -> Vec<u8> {
    [varint(13 << 3 | 1), n.to_bits().to_le_bytes().to_vec()].concat()
}

fn metric(parts: &[Vec<u8>]) -> Vec<u8> {
    bytes(2, &parts.concat())
}

fn named(name: &str, alias: u64, datatype: u64, value: Vec<u8>) -> Vec<u8> {
    metric(&[bytes(1, name.as_bytes()), number(2, alias), number(4, datatype), value])
}

fn aliased(alias: u64, value: Vec<u8>) -> Vec<u8> {
    metric(&[number(2, alias), value])
}

fn payload(seq: u64, metrics: &[Vec<u8>]) -> Vec<u8> {
    [number(1, MILLIS), metrics.concat(), number(3, seq)].concat()
}

fn bd_seq(n: u64) -> Vec<u8> {
    metric(&[bytes(1, b"bdSeq"), number(4, 8), number(11, n)])
}

struct Host(Decoders);

impl Host {
    fn new() -> Self {
        Self(Decoders::new(&config(vec![source("spBv1.0/#", Decoder::SparkplugB)])).unwrap())
    }

    fn read(&mut self, topic: &str, payload: &[u8]) -> Result<Vec<String>, RejectReason> {
        let topic = format!("spBv1.0/g/{topic}");
        let shown = |d: Decoded| {
            let each = d.readings.into_iter().map(|r| {
                let doubt = if r.quality.has(Doubt::Device) { " !" } else { "" };
                format!("{} {} {}{doubt}", r.device, r.metric, r.value)
            });
            each.collect()
        };
        self.0.decode(0, &topic, payload, AT, false).map(shown).map_err(|reject| reject.reason)
    }

    /// A node with a device, both born.
    fn born() -> Self {
        let mut host = Self::new();
        let birth = payload(0, &[bd_seq(1), named("Supply/V", 1, 10, double(24.0))]);
        assert_eq!(host.read("NBIRTH/n", &birth).unwrap(), ["n Supply/V 24", "n online true"]);
        let birth =
            payload(1, &[named("In/A", 2, 3, number(10, 5)), named("State", 3, 12, bytes(15, b"idle"))]);
        assert_eq!(host.read("DBIRTH/n/d", &birth).unwrap(), ["d In/A 5", "d State idle", "d online true"]);
        host
    }

    fn asked(&mut self) -> Vec<String> {
        self.0.take_outgoing().into_iter().map(|m| m.topic).collect()
    }
}

#[test]
fn aliases_mean_what_the_birth_named() {
    let mut host = Host::born();
    assert_eq!(
        host.read("DDATA/n/d", &payload(2, &[aliased(2, number(10, 0xffff_fffe))])).unwrap(),
        ["d In/A -2"]
    );
    assert_eq!(host.read("NDATA/n", &payload(3, &[aliased(1, double(24.5))])).unwrap(), ["n Supply/V 24.5"]);
    assert_eq!(host.asked(), [""; 0]);
}

#[test]
fn a_gap_asks_for_a_birth_once_and_marks_what_only_aliases_name() {
    let mut host = Host::born();
    assert_eq!(host.read("DDATA/n/d", &payload(4, &[aliased(2, number(10, 7))])).unwrap(), ["d In/A 7 !"]);
    assert_eq!(
        host.read("DDATA/n/d", &payload(9, &[named("In/A", 2, 3, number(10, 8))])).unwrap(),
        ["d In/A 8"]
    );
    assert_eq!(host.asked(), ["spBv1.0/g/NCMD/n"]);
    let birth = payload(0, &[bd_seq(2), named("Supply/V", 1, 10, double(24.0))]);
    host.read("NBIRTH/n", &birth).unwrap();
    assert_eq!(host.read("NDATA/n", &payload(1, &[aliased(1, double(25.0))])).unwrap(), ["n Supply/V 25"]);
    assert_eq!(host.asked(), [""; 0]);
}

#[test]
fn data_that_no_birth_explains_is_rejected_and_its_node_asked() {
    let mut host = Host::new();
    let data = payload(7, &[aliased(2, number(10, 7))]);
    assert_eq!(host.read("DDATA/n/d", &data), Err(RejectReason::NoName));
    assert_eq!(host.read("DDATA/n/d", &data), Err(RejectReason::NoName));
    assert_eq!(host.asked(), ["spBv1.0/g/NCMD/n"], "once a minute");
    assert_eq!(host.read("DDATA/n/d", &payload(8, &[named("x", 9, 10, double(1.5))])).unwrap(), ["d x 1.5"]);
    let mut silent = source("spBv1.0/#", Decoder::SparkplugB);
    silent.decoding.no_rebirth = true;
    let mut host = Host(Decoders::new(&config(vec![silent])).unwrap());
    assert_eq!(host.read("DDATA/n/d", &data), Err(RejectReason::NoName));
    assert_eq!(host.asked(), [""; 0]);
}

#[test]
fn a_death_repeats_the_last_values_as_stale() {
    let mut host = Host::born();
    host.read("DDATA/n/d", &payload(2, &[aliased(2, number(10, 9))])).unwrap();
    assert_eq!(
        host.read("DDEATH/n/d", &payload(3, &[])).unwrap(),
        ["d In/A 9 !", "d State idle !", "d online false"]
    );
    let late = [number(1, MILLIS), bd_seq(0)].concat();
    assert_eq!(host.read("NDEATH/n", &late).unwrap(), [""; 0], "the will of an earlier session");
    let death = [number(1, MILLIS), bd_seq(1)].concat();
    assert_eq!(host.read("NDEATH/n", &death).unwrap(), ["n Supply/V 24 !", "n online false"]);
}

#[test]
fn births_survive_a_restart_and_are_asked_for_again() {
    let mut before = Host::born();
    let kept = before.0.export();
    assert!(before.0.export().is_empty(), "unchanged since");
    let mut host = Host::new();
    host.0.restore(0, &kept[0].1);
    assert_eq!(host.read("DDATA/n/d", &payload(9, &[aliased(2, number(10, 7))])).unwrap(), ["d In/A 7 !"]);
    assert_eq!(host.asked(), ["spBv1.0/g/NCMD/n"]);
    host.0.restore(0, b"rubbish");
}

#[test]
fn a_copy_of_a_birth_ends_no_devices() {
    let mut host = Host::born();
    let birth = payload(0, &[bd_seq(1), named("Supply/V", 1, 10, double(24.0))]);
    host.read("NBIRTH/n", &birth).unwrap();
    assert_eq!(host.read("DDATA/n/d", &payload(2, &[aliased(2, number(10, 7))])).unwrap(), ["d In/A 7"]);
}

#[test]
fn values_of_all_kinds_are_taken_apart() {
    let mut host = Host::born();
    let template = bytes(
        18,
        &[bytes(2, &[bytes(1, b"rpm"), number(4, 10), double(1450.5)].concat()), number(5, 0)].concat(),
    );
    let table = bytes(
        17,
        &[
            bytes(2, b"id"),
            bytes(2, b"t"),
            number(3, 3),
            number(3, 10),
            bytes(
                4,
                &[
                    bytes(1, &number(1, 7)),
                    bytes(1, &[varint(4 << 3 | 1), 1.5f64.to_bits().to_le_bytes().to_vec()].concat()),
                ]
                .concat(),
            ),
        ]
        .concat(),
    );
    let data = payload(
        2,
        &[
            metric(&[bytes(1, b"Motor"), number(4, 19), template]),
            metric(&[bytes(1, b"Table"), number(4, 16), table]),
            metric(&[bytes(1, b"Arr"), number(4, 23), bytes(16, &[1, 0, 0xfe, 0xff])]),
            metric(&[bytes(1, b"Flags"), number(4, 32), bytes(16, &[3, 0, 0, 0, 0b1010_0000])]),
            metric(&[bytes(1, b"Blob"), number(4, 17), bytes(16, &[1, 2])]),
            metric(&[bytes(1, b"Great"), number(4, 8), number(11, u64::MAX)]),
            metric(&[bytes(1, b"Nan"), number(4, 10), double(f64::NAN)]),
            metric(&[bytes(1, b"Null"), number(4, 10), number(7, 1)]),
            metric(&[
                bytes(1, b"Bad"),
                number(4, 11),
                number(14, 1),
                bytes(9, &[bytes(1, b"Quality"), bytes(2, &[number(1, 3), number(3, 0)].concat())].concat()),
            ]),
        ],
    );
    assert_eq!(
        host.read("DDATA/n/d", &data).unwrap(),
        [
            "d Motor/rpm 1450.5",
            "d Table[0].id 7",
            "d Table[0].t 1.5",
            "d Arr[0] 1",
            "d Arr[1] -2",
            "d Flags[0] true",
            "d Flags[1] false",
            "d Flags[2] true",
            "d Great 18446744073709551615",
            "d Bad true !",
        ]
    );
}

#[test]
fn births_are_bounded_by_the_limit_on_series() {
    let mut c = config(vec![source("spBv1.0/#", Decoder::SparkplugB)]);
    c.limits.series = 20;
    let mut host = Host(Decoders::new(&c).unwrap());
    let many: Vec<_> = (0..30).map(|n| named(&format!("m{n}"), n, 3, number(10, n))).collect();
    assert_eq!(host.read("NBIRTH/n", &payload(0, &many)), Err(RejectReason::TooManySeries));
    assert!(host.read("NBIRTH/n", &payload(0, &many[..10])).is_ok());
    assert!(host.read("NBIRTH/n", &payload(0, &many[..10])).is_ok(), "the same again");
    assert_eq!(host.read("NBIRTH/other", &payload(0, &many[..10])), Err(RejectReason::TooManySeries));
}

#[test]
fn commands_hold_no_readings_and_other_topics_are_refused() {
    let mut host = Host::born();
    assert_eq!(host.read("NCMD/n", &wire::rebirth(MILLIS)).unwrap(), [""; 0]);
    for topic in ["NBIRTH/n/d", "DDATA/n", "XDATA/n", "NDATA", "NDATA/n/d/e"] {
        assert_eq!(host.read(topic, &payload(0, &[])), Err(RejectReason::BadTopic), "{topic}");
    }
    let mut state = |topic: &str, payload: &str| {
        let decoders = &mut host.0;
        decoders.decode(0, topic, payload.as_bytes(), AT, true).unwrap().readings[0].value.clone()
    };
    assert_eq!(
        state("spBv1.0/STATE/scada", r#"{"online":true,"timestamp":1714550400000}"#),
        Value::Bool(true)
    );
    assert_eq!(state("spBv1.0/STATE/scada", "OFFLINE"), Value::Bool(false));
}

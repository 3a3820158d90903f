//! Frozen files of every version ever written must still be read, and version 1 must still be written the same.
#![expect(clippy::unwrap_used, reason = "helpers of tests, too, may fail loudly")]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use tributary_contract::FORMAT_VERSION;
use tributary_contract::counters::{Counters, MessageCounters, ReadingCounters};
use tributary_contract::desired::{Backfill, Desired};
use tributary_contract::digest::Digest;
use tributary_contract::id::{Epoch, GatewayId, Namespace, Number};
use tributary_contract::key::Prefix;
use tributary_contract::manifest::{ClosedEpoch, Link, Manifest};
use tributary_contract::receipt::{EpochReceipt, Quarantined, Receipt};
use tributary_contract::reject::QuarantineReason;
use tributary_contract::status::{
    BackfillStatus, DesiredStatus, GatewayStatus, Health, RefusedSegment, ShortStatus,
};
use tributary_contract::table::Table;
use tributary_contract::time::Timestamp;

fn gateway() -> GatewayId {
    GatewayId::new("gw-1").unwrap()
}

fn manifest() -> Manifest {
    let at = "2016-01-01".parse::<tributary_contract::time::Day>().unwrap().start();
    Manifest {
        version: FORMAT_VERSION,
        gateway: gateway(),
        epoch: Epoch(0x9d1f_00c4_5b7e_2a36),
        number: Number::new(42).unwrap(),
        previous: Some(Link { number: Number::new(40).unwrap(), digest: Digest::of(b"the segment before") }),
        namespace: Namespace::default(),
        table: Table::Readings,
        day: at.day(),
        rows: 3,
        min_seq: Some(1001),
        max_seq: Some(1004),
        min_ts: at.plus(60_000_000),
        max_ts: at.plus(180_000_000),
        watermark: Some(at.plus(170_000_000)),
        void: [41].into_iter().collect(),
        outstanding: [39, 40, 42].into_iter().collect(),
        closed: vec![ClosedEpoch { epoch: Epoch(7), last: 12 }],
        counters: Counters {
            messages: MessageCounters { received: 1005, redelivered: 1, rejected: 1, accepted: 1003 },
            readings: ReadingCounters {
                journaled: 1003,
                sealed: 1000,
                registered: 990,
                ..Default::default()
            },
        },
        status: ShortStatus {
            at: at.plus(200_000_000),
            agent: "0.1.0".into(),
            health: Health::Ok,
            oldest_unsafe: Some(at.plus(60_000_000)),
            buffer_bytes: 1_234_567,
            backlog_bytes: 23_456,
            receipt_revision: 17,
        },
    }
}

fn receipt() -> Receipt {
    let registered: tributary_contract::range::Ranges = (1..=39).chain([42]).collect();
    let quarantine =
        Quarantined { reason: QuarantineReason::WrongDigest, detail: "bytes 5f… claim ab…".into() };
    Receipt {
        version: FORMAT_VERSION,
        gateway: gateway(),
        revision: 18,
        written_at: Timestamp(1_451_606_700_000_000),
        epochs: BTreeMap::from([(
            Epoch(0x9d1f_00c4_5b7e_2a36),
            EpochReceipt {
                registered,
                highest: Some(Link { number: Number::new(42).unwrap(), digest: Digest::of(b"the segment") }),
                quarantined: BTreeMap::from([(40, quarantine)]),
                missing: [43].into_iter().collect(),
                void: [41].into_iter().collect(),
            },
        )]),
        snapshots: BTreeMap::from([("tributary.readings".into(), 8_112_233_445_566_778_899)]),
    }
}

fn status() -> GatewayStatus {
    let mut status: GatewayStatus = serde_json::from_str(
        r#"{"version":1,"gateway":"gw-1","epoch":"9d1f00c45b7e2a36","at":1451606600000000,"agent":"0.1.0"}"#,
    )
    .unwrap();
    status.counters = manifest().counters;
    status.tags = BTreeMap::from([("site".into(), "north".into())]);
    status.namespaces = vec!["tributary".into()];
    status
}

/// A status with what came later.
fn later_status() -> GatewayStatus {
    let absent = vec![(Timestamp(1_451_520_000_000_000), Timestamp(1_451_523_600_000_000))];
    let sending = BackfillStatus {
        id: "yesterday".into(),
        state: "sending".into(),
        asked: 8640,
        waiting: 640,
        given_up: 12,
        already: 360,
        absent,
        ..Default::default()
    };
    let refused = BackfillStatus {
        id: "never".into(),
        state: "refused".into(),
        refused: Some("its range ends before it begins".into()),
        ..Default::default()
    };
    let mut status = status();
    status.segments.refused = vec![RefusedSegment {
        epoch: "9d1f00c45b7e2a36".into(),
        number: 40,
        state: "quarantined".into(),
        reason: "wrong-digest: bytes 5f… claim ab…".into(),
    }];
    status.desired = Some(DesiredStatus {
        revision: 3,
        refused: Some("its revision 2 isn't above 3, the last one taken".into()),
        not_applied: vec!["settings.segment.max_age: this agent takes no settings".into()],
        backfills: vec![sending, refused],
        more_backfills: 4,
    });
    status
}

fn desired() -> Desired {
    Desired {
        version: FORMAT_VERSION,
        gateway: gateway(),
        revision: 3,
        settings: serde_json::Map::from_iter([("segment.max_age".into(), "5m".into())]),
        backfills: vec![Backfill {
            id: "yesterday".into(),
            namespace: Namespace::default(),
            device: Some("boiler-3".into()),
            metric: None,
            from: Timestamp(1_451_520_000_000_000),
            to: Timestamp(1_451_606_400_000_000),
        }],
        paused: false,
    }
}

/// Every table's columns, one a line: `table id name type required`.
/// The columns of all tables: those of version 1, or those that came later.
fn schema(later: bool) -> String {
    let mut text = String::new();
    for table in Table::ALL {
        let (first, behind) = table.columns().split_at(table.first_columns().len());
        for c in if later { behind } else { first } {
            let need = if c.required { "required" } else { "optional" };
            text += &format!("{table} {} {} {:?} {need}\n", c.id, c.name, c.kind);
        }
    }
    text
}

fn keys() -> String {
    let prefix = Prefix::new("site").unwrap();
    let key = manifest().key();
    [
        key.object_key(&prefix),
        prefix.after(&gateway(), key.id.epoch, 42),
        prefix.status(&gateway()),
        prefix.receipt(&gateway()),
        prefix.desired(&gateway()),
        prefix.quarantine(&key.object_key(&prefix)),
        prefix.lake(),
    ]
    .join("\n")
        + "\n"
}

fn golden(name: &str, written: &str) -> String {
    let path = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("golden/v1").join(name);
    if std::env::var_os("TRIBUTARY_WRITE_GOLDEN").is_some() && !written.is_empty() && !path.exists() {
        fs::write(&path, written).unwrap();
    }
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn pretty(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap() + "\n"
}

#[test]
fn documents_of_version_1_are_still_written_the_same() {
    assert_eq!(golden("manifest.json", &pretty(&manifest())), pretty(&manifest()));
    assert_eq!(golden("receipt.json", &pretty(&receipt())), pretty(&receipt()));
    assert_eq!(golden("status.json", &pretty(&status())), pretty(&status()));
    assert_eq!(golden("later_status.json", &pretty(&later_status())), pretty(&later_status()));
    assert_eq!(golden("desired.json", &pretty(&desired())), pretty(&desired()));
}

#[test]
fn documents_of_version_1_are_still_read() {
    assert_eq!(Manifest::from_json(&golden("manifest.json", "")).unwrap(), manifest());
    assert_eq!(Receipt::from_json(golden("receipt.json", "").as_bytes(), &gateway()).unwrap(), receipt());
    assert_eq!(serde_json::from_str::<GatewayStatus>(&golden("status.json", "")).unwrap(), status());
    assert_eq!(
        serde_json::from_str::<GatewayStatus>(&golden("later_status.json", "")).unwrap(),
        later_status()
    );
    assert_eq!(serde_json::from_str::<Desired>(&golden("desired.json", "")).unwrap(), desired());
}

#[test]
fn columns_and_keys_never_change() {
    assert_eq!(golden("columns.txt", &schema(false)), schema(false));
    assert_eq!(golden("later_columns.txt", &schema(true)), schema(true));
    assert_eq!(golden("keys.txt", &keys()), keys());
}

#[test]
fn a_manifest_that_can_not_be_believed_is_refused_with_its_reason() {
    let changed = |f: &dyn Fn(&mut Manifest)| {
        let mut m = manifest();
        f(&mut m);
        Manifest::from_json(&m.to_json()).unwrap_err().to_string()
    };
    assert!(changed(&|m| m.version = 2).contains("upgrade the receiver"));
    assert!(changed(&|m| m.rows = 0).contains("no rows"));
    assert!(changed(&|m| m.max_ts = m.min_ts.plus(-1)).contains("later"));
    assert!(changed(&|m| m.max_ts = m.max_ts.plus(86_400_000_000)).contains("outside its day"));
    assert!(changed(&|m| m.min_seq = None).contains("seq"));
    assert!(changed(&|m| m.table = Table::Gaps).contains("readings"));
    assert!(changed(&|m| m.void = [42].into_iter().collect()).contains("void"));
    assert!(changed(&|m| m.previous.as_mut().unwrap().number = m.number).contains("previous"));
    assert!(changed(&|m| m.counters.messages.received += 1).contains("messages"));
    assert!(Manifest::from_json(&" ".repeat(300_000)).unwrap_err().to_string().contains("longer"));
    let mut key = manifest().key();
    key.id.gateway = GatewayId::new("gw-2").unwrap();
    assert!(manifest().agrees_with(&key).unwrap_err().to_string().contains("gw-2"));
}

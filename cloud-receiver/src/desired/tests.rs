//! What asking a gateway promises: nothing that others asked for is lost, and nothing is written that it would refuse.

use tributary_contract::key::Prefix;
use tributary_contract::status::{BackfillStatus, DesiredStatus};

use super::write::{WriteError, ask};
use super::*;
use crate::bucket::memory::MemoryBucket;
use crate::bucket::{Bucket, Extent, Got};

fn gateway() -> GatewayId {
    GatewayId::new("gw-1").unwrap()
}

fn prefix() -> Prefix {
    Prefix::new("site").unwrap()
}

fn wanted(id: Option<&str>) -> Wanted {
    Wanted {
        id: id.map(Into::into),
        namespace: Namespace::default(),
        device: Some("pump".into()),
        metric: None,
        from: Timestamp(1),
        to: Timestamp(2),
    }
}

/// A status that says of these requests that they are in that state.
fn status(revision: u64, ids: impl Iterator<Item = String>, state: &str) -> GatewayStatus {
    let json = r#"{"version":1,"gateway":"gw-1","epoch":"0000000000000001","at":0,"agent":"0.2.0"}"#;
    let mut status: GatewayStatus = serde_json::from_str(json).unwrap();
    status.namespaces = vec!["tributary".into()];
    let backfills = ids.map(|id| BackfillStatus { id, state: state.into(), ..Default::default() }).collect();
    status.desired = Some(DesiredStatus { revision, backfills, ..Default::default() });
    status
}

async fn lies_there(bucket: &MemoryBucket) -> Desired {
    match bucket.get(&prefix().desired(&gateway()), Extent::Whole { limit: MAX_BYTES }).await.unwrap() {
        Got::Object(object) => Desired::from_json(&object.bytes, &gateway()).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn each_request_is_added_to_those_before_under_a_greater_revision() {
    let bucket = MemoryBucket::default();
    let first = ask(&bucket, &prefix(), &gateway(), &wanted(None)).await.unwrap();
    assert_eq!((first.id.as_str(), first.revision, first.known), ("backfill-1", 1, false));
    let second = ask(&bucket, &prefix(), &gateway(), &wanted(Some("mine"))).await.unwrap();
    assert_eq!((second.id.as_str(), second.revision), ("mine", 2));
    let desired = lies_there(&bucket).await;
    let ids: Vec<&str> = desired.backfills.iter().map(|b| b.id.as_str()).collect();
    assert_eq!((desired.revision, ids), (2, vec!["backfill-1", "mine"]));
    let twice = ask(&bucket, &prefix(), &gateway(), &wanted(Some("mine"))).await.unwrap_err();
    assert!(twice.to_string().contains("\"mine\" twice"), "{twice}");
    assert_eq!(lies_there(&bucket).await, desired);
}

#[tokio::test]
async fn what_lies_there_and_is_not_understood_is_left_alone() {
    let bucket = MemoryBucket::default();
    let key = prefix().desired(&gateway());
    for bytes in [
        b"<html>".to_vec(),
        b"{\"version\":2,\"gateway\":\"gw-1\",\"revision\":4}".to_vec(),
        vec![b' '; 70_000],
    ] {
        bucket.store(&key, bytes.clone(), None, Timestamp(0));
        let refused = ask(&bucket, &prefix(), &gateway(), &wanted(None)).await.unwrap_err();
        assert!(matches!(refused, WriteError::Unreadable { .. }), "{refused}");
        match bucket.get(&key, Extent::Whole { limit: 1 << 20 }).await.unwrap() {
            Got::Object(object) => assert_eq!(object.bytes, bytes),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn after_the_object_was_removed_it_goes_on_above_what_the_gateway_took() {
    let bucket = MemoryBucket::default();
    let json = serde_json::to_vec(&status(7, std::iter::empty(), "")).unwrap();
    bucket.store(&prefix().status(&gateway()), json, None, Timestamp(0));
    let written = ask(&bucket, &prefix(), &gateway(), &wanted(None)).await.unwrap();
    assert_eq!((written.revision, written.known), (8, true));
    let office = Wanted { namespace: Namespace::new("office").unwrap(), ..wanted(None) };
    let refused = ask(&bucket, &prefix(), &gateway(), &office).await.unwrap_err();
    assert!(refused.to_string().contains("writes to tributary, not to the namespace office"), "{refused}");
}

#[test]
fn a_full_document_makes_room_by_what_has_ended_and_never_by_what_has_not() {
    let mut full = Desired { revision: 5, ..Desired::new(gateway()) };
    let request = |n: usize| {
        let Wanted { namespace, device, metric, from, to, .. } = wanted(None);
        Backfill { id: format!("r{n}"), namespace, device, metric, from, to }
    };
    full.backfills = (0..MAX_BACKFILLS).map(request).collect();
    let sending = status(5, (0..100).map(|n| format!("r{n}")), "sending");
    for status in [None, Some(&sending)] {
        let refused = with_backfill(Some(full.clone()), &gateway(), status, &wanted(None)).unwrap_err();
        assert!(matches!(refused, Unwritable::Full), "{refused}");
    }
    let done = status(5, ["r7".to_owned(), "r9".to_owned()].into_iter(), "done");
    let (desired, id) = with_backfill(Some(full), &gateway(), Some(&done), &wanted(None)).unwrap();
    let has = |id: &str| desired.backfills.iter().any(|b| b.id == id);
    assert!(has(&id) && !has("r7") && has("r9") && desired.backfills.len() == MAX_BACKFILLS);
}

#[test]
fn what_the_gateway_would_refuse_is_not_written() {
    let why = |wanted: Wanted| with_backfill(None, &gateway(), None, &wanted).unwrap_err().to_string();
    assert!(why(Wanted { to: Timestamp(1), ..wanted(None) }).contains("ends"));
    assert!(why(Wanted { device: Some(String::new()), ..wanted(None) }).contains("device is empty"));
    assert!(why(wanted(Some("a\nb"))).contains("control characters"));
    let last = Desired { revision: u64::MAX, ..Desired::new(gateway()) };
    let refused = with_backfill(Some(last), &gateway(), None, &wanted(None)).unwrap_err();
    assert!(matches!(refused, Unwritable::Revision(u64::MAX)), "{refused}");
}

//! What becomes of a segment besides being registered, and where that is shown: refused, superseded, a fork, nobody to ask.

use tributary_contract::digest::Digest;
use tributary_contract::id::Number;
use tributary_contract::receipt::Quarantined;
use tributary_contract::reject::QuarantineReason;
use tributary_contract::status::{GatewayStatus, Health};

use super::budget::laws;
use super::*;
use crate::upload::answer::Operation;
use crate::upload::bucket::Content;

/// The status as the bucket and `status` would have it now, and as people read it.
async fn shown(world: &World, shared: &Shared) -> (GatewayStatus, String) {
    report(shared, world.now()).await.unwrap();
    let status = shared.status.borrow().as_ref().clone();
    let again: GatewayStatus = serde_json::from_slice(&serde_json::to_vec(&status).unwrap()).unwrap();
    assert_eq!(again, status);
    let text = crate::status::text::render(&status);
    (status, text)
}

#[tokio::test]
async fn what_the_receiver_refused_stays_with_its_reason_and_the_others_go() {
    let world = World::new("");
    let (shared, mut deliverer) = world.sealed().await;
    deliverer.pass(world.now()).await.unwrap();
    let all = entries(&shared).await;
    let refused = all.iter().find(|e| e.key.table == Table::Readings).unwrap().clone();
    let others = all.iter().filter(|e| e.number != refused.number);
    let mut said = EpochReceipt::default();
    for other in others {
        said.registered.insert(other.number.get());
        said.highest = Some(Link { number: other.number, digest: other.digest });
    }
    let why =
        Quarantined { reason: QuarantineReason::WrongRows, detail: "3 rows, \u{1b}[2J expected 2".into() };
    said.quarantined = [(refused.number.get(), why)].into();
    for revision in 1..3 {
        world.receipt(revision, [(refused.epoch, said.clone())].into()).await;
        world.later(HOUR);
        deliverer.pass(world.now()).await.unwrap();
        let left = entries(&shared).await;
        let [left] = &left[..] else { panic!("{left:?}") };
        assert_eq!((left.number, left.state.name()), (refused.number, "quarantined"));
    }
    let file = shared.buffer.run(move |b| b.segment_path(refused.epoch, refused.number)).await.unwrap();
    assert!(file.exists(), "a person may want it");
    let counters = laws(&shared).await.readings;
    assert_eq!((counters.quarantined, counters.outstanding(), counters.registered), (refused.rows, 0, 0));

    let (status, text) = shown(&world, &shared).await;
    assert_eq!((status.health, status.segments.quarantined), (Health::Degraded, 1));
    let [one] = &status.segments.refused[..] else { panic!("{:?}", status.segments) };
    assert_eq!((one.number, one.state.as_str()), (refused.number.get(), "quarantined"));
    assert!(one.reason.starts_with("wrong-rows: 3 rows"), "{one:?}");
    let line = format!("quarantined {}-{}: wrong-rows: 3 rows", refused.epoch, refused.number.get());
    assert!(text.contains(&line) && !text.contains('\u{1b}'), "{text}");
}

#[tokio::test]
async fn what_another_object_has_the_name_of_goes_again_under_a_new_epoch_and_says_so() {
    let world = World::new("");
    let (shared, mut deliverer) = world.sealed().await;
    let mine = entries(&shared).await.into_iter().find(|e| e.key.table == Table::Readings).unwrap();
    let key = mine.key.object_key(&world.config.bucket.prefix);
    let other: &[u8] = b"another's";
    world.bucket.put_new(&key, Content::Bytes(other.into()), Digest::of(other)).await.unwrap();
    let ended = deliverer.pass(world.now()).await.unwrap_err();
    assert!(ended.is::<StartAgain>(), "{ended:#}");
    drop(deliverer);
    world.end(shared).await;

    let shared = world.live().await;
    world.seal(&shared).await;
    world.deliverer(&shared).pass(world.now()).await.unwrap();
    let (status, text) = shown(&world, &shared).await;
    assert_eq!((status.health, status.segments.superseded), (Health::Degraded, 1));
    let [one] = &status.segments.refused[..] else { panic!("{:?}", status.segments) };
    assert_eq!((one.epoch.as_str(), one.number), (&*mine.epoch.to_string(), mine.number.get()));
    assert!(text.contains(&format!("superseded {}-{}: ", mine.epoch, mine.number.get())), "{text}");
    let again: Vec<_> = entries(&shared)
        .await
        .into_iter()
        .filter(|e| e.key.table == Table::Readings && e.epoch != mine.epoch)
        .collect();
    assert_eq!(
        again.iter().map(|e| (e.rows, e.state.name())).collect::<Vec<_>>(),
        [(mine.rows, "delivered")]
    );
    assert_eq!(world.bucket.object(&key).unwrap(), other, "it was left alone");
}

#[tokio::test]
async fn a_fork_is_shown_and_stays_shown_over_a_restart() {
    let world = World::new("");
    let (shared, mut deliverer) = world.sealed().await;
    deliverer.pass(world.now()).await.unwrap();
    let all = entries(&shared).await;
    let epoch = all[0].epoch;
    let strange = Link { number: Number::new(99).unwrap(), digest: Digest::of(b"x") };
    world.register_links(1, [(epoch, strange)].into_iter()).await;
    world.later(HOUR);
    let ended = deliverer.pass(world.now()).await.unwrap_err();
    assert!(ended.is::<StartAgain>(), "{ended:#}");
    let (status, text) = shown(&world, &shared).await;
    assert!(status.receipt.forked && status.health == Health::Degraded);
    assert!(text.contains("a copy of it is or was running"), "{text}");
    drop(deliverer);
    world.end(shared).await;

    let shared = world.live().await;
    assert_eq!(entries(&shared).await.len(), all.len(), "nothing was deleted");
    world.bucket.delete(&world.config.bucket.prefix.receipt(&world.config.gateway));
    world.deliverer(&shared).pass(world.now()).await.unwrap();
    let (status, text) = shown(&world, &shared).await;
    assert!(status.receipt.forked && status.receipt.revision == 1, "{text}");
}

#[tokio::test]
async fn without_a_receiver_what_the_bucket_has_goes_and_nobody_is_asked_for_a_receipt() {
    let world = World::new("[buffer]\nrelease_on = \"delivered\"");
    let (shared, mut deliverer) = world.sealed().await;
    let count = states(&shared).await.len();
    world.bucket.script(vec![unreachable(); count]);
    deliverer.pass(world.now()).await.unwrap();
    assert!(states(&shared).await.iter().all(|state| *state == "sealed"), "the bucket doesn't have it");
    for _ in 0..4 {
        world.later(HOUR);
        deliverer.pass(world.now()).await.unwrap();
    }
    assert_eq!(entries(&shared).await, []);
    let counters = laws(&shared).await.readings;
    assert_eq!((counters.sealed, counters.registered, counters.outstanding()), (1, 1, 0));
    let (status, text) = shown(&world, &shared).await;
    assert_eq!((status.buffer.oldest_unsafe, status.segments.registered), (None, count as u64));
    assert!(!status.receipt.stale && status.receipt.revision == 0 && !text.contains("receipt"), "{text}");
    let asked = world
        .bucket
        .log()
        .into_iter()
        .filter(|(what, key)| *what == Operation::Get && key.contains("receipts/"));
    assert_eq!(asked.count(), 0);
}

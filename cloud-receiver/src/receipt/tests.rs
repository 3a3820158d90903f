//! What receipts promise.

use std::sync::Arc;

use bytes::Bytes;
use tributary_contract::digest::Digest;
use tributary_contract::id::{Epoch, Number};
use tributary_contract::key::Prefix;
use tributary_contract::manifest::Link;
use tributary_contract::receipt::Quarantined;
use tributary_contract::reject::QuarantineReason;

use super::write::write;
use super::*;
use crate::bucket::memory::{Fault, MemoryBucket};
use crate::bucket::{Bucket, When};
use crate::dedupe::{DueReceipt, Ledger, LedgerHandle};

fn set(numbers: &[u64]) -> Ranges {
    numbers.iter().copied().collect()
}

fn gateway() -> GatewayId {
    GatewayId::new("gw-1").unwrap()
}

#[test]
fn a_receipt_says_what_is_registered_refused_missing_and_void_of_each_epoch() {
    let highest = Link { number: Number::new(9).unwrap(), digest: Digest::of(b"9") };
    let refused = Quarantined { reason: QuarantineReason::WrongRows, detail: "why".into() };
    let facts = EpochFacts {
        registered: set(&[1, 2, 9]),
        refused: set(&[3]),
        quarantined: [(3, refused.clone())].into(),
        void: set(&[4, 9]),
        outstanding: set(&[1, 2, 3, 4, 5, 6, 7, 9, 10, 11]),
        present: set(&[6]),
        newest: 10,
        highest: Some(highest),
        closed_last: None,
    };
    let all = ReceiptFacts {
        revision: 7,
        epochs: [(Epoch(1), facts)].into(),
        snapshots: [("t.readings".to_owned(), 5)].into(),
    };
    let receipt = receipt(&gateway(), all, Timestamp(3));
    let epoch = &receipt.epochs[&Epoch(1)];
    assert_eq!(epoch.registered, set(&[1, 2, 9]));
    assert_eq!(epoch.missing, set(&[5, 7, 10]), "11 is above the newest manifest, 6 is on its way");
    assert_eq!(epoch.void, set(&[4]), "9 came all the same");
    assert_eq!((epoch.highest, &epoch.quarantined[&3]), (Some(highest), &refused));
    assert_eq!((receipt.revision, receipt.snapshots["t.readings"]), (7, 5));
    assert_eq!(Receipt::from_json(receipt.to_json().as_bytes(), &gateway()).unwrap(), receipt);
}

struct World {
    _folder: tempfile::TempDir,
    bucket: Arc<MemoryBucket>,
    ledger: LedgerHandle,
    prefix: Prefix,
}

fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let ledger = LedgerHandle::new(Ledger::open(&folder.path().join("ledger.db")).unwrap());
    World { _folder: folder, bucket: Arc::default(), ledger, prefix: Prefix::new("p").unwrap() }
}

impl World {
    async fn due(&self) -> Vec<DueReceipt> {
        self.ledger.call(|l| l.due_receipts(10)).await.unwrap()
    }

    /// Something of the gateway is refused, so that its receipt becomes due.
    async fn happen(&self, number: u64) {
        let mut forge = crate::fixture::Forge::new("gw-1", 1);
        forge.next = number;
        let key = forge.seal(tributary_contract::table::Table::Gaps, 1).key;
        let object_key = key.object_key(&self.prefix);
        self.ledger
            .call(move |l| {
                let listed = crate::bucket::Listed {
                    key: object_key,
                    size: 1,
                    etag: "e".into(),
                    modified: Timestamp(1),
                };
                let seen = crate::dedupe::Seen { listed, key: Ok(key) };
                let pending = l.note_seen(&[seen], Timestamp(1))?;
                let refused = crate::validate::Refused::unread(QuarantineReason::Unreadable, "test");
                l.refuse(&pending[0], &refused, Timestamp(1))
            })
            .await
            .unwrap();
    }

    async fn write(&self) -> u64 {
        let due = self.due().await.remove(0);
        write(self.bucket.as_ref(), &self.ledger, &self.prefix, due, Timestamp(1)).await.unwrap()
    }

    fn stored(&self) -> Receipt {
        let bytes = self.bucket.bytes("p/receipts/gw-1.json").unwrap();
        Receipt::from_json(&bytes, &gateway()).unwrap()
    }
}

#[tokio::test]
async fn revisions_grow_and_a_written_receipt_is_due_no_more() {
    let world = world();
    world.happen(1).await;
    assert_eq!((world.write().await, world.stored().revision), (1, 1));
    assert!(world.due().await.is_empty());
    world.happen(2).await;
    world.happen(3).await;
    assert_eq!((world.write().await, world.stored().revision), (3, 3));
    assert_eq!(world.stored().epochs[&Epoch(1)].quarantined.len(), 3);
}

#[tokio::test]
async fn a_new_ledger_goes_on_above_the_revision_in_the_bucket() {
    let world = world();
    world.bucket.store("p/receipts/gw-1.json", r#"{"revision": 41, "version": 9}"#, None, Timestamp(1));
    world.happen(1).await;
    assert_eq!((world.write().await, world.stored().revision), (42, 42));
}

#[tokio::test]
async fn a_receipt_that_someone_replaced_is_read_again_and_outbid() {
    let world = world();
    world.happen(1).await;
    world.write().await;
    let theirs = Bytes::from_static(br#"{"revision": 100}"#);
    world.bucket.put("p/receipts/gw-1.json", theirs, "", &When::Always).await.unwrap();
    world.happen(2).await;
    assert_eq!((world.write().await, world.stored().revision), (101, 101));
}

#[tokio::test]
async fn a_receipt_whose_reply_was_lost_stays_due_and_is_written_above_itself() {
    let world = world();
    world.happen(1).await;
    world.bucket.fail_next("put", Fault::ReplyLost);
    let due = world.due().await.remove(0);
    write(world.bucket.as_ref(), &world.ledger, &world.prefix, due, Timestamp(1)).await.unwrap_err();
    assert_eq!(world.stored().revision, 1);
    assert_eq!((world.write().await, world.stored().revision), (2, 2));
    assert!(world.due().await.is_empty());
}

#[tokio::test]
async fn what_settles_while_a_receipt_is_written_makes_the_next_one_due() {
    let world = world();
    world.happen(1).await;
    let facts = world.ledger.call(|l| l.receipt_facts(&gateway())).await.unwrap();
    world.happen(2).await;
    world
        .ledger
        .call(move |l| l.receipt_written(&gateway(), facts.revision, "e", Timestamp(1)))
        .await
        .unwrap();
    assert_eq!(world.due().await.len(), 1);
}

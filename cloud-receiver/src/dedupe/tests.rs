//! What the ledger promises.

use std::path::Path;

use tributary_contract::id::{GatewayId, Namespace};
use tributary_contract::key::Prefix;
use tributary_contract::reject::QuarantineReason;
use tributary_contract::table::Table;
use tributary_contract::time::Timestamp;
use uuid::Uuid;

use super::*;
use crate::bucket::Listed;
use crate::fixture::{Forge, Sealed};
use crate::validate::inspect::judge;

fn open(folder: &Path) -> Ledger {
    Ledger::open(&folder.join("ledger.db")).unwrap()
}

fn seen(sealed: &Sealed, etag: &str) -> Seen {
    let key = sealed.key.object_key(&Prefix::default());
    let size = sealed.bytes.len() as u64;
    Seen {
        listed: Listed { key, size, etag: etag.into(), modified: Timestamp(5) },
        key: Ok(sealed.key.clone()),
    }
}

/// Lists and accepts a segment; `None` if the ledger has nothing to inspect.
fn bring(ledger: &mut Ledger, sealed: &Sealed, etag: &str) -> Option<Recorded> {
    let pending = ledger.note_seen(&[seen(sealed, etag)], Timestamp(10)).unwrap().pop()?;
    let accepted = judge(sealed.object(), &sealed.key).unwrap();
    Some(ledger.accept(&pending, &accepted, Timestamp(10)).unwrap())
}

fn register(ledger: &mut Ledger, table: Table) -> u64 {
    let ns = Namespace::default();
    let rows: Vec<i64> = ledger.candidates(&ns, table, 100).unwrap().iter().map(|f| f.row).collect();
    let n = ledger.form_batch(&ns, table, &rows, Timestamp(20)).unwrap();
    ledger.settle(&ns, table, n, Some(100 + n as i64), Uuid::from_u128(1), Timestamp(30)).unwrap();
    n
}

fn reason_of(recorded: Option<Recorded>) -> Option<QuarantineReason> {
    match recorded {
        Some(Recorded::Quarantined(reason, _)) => Some(reason),
        _ => None,
    }
}

#[test]
fn a_second_receiver_on_the_same_ledger_is_refused_with_a_clear_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path());
    let refused = Ledger::open(&folder.path().join("ledger.db")).unwrap_err();
    assert!(refused.to_string().contains("in use by another receiver"), "{refused}");
    let id = first.id();
    assert_eq!(
        Ledger::peek(&folder.path().join("ledger.db")).unwrap().id(),
        id,
        "reading is always possible"
    );
    drop(first);
    assert_eq!(open(folder.path()).id(), id);
}

#[test]
fn commits_are_durable_and_the_file_of_a_later_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path());
    let pragma = |name| ledger.db.pragma_query_value(None, name, |row| row.get::<_, String>(0)).ok();
    assert_eq!(pragma("journal_mode").as_deref(), Some("wal"));
    let synchronous: i64 = ledger.db.pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap();
    assert_eq!(synchronous, 2, "FULL");
    ledger.db.pragma_update(None, "user_version", 99).unwrap();
    drop(ledger);
    let refused = Ledger::open(&folder.path().join("ledger.db")).unwrap_err();
    assert!(refused.to_string().contains("upgrade"), "{refused}");
}

#[test]
fn the_same_segment_again_changes_nothing_and_stands_for_its_newer_writing() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = open(folder.path());
    let sealed = Forge::new("gw-1", 1).seal(Table::Readings, 3);
    assert_eq!(bring(&mut ledger, &sealed, "a"), Some(Recorded::Checked));
    assert_eq!(bring(&mut ledger, &sealed, "a"), None, "known by key and etag, not even inspected");
    assert_eq!(bring(&mut ledger, &sealed, "b"), Some(Recorded::Replay));
    let candidates = ledger.candidates(&Namespace::default(), Table::Readings, 10).unwrap();
    assert_eq!(candidates.iter().map(|f| f.etag.as_str()).collect::<Vec<_>>(), ["b"]);
    register(&mut ledger, Table::Readings);
    assert_eq!(bring(&mut ledger, &sealed, "c"), Some(Recorded::Replay));
    assert_eq!(ledger.tables().unwrap()[0].rows, 3);
}

#[test]
fn the_same_id_with_other_bytes_is_a_conflict_and_the_first_one_stays() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = open(folder.path());
    let sealed = Forge::new("gw-1", 1).seal(Table::Readings, 3);
    let other = Forge::new("gw-1", 1).seal(Table::Readings, 4);
    bring(&mut ledger, &sealed, "a");
    assert_eq!(reason_of(bring(&mut ledger, &other, "b")), Some(QuarantineReason::Conflict));
    register(&mut ledger, Table::Readings);
    let facts = ledger.receipt_facts(&GatewayId::new("gw-1").unwrap()).unwrap();
    let epoch = facts.epochs.values().next().unwrap();
    assert!(epoch.registered.contains(1) && epoch.refused.is_empty());
    assert_eq!(epoch.highest.unwrap().digest, sealed.digest());
}

#[test]
fn a_second_branch_of_a_chain_is_forked_whichever_arrives_first() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = open(folder.path());
    let mut forge = Forge::new("gw-1", 1);
    let first = forge.seal(Table::Readings, 1);
    let mut clone =
        Forge { gateway: forge.gateway.clone(), epoch: forge.epoch, next: 3, previous: forge.previous };
    let (second, third) = (forge.seal(Table::Readings, 2), clone.seal(Table::Readings, 3));
    let after_third = clone.seal(Table::Readings, 1);
    assert_eq!(
        bring(&mut ledger, &third, "c"),
        Some(Recorded::Checked),
        "its predecessor hasn't arrived: no fault"
    );
    assert_eq!(bring(&mut ledger, &first, "a"), Some(Recorded::Checked));
    assert_eq!(reason_of(bring(&mut ledger, &second, "b")), Some(QuarantineReason::Forked));
    assert_eq!(bring(&mut ledger, &after_third, "d"), Some(Recorded::Checked), "the known branch goes on");
}

#[test]
fn listing_begins_behind_what_is_registered_refused_or_void_without_a_hole() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = open(folder.path());
    let mut forge = Forge::new("gw-1", 1);
    let (one, two) = (forge.seal(Table::Readings, 1), forge.seal(Table::Readings, 1));
    forge.next = 5;
    let five = forge.seal_with(Table::Readings, 1, |m| m.void.insert_range(3, 4));
    let settled = |ledger: &Ledger| ledger.settled(&one.key.id.gateway, one.key.id.epoch).unwrap();
    bring(&mut ledger, &five, "5");
    bring(&mut ledger, &one, "1");
    assert_eq!(settled(&ledger), Some(0), "checked isn't settled");
    register(&mut ledger, Table::Readings);
    assert_eq!(settled(&ledger), Some(1), "2 may still come");
    let pending = ledger.note_seen(&[seen(&two, "2")], Timestamp(1)).unwrap();
    let refused = crate::validate::Refused::unread(QuarantineReason::WrongRows, "test");
    ledger.refuse(&pending[0], &refused, Timestamp(1)).unwrap();
    assert_eq!(settled(&ledger), Some(5));
    let mut next = Forge::new("gw-1", 2);
    let closes = next.seal_with(Table::Readings, 1, |m| {
        m.closed.push(tributary_contract::manifest::ClosedEpoch { epoch: one.key.id.epoch, last: 5 });
    });
    bring(&mut ledger, &closes, "c");
    assert_eq!(settled(&ledger), None, "nothing of that epoch can come any more");
}

#[test]
fn a_number_that_was_refused_and_comes_again_sound_is_refused_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = open(folder.path());
    let sealed = Forge::new("gw-1", 1).seal(Table::Readings, 1);
    let pending = ledger.note_seen(&[seen(&sealed, "a")], Timestamp(1)).unwrap();
    let refused = crate::validate::Refused::unread(QuarantineReason::WrongDigest, "test");
    ledger.refuse(&pending[0], &refused, Timestamp(1)).unwrap();
    assert_eq!(bring(&mut ledger, &sealed, "b"), Some(Recorded::Checked));
    let epochs = ledger.receipt_facts(&sealed.key.id.gateway).unwrap().epochs;
    assert!(epochs.values().all(|e| e.refused.is_empty() && e.quarantined.is_empty()));
}

#[test]
fn the_next_batch_is_not_formed_before_the_last_one_is_settled() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = open(folder.path());
    let ns = Namespace::default();
    let mut forge = Forge::new("gw-1", 1);
    let (one, two) = (forge.seal(Table::Readings, 1), forge.seal(Table::Readings, 2));
    bring(&mut ledger, &one, "1");
    let rows: Vec<i64> = ledger.candidates(&ns, Table::Readings, 9).unwrap().iter().map(|f| f.row).collect();
    assert_eq!(ledger.form_batch(&ns, Table::Readings, &rows, Timestamp(1)).unwrap(), 1);
    bring(&mut ledger, &two, "2");
    assert!(ledger.form_batch(&ns, Table::Readings, &[], Timestamp(1)).is_err());
    drop(ledger);
    let mut ledger = open(folder.path());
    let batch = ledger.open_batch(&ns, Table::Readings).unwrap().unwrap();
    assert_eq!((batch.n, batch.files.len()), (1, 1), "files of an open batch are fixed");
    ledger.settle(&ns, Table::Readings, 1, Some(7), Uuid::from_u128(1), Timestamp(2)).unwrap();
    ledger.settle(&ns, Table::Readings, 1, Some(8), Uuid::from_u128(1), Timestamp(3)).unwrap();
    let known = ledger.known(&ns, Table::Readings).unwrap();
    assert_eq!((known.batch, known.snapshot), (1, Some(7)), "settled once");
    assert_eq!(register(&mut ledger, Table::Readings), 2);
    assert_eq!(ledger.tables().unwrap()[0].rows, 3);
}

#[test]
fn a_ledger_of_the_first_version_is_taken_on_with_all_it_knows() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = open(folder.path());
    let sealed = Forge::new("gw-1", 1).seal(Table::Readings, 3);
    bring(&mut ledger, &sealed, "a");
    register(&mut ledger, Table::Readings);
    // What version 2 added is taken away again.
    ledger
        .db
        .execute_batch(
            "ALTER TABLE epochs DROP COLUMN left_out; ALTER TABLE epochs DROP COLUMN granted; DROP TABLE own_gaps; PRAGMA user_version = 1;",
        )
        .unwrap();
    let id = ledger.id();
    drop(ledger);
    assert_eq!(Ledger::peek(&folder.path().join("ledger.db")).unwrap().tables().unwrap()[0].rows, 3);
    let mut ledger = open(folder.path());
    assert_eq!((ledger.id(), ledger.tables().unwrap()[0].rows), (id, 3));
    assert!(
        ledger.known_by_number().unwrap().is_empty() && !ledger.own_gaps_wait(&Namespace::default()).unwrap()
    );
    assert_eq!(bring(&mut ledger, &sealed, "b"), Some(Recorded::Replay));
}

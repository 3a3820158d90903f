//! What a lost, old or foreign ledger and a damaged table end in: rows once, or a clear stop that names the command.

mod world;

use std::collections::BTreeMap;
use std::sync::Arc;

use tributary_contract::id::Namespace;
use tributary_contract::range::Ranges;
use tributary_contract::table::Table;
use tributary_contract::time::Timestamp;

use self::world::{NOW, Trip, World, prefix};
use crate::catalog::{CommitError, NewFile};
use crate::dedupe::Ledger;
use crate::fixture::{DAY, Forge, Sealed, encode, rows};

const T: Table = Table::Readings;
/// Rows of each segment.
const ROWS: usize = 4;

fn numbers(all: &[u64]) -> Ranges {
    all.iter().copied().collect()
}

/// That many segments, each with all its rows.
fn each(all: impl IntoIterator<Item = i64>) -> BTreeMap<i64, usize> {
    all.into_iter().map(|n| (n, ROWS)).collect()
}

impl World {
    fn seal(&self, forge: &mut Forge, table: Table, count: usize) -> Vec<Sealed> {
        let sealed: Vec<Sealed> = (0..count).map(|_| forge.seal(table, ROWS)).collect();
        sealed.iter().for_each(|s| self.deliver(s));
        sealed
    }
}

#[tokio::test]
async fn a_reply_lost_or_a_death_at_any_step_of_the_commit_leaves_each_row_once() {
    for how in [Trip::After, Trip::Before, Trip::Stranger] {
        for step in 0.. {
            let world = World::new().await;
            let mut forge = Forge::new("gw-1", 1);
            world.seal(&mut forge, T, 1);
            world.run().await;
            world.seal(&mut forge, T, 2);
            world.catalog.trips.trip(step, how);
            let pipeline = world.start();
            let first = pipeline.pass(NOW).await;
            drop(pipeline);
            let met = world.catalog.trips.heal();
            assert!(
                first.is_ok() || how != Trip::Stranger,
                "another writer in between is no fault: {first:?}"
            );
            assert_eq!(world.run().await, [""; 0], "{how:?} at step {step}");
            assert_eq!(world.rows(T).await, each(1..=3), "{how:?} at step {step}");
            assert_eq!(world.epoch("gw-1", 1).registered, numbers(&[1, 2, 3]));
            if !met {
                assert!(step >= 3, "a commit has steps to die at");
                break;
            }
        }
    }
}

#[tokio::test]
async fn snapshots_that_another_engine_expired_while_the_receiver_was_away_stop_nothing() {
    let world = World::new().await;
    let mut forge = Forge::new("gw-1", 1);
    for _ in 0..2 {
        world.seal(&mut forge, T, 2);
        world.run().await;
    }
    world.maintenance(T).await;
    world.maintenance(T).await;
    let all = world.snapshots(T).await;
    world.expire(T, &all[..3]).await;
    world.seal(&mut forge, T, 2);
    assert_eq!(world.run().await, [""; 0]);
    assert_eq!(world.rows(T).await, each(1..=6));
}

#[tokio::test]
async fn a_batch_whose_reply_was_lost_and_whose_snapshot_was_expired_is_found_by_its_rows() {
    for rolled_back in [false, true] {
        let world = World::new().await;
        let mut forge = Forge::new("gw-1", 1);
        world.seal(&mut forge, T, 1);
        world.run().await;
        world.seal(&mut forge, T, 1);
        let pipeline = world.start();
        pipeline.arrivals_pass(NOW).await.unwrap();
        // Look before the batch is formed, look before the commit, commit.
        world.catalog.trips.trip(2, Trip::After);
        pipeline.register_pass(NOW).await.unwrap_err();
        drop(pipeline);
        assert!(world.catalog.trips.heal());
        assert_eq!(world.rows(T).await, each(1..=2), "it landed and nobody heard");
        let landed = world.snapshots(T).await;
        if rolled_back {
            world.roll_back(T, landed[0]).await;
        }
        world.maintenance(T).await;
        let all = world.snapshots(T).await;
        world.expire(T, &all[..2]).await;
        let stopped = world.run().await;
        if rolled_back {
            assert!(stopped[0].contains("batch 2 is no longer in `main`"), "{stopped:?}");
            assert_eq!(world.rows(T).await, each([1]));
            assert!(!world.epoch("gw-1", 1).registered.contains(2), "its gateway keeps it");
            world.reregister(T, false).await.unwrap();
            assert_eq!(world.run().await, [""; 0]);
        } else {
            assert_eq!(stopped, [""; 0]);
        }
        assert_eq!(world.rows(T).await, each(1..=2));
        assert_eq!(world.epoch("gw-1", 1).registered, numbers(&[1, 2]));
    }
}

/// Two batches of two segments, and `main` moved back behind the second one; a fifth segment waits.
async fn rolled_back(expired: bool) -> (World, Forge, Vec<Sealed>) {
    let world = World::new().await;
    let mut forge = Forge::new("gw-1", 1);
    let mut all = world.seal(&mut forge, T, 2);
    world.run().await;
    all.extend(world.seal(&mut forge, T, 2));
    world.run().await;
    let snapshots = world.snapshots(T).await;
    world.roll_back(T, snapshots[0]).await;
    if expired {
        // Afterwards the metadata looks as if an engine had expired everything before its own commit.
        world.maintenance(T).await;
        world.expire(T, &snapshots).await;
    }
    all.extend(world.seal(&mut forge, T, 1));
    (world, forge, all)
}

#[tokio::test]
async fn a_rollback_stops_the_table_even_if_what_was_rolled_back_has_been_expired_since() {
    for expired in [false, true] {
        let (world, _, _) = rolled_back(expired).await;
        let stopped = world.run().await;
        for part in [
            "rolled back",
            "`ledger reregister tributary.readings`",
            "`ledger accept-rollback tributary.readings`",
        ] {
            assert!(stopped[0].contains(part), "{stopped:?}");
        }
        assert_eq!(world.rows(T).await, each(1..=2));
    }
}

#[tokio::test]
async fn after_a_rollback_reregister_brings_back_what_was_taken_out_once() {
    let (world, _, all) = rolled_back(true).await;
    world.run().await;
    let before = world.location(T).await;
    let foreseen = world.reregister(T, true).await.unwrap();
    assert_eq!(foreseen.tables[0].again.len(), 2);
    assert_eq!(world.run().await.len(), 1, "a dry run changes nothing");
    let done = world.reregister(T, false).await.unwrap();
    assert_eq!(done.tables, foreseen.tables);
    assert!(done.tables[0].again[0].contains("0000000003-tributary.readings"), "{done:?}");
    assert_eq!(world.location(T).await, before, "rows are the running receiver's work");
    assert_eq!(world.run().await, [""; 0]);
    assert_eq!(world.rows(T).await, each(1..=5));
    let epoch = world.epoch("gw-1", 1);
    assert_eq!(epoch.registered, numbers(&[1, 2, 3, 4, 5]));
    assert_eq!(epoch.highest.unwrap().digest, all[4].digest());
    let again = world.reregister(T, false).await.unwrap();
    assert!(again.tables[0].again.is_empty() && again.tables[0].gone.is_empty(), "nothing is left to do");
    world.run().await;
    assert_eq!(world.rows(T).await, each(1..=5));
}

#[tokio::test]
async fn a_rolled_back_segment_that_is_gone_from_the_bucket_is_named_and_taken_when_its_gateway_has_it() {
    let (world, _, all) = rolled_back(false).await;
    world.run().await;
    world.remove(&all[2]);
    let done = world.reregister(T, false).await.unwrap();
    let [gone] = &done.tables[0].gone[..] else { panic!("{done:?}") };
    assert!(gone.contains("0000000003-tributary.readings") && gone.contains("gone"), "{gone}");
    assert!(done.text().contains(gone.as_str()) && done.text().contains("sends it again"), "{}", done.text());
    assert_eq!(world.run().await, [""; 0]);
    assert_eq!(world.rows(T).await, each([1, 2, 4, 5]));
    let epoch = world.epoch("gw-1", 1);
    assert_eq!((epoch.registered, epoch.missing), (numbers(&[1, 2, 4, 5]), numbers(&[3])), "it is asked for");
    world.deliver(&all[2]);
    assert_eq!(world.run().await, [""; 0]);
    assert_eq!(world.rows(T).await, each(1..=5));
}

#[tokio::test]
async fn an_accepted_rollback_stays_out_for_good_with_receipts_kept_and_a_gap_that_names_it() {
    let (world, mut forge, _) = rolled_back(false).await;
    world.run().await;
    let foreseen = world.accept(T, true).await.unwrap();
    assert_eq!(world.run().await.len(), 1, "a dry run changes nothing");
    let done = world.accept(T, false).await.unwrap();
    assert_eq!((done.tables[0].left_out.len(), &done.tables), (2, &foreseen.tables));
    assert_eq!(world.run().await, [""; 0]);
    assert_eq!(world.rows(T).await, each([1, 2, 5]), "what waited goes on");
    assert_eq!(world.epoch("gw-1", 1).registered, numbers(&[1, 2, 3, 4, 5]), "the gateway may let go");

    let ids = ["rollback:tributary.readings:gw-1:0000000000000001:3-4"];
    assert_eq!(world.texts(Table::Gaps, "id").await, ids);
    assert_eq!(world.texts(Table::Gaps, "reason").await, ["rollback"]);
    assert_eq!(world.texts(Table::Gaps, "recorded_by").await, ["receiver"]);
    assert_eq!(world.texts(Table::Gaps, "gateway").await, ["gw-1"]);
    assert!(world.texts(Table::Gaps, "detail").await[0].contains("tributary.readings"));

    // Neither a second time, nor by the other command, nor by a new ledger does it come back.
    world.accept(T, false).await.unwrap();
    assert!(world.reregister(T, false).await.unwrap().tables[0].again.is_empty());
    world.run().await;
    world.lose_ledger();
    world.run().await;
    world.rebuild(false).await.unwrap();
    world.seal(&mut forge, T, 1);
    assert_eq!(world.run().await, [""; 0]);
    assert!(world.reregister(T, false).await.unwrap().tables[0].again.is_empty());
    world.run().await;
    assert_eq!(world.rows(T).await, each([1, 2, 5, 6]));
    assert_eq!(world.texts(Table::Gaps, "id").await, ids);
    assert_eq!(world.epoch("gw-1", 1).registered, numbers(&[1, 2, 3, 4, 5, 6]));
}

#[tokio::test]
async fn a_gap_row_of_the_receiver_is_written_once_whatever_reply_of_its_commit_is_lost() {
    for step in 0..6 {
        let (world, _, _) = rolled_back(false).await;
        world.run().await;
        world.accept(T, false).await.unwrap();
        let pipeline = world.start();
        world.catalog.trips.trip(step, Trip::After);
        let _ = pipeline.register_pass(NOW).await;
        drop(pipeline);
        world.catalog.trips.heal();
        assert_eq!(world.run().await, [""; 0], "step {step}");
        assert_eq!(world.texts(Table::Gaps, "id").await.len(), 1, "step {step}");
    }
}

#[tokio::test]
async fn a_table_that_was_dropped_and_made_again_gets_everything_once_more() {
    let world = World::new().await;
    let mut forge = Forge::new("gw-1", 1);
    for _ in 0..3 {
        world.seal(&mut forge, T, 2);
        world.seal(&mut forge, Table::Aggregates, 1);
        world.run().await;
    }
    world.drop_table(T).await;
    world.seal(&mut forge, T, 1);
    let stopped = world.run().await;
    assert!(stopped[0].contains("table was recreated"), "{stopped:?}");
    assert!(stopped[0].contains("`ledger reregister tributary.readings`"), "{stopped:?}");
    assert_eq!(world.rows(T).await, BTreeMap::new());
    world.reregister(T, false).await.unwrap();
    let known = Ledger::open(&world.ledger_file()).unwrap().known(&Namespace::default(), T).unwrap();
    assert_eq!(known.batch, 0, "its batches begin anew");
    assert_eq!(world.run().await, [""; 0]);
    assert_eq!(world.rows(T).await, each([1, 2, 4, 5, 7, 8, 10]));
    assert_eq!(world.rows(Table::Aggregates).await, each([3, 6, 9]), "other tables are left alone");
    assert_eq!(world.epoch("gw-1", 1).registered, (1..=10).collect());
}

#[tokio::test]
async fn a_lost_ledger_is_rebuilt_and_what_is_in_tables_or_bucket_is_registered_once() {
    let world = World::new().await;
    let mut forge = Forge::new("gw-1", 1);
    let first = world.seal(&mut forge, T, 3);
    world.seal(&mut forge, Table::Gaps, 1);
    world.run().await;
    let revision = world.receipt("gw-1").revision;
    // Two were delivered and nobody registered them; the newest registered one isn't the newest in the bucket.
    world.seal(&mut forge, T, 2);
    world.lose_ledger();
    let stopped = world.run().await;
    assert_eq!(stopped.len(), 2, "both tables: {stopped:?}");
    let named = |s: &String| s.contains("belongs to ledger") && s.contains("`ledger rebuild`");
    assert!(stopped.iter().all(named), "{stopped:?}");
    assert_eq!(world.rows(T).await, each(1..=3));

    let before = world.location(T).await;
    let foreseen = world.rebuild(true).await.unwrap();
    assert_eq!(
        (world.location(T).await, foreseen.ledger.as_deref()),
        (before, None),
        "a dry run changes nothing"
    );
    let done = world.rebuild(false).await.unwrap();
    let told: Vec<_> = done.tables.iter().map(|t| (t.table.as_str(), t.segments, t.rows)).collect();
    assert_eq!(told, [("tributary.gaps", 1, 4), ("tributary.readings", 3, 12)]);
    assert_eq!((done.receipts, done.left_out), (1, 0));

    assert_eq!(world.run().await, [""; 0]);
    assert_eq!(world.rows(T).await, each(1..=6).into_iter().filter(|(n, _)| *n != 4).collect());
    let receipt = world.receipt("gw-1");
    assert!(receipt.revision > revision, "a revision only grows");
    let epoch = world.epoch("gw-1", 1);
    assert_eq!(epoch.registered, (1..=6).collect());
    assert!(epoch.missing.is_empty());
    // A registered segment that is written again is still the same one.
    world.deliver(&first[0]);
    world.run().await;
    assert_eq!(world.rows(T).await.len(), 5);
}

#[tokio::test]
async fn a_rebuilt_ledger_vouches_by_the_digest_of_the_highest_number_or_by_none() {
    for gone in [false, true] {
        let world = World::new().await;
        let mut forge = Forge::new("gw-1", 1);
        let all = world.seal(&mut forge, T, 3);
        world.run().await;
        // Receipts are lost too, so that only the bucket knows digests.
        world.bucket.memory.remove("p/receipts/gw-1.json");
        world.lose_ledger();
        if gone {
            world.remove(&all[2]);
        }
        world.rebuild(false).await.unwrap();
        assert_eq!(world.run().await, [""; 0]);
        let epoch = world.epoch("gw-1", 1);
        assert_eq!(epoch.registered, numbers(&[1, 2, 3]));
        let vouched = &all[if gone { 1 } else { 2 }];
        let highest = epoch.highest.unwrap();
        assert_eq!((highest.number, highest.digest), (vouched.key.id.number, vouched.digest()));
    }
    let world = World::new().await;
    let all = world.seal(&mut Forge::new("gw-1", 1), T, 1);
    world.run().await;
    world.bucket.memory.remove("p/receipts/gw-1.json");
    world.lose_ledger();
    world.remove(&all[0]);
    world.rebuild(false).await.unwrap();
    world.run().await;
    let epoch = world.epoch("gw-1", 1);
    assert_eq!((epoch.registered, epoch.highest), (numbers(&[1]), None), "a gateway that has it keeps it");
    // It comes again: now its digest is known.
    world.deliver(&all[0]);
    let pipeline = world.start();
    let listed = crate::dedupe::Seen {
        listed: crate::bucket::Listed {
            key: all[0].key.object_key(&prefix()),
            size: 1,
            etag: "e".into(),
            modified: NOW,
        },
        key: Ok(all[0].key.clone()),
    };
    let accepted = crate::validate::inspect::judge(all[0].object(), &all[0].key).unwrap();
    let recorded = pipeline.ledger.call(move |l| {
        let pending = l.note_seen(&[listed], NOW)?.remove(0);
        l.accept(&pending, &accepted, NOW)
    });
    assert_eq!(recorded.await.unwrap(), crate::dedupe::Recorded::Replay);
    pipeline.pass(NOW).await.unwrap();
    assert_eq!(world.epoch("gw-1", 1).highest.unwrap().digest, all[0].digest());
    assert_eq!(world.rows(T).await, each([1]));
}

#[tokio::test]
async fn a_ledger_from_a_backup_is_rebuilt_and_knows_what_was_registered_since() {
    let world = World::new().await;
    let mut forge = Forge::new("gw-1", 1);
    world.seal(&mut forge, T, 2);
    world.run().await;
    let backup = world.backup();
    world.seal(&mut forge, T, 2);
    world.run().await;
    world.restore(&backup);
    world.seal(&mut forge, T, 1);
    let stopped = world.run().await;
    assert!(
        stopped[0].contains("older than the table") && stopped[0].contains("`ledger rebuild`"),
        "{stopped:?}"
    );
    let refused = world.reregister(T, false).await.unwrap_err().to_string();
    assert!(refused.contains("`ledger rebuild`"), "{refused}");
    world.rebuild(false).await.unwrap();
    assert_eq!(world.run().await, [""; 0]);
    assert_eq!(world.rows(T).await, each(1..=5));
    assert_eq!(world.epoch("gw-1", 1).registered, (1..=5).collect());
}

#[tokio::test]
async fn a_commit_that_the_old_receiver_had_begun_conflicts_once_the_ledger_is_rebuilt() {
    let world = World::new().await;
    let mut forge = Forge::new("gw-1", 1);
    world.seal(&mut forge, T, 1);
    world.run().await;
    let id = Ledger::open(&world.ledger_file()).unwrap().id().to_string();
    let old = world.lake();
    let look = old.look(&Namespace::default(), T, &id).await.unwrap();
    let late = world.seal(&mut forge, T, 1).remove(0);
    world.rebuild(false).await.unwrap();
    let accepted = crate::validate::inspect::judge(late.object(), &late.key).unwrap();
    let file = NewFile {
        uri: "file:///nowhere".into(),
        size: 1,
        namespace: Namespace::default(),
        table: T,
        day: late.key.day,
        footer: accepted.footer,
    };
    assert_eq!(old.commit(&look, 2, vec![file]).await, Err(CommitError::Conflict));
    assert_eq!(world.run().await, [""; 0]);
    assert_eq!(world.rows(T).await, each(1..=2));
}

#[tokio::test]
async fn files_that_an_engine_rewrote_are_recognised_by_their_columns() {
    let world = World::new().await;
    let mut forge = Forge::new("gw-1", 1);
    let all = world.seal(&mut forge, T, 3);
    // One file with the rows of all three under a name that says nothing, as a compaction leaves it.
    let parts: Vec<_> = all.iter().map(|s| rows(&s.key, ROWS)).collect();
    let merged = arrow::compute::concat_batches(&parts[0].schema(), &parts).unwrap();
    let bytes = encode(&merged, None);
    world.bucket.mirror("p/lake/merged.parquet", &bytes);
    let lake = world.lake();
    let look = lake.look(&Namespace::default(), T, "a-lost-ledger").await.unwrap();
    let footer = crate::validate::content::read_footer(&bytes).unwrap().unwrap();
    let root = world.ledger_file().parent().unwrap().parent().unwrap().display().to_string();
    let uri = format!("file://{root}/p/lake/merged.parquet");
    let day = DAY.parse().unwrap();
    let file =
        NewFile { uri, size: bytes.len() as u64, namespace: Namespace::default(), table: T, day, footer };
    lake.commit(&look, 1, vec![file]).await.unwrap();
    world.seal(&mut forge, T, 1);
    assert_eq!(world.run().await.len(), 1, "the table is another ledger's");
    let done = world.rebuild(false).await.unwrap();
    assert_eq!(done.tables[0].segments, 3);
    assert_eq!(world.run().await, [""; 0]);
    assert_eq!(world.rows(T).await, each(1..=4));
    assert_eq!(world.epoch("gw-1", 1).registered, (1..=4).collect());
}

#[tokio::test]
async fn what_only_a_receipt_calls_registered_is_not_registered_again_until_a_person_says_so() {
    let world = World::new().await;
    let mut forge = Forge::new("gw-1", 1);
    world.seal(&mut forge, T, 2);
    world.run().await;
    world.seal(&mut forge, T, 2);
    world.run().await;
    let snapshots = world.snapshots(T).await;
    world.roll_back(T, snapshots[0]).await;
    world.lose_ledger();
    world.run().await;
    let done = world.rebuild(false).await.unwrap();
    assert_eq!(done.left_out, 2);
    assert!(done.text().contains("`ledger reregister TABLE`"), "{}", done.text());
    assert_eq!(world.run().await, [""; 0]);
    assert_eq!(world.rows(T).await, each(1..=2), "it may have been taken out on purpose");
    assert_eq!(world.epoch("gw-1", 1).registered, (1..=4).collect());
    assert_eq!(world.reregister(T, false).await.unwrap().tables[0].again.len(), 2);
    assert_eq!(world.run().await, [""; 0]);
    assert_eq!(world.rows(T).await, each(1..=4));
}

#[tokio::test]
async fn a_receiver_on_a_new_ledger_takes_nothing_back_that_an_older_receipt_has_granted() {
    let world = World::new().await;
    let mut forge = Forge::new("gw-1", 1);
    world.seal(&mut forge, T, 3);
    world.run().await;
    let before = world.receipt("gw-1");
    world.lose_ledger();
    // Something is refused, so that a receipt becomes due before anybody has rebuilt the ledger.
    let broken = forge.seal(T, 1);
    world.bucket.memory.deliver(&broken.key.object_key(&prefix()), "no parquet", Timestamp(1));
    assert_eq!(world.run().await.len(), 1);
    let receipt = world.receipt("gw-1");
    assert!(receipt.revision > before.revision);
    let (was, is) = (&before.epochs.values().next().unwrap(), world.epoch("gw-1", 1));
    assert_eq!((&is.registered, &is.highest), (&was.registered, &was.highest));
    assert!(is.quarantined.contains_key(&4));
}

/// What must be the same however often a command was killed.
async fn end_state(world: &World) -> (BTreeMap<i64, usize>, Vec<String>, String) {
    let stopped = world.run().await;
    let epoch = world.epoch("gw-1", 1);
    let told = format!("{:?} {:?} {:?} {:?}", epoch.registered, epoch.missing, epoch.void, epoch.highest);
    (world.rows(T).await, stopped, told)
}

/// Runs `command` in worlds that `make` makes, killed at each of its steps in turn and run again.
async fn killed_anywhere<M, C>(make: M, command: C)
where
    M: AsyncFn() -> World,
    C: AsyncFn(&World) -> anyhow::Result<super::Report>,
{
    let undisturbed = make().await;
    command(&undisturbed).await.unwrap();
    let expected = end_state(&undisturbed).await;
    assert!(expected.1.is_empty(), "{expected:?}");
    for of_bucket in [false, true] {
        for how in [Trip::Before, Trip::After] {
            for step in 0.. {
                let world = make().await;
                let (catalog, bucket) = (Arc::clone(&world.catalog), Arc::clone(&world.bucket));
                let trips = if of_bucket { &bucket.trips } else { &catalog.trips };
                trips.trip(step, how);
                let first = command(&world).await;
                let met = trips.heal();
                assert_eq!(first.is_err(), met, "step {step}, {how:?}: {first:?}");
                command(&world).await.unwrap();
                assert_eq!(end_state(&world).await, expected, "step {step}, {how:?}");
                if !met {
                    break;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_rebuild_killed_anywhere_and_run_again_ends_in_the_same_state() {
    let make = async || {
        let world = World::new().await;
        let mut forge = Forge::new("gw-1", 1);
        world.seal(&mut forge, T, 2);
        world.seal(&mut forge, Table::Aggregates, 1);
        world.run().await;
        world.seal(&mut forge, T, 1);
        world.lose_ledger();
        world.run().await;
        world
    };
    killed_anywhere(make, async |world: &World| world.rebuild(false).await).await;
}

#[tokio::test]
async fn no_receiver_runs_on_a_ledger_whose_rebuild_was_interrupted() {
    let world = World::new().await;
    world.seal(&mut Forge::new("gw-1", 1), T, 1);
    world.run().await;
    world.bucket.trips.trip(0, Trip::Before);
    world.rebuild(false).await.unwrap_err();
    world.bucket.trips.heal();
    assert!(Ledger::open(&world.ledger_file()).unwrap().is_rebuilding().unwrap());
    let refused = world.reregister(T, false).await.unwrap_err().to_string();
    assert!(refused.contains("interrupted: run `ledger rebuild` again"), "{refused}");
    world.rebuild(false).await.unwrap();
    assert_eq!(world.run().await, [""; 0]);
    assert_eq!(world.rows(T).await, each([1]));
}

#[tokio::test]
async fn reregister_killed_anywhere_and_run_again_ends_in_the_same_state() {
    let rolled = async || {
        let (world, _, _) = rolled_back(true).await;
        world.run().await;
        world
    };
    killed_anywhere(rolled, async |world: &World| world.reregister(T, false).await).await;
    let dropped = async || {
        let world = World::new().await;
        world.seal(&mut Forge::new("gw-1", 1), T, 3);
        world.run().await;
        world.drop_table(T).await;
        world
    };
    killed_anywhere(dropped, async |world: &World| world.reregister(T, false).await).await;
}

#[tokio::test]
async fn accept_rollback_killed_anywhere_and_run_again_ends_in_the_same_state() {
    let rolled = async || {
        let (world, _, _) = rolled_back(false).await;
        world.run().await;
        world
    };
    killed_anywhere(rolled, async |world: &World| world.accept(T, false).await).await;
}

#[tokio::test]
async fn an_epoch_that_an_operator_closes_has_a_gap_for_what_never_arrived() {
    let world = World::new().await;
    let mut forge = Forge::new("gw-1", 1);
    world.seal(&mut forge, T, 2);
    forge.seal(T, ROWS);
    let lost = forge.seal(T, ROWS);
    world.seal(&mut forge, T, 1);
    world.run().await;
    assert_eq!(world.epoch("gw-1", 1).missing, numbers(&[3, 4]));
    for _ in 0..2 {
        let mut ledger = Ledger::open(&world.ledger_file()).unwrap();
        let (gateway, epoch) = (&lost.key.id.gateway, lost.key.id.epoch);
        let closed = ledger.closing(&prefix(), gateway, epoch, NOW).unwrap().unwrap();
        assert_eq!(closed.last, 5);
        ledger.close_epoch(gateway, epoch, &closed).unwrap();
        drop(ledger);
        world.run().await;
    }
    let epoch = world.epoch("gw-1", 1);
    assert_eq!((epoch.missing, epoch.void), (Ranges::new(), numbers(&[3, 4])));
    assert_eq!(world.texts(Table::Gaps, "id").await, ["void-segment:epoch:gw-1:0000000000000001:3-4"]);
    assert_eq!(world.texts(Table::Gaps, "reason").await, ["void-segment"]);
    // A new ledger doesn't wait for them either, nor does it write the gap again.
    world.lose_ledger();
    world.rebuild(false).await.unwrap();
    world.run().await;
    assert_eq!(world.epoch("gw-1", 1).void, numbers(&[3, 4]));
    assert_eq!(world.texts(Table::Gaps, "id").await.len(), 1);
}

#[tokio::test]
async fn a_ledger_that_a_receiver_holds_is_refused_to_every_command() {
    let world = World::new().await;
    world.seal(&mut Forge::new("gw-1", 1), T, 1);
    let running = world.start();
    running.pass(NOW).await.unwrap();
    for refused in [world.rebuild(true).await, world.reregister(T, true).await, world.accept(T, true).await] {
        let sentence = refused.unwrap_err().to_string();
        assert!(sentence.contains("in use by another receiver"), "{sentence}");
    }
}

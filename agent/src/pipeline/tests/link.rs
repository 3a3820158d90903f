//! What the policy of the link promises over a real buffer: pause, order, budgets over restarts, segments that fit.

use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use tokio::sync::Notify;
use tributary_contract::digest::Digest;

use super::*;
use crate::buffer::PartDone;
use crate::upload::answer::{Answer, Operation};
use crate::upload::bucket::{Content, Fetched, Found};
use crate::upload::link::{Class, reserve, wire};

/// Segments that wait in the order in which they were made, and when they are new.
async fn several(world: &World, shared: &Arc<Shared>, portions: usize) {
    for _ in 0..portions {
        world.commit(shared).await;
        world.seal(shared).await;
    }
}

/// Names of the segments in the order in which the bucket was given them.
fn given(world: &World) -> Vec<String> {
    let puts = world.bucket.log().into_iter().filter(|(operation, _)| *operation == Operation::PutNew);
    puts.map(|(_, key)| key).filter(|key| key.contains("/segments/")).collect()
}

#[tokio::test]
async fn while_it_is_paused_nothing_is_sent_but_the_status() {
    let world = World::new("[link]\npaused = true");
    let (shared, mut deliverer) = world.sealed().await;
    for _ in 0..3 {
        world.later(HOUR);
        report(&shared, world.now()).await.unwrap();
        deliverer.pass(world.now()).await.unwrap();
    }
    assert!(world.bucket.log().iter().all(|(_, key)| key.contains("status/")), "{:?}", world.bucket.log());
    assert!(world.bucket.log().iter().any(|(operation, _)| *operation == Operation::PutReplace));
    assert!(states(&shared).await.iter().all(|s| *s == "sealed"));
    report(&shared, world.now()).await.unwrap();
    let status = shared.status.borrow().clone();
    let text = crate::status::text::render(&status);
    assert!(text.contains("link.paused is set"), "{text}");
    assert_eq!(status.link.policy.as_ref().and_then(|p| p.drain_seconds), None);
}

#[tokio::test]
async fn what_is_new_goes_before_backlog_and_that_in_the_order_that_is_asked_for() {
    for (order, newest_first) in [("oldest-first", false), ("newest-first", true)] {
        let world = World::new(&format!(
            "[link]\norder = \"{order}\"\n[[window]]\nname = \"1m\"\nsize = \"1m\"\nlateness = \"0s\"\nidle = \"1s\""
        ));
        let shared = world.live().await;
        let mut deliverer = world.deliverer(&shared);
        deliverer.pass(world.now()).await.unwrap();
        several(&world, &shared, 3).await;
        world.later(2 * HOUR);
        world.seal(&shared).await;
        let old: Vec<_> = entries(&shared).await.iter().map(|e| e.number).collect();
        world.later(2 * HOUR);
        several(&world, &shared, 2).await;
        let mut expected = entries(&shared).await;
        expected.sort_by_cached_key(|e| {
            let class = Class::of(e.key.table, !old.contains(&e.number));
            let place = e.number.get() as i64;
            (class, if newest_first && class.is_backlog() { -place } else { place })
        });
        assert!(expected.iter().any(|e| e.key.table == Table::Aggregates));
        deliverer.pass(world.now()).await.unwrap();
        let names: Vec<String> =
            expected.iter().map(|e| e.key.object_key(&world.config.bucket.prefix)).collect();
        assert_eq!(given(&world), names, "{order}");
    }
}

#[tokio::test]
async fn readings_of_days_ago_are_backlog_however_late_they_were_sealed() {
    let world = World::new("[link]\nhours = [\"13:00-14:00\"]");
    let shared = world.live().await;
    let mut deliverer = world.deliverer(&shared);
    deliverer.pass(world.now()).await.unwrap();
    world.append(&shared, [1.0]).await;
    world.later(2 * DAY_MICROS);
    world.commit(&shared).await;
    world.seal(&shared).await;
    deliverer.pass(world.now()).await.unwrap();
    let of_readings = entries(&shared).await.into_iter().filter(|e| e.key.table == Table::Readings);
    let mut states: Vec<_> = of_readings.map(|e| (e.key.day, e.state.name())).collect();
    states.sort();
    let today = world.now().day();
    assert_eq!(states, [(Timestamp(NOON).day(), "sealed"), (today, "delivered")]);
    drop(deliverer);
    world.end(shared).await;
}

#[tokio::test]
async fn a_budget_holds_over_restarts_and_what_waits_goes_the_next_day() {
    const BUDGET: u64 = 256 << 10;
    let world = World::new("[link]\nmax_per_day = \"256KiB\"");
    let shared = world.live().await;
    several(&world, &shared, 60).await;
    world.end(shared).await;
    let (mut spent, mut delivered) = (0, Vec::new());
    for life in 0..4 {
        let shared = world.live().await;
        let mut deliverer = world.deliverer(&shared);
        deliverer.pass(world.now()).await.unwrap();
        let before = spent;
        spent = world.bucket.traffic();
        assert!(spent <= BUDGET, "{spent} in life {life}");
        let count = states(&shared).await.iter().filter(|s| **s == "delivered").count();
        delivered.push(count);
        if life == 0 {
            assert!(spent > before && count > 5, "{spent} bytes, {count} segments");
            // As long as nobody knows what will come, half is kept for it.
            assert!(spent + 8192 > BUDGET / 2 - reserve(BUDGET), "the budget isn't used: {spent}");
            report(&shared, world.now()).await.unwrap();
            let waits = shared.status.borrow().link.policy.clone().and_then(|p| p.waits);
            assert!(waits.as_deref().is_some_and(|w| w.contains("max_per_day")), "{waits:?}");
        }
        drop(deliverer);
        world.end(shared).await;
    }
    assert!(delivered.iter().all(|n| *n == delivered[0]), "{delivered:?}");
    assert!(delivered[0] < 60);
    world.later(DAY_MICROS);
    let shared = world.live().await;
    world.deliverer(&shared).pass(world.now()).await.unwrap();
    let count = states(&shared).await.iter().filter(|s| **s == "delivered").count();
    assert!(count > delivered[0], "{count}");
    assert!(world.bucket.traffic() - spent <= BUDGET);
    world.end(shared).await;
}

#[tokio::test]
async fn segments_are_no_greater_than_what_the_link_carries_in_ten_minutes() {
    // 300 KiB in ten minutes.
    let world = World::with("[link]\nmax_rate = \"512B\"", |config| config.segment.max_age = HOUR);
    let shared = world.live().await;
    for _ in 0..8 {
        world.append(&shared, (0..10_000).map(|n| f64::from(n) * 1.1)).await;
    }
    let waiting: u64 = shared.buffer.run(|b| b.rows_to_seal().iter().map(|w| w.bytes).sum()).await.unwrap();
    Sealer::new(Arc::clone(&shared)).pass(&*world.bucket, world.now()).await.unwrap();
    let readings: Vec<_> =
        entries(&shared).await.into_iter().filter(|e| e.key.table == Table::Readings).collect();
    assert!(readings.len() as u64 >= waiting / (512 * 600) && !readings.is_empty(), "{}", readings.len());
    assert!(readings.iter().all(|e| e.size <= 512 * 600), "{readings:?}");
    world.end(shared).await;
}

#[tokio::test]
async fn backlog_waits_for_its_hours_and_the_status_says_until_when() {
    // It is noon.
    let world = World::new("[link]\nhours = [\"13:00-14:00\"]\nmax_rate = \"100KiB\"");
    let shared = world.live().await;
    let mut deliverer = world.deliverer(&shared);
    deliverer.pass(world.now()).await.unwrap();
    several(&world, &shared, 2).await;
    world.later(30 * MINUTE);
    several(&world, &shared, 1).await;
    deliverer.pass(world.now()).await.unwrap();
    report(&shared, world.now()).await.unwrap();
    let count = |states: Vec<&str>, state: &str| states.iter().filter(|s| **s == state).count();
    assert!(count(states(&shared).await, "sealed") >= 2);
    assert!(count(states(&shared).await, "delivered") >= 1);
    let policy = shared.status.borrow().link.policy.clone().unwrap();
    assert!(policy.waits.is_some_and(|w| w.contains("hours") && w.contains("13:00")));
    let until = NOON + HOUR - world.now().0;
    let said = i64::try_from(policy.drain_seconds.unwrap()).unwrap() * SECOND;
    assert!((said - until).abs() < MINUTE, "{said} instead of {until}");
    world.later(until);
    deliverer.pass(world.now()).await.unwrap();
    assert_eq!(count(states(&shared).await, "sealed"), 0);
    drop(deliverer);
    world.end(shared).await;
}

#[tokio::test]
async fn a_metered_gateway_without_readings_takes_less_than_five_megabytes_a_month() {
    let world = World::new("[link]\nprofile = \"metered\"");
    let shared = world.live().await;
    let mut deliverer = world.deliverer(&shared);
    // Looked at every hour: nothing is due more often. What goes in one pass goes over one connection.
    let (mut requests, mut connections) = (0, 0);
    for _ in 0..30 * 24 {
        report(&shared, world.now()).await.unwrap();
        deliverer.pass(world.now()).await.unwrap();
        let before = std::mem::replace(&mut requests, world.bucket.log().len());
        connections += u64::from(requests > before);
        world.later(HOUR);
    }
    let taken = world.bucket.traffic() + connections * wire::connection(i64::MAX, true);
    assert!((340..370).contains(&connections), "{connections} connections");
    assert!((690..740).contains(&requests), "a status, and a question for what is desired: {requests}");
    assert!(taken < 5_000_000, "{taken} bytes");
    drop(deliverer);
    world.end(shared).await;
}

/// A bucket that keeps the first segment on its way until it is told to go on.
struct Narrow {
    inner: Arc<MemoryBucket>,
    held: AtomicBool,
    /// The first segment is on its way.
    reached: Notify,
    /// It may arrive.
    open: Notify,
    /// Another segment arrived.
    arrived: Notify,
}

impl Bucket for Narrow {
    async fn put_new(&self, key: &str, content: Content, digest: Digest) -> Result<(), Answer> {
        let segment = key.contains("/segments/");
        if segment && !self.held.swap(true, Ordering::SeqCst) {
            self.reached.notify_one();
            self.open.notified().await;
            return self.inner.put_new(key, content, digest).await;
        }
        let done = self.inner.put_new(key, content, digest).await;
        if segment {
            self.arrived.notify_one();
        }
        done
    }

    async fn create_multipart(&self, key: &str, digest: Digest) -> Result<String, Answer> {
        self.inner.create_multipart(key, digest).await
    }

    async fn upload_part(
        &self,
        key: &str,
        upload_id: &str,
        number: u32,
        content: Content,
    ) -> Result<PartDone, Answer> {
        self.inner.upload_part(key, upload_id, number, content).await
    }

    async fn list_parts(&self, key: &str, upload_id: &str) -> Result<Vec<PartDone>, Answer> {
        self.inner.list_parts(key, upload_id).await
    }

    async fn complete(&self, key: &str, upload_id: &str, parts: &[PartDone]) -> Result<(), Answer> {
        self.inner.complete(key, upload_id, parts).await
    }

    async fn head(&self, key: &str) -> Result<Found, Answer> {
        self.inner.head(key).await
    }

    async fn get(&self, key: &str, if_none_match: Option<&str>, limit: u64) -> Result<Fetched, Answer> {
        self.inner.get(key, if_none_match, limit).await
    }

    async fn put_replace(&self, key: &str, bytes: Bytes) -> Result<(), Answer> {
        self.inner.put_replace(key, bytes).await
    }
}

#[tokio::test]
async fn a_new_reading_arrives_while_backlog_creeps_over_the_link() {
    let world = World::new("[link]\nuploads = 1");
    let shared = world.live().await;
    several(&world, &shared, 3).await;
    world.later(HOUR);
    let bucket = Arc::new(Narrow {
        inner: Arc::clone(&world.bucket),
        held: AtomicBool::new(false),
        reached: Notify::new(),
        open: Notify::new(),
        arrived: Notify::new(),
    });
    let mut deliverer = Deliverer::new(Arc::clone(&shared), Arc::clone(&bucket));
    let now = world.now();
    let passing = tokio::spawn(async move { deliverer.pass(now).await.map(drop) });
    bucket.reached.notified().await;
    let creeps = entries(&shared).await.into_iter().map(|e| e.number).min().unwrap();
    let old = entries(&shared).await.len();
    world.commit(&shared).await;
    world.seal(&shared).await;
    bucket.arrived.notified().await;
    let new: Vec<_> = entries(&shared).await.split_off(old);
    let key = new.last().unwrap().key.object_key(&world.config.bucket.prefix);
    assert!(!new.is_empty() && world.bucket.object(&key).is_some(), "{:?}", given(&world));
    assert_eq!(given(&world).len(), new.len(), "and no more of the backlog beside the one that creeps");
    bucket.open.notify_one();
    passing.await.unwrap().unwrap();
    assert!(states(&shared).await.iter().all(|s| *s == "delivered"), "{creeps}");
    world.end(shared).await;
}

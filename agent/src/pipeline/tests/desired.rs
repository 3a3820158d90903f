//! The object `desired`: asked for beside what goes over the link anyway, taken once, and what it asks for sent once.

use tributary_contract::desired::{Backfill as Request, Desired};
use tributary_contract::status::{BackfillStatus, DesiredStatus, Health};

use super::backfill::{commit, world};
use super::budget::laws;
use super::lake::Taken;
use super::*;
use crate::ingest::deadband::Deadbands;
use crate::upload::answer::Operation;

impl World {
    /// What lies in the bucket as `desired` from now on.
    async fn desire(&self, bytes: Vec<u8>) {
        let key = self.config.bucket.prefix.desired(&self.config.gateway);
        self.bucket.put_replace(&key, bytes.into()).await.unwrap();
    }

    async fn ask(&self, revision: u64, backfills: Vec<Request>) {
        let desired = Desired { revision, backfills, ..Desired::new(self.config.gateway.clone()) };
        self.desire(desired.to_json().into_bytes()).await;
    }

    /// How often `desired` was asked for.
    fn asked(&self) -> usize {
        let key = self.config.bucket.prefix.desired(&self.config.gateway);
        self.bucket.log().iter().filter(|(what, of)| *what == Operation::Get && *of == key).count()
    }
}

/// What the status says of it, and whether it asks for a look because of it.
async fn said(world: &World, shared: &Shared) -> (bool, DesiredStatus) {
    report(shared, world.now()).await.unwrap();
    let status = shared.status.borrow().clone();
    let troubled = status.health > Health::Ok && status.reasons.iter().any(|why| why.contains("/desired/"));
    (troubled, status.desired.clone().unwrap_or_default())
}

fn request(id: u64, device: Option<&str>, from: Timestamp, to: Timestamp) -> Request {
    let (namespace, device) = (Default::default(), device.map(Into::into));
    Request { id: format!("r{id}"), namespace, device, metric: None, from, to }
}

#[tokio::test]
async fn whatever_is_asked_for_how_often_is_in_the_table_once_though_the_agent_is_killed_again_and_again() {
    for seed in 0..3 {
        let mut random = fastrand::Rng::with_seed(seed);
        let world = world();
        let (mut taken, mut shared) = (Taken::default(), world.live().await);
        let mut sealer = Sealer::new(Arc::clone(&shared));
        let mut deliverer = world.deliverer(&shared);
        let mut deadbands = Deadbands::new(&world.config);
        let (mut kept, mut requests, mut revision) = (0, Vec::new(), 0);
        for _ in 0..18 * 6 {
            world.later(10 * MINUTE);
            kept += commit(&world, &shared, &mut deadbands).await;
            *taken.0.entry("drift".into()).or_default() += 60;
            if random.u8(..) < 28 {
                let from = world.now().plus(-random.i64(0..9 * HOUR));
                let device = [None, Some("d0"), Some("d1"), Some("d9")][random.usize(0..4)];
                requests.push(request(revision, device, from, from.plus(random.i64(1..5 * HOUR))));
                revision += 1;
                world.ask(revision, requests.clone()).await;
            }
            sealer.pass(&*world.bucket, world.now()).await.unwrap();
            deliverer.pass(world.now()).await.unwrap();
            if random.u8(..) < 25 {
                drop((sealer, deliverer));
                world.end(shared).await;
                shared = world.live().await;
                sealer = Sealer::new(Arc::clone(&shared));
                deliverer = world.deliverer(&shared);
                deadbands.forget();
            }
        }
        drop((sealer, deliverer));
        let lake = world.drained(&shared, &taken).await;
        Sealer::new(Arc::clone(&shared)).pass(&*world.bucket, world.now()).await.unwrap();
        let (_, desired) = said(&world, &shared).await;
        assert_eq!(desired.revision, revision);
        let all: Vec<&BackfillStatus> = desired.backfills.iter().collect();
        assert!(!all.is_empty() && all.len() == requests.len(), "{all:?}");
        assert!(all.iter().all(|one| one.state == "done" && one.waiting == 0), "{all:?}");
        assert!(all.iter().any(|one| one.already * 2 > one.asked + 9), "some overlap: {all:?}");
        let sent: u64 = all.iter().map(|one| one.asked - one.given_up).sum();
        let total = taken.0["drift"];
        assert!(sent > 100 && sent < kept, "{sent} of {kept}");
        assert_eq!(lake.readings["drift"], total - kept + sent, "seed {seed}");
        assert_eq!(lake.gaps, [(("drift".to_owned(), "summarised".to_owned()), kept - sent)].into());
        assert_eq!(lake.samples("10m"), total);
        world.end(shared).await;
    }
}

#[tokio::test]
async fn a_document_of_no_use_is_refused_with_its_reason_and_stops_nothing() {
    let world = World::new("");
    let (shared, mut deliverer) = world.sealed().await;
    world.ask(5, vec![request(0, None, Timestamp(0), Timestamp(1))]).await;
    world.later(HOUR);
    deliverer.pass(world.now()).await.unwrap();
    let mut revision = 5;
    let elsewhere = Desired { revision: 9, ..Desired::new("gw-2".parse().unwrap()) };
    let useless = [
        (b"<html>captive portal</html>".to_vec(), "isn't readable"),
        (elsewhere.to_json().into_bytes(), "gw-2"),
        (vec![b' '; 70 << 10], "desired/gw-1.json isn't taken"),
    ];
    for (bytes, words) in useless {
        world.desire(bytes).await;
        world.commit(&shared).await;
        world.seal(&shared).await;
        world.later(HOUR);
        deliverer.pass(world.now()).await.unwrap();
        let (troubled, desired) = said(&world, &shared).await;
        let why = desired.refused.unwrap();
        assert!(why.contains(words) && troubled, "{why}");
        assert_eq!(desired.revision, revision, "the last one that was taken stands");
        assert!(states(&shared).await.iter().all(|state| *state == "delivered"), "{words}");
        assert_eq!(shared.live().link.failing, None, "{words}");
        // A good one behind it is taken.
        revision += 1;
        world.ask(revision, Vec::new()).await;
        world.later(HOUR);
        deliverer.pass(world.now()).await.unwrap();
        let (troubled, desired) = said(&world, &shared).await;
        assert_eq!((troubled, desired.revision, desired.refused), (false, revision, None));
    }
    world.ask(3, Vec::new()).await;
    world.later(HOUR);
    deliverer.pass(world.now()).await.unwrap();
    let (_, desired) = said(&world, &shared).await;
    assert!(desired.refused.is_some_and(|why| why.contains("its revision 3 isn't above 8")));
}

#[tokio::test]
async fn what_is_not_done_is_said_and_what_is_refused_too() {
    let world = World::new("");
    let shared = world.live().await;
    let mut deliverer = world.deliverer(&shared);
    let mut desired = Desired { revision: 1, ..Desired::new(world.config.gateway.clone()) };
    desired.paused = true;
    desired.settings = serde_json::Map::from_iter([("segment.max_age".into(), "5m".into())]);
    desired.backfills = vec![
        request(0, None, Timestamp(2), Timestamp(1)),
        Request { namespace: "office".parse().unwrap(), ..request(1, None, Timestamp(0), Timestamp(1)) },
        request(2, Some("\u{1b}[2J"), Timestamp(0), Timestamp(1)),
    ];
    world.desire(desired.to_json().into_bytes()).await;
    deliverer.pass(world.now()).await.unwrap();
    let (troubled, desired) = said(&world, &shared).await;
    assert!(!troubled);
    assert_eq!(desired.not_applied.len(), 2, "{desired:?}");
    let states: Vec<&str> = desired.backfills.iter().map(|one| one.state.as_str()).collect();
    assert_eq!(states, ["pending", "refused", "refused"]);
    Sealer::new(Arc::clone(&shared)).pass(&*world.bucket, world.now()).await.unwrap();
    report(&shared, world.now()).await.unwrap();
    let text = crate::status::text::render(&shared.status.borrow());
    for words in [
        "not applied: settings.segment.max_age",
        "not applied: paused",
        "backfill r0: refused: its range ends",
        "backfill r1: refused: no source of this gateway writes to the namespace office",
        "backfill r2: done: 0 asked for; 0 sent or on their way before",
        "none here from 1970-01-01T00:00:00Z to 1970-01-01T00:00:00.000001Z",
    ] {
        assert!(text.contains(words), "{words}:\n{text}");
    }
}

#[tokio::test]
async fn it_is_asked_for_with_each_status_and_an_unchanged_one_costs_no_body() {
    let world = World::new("");
    let shared = world.live().await;
    let mut deliverer = world.deliverer(&shared);
    world.ask(1, Vec::new()).await;
    for _ in 0..96 {
        report(&shared, world.now()).await.unwrap();
        deliverer.pass(world.now()).await.unwrap();
        world.later(15 * MINUTE);
    }
    let log = world.bucket.log();
    let written = log.iter().filter(|(what, _)| *what == Operation::PutReplace).count();
    assert_eq!(world.asked(), written - 1, "all but the test's own");
    let (before, asked) = (world.bucket.traffic(), world.asked());
    deliverer.pass(world.now()).await.unwrap();
    let cost = world.bucket.traffic() - before;
    assert_eq!(world.asked(), asked + 1);
    assert!(cost < 8_000, "status and question together: {cost} bytes");
    // Where uploads put the status off, it goes with one of them.
    world.later(15 * MINUTE);
    world.commit(&shared).await;
    world.seal(&shared).await;
    let seen = world.asked();
    deliverer.pass(world.now()).await.unwrap();
    assert_eq!(world.asked(), seen + 1);
}

#[tokio::test]
async fn a_request_waits_until_the_times_of_all_readings_are_known() {
    let world = world();
    let shared = world.live().await;
    let mut deadbands = Deadbands::new(&world.config);
    for _ in 0..2 {
        world.later(10 * MINUTE);
        commit(&world, &shared, &mut deadbands).await;
    }
    let now = world.now();
    let sources = Arc::clone(&world.sources);
    let reading = Reading {
        ts: now,
        device: "d0".into(),
        metric: "m".into(),
        tags: Default::default(),
        row_tags: Default::default(),
        value: Value::Float(1.0),
        unit: None,
        quality: Quality::GOOD,
        kept_back: false,
    };
    let accepted = vec![Accepted { source: 1, received_at: now, readings: vec![reading] }];
    let messages = MessageCounters { received: 1, accepted: 1, ..Default::default() };
    let batch = NewBatch { accepted, messages, ..NewBatch::default() };
    let unsure = crate::clock::Moment { synced: false, ..crate::clock::Moment::believed(now) };
    shared.buffer.run(move |b| b.append_at(batch, &sources, unsure)).await.unwrap().unwrap();
    world.ask(1, vec![request(0, None, Timestamp(0), Timestamp(i64::MAX))]).await;
    world.deliverer(&shared).pass(world.now()).await.unwrap();
    let mut sealer = Sealer::new(Arc::clone(&shared));
    sealer.pass(&*world.bucket, world.now()).await.unwrap();
    assert_eq!(said(&world, &shared).await.1.backfills[0].state, "pending");
    let sure = crate::clock::Moment::believed(world.now());
    shared.buffer.run(move |b| b.stamp(&sure, &|memory, _| memory.to_vec())).await.unwrap().unwrap();
    sealer.pass(&*world.bucket, world.now()).await.unwrap();
    let one = said(&world, &shared).await.1.backfills.remove(0);
    assert_eq!((one.state.as_str(), one.asked + one.already), ("sending", 121));
    assert!(one.asked > 0 && laws(&shared).await.readings.journaled == 121);
}

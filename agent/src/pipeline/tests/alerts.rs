//! Alerts over a real buffer: once each, whatever dies, told when they are durable, and rows of their table.

use super::*;
use crate::ingest::mqtt::Command;

const RULES: &str = r#"
    [[alert]]
    name = "hot"
    severity = "critical"
    above = 50
    clear = 40
    publish = "tributary/{gateway}/alerts/{rule}/{device}/{metric}"
    [[alert]]
    name = "silent"
    silent = "10m"
"#;

impl World {
    /// A second later, one batch of one reading of that value.
    async fn measure(&self, shared: &Shared, value: f64) {
        self.later(SECOND);
        self.commit_value(shared, value).await;
    }

    /// A life in which the broker is there.
    async fn heard(&self, seams: Seams) -> Arc<Shared> {
        let shared = self.live_with(seams).await;
        shared.live().brokers[0].connected = true;
        shared
    }
}

/// What waits to be sealed: rule, and whether it opened.
async fn waiting(shared: &Shared) -> Vec<(String, bool)> {
    let mut rows = shared.buffer.run(|b| b.alerts_to_seal()).await.unwrap().unwrap();
    rows.sort_by_key(|a| a.ts);
    rows.into_iter().map(|a| (a.rule, a.open)).collect()
}

fn of(list: &[(&str, bool)]) -> Vec<(String, bool)> {
    list.iter().map(|(rule, open)| ((*rule).to_owned(), *open)).collect()
}

#[tokio::test]
async fn an_alert_is_durable_before_it_is_told_and_told_once() {
    let world = World::new(RULES);
    let shared = world.heard(Seams::default()).await;
    let (handle, mut commands) = Handle::without_task(0);
    shared.publisher.get_or_init(|| handle.publisher());
    for (value, changes) in [(20.0, 0), (60.0, 1), (45.0, 0), (70.0, 0), (39.0, 1)] {
        world.measure(&shared, value).await;
        assert_eq!(alert(&shared, world.now()).await.unwrap(), changes, "{value}");
        assert_eq!(alert(&shared, world.now()).await.unwrap(), 0);
    }
    assert_eq!(waiting(&shared).await, of(&[("hot", true), ("hot", false)]));
    let mut told = Vec::new();
    while let Ok(Command::Publish(message)) = commands.try_recv() {
        assert_eq!(message.topic, "tributary/gw-1/alerts/hot/boiler/temp");
        let word: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!((&word["severity"], &word["expected"]), (&"critical".into(), &50.0.into()));
        told.push((word["state"].as_str().unwrap().to_owned(), word["value"].as_f64().unwrap()));
    }
    assert_eq!(told, [("open".to_owned(), 60.0), ("closed".to_owned(), 39.0)]);
    report(&shared, world.now()).await.unwrap();
    assert_eq!(shared.status.borrow().alerts, 0);

    // While nobody is there to be told it waits, and goes once.
    shared.live().brokers[0].connected = false;
    world.measure(&shared, 60.0).await;
    assert_eq!(alert(&shared, world.now()).await.unwrap(), 1);
    assert!(commands.try_recv().is_err());
    shared.live().brokers[0].connected = true;
    assert_eq!(alert(&shared, world.now()).await.unwrap(), 0);
    assert!(matches!(commands.try_recv(), Ok(Command::Publish(_))) && commands.try_recv().is_err());
}

#[tokio::test]
async fn whenever_it_dies_between_a_reading_and_its_alert_the_alert_is_there_once() {
    for point in ["", "alerts: before", "alerts: after"] {
        let world = World::new(RULES);
        let shared = world.heard(Seams::default()).await;
        world.measure(&shared, 20.0).await;
        alert(&shared, world.now()).await.unwrap();
        world.end(shared).await;

        let faults: Arc<dyn Faults> = Arc::new(DieAt(point));
        let shared = world.heard(Seams { faults, ..Seams::default() }).await;
        world.measure(&shared, 60.0).await;
        // Dead before, in the middle of, or right after making it durable.
        if !point.is_empty() {
            assert!(alert(&shared, world.now()).await.is_err(), "{point}");
        }
        world.end(shared).await;

        let shared = world.heard(Seams::default()).await;
        alert(&shared, world.now()).await.unwrap();
        assert_eq!(waiting(&shared).await, of(&[("hot", true)]), "{point}");
        world.measure(&shared, 30.0).await;
        alert(&shared, world.now()).await.unwrap();
        assert_eq!(waiting(&shared).await, of(&[("hot", true), ("hot", false)]), "{point}");
        world.end(shared).await;
    }
}

#[tokio::test]
async fn silence_is_only_what_could_have_been_heard() {
    let world = World::new(RULES);
    let shared = world.heard(Seams::default()).await;
    world.measure(&shared, 20.0).await;
    alert(&shared, world.now()).await.unwrap();
    shared.live().brokers[0].connected = false;
    world.later(HOUR);
    alert(&shared, world.now()).await.unwrap();
    shared.live().brokers[0].connected = true;
    alert(&shared, world.now()).await.unwrap();
    assert_eq!(waiting(&shared).await, [], "the broker was away");
    world.later(10 * MINUTE);
    alert(&shared, world.now()).await.unwrap();
    assert_eq!(waiting(&shared).await, of(&[("silent", true)]));
    report(&shared, world.now()).await.unwrap();
    assert_eq!(shared.status.borrow().alerts, 1);
    world.end(shared).await;

    // A series that says nothing after the start either is still the same silence.
    let shared = world.heard(Seams::default()).await;
    alert(&shared, world.now()).await.unwrap();
    world.later(HOUR);
    alert(&shared, world.now()).await.unwrap();
    assert_eq!(waiting(&shared).await, of(&[("silent", true)]));
    world.measure(&shared, 20.0).await;
    alert(&shared, world.now()).await.unwrap();
    assert_eq!(waiting(&shared).await, of(&[("silent", true), ("silent", false)]));
}

#[tokio::test]
async fn alerts_are_sealed_read_back_and_gone_with_their_receipt() {
    let world = World::new(RULES);
    let shared = world.heard(Seams::default()).await;
    world.measure(&shared, 60.0).await;
    world.measure(&shared, 10.0).await;
    alert(&shared, world.now()).await.unwrap();
    world.seal(&shared).await;
    assert_eq!(waiting(&shared).await, []);
    let entries = shared.buffer.run(|b| b.entries()).await.unwrap().unwrap();
    let sealed: Vec<_> = entries.iter().filter(|e| e.key.table == Table::Alerts).collect();
    assert_eq!(sealed.iter().map(|e| e.rows).collect::<Vec<_>>(), [2]);
    let (epoch, number) = (sealed[0].epoch, sealed[0].number);
    let path = shared.buffer.run(move |b| b.segment_path(epoch, number)).await.unwrap();
    let bytes = std::fs::read(path).unwrap();
    let back = crate::segment::readback::read(bytes.into()).unwrap();
    let crate::segment::readback::Contents::Alerts(ids) = back.contents else {
        panic!("{:?}", back.contents)
    };
    assert_eq!(ids.len(), 2);
    assert!(ids.iter().all(|id| id.ends_with(" hot")), "{ids:?}");

    let mut deliverer = world.deliverer(&shared);
    deliverer.pass(world.now()).await.unwrap();
    deliverer.pass(world.now()).await.unwrap();
    world.register(1, &entries).await;
    world.later(MINUTE);
    deliverer.pass(world.now()).await.unwrap();
    let left = shared.buffer.run(|b| b.entries()).await.unwrap().unwrap();
    assert_eq!(left, [], "everything was let go");
}

//! Closed windows are told at once, each once for what it holds, whether or not they are sealed first.

use tokio::sync::mpsc::UnboundedReceiver;

use super::*;
use crate::ingest::mqtt::Command;

const WINDOWS: &str = r#"
    [[window]]
    name = "1m"
    size = "1m"
    lateness = "0s"
    publish = "tributary/{gateway}/windows/{window}/{device}/{metric}"
    [[window]]
    name = "quiet"
    size = "1m"
    lateness = "0s"
"#;

/// A life whose first broker is there; what it is told to publish.
async fn connected(world: &World) -> (Arc<Shared>, UnboundedReceiver<Command>) {
    let shared = world.live().await;
    let (handle, commands) = Handle::without_task(0);
    shared.publisher.get_or_init(|| handle.publisher());
    shared.live().brokers[0].connected = true;
    (shared, commands)
}

/// Topic, and number of readings, of what was told since the last time.
fn told(commands: &mut UnboundedReceiver<Command>) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    while let Ok(command) = commands.try_recv() {
        let Command::Publish(message) = command else { panic!("{command:?}") };
        let word: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!((&word["window_name"], &word["device"]), (&"1m".into(), &"boiler".into()));
        all.push((message.topic, word["samples"].as_u64().unwrap()));
    }
    all
}

const TOPIC: &str = "tributary/gw-1/windows/1m/boiler/temp";

#[tokio::test]
async fn a_window_is_told_when_it_closes_once_and_again_with_what_came_late() {
    let world = World::new(WINDOWS);
    let (shared, mut commands) = connected(&world).await;
    world.commit(&shared).await;
    world.later(30 * SECOND);
    world.commit(&shared).await;
    assert_eq!(announce(&shared, world.now()).await.unwrap(), 0, "it is open");
    world.later(40 * SECOND);
    world.commit(&shared).await;
    assert_eq!(announce(&shared, world.now()).await.unwrap(), 1);
    assert_eq!(told(&mut commands), [(TOPIC.to_owned(), 2)]);
    assert_eq!(announce(&shared, world.now()).await.unwrap(), 0, "it was told");

    // What comes late before its segment is made, and after.
    for samples in [3, 4] {
        let newest = world.now();
        world.clock.0.store(NOON + 20 * SECOND, Ordering::SeqCst);
        world.commit(&shared).await;
        world.clock.0.store(newest.0, Ordering::SeqCst);
        assert_eq!(announce(&shared, world.now()).await.unwrap(), 1);
        assert_eq!(told(&mut commands), [(TOPIC.to_owned(), samples)]);
        world.seal(&shared).await;
        assert_eq!((announce(&shared, world.now()).await.unwrap(), told(&mut commands)), (0, vec![]));
    }
}

#[tokio::test]
async fn what_is_sealed_before_anybody_told_it_is_told_by_who_seals() {
    let world = World::new(WINDOWS);
    let (shared, mut commands) = connected(&world).await;
    world.commit(&shared).await;
    world.later(70 * SECOND);
    world.commit(&shared).await;
    world.seal(&shared).await;
    assert_eq!(told(&mut commands), [(TOPIC.to_owned(), 1)]);
    assert_eq!(announce(&shared, world.now()).await.unwrap(), 0);
}

#[tokio::test]
async fn without_a_connection_a_window_waits_to_be_told() {
    let world = World::new(WINDOWS);
    let (shared, mut commands) = connected(&world).await;
    world.commit(&shared).await;
    world.later(70 * SECOND);
    world.commit(&shared).await;
    shared.live().brokers[0].connected = false;
    assert_eq!(announce(&shared, world.now()).await.unwrap(), 0);
    shared.live().brokers[0].connected = true;
    assert_eq!(announce(&shared, world.now()).await.unwrap(), 1);
    assert_eq!(told(&mut commands), [(TOPIC.to_owned(), 1)]);
    // A silent device's last window is closed by its silence, and told.
    world.later(20 * MINUTE);
    assert_eq!(announce(&shared, world.now()).await.unwrap(), 1);
    assert_eq!(told(&mut commands), [(TOPIC.to_owned(), 1)]);
}

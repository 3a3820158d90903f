//! Arrivals doubled, out of order, deleted and delivered again, with the lake away and receivers dying: each segment once.

use proptest::prelude::*;

use super::*;

/// Segments of a run, over two gateways and two tables.
const SEGMENTS: usize = 8;

/// What happens next.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// A gateway delivers a segment, perhaps again: the same bytes, written anew.
    Deliver(usize),
    /// Somebody deletes an object, unless its gateway was told already that it is registered.
    Delete(usize),
    /// A pass over the arrivals, as a notice or the clock triggers it.
    Arrivals,
    /// A pass over the batches.
    Register,
    /// Receipts are written.
    Receipts,
    /// The next commit doesn't reach the lake.
    Away,
    /// The next commit reaches the lake, and nobody hears of it.
    Unheard,
    /// The receiver dies, and another one starts.
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..SEGMENTS).prop_map(Event::Deliver),
        2 => (0..SEGMENTS).prop_map(Event::Delete),
        4 => Just(Event::Arrivals),
        3 => Just(Event::Register),
        2 => Just(Event::Receipts),
        1 => Just(Event::Away),
        1 => Just(Event::Unheard),
        1 => Just(Event::Restart),
    ]
}

/// Two gateways seal in turns; each segment has its own number of rows, so that sums tell them apart.
fn sealed() -> Vec<Sealed> {
    let mut forges = [Forge::new("gw-1", 1), Forge::new("gw-2", 2)];
    let tables = [Table::Readings, Table::Readings, Table::Aggregates];
    (0..SEGMENTS).map(|i| forges[i % 2].seal(tables[i % 3], 1 << i)).collect()
}

impl World {
    fn tells_registered(&self, sealed: &Sealed) -> bool {
        let id = &sealed.key.id;
        let Some(bytes) = self.bucket.bytes(&format!("p/receipts/{}.json", id.gateway)) else { return false };
        let receipt = Receipt::from_json(&bytes, &id.gateway).unwrap();
        receipt.epochs.get(&id.epoch).is_some_and(|said| said.registered.contains(id.number.get()))
    }

    async fn meet(self, event: Event, sealed: &[Sealed]) -> Self {
        let now = Timestamp(100);
        // What fails is tried again, here by a later event.
        match event {
            Event::Deliver(i) => self.deliver(&sealed[i]),
            Event::Delete(i) if !self.tells_registered(&sealed[i]) => {
                self.bucket.remove(&sealed[i].key.object_key(&self.pipeline.prefix));
            }
            Event::Delete(_) => {}
            Event::Arrivals => drop(self.pipeline.arrivals_pass(now).await),
            Event::Register => drop(self.pipeline.register_pass(now).await),
            Event::Receipts => drop(self.pipeline.receipts_pass(now).await),
            Event::Away => self.lake.fail_next(READINGS, LakeFault::Unreachable),
            Event::Unheard => self.lake.fail_next(READINGS, LakeFault::LandsUnheard),
            Event::Restart => return self.restart(),
        }
        self
    }

    /// Gateways deliver again what no receipt has; the receiver goes on until there is nothing of that.
    async fn come_to_rest(&self, sealed: &[Sealed]) {
        for _ in 0..50 {
            let missing: Vec<_> = sealed.iter().filter(|s| !self.tells_registered(s)).collect();
            if missing.is_empty() {
                return;
            }
            missing.into_iter().for_each(|s| self.deliver(s));
            drop(self.pipeline.pass(Timestamp(100)).await);
        }
        panic!("no end: {:?}", self.stopped().await);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn no_order_and_no_repetition_of_arrivals_counts_a_segment_twice_or_not_at_all(
        events in prop::collection::vec(event(), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let sealed = sealed();
        let (readings, aggregates) = runtime.block_on(async {
            let mut world = world();
            for event in events {
                world = world.meet(event, &sealed).await;
            }
            world.come_to_rest(&sealed).await;
            // A late repetition of everything changes nothing.
            sealed.iter().for_each(|s| world.deliver(s));
            world.pass().await;
            (world.lake.table(READINGS), world.lake.table("tributary.aggregates"))
        });
        let expected = |table: Table| {
            let ours = sealed.iter().filter(|s| s.key.table == table);
            let mut uris: Vec<String> = ours
                .clone()
                .map(|s| format!("s3://lake/{}", s.key.object_key(&Prefix::new("p").unwrap())))
                .collect();
            uris.sort();
            (uris, ours.map(|s| s.manifest.rows as i64).sum::<i64>())
        };
        for (table, found) in [(Table::Readings, readings), (Table::Aggregates, aggregates)] {
            let mut found = found.unwrap();
            found.uris.sort();
            prop_assert_eq!((found.uris, found.rows), expected(table));
        }
    }
}

#[tokio::test]
async fn a_segment_deleted_in_any_state_before_its_registration_is_asked_for_and_registered_once() {
    /// How far a segment is when it vanishes.
    #[derive(Debug, PartialEq)]
    enum State {
        Delivered,
        Checked,
        Batched,
    }
    for state in [State::Delivered, State::Checked, State::Batched] {
        let world = world();
        let mut forge = Forge::new("gw-1", 1);
        let (one, two) = (forge.seal(Table::Readings, 10), forge.seal(Table::Readings, 20));
        world.deliver(&one);
        let now = Timestamp(100);
        if state != State::Delivered {
            world.pipeline.arrivals_pass(now).await.unwrap();
        }
        if state == State::Batched {
            world.lake.fail_next(READINGS, LakeFault::Unreachable);
            world.pipeline.register_pass(now).await.unwrap_err();
        }
        world.bucket.remove(&one.key.object_key(&world.pipeline.prefix));
        // The next segment's manifest says that the first is outstanding.
        world.deliver(&two);
        for _ in 0..2 {
            drop(world.pipeline.pass(now).await);
        }
        world.pipeline.receipts_pass(now).await.unwrap();
        let said = world.epoch("gw-1", 1);
        assert!(said.missing.contains(1) && !said.registered.contains(1), "{state:?}: {said:?}");
        world.deliver(&one);
        world.pass().await;
        world.pass().await;
        assert_eq!(world.rows(), 30, "{state:?}");
        let said = world.epoch("gw-1", 1);
        assert_eq!((said.registered, said.missing), (numbers(1, 2), Ranges::new()), "{state:?}");
    }
}

#[tokio::test]
async fn what_is_delivered_again_after_its_commit_and_before_its_receipt_is_known_as_registered() {
    let mut world = world();
    let sealed = Forge::new("gw-1", 1).seal(Table::Readings, 10);
    world.deliver(&sealed);
    let now = Timestamp(100);
    world.pipeline.arrivals_pass(now).await.unwrap();
    world.pipeline.register_pass(now).await.unwrap();
    world.bucket.remove(&sealed.key.object_key(&world.pipeline.prefix));
    world = world.restart();
    world.deliver(&sealed);
    world.pass().await;
    assert_eq!((world.rows(), world.epoch("gw-1", 1).registered), (10, numbers(1, 1)));
}

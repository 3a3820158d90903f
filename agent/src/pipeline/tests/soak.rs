//! A month of one gateway: weeks online, days offline, faults, kills; ended by counts.

use super::budget::{HIGH, LOW, WINDOWS, laws, long, world};
use super::lake::Taken;
use super::*;
use crate::buffer::Progress;
use crate::upload::memory::Moment;

/// From one commit to the next.
const STEP: i64 = 10 * MINUTE;
/// Steps of a day.
const DAY: u64 = 144;
/// Readings of a source and step.
const EACH: u64 = 100;

/// Days: a month with `TRIBUTARY_LONG`.
fn days() -> u64 {
    if long() { 30 } else { 4 }
}

/// What a bad hour has for one request.
fn fault(random: &mut fastrand::Rng) -> Option<Fault> {
    let lost = Reply::Nothing(Transport::NoReply);
    let delayed = Fault { moment: Moment::Delayed, reply: lost };
    match random.u8(..10) {
        0 => Some(Fault::lost_reply()),
        1 => Some(Fault::before(Reply::Status(503, Some(Code::SlowDown)))),
        2 => Some(Fault::before(Reply::Nothing(Transport::NoConnection))),
        3 => Some(Fault::before(Reply::Status(403, None))),
        4 => Some(delayed),
        _ => None,
    }
}

#[tokio::test]
async fn after_a_month_of_absences_faults_and_kills_each_reading_is_there_once() {
    let seed = std::env::var("TRIBUTARY_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let mut random = fastrand::Rng::with_seed(seed);
    let world = world(WINDOWS, 64 << 20);
    let mut taken = Taken::default();
    let mut shared = world.live().await;
    let mut sealer = Sealer::new(Arc::clone(&shared));
    let mut deliverer = world.deliverer(&shared);
    // Until which step nothing answers.
    let (mut offline_until, mut offline, mut kills, mut revision) = (0, 0, 0, 0);
    for step in 0..days() * DAY {
        if step >= offline_until && random.u64(..DAY) == 0 {
            offline_until = step + if random.u8(..4) == 0 { 3 * DAY } else { random.u64(6..DAY) };
        }
        let away = step < offline_until;
        offline += u64::from(away);
        world.bucket.end_script();
        let dead = Some(Fault::before(Reply::Nothing(Transport::NoConnection)));
        let lines = (0..200).map(|_| if away { dead.clone() } else { None });
        let bad_hour = random.u64(..12) == 0;
        world
            .bucket
            .script(lines.map(|line| if bad_hour { line.or_else(|| fault(&mut random)) } else { line }));
        world.later(STEP);
        world.flood(&shared, &[LOW, HIGH], EACH, STEP, &mut taken).await;
        sealer.pass(&*world.bucket, world.now()).await.unwrap();
        deliverer.pass(world.now()).await.unwrap();
        laws(&shared).await;
        if !away && random.u64(..DAY / 2) == 0 {
            let delivered = |e: &Entry| matches!(e.state, Progress::Delivered { .. });
            let all: Vec<Entry> = entries(&shared).await.into_iter().filter(delivered).collect();
            revision += 1;
            world.bucket.end_script();
            world.register(revision, &all).await;
        }
        if random.u64(..DAY / 2) == 0 {
            kills += 1;
            drop((sealer, deliverer));
            world.end(shared).await;
            shared = world.live().await;
            sealer = Sealer::new(Arc::clone(&shared));
            deliverer = world.deliverer(&shared);
        }
    }
    world.bucket.end_script();
    drop((sealer, deliverer));
    let lake = world.drained(&shared, &taken).await;
    let total: u64 = taken.0.values().sum();
    let told = format!("seed {seed}: {offline} of {} steps offline, {kills} kills", days() * DAY);
    assert!(offline > 6 && kills > 1, "{told}");
    assert_eq!(lake.gaps, Default::default(), "{told}");
    assert_eq!(lake.readings.values().sum::<u64>(), total, "{told}");
    assert_eq!((lake.samples("10m"), lake.samples("1d")), (total, total), "{told}");
    for key in world.bucket.keys().iter().filter(|key| key.ends_with(".parquet")) {
        assert_eq!(world.bucket.creations(key), 1, "{told}: {key}");
    }
    let requests = world.bucket.log().len() as u64;
    println!(
        "{told}; {total} readings, {} requests and {:.2} bytes a million and a reading",
        requests * 1_000_000 / total,
        world.bucket.received() as f64 / total as f64
    );
}

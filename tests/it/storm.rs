//! Hundreds of forced disconnects under load, with every kind of redelivery that the proxy can make.
//!
//! Sixty in all by default, a thousand with `TRIBUTARY_LONG=1` (`tests/run --long`).

use std::time::Duration;

use anyhow::{Context, ensure};
use fastrand::Rng;
use tributary_tests::mqtt::behaviour::{Behaviour, Cut, Id, Lost, Names, Of, Pace, Redelivery};
use tributary_tests::world::{Load, Mqtt, Saves, World};

/// Messages of each sort that are published before a cut.
const EACH: u64 = 20;

fn disconnects() -> u64 {
    if std::env::var_os("TRIBUTARY_LONG").is_some() { 500 } else { 30 }
}

fn behaviour(rng: &mut Rng, names: Names) -> Behaviour {
    let pace = |rng: &mut Rng| match rng.u8(..4) {
        0 => Pace::After(Duration::from_millis(rng.u64(1..20))),
        _ => Pace::AtOnce,
    };
    Behaviour {
        publishes: pace(rng),
        // Held only until the cut, which then loses them all.
        acknowledgements: if rng.u8(..4) == 0 { Pace::Held } else { pace(rng) },
        // An acknowledgement lost long before the cut comes again under its old id; under a new one without DUP, among
        // messages that were acknowledged, nobody could know it.
        lost_acknowledgements: match (names, rng.u8(..3)) {
            (Names::Brokers, 0) => Lost::Every(rng.u64(2..5)),
            _ => Lost::None,
        },
        names,
        window: (rng.u8(..4) == 0).then(|| rng.u16(1..30)),
        retained_at_each_subscribe: rng.bool(),
    }
}

/// So many messages more of each sort, after which the broker knows everything that was acknowledged: nothing is left to
/// come again under another name.
async fn settle(world: &World, load: &mut Load, names: Names, each: u64) -> anyhow::Result<()> {
    // A cut that was commanded and didn't strike is called off.
    world.proxy.cut_when(Cut::AfterPublishes(u64::MAX));
    world.proxy.behave(Behaviour { names, ..Behaviour::default() });
    load.publish(world, each).await?;
    load.acknowledged(world).await?;
    let mut changes = world.proxy.changes();
    let known = changes.wait_for(|counts| {
        counts.live > 0 && counts.in_flight + counts.kept_back + counts.acknowledgements_kept_back == 0
    });
    tokio::time::timeout(Duration::from_secs(60), known).await??;
    Ok(())
}

/// A cut among messages that were all acknowledged.
async fn calm(world: &World, load: &mut Load) -> anyhow::Result<()> {
    let before = world.proxy.counts();
    settle(world, load, Names::Brokers, EACH).await?;
    world.proxy.cut();
    let mut changes = world.proxy.changes();
    let again = changes.wait_for(|counts| counts.connections > before.connections && counts.subscribed > 0);
    tokio::time::timeout(Duration::from_secs(60), again).await??;
    // What comes again comes before it.
    settle(world, load, Names::Brokers, 1).await
}

/// What is sent again on the live connection, as a broker could that names messages as this round's does. In the round after
/// one of new names, what was answered has names that its broker never gave.
fn redelivery(rng: &mut Rng, round: u64, resends: bool) -> Redelivery {
    let renamed = round.is_multiple_of(4);
    Redelivery {
        messages: rng.usize(1..10),
        of: if rng.bool() || round % 4 < 2 { Of::Unanswered } else { Of::Answered },
        id: if renamed || resends && rng.bool() { Id::New } else { Id::Old },
        dup: !renamed && (!resends || rng.bool()),
    }
}

#[expect(clippy::print_stdout, reason = "what was counted is the test's result")]
async fn storm(mqtt: Mqtt, resends: bool) -> anyhow::Result<()> {
    let seed = fastrand::u64(..);
    let mut rng = Rng::with_seed(seed);
    let world = World::start(mqtt).await?;
    let mut load = Load::prepare(&world, &format!("inflight_window = 100\nresends = {resends}\n"))?;
    let _agent = world.agent()?;
    let _receiver = world.receiver()?;
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
    let proxy = &world.proxy;
    let mut changes = proxy.changes();
    for round in 1..=disconnects() {
        let about = || format!("seed {seed}, round {round}: {:#?}\n{}", proxy.counts(), world.logs());
        let names = if round % 4 == 0 { Names::NewWithoutDup } else { Names::Brokers };
        if round % 4 == 3 {
            calm(&world, &mut load).await.with_context(about)?;
            continue;
        }
        if resends && names == Names::Brokers {
            // Without DUP a copy is known as far back as the in-flight window reaches: what was answered is of late.
            settle(&world, &mut load, names, EACH / 2).await.with_context(about)?;
        }
        let before = proxy.counts();
        proxy.behave(behaviour(&mut rng, names));
        let at = rng.u64(1..EACH);
        let cut = match rng.u8(..5) {
            0 => Some(Cut::AfterPublishes(at)),
            1 => Some(Cut::WithinPublish(at)),
            2 => Some(Cut::BeforeAcknowledgement(at)),
            3 => Some(Cut::AfterAcknowledgement(at)),
            _ => None,
        };
        if let Some(cut) = cut {
            proxy.cut_when(cut);
        }
        load.publish(&world, EACH).await?;
        if resends || names == Names::Brokers {
            proxy.redeliver(redelivery(&mut rng, round, resends));
        }
        // Held acknowledgements may keep the commanded cut from ever striking.
        let soon =
            changes.wait_for(|counts| counts.cuts > before.cuts || counts.live > 0 && counts.in_flight == 0);
        tokio::time::timeout(Duration::from_secs(60), soon).await.with_context(about)??;
        if proxy.counts().cuts == before.cuts {
            proxy.cut();
        }
        let again =
            changes.wait_for(|counts| counts.connections > before.connections && counts.subscribed > 0);
        tokio::time::timeout(Duration::from_secs(60), again).await.with_context(about)??;
        if names == Names::NewWithoutDup {
            // No broker changes how it names a message halfway.
            settle(&world, &mut load, names, 1).await.with_context(about)?;
        }
    }
    proxy.behave(Behaviour::default());
    load.acknowledged(&world).await.with_context(|| format!("seed {seed}"))?;
    let copies = load.settled(&world).await.with_context(|| format!("seed {seed}"))?;
    let counts = proxy.counts();
    ensure!(counts.cuts >= disconnects(), "{counts:?}");
    let status = world.status().await.context("the agent is gone")?;
    let doubled = copies.values().filter(|copies| copies.rows > 1).count();
    println!(
        "{} disconnects: {} messages with own time once each; of {} without, {} recognised copies by session, {} by \
         content in all, {doubled} stored more than once and marked; {} PUBLISH, {} with DUP, {} injected, {} PUBACK lost",
        counts.cuts,
        load.timed,
        load.timeless,
        status.redelivered["session"],
        status.redelivered["content"],
        counts.publishes,
        counts.duplicates,
        counts.injected,
        counts.lost,
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forced_disconnects_under_load_double_and_lose_nothing_over_mqtt_5() -> anyhow::Result<()> {
    storm(Mqtt::MosquittoV5(Saves::AtStop), false).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forced_disconnects_under_load_double_and_lose_nothing_over_mqtt_3_1_1() -> anyhow::Result<()> {
    storm(Mqtt::MosquittoV4(Saves::AtStop), true).await
}

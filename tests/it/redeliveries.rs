//! Each kind of redelivery and of cut that the proxy can make, against the real agent and Mosquitto.
//!
//! Messages with their own time are in the table once. Those without are there once where packet ids and DUP decide, and
//! marked `possible-duplicate` where nothing can.

use anyhow::{Context, ensure};
use tributary_tests::mqtt::behaviour::{Behaviour, Cut, Id, Lost, Names, Of, Pace, Redelivery};
use tributary_tests::world::publish::{publish, publish_as, timeless};
use tributary_tests::world::{Load, Mqtt, Saves, World, until};

/// Messages of each sort for one kind of fault.
const EACH: u64 = 24;

/// What is done while messages flow.
enum Act {
    /// Everything is acknowledged, but no acknowledgement reaches the broker before the cut.
    HeldThenCut,
    /// One in so many acknowledgements is lost, then the connection is cut.
    LostThenCut(u64),
    /// A cut at that point.
    CutWhen(Cut),
    /// The proxy sends again on the live connection.
    Live(Redelivery),
}

struct Kind {
    name: &'static str,
    names: Names,
    act: Act,
    /// Whether a message without own time is recognised too.
    recognised: bool,
}

fn live(of: Of, id: Id, dup: bool) -> Act {
    Act::Live(Redelivery { messages: 8, of, id, dup })
}

/// One kind after the other on one agent, as a broker's habits change in an upgrade.
async fn play(mqtt: Mqtt, broker: &str, kinds: &[Kind]) -> anyhow::Result<()> {
    let world = World::start(mqtt).await?;
    let mut load = Load::prepare(&world, broker)?;
    let _agent = world.agent()?;
    let _receiver = world.receiver()?;
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
    let mut expectations = Vec::new();
    for kind in kinds {
        let first = load.timeless + 1;
        fault(&world, &mut load, kind).await.with_context(|| format!("{}\n{}", kind.name, world.logs()))?;
        expectations.push((kind, first, load.timeless));
    }
    let copies = load.settled(&world).await?;
    for (kind, first, last) in expectations {
        let numbers = load.timeless_from(first).take((last + 1 - first) as usize);
        let doubled = numbers.filter(|number| !copies[number].is_single()).count();
        ensure!(
            kind.recognised == (doubled == 0),
            "{}: {doubled} messages without own time were not recognised",
            kind.name
        );
    }
    let status = world.status().await.context("the agent is gone")?;
    let (by_session, by_content) = (status.redelivered["session"], status.redelivered["content"]);
    ensure!(by_session > 0 && by_content > 0, "{:?}", status.redelivered);
    ensure!(world.proxy.counts().unmatched == 0, "{:?}", world.proxy.counts());
    Ok(())
}

async fn fault(world: &World, load: &mut Load, kind: &Kind) -> anyhow::Result<()> {
    let proxy = &world.proxy;
    let usual = Behaviour { names: kind.names, ..Behaviour::default() };
    let before = proxy.counts();
    let mut changes = proxy.changes();
    proxy.behave(usual);
    match &kind.act {
        Act::HeldThenCut => {
            proxy.behave(Behaviour { acknowledgements: Pace::Held, ..usual });
            load.publish(world, EACH).await?;
            load.acknowledged(world).await?;
            proxy.cut();
            changes.wait_for(|counts| counts.acknowledgements_kept_back == 0).await?;
            proxy.behave(usual);
            // Each comes once more.
            changes.wait_for(|counts| counts.publishes >= before.publishes + 4 * EACH).await?;
        }
        Act::LostThenCut(every) => {
            proxy.behave(Behaviour { lost_acknowledgements: Lost::Every(*every), ..usual });
            load.publish(world, EACH).await?;
            load.acknowledged(world).await?;
            let lost = proxy.counts().lost - before.lost;
            ensure!(lost >= 2 * EACH / every, "{lost} acknowledgements were lost");
            proxy.behave(usual);
            proxy.cut();
            changes.wait_for(|counts| counts.publishes >= before.publishes + 2 * EACH + lost).await?;
        }
        Act::CutWhen(cut) => {
            proxy.cut_when(*cut);
            load.publish(world, EACH).await?;
            changes
                .wait_for(|counts| counts.cuts > before.cuts && counts.connections > before.connections)
                .await?;
        }
        Act::Live(redelivery) => {
            // Unanswered messages are only there until the next commit: a few tries may find none.
            until("messages are sent again on the live connection", async || {
                let seen = proxy.counts();
                if redelivery.of == Of::Unanswered {
                    proxy.behave(Behaviour { publishes: Pace::Held, ..usual });
                    load.publish(world, EACH / 4).await?;
                    changes.wait_for(|counts| counts.kept_back >= EACH / 2).await?;
                    proxy.behave(usual);
                    changes.wait_for(|counts| counts.publishes > seen.publishes).await?;
                } else {
                    load.publish(world, EACH / 4).await?;
                    load.acknowledged(world).await?;
                }
                proxy.redeliver(*redelivery);
                load.acknowledged(world).await?;
                Ok((proxy.counts().injected >= before.injected + 8).then_some(()))
            })
            .await?;
        }
    }
    load.acknowledged(world).await
}

fn after_reconnect() -> Vec<Kind> {
    let kind = |name, names, act, recognised| Kind { name, names, act, recognised };
    let (old, new) = (Names::Brokers, Names::NewWithoutDup);
    vec![
        kind("DUP and the old id after a cut", old, Act::HeldThenCut, true),
        kind("acknowledgements lost here and there, then DUP and the old id", old, Act::LostThenCut(3), true),
        kind("a cut after messages", old, Act::CutWhen(Cut::AfterPublishes(7)), true),
        kind("a cut within a message", old, Act::CutWhen(Cut::WithinPublish(11)), true),
        kind("a cut before an acknowledgement", old, Act::CutWhen(Cut::BeforeAcknowledgement(5)), true),
        kind("a cut after an acknowledgement", old, Act::CutWhen(Cut::AfterAcknowledgement(5)), true),
        kind(
            "acknowledged, then DUP and the old id on the live connection",
            old,
            live(Of::Answered, Id::Old, true),
            true,
        ),
        kind("a new id without DUP after a cut", new, Act::HeldThenCut, false),
        kind("DUP and the old id once more", old, Act::HeldThenCut, true),
    ]
}

/// Once a connection gave an id twice within few messages, as the proxy does under new ids, the broker counts as one that
/// reuses ids, and DUP alone decides nothing there: so these come last.
fn on_the_live_connection() -> Vec<Kind> {
    let kind = |name, act, recognised| Kind { name, names: Names::Brokers, act, recognised };
    vec![
        kind("unanswered, DUP and the old id", live(Of::Unanswered, Id::Old, true), true),
        kind("answered, DUP and the old id", live(Of::Answered, Id::Old, true), true),
        kind("and a cut", Act::HeldThenCut, true),
        kind("unanswered, DUP and a new id", live(Of::Unanswered, Id::New, true), false),
        kind("unanswered, a new id without DUP", live(Of::Unanswered, Id::New, false), false),
        kind("answered, a new id without DUP", live(Of::Answered, Id::New, false), false),
    ]
}

/// What Mosquitto is set to in a world.
const WINDOW: &str = "inflight_window = 100\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_redelivery_after_a_reconnect_doubles_or_loses_over_mqtt_5() -> anyhow::Result<()> {
    play(Mqtt::MosquittoV5(Saves::AtStop), WINDOW, &after_reconnect()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_redelivery_after_a_reconnect_doubles_or_loses_over_mqtt_3_1_1() -> anyhow::Result<()> {
    play(Mqtt::MosquittoV4(Saves::AtStop), WINDOW, &after_reconnect()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_redelivery_on_the_live_connection_doubles_or_loses_over_mqtt_5() -> anyhow::Result<()> {
    play(
        Mqtt::MosquittoV5(Saves::AtStop),
        "inflight_window = 100\nresends = true\n",
        &on_the_live_connection(),
    )
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_redelivery_on_the_live_connection_doubles_or_loses_over_mqtt_3_1_1() -> anyhow::Result<()> {
    play(
        Mqtt::MosquittoV4(Saves::AtStop),
        "inflight_window = 100\nresends = true\n",
        &on_the_live_connection(),
    )
    .await
}

/// Retained messages come at each SUBSCRIBE of a 3.1.1 broker, and of an MQTT 5 broker that doesn't heed what it is
/// asked: the agent subscribes again when its topics change and when the broker lost its session.
async fn retained_messages(mqtt: Mqtt) -> anyhow::Result<()> {
    let world = World::start(mqtt).await?;
    let mut load = Load::prepare(&world, WINDOW)?;
    world.proxy.behave(Behaviour { retained_at_each_subscribe: true, ..Behaviour::default() });
    let to = world.broker.for_publishers();
    let timed = tributary_tests::world::publish::message(1);
    let plain = timeless(*load.timeless_from(1).start());
    publish_as(to, rumqttc::QoS::AtLeastOnce, true, [timed, plain].into_iter()).await?;
    (load.timed, load.timeless) = (1, 1);
    let agent = world.agent()?;
    let _receiver = world.receiver()?;
    load.acknowledged(&world).await?;
    let given = world.proxy.counts().publishes;
    agent.stop().await?;

    world.vary("agent.toml", "agent.toml", &[("topics = [\"plain/", "topics = [\"more/#\", \"plain/")])?;
    let agent = world.agent()?;
    let mut changes = world.proxy.changes();
    changes.wait_for(|counts| counts.publishes >= given + 2 && counts.in_flight == 0).await?;
    agent.stop().await?;

    // A Mosquitto that forgets sessions but was told the retained messages again.
    let mosquitto = world.broker.restartable()?;
    mosquitto.restart_with("allow_anonymous true\npersistence false\n").await?;
    let timed = tributary_tests::world::publish::message(1);
    let plain = timeless(*load.timeless_from(1).start());
    publish_as(to, rumqttc::QoS::AtLeastOnce, true, [timed, plain].into_iter()).await?;
    let given = world.proxy.counts().publishes;
    let _agent = world.agent()?;
    changes.wait_for(|counts| counts.publishes >= given + 2 && counts.in_flight == 0).await?;
    publish(to, std::iter::once(tributary_tests::world::publish::message(2))).await?;
    load.timed = 2;
    load.acknowledged(&world).await?;

    let status = world
        .status_when("everything is registered", |status| {
            let readings = &status.counters.readings;
            readings.journaled > 0 && readings.waiting() + readings.outstanding() == 0
        })
        .await?;
    ensure!(status.redelivered["content"] >= 1, "{:?}", status.redelivered);
    let copies = until("every row is in the table", async || {
        let copies = world.copies().await?;
        Ok((copies.contains_key(&2) && copies.len() == 3).then_some(copies))
    })
    .await
    .with_context(|| world.logs())?;
    ensure!(copies[&1].is_single() && copies[&2].is_single(), "{copies:?}");
    let plain = &copies[load.timeless_from(1).start()];
    ensure!(plain.qualities.iter().all(|quality| quality.contains("retained")), "{plain:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retained_messages_at_each_subscribe_are_stored_once_or_marked_over_mqtt_5() -> anyhow::Result<()> {
    retained_messages(Mqtt::MosquittoV5(Saves::AtStop)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retained_messages_at_each_subscribe_are_stored_once_or_marked_over_mqtt_3_1_1() -> anyhow::Result<()>
{
    retained_messages(Mqtt::MosquittoV4(Saves::AtStop)).await
}

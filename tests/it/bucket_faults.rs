//! The bucket refuses, breaks off, lies and forgets, to either program: every message is in the table once all the same.

use std::time::Duration;

use anyhow::Context;
use tributary_tests::faults::{Fault, Operation, Reply, Spoil, Which};
use tributary_tests::world::{Mqtt, Process, World, until};

use Operation::{GetObject, HeadObject, ListObjects, PutObject};

/// Messages that each line of a table meets.
const PORTION: u64 = 20;
const LONG: Duration = Duration::from_millis(3);

/// What goes wrong, and with which requests.
type Line = (&'static str, Vec<Fault>);

/// The next request of this operation whose key holds `key`.
fn next(operation: Operation, key: &'static str, spoil: Spoil) -> Fault {
    Fault { which: Which { operation: Some(operation), key, ..Which::default() }, spoil }
}

/// A HEAD of an absent key, as it is answered to those who may not list.
fn hidden(key: &'static str) -> Fault {
    let which = Which { operation: Some(HeadObject), key, answered: Some(404), ..Which::default() };
    Fault { which, spoil: Spoil::After(Reply::bare(403)) }
}

/// Both programs, running.
async fn start(world: &World) -> anyhow::Result<(Process, Process)> {
    let running = (world.agent()?, world.receiver()?);
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
    Ok(running)
}

/// For each line: its faults strike while a portion of messages passes, and all that was sent is in the table once.
async fn withstand(world: &World, table: Vec<Line>) -> anyhow::Result<()> {
    let mut sent = 0;
    for (what, faults) in table {
        let faults: Vec<_> = faults.into_iter().map(|fault| world.faults().map(|f| f.add(fault))).collect();
        world.publish(sent + 1..=sent + PORTION).await?;
        sent += PORTION;
        world.acknowledged(sent).await?;
        until("each fault has struck", async || {
            for fault in &faults {
                let fault = fault.as_ref().map_err(|e| anyhow::anyhow!("{e}"))?;
                if world.faults()?.struck(*fault) == 0 {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .await
        .with_context(|| format!("{what}\n{}", world.logs()))?;
        world.settled(sent).await.with_context(|| what)?;
        world.faults()?.clear();
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_becomes_of_a_put_its_segment_is_registered_once() -> anyhow::Result<()> {
    let world = World::with_faults(Mqtt::EmbeddedV5, 1).await?;
    let _running = start(&world).await?;
    let put = |spoil| next(PutObject, "/segments/", spoil);
    let answered = |status, code| put(Spoil::Instead(Reply::error(status, code)));
    let table: Vec<Line> = vec![
        ("the connection breaks before the request", vec![put(Spoil::Cut)]),
        ("… in the middle of the body", vec![put(Spoil::CutBody)]),
        ("… before the reply", vec![put(Spoil::LoseReply)]),
        ("… in the middle of the reply", vec![put(Spoil::ShortReply)]),
        ("409", vec![answered(409, "ConditionalRequestConflict")]),
        ("412 where nobody has the name", vec![answered(412, "PreconditionFailed")]),
        ("500 and nothing done", vec![answered(500, "InternalError")]),
        ("500 and done", vec![put(Spoil::After(Reply::error(500, "InternalError")))]),
        ("503", vec![answered(503, "SlowDown")]),
        ("a word of somebody in between", vec![put(Spoil::Instead(Reply::bare(400)))]),
        ("slow", vec![put(Spoil::Slow(LONG))]),
        ("nothing done, and the look is refused", vec![put(Spoil::Cut), hidden("/segments/")]),
        (
            "done, and the looks fail",
            vec![
                put(Spoil::LoseReply),
                next(HeadObject, "/segments/", Spoil::LoseReply),
                next(HeadObject, "/segments/", Spoil::Instead(Reply::bare(503))),
            ],
        ),
    ];
    withstand(&world, table).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_becomes_of_a_receipt_or_a_listing_each_segment_is_registered_once_and_let_go()
-> anyhow::Result<()> {
    let world = World::with_faults(Mqtt::EmbeddedV5, 2).await?;
    let _running = start(&world).await?;
    let receipt = |spoil| next(PutObject, "/receipts/", spoil);
    let read = |spoil| next(GetObject, "/segments/", spoil);
    let table: Vec<Line> = vec![
        ("the receipt can't be read", vec![next(GetObject, "/receipts/", Spoil::ShortReply)]),
        ("the receipt is hidden", vec![next(GetObject, "/receipts/", Spoil::Instead(Reply::bare(403)))]),
        ("the receipt is written and nobody hears", vec![receipt(Spoil::LoseReply)]),
        (
            "the receipt was changed meanwhile",
            vec![receipt(Spoil::Instead(Reply::error(412, "PreconditionFailed")))],
        ),
        (
            "the receipt is being written by another",
            vec![receipt(Spoil::Instead(Reply::error(409, "ConditionalRequestConflict")))],
        ),
        ("the receipt is answered with 500", vec![receipt(Spoil::After(Reply::error(500, "InternalError")))]),
        (
            "no list, half a list, a slow one",
            vec![
                next(ListObjects, "segments/", Spoil::Instead(Reply::error(503, "SlowDown"))),
                next(ListObjects, "segments/", Spoil::ShortReply),
                next(ListObjects, "segments/", Spoil::Slow(LONG)),
            ],
        ),
        (
            "segments that can't be read",
            vec![
                read(Spoil::Cut),
                read(Spoil::ShortReply),
                read(Spoil::Instead(Reply::error(500, "InternalError"))),
                read(Spoil::Slow(LONG)),
            ],
        ),
    ];
    withstand(&world, table).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_becomes_of_the_warehouse_s_files_each_batch_is_committed_once() -> anyhow::Result<()> {
    let world = World::with_faults(Mqtt::EmbeddedV5, 3).await?;
    let _running = start(&world).await?;
    let written = |spoil| next(PutObject, "/lake/", spoil);
    let read = |spoil| next(GetObject, "/lake/", spoil);
    let lost = |first| Fault {
        which: Which { operation: Some(PutObject), key: "/lake/", first, ..Which::default() },
        spoil: Spoil::LoseReply,
    };
    let table: Vec<Line> = vec![
        (
            "each file of a commit in turn is written and nobody hears",
            vec![lost(1), lost(2), lost(3), lost(4)],
        ),
        ("half a reply", vec![written(Spoil::ShortReply)]),
        ("500 and done", vec![written(Spoil::After(Reply::error(500, "InternalError")))]),
        ("500 and nothing done", vec![written(Spoil::Instead(Reply::error(500, "InternalError")))]),
        (
            "503 and slow",
            vec![written(Spoil::Instead(Reply::error(503, "SlowDown"))), written(Spoil::Slow(LONG))],
        ),
        ("refused", vec![written(Spoil::Instead(Reply::error(403, "AccessDenied")))]),
        ("reads that break", vec![read(Spoil::Cut), read(Spoil::ShortReply)]),
    ];
    withstand(&world, table).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_refuses_and_breaks_by_chance_under_killed_programs_costs_nothing() -> anyhow::Result<()>
{
    const ALL: u64 = 400;
    let seed = fastrand::u64(..);
    let world = World::with_faults(Mqtt::EmbeddedV5, seed).await?;
    let (agent, receiver) = start(&world).await?;
    let all =
        |key, spoil, chance| Fault { which: Which { key, times: 5, chance, ..Which::default() }, spoil };
    for (spoil, chance) in [
        (Spoil::LoseReply, 0.05),
        (Spoil::Cut, 0.05),
        (Spoil::ShortReply, 0.05),
        (Spoil::Instead(Reply::error(503, "SlowDown")), 0.03),
        (Spoil::Instead(Reply::error(500, "InternalError")), 0.03),
    ] {
        world.faults()?.add(all("", spoil, chance));
    }
    let survived = async {
        world.publish(1..=ALL / 2).await?;
        world.acknowledged(ALL / 2).await?;
        world.faults()?.refuse().await;
        world.status_when("the agent says that the bucket is away", |s| s.link.failing.is_some()).await?;
        agent.kill().await?;
        receiver.kill().await?;
        world.faults()?.admit().await?;
        let _running = (world.agent()?, world.receiver()?);
        world.publish(ALL / 2 + 1..=ALL).await?;
        world.acknowledged(ALL).await?;
        until("chance has struck often enough", async || {
            let seen = world.faults()?.seen();
            Ok((seen.iter().filter(|seen| seen.spoil.is_some()).count() >= 8).then_some(()))
        })
        .await?;
        world.faults()?.clear();
        world.settled(ALL).await
    };
    survived.await.with_context(|| format!("seed {seed}"))?;
    Ok(())
}

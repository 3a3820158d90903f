//! Segments that go in parts, and a bucket that loses replies, parts and whole uploads.

use anyhow::{Context, ensure};
use tributary_tests::faults::{Fault, Operation, Reply, Spoil, Which};
use tributary_tests::world::publish::{padded, publish};
use tributary_tests::world::{Mqtt, Process, World, until};

use Operation::{
    CompleteMultipartUpload, CreateMultipartUpload, HeadObject, ListParts, PutObject, UploadPart,
};

/// Messages of one segment that is greater than the least part that S3 takes, and their letters.
const MESSAGES: u64 = 2_400;
const LETTERS: usize = 4_000;

fn next(operation: Operation, spoil: Spoil) -> Fault {
    Fault { which: Which { operation: Some(operation), key: "/segments/", ..Which::default() }, spoil }
}

struct Parts {
    world: World,
    agent: Option<Process>,
    config: std::path::PathBuf,
}

/// A world whose agent seals great segments and sends them in small parts.
async fn start(seed: u64) -> anyhow::Result<Parts> {
    let world = World::with_faults(Mqtt::EmbeddedV5, seed).await?;
    let changes = [
        ("row_tags = { n = \"n\" }", "row_tags = { n = \"n\", pad = \"pad\" }"),
        // The messages are of days ago: they wait for 20 s.
        ("max_age = \"1s\"", "max_age = \"5s\"\nmax_bytes = \"9MiB\""),
        ("region = \"us-east-1\"", "region = \"us-east-1\"\npart_size = \"5MiB\""),
    ];
    let config = world.vary("agent.toml", "parts.toml", &changes)?;
    let mut parts = Parts { world, agent: None, config };
    parts.run()?;
    let world = &parts.world;
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await?;
    Ok(parts)
}

impl Parts {
    fn run(&mut self) -> anyhow::Result<()> {
        self.agent = Some(self.world.run("agent", &self.world.programs.agent, &self.config)?);
        Ok(())
    }

    async fn publish(&self) -> anyhow::Result<()> {
        let messages = (1..=MESSAGES).map(|number| padded(number, LETTERS));
        publish(self.world.broker.for_publishers(), messages).await?;
        self.world.acknowledged(MESSAGES).await
    }

    fn count(&self, operation: Operation) -> anyhow::Result<usize> {
        Ok(self.world.faults()?.count(operation, "/segments/"))
    }

    /// Everything is in the table once, and a segment came in parts.
    async fn settled(&self) -> anyhow::Result<()> {
        let _receiver = self.world.receiver()?;
        self.world.settled(MESSAGES).await?;
        let completed = self.count(CompleteMultipartUpload)?;
        ensure!(completed > 0, "no segment was great enough: {:#?}", self.world.faults()?.seen());
        Ok(())
    }

    async fn with(&self, faults: Vec<Fault>) -> anyhow::Result<()> {
        let proxy = self.world.faults()?;
        let faults: Vec<_> = faults.into_iter().map(|fault| proxy.add(fault)).collect();
        self.publish().await?;
        until("each fault has struck", async || {
            Ok(faults.iter().all(|fault| proxy.struck(*fault) > 0).then_some(()))
        })
        .await
        .with_context(|| self.world.logs())?;
        self.settled().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_in_parts_survives_the_loss_of_each_kind_of_reply() -> anyhow::Result<()> {
    let parts = start(4).await?;
    let faults = vec![
        next(CreateMultipartUpload, Spoil::LoseReply),
        next(UploadPart, Spoil::LoseReply),
        next(UploadPart, Spoil::CutBody),
        next(CompleteMultipartUpload, Spoil::LoseReply),
        next(HeadObject, Spoil::Cut),
    ];
    parts.with(faults).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_the_bucket_gave_up_or_completed_with_an_error_is_looked_for_first()
-> anyhow::Result<()> {
    let parts = start(5).await?;
    let error = Reply::error(200, "InternalError");
    let faults = vec![
        next(CompleteMultipartUpload, Spoil::Instead(Reply::error(404, "NoSuchUpload"))),
        next(CompleteMultipartUpload, Spoil::Instead(error)),
        next(CompleteMultipartUpload, Spoil::After(error)),
    ];
    parts.with(faults).await?;
    ensure!(parts.count(CreateMultipartUpload)? >= 2, "an upload that is gone is opened anew");
    ensure!(parts.count(ListParts)? >= 1, "what the bucket has is asked before a second Complete");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_between_parts_costs_no_part_that_the_bucket_has() -> anyhow::Result<()> {
    let mut parts = start(6).await?;
    let away = Spoil::Instead(Reply::error(503, "SlowDown"));
    let second = Which {
        operation: Some(UploadPart),
        key: "/segments/",
        first: 2,
        times: u32::MAX,
        ..Which::default()
    };
    let second = parts.world.faults()?.add(Fault { which: second, spoil: away });
    parts.publish().await?;
    until(
        "the second part is refused",
        async || Ok((parts.world.faults()?.struck(second) > 0).then_some(())),
    )
    .await
    .with_context(|| parts.world.logs())?;
    let agent = parts.agent.take().context("no agent")?;
    agent.kill().await?;
    parts.world.faults()?.clear();
    parts.world.faults()?.add(next(ListParts, Spoil::LoseReply));
    parts.run()?;
    parts.settled().await?;
    ensure!(parts.count(ListParts)? >= 2, "the parts are listed, again after the lost reply");
    let seen = parts.world.faults()?.seen();
    let mut first = seen.iter().filter(|s| s.asked.operation == UploadPart && s.asked.part == Some(1));
    let key = &first.next().context("no first part")?.asked.key;
    ensure!(first.all(|s| s.asked.key != *key), "the first part was sent twice");
    ensure!(seen.iter().all(|s| s.asked.operation != PutObject || s.asked.key != *key));
    Ok(())
}

//! What stands between a gateway and its bucket, or is wrong with either: it is said, nothing is lost, and it goes on by
//! itself as soon as it can.

use std::net::SocketAddr;

use anyhow::{Context, ensure};
use tributary_contract::time::Timestamp;
use tributary_tests::faults::{Fault, Operation, Reply, Spoil, Which};
use tributary_tests::forward::{ForwardProxy, Rules, basic};
use tributary_tests::tls::{Authority, TlsFront};
use tributary_tests::world::machine::now;
use tributary_tests::world::{Machine, Mqtt, World, until};

const PORTION: u64 = 20;
const MINUTE: i64 = 60_000_000;
const DAY: i64 = 24 * 60 * MINUTE;

fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

async fn subscribed(world: &World) -> anyhow::Result<()> {
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await.map(drop)
}

/// Another portion of messages is taken in.
async fn collected(world: &World, sent: &mut u64) -> anyhow::Result<()> {
    world.publish(*sent + 1..=*sent + PORTION).await?;
    *sent += PORTION;
    world.acknowledged(*sent).await
}

/// Every message that was sent is in the table, once.
async fn delivered(world: &World, sent: u64) -> anyhow::Result<()> {
    let mut rows = 0;
    let found = until("every message is in the table", async || {
        let tally = world.tally().await?;
        rows = tally.rows;
        Ok((tally.numbers.missing(1, sent) == 0).then_some(tally))
    });
    let tally = found.await.with_context(|| format!("{rows} rows\n{}", world.logs()))?;
    ensure!(tally.rows == sent, "sent {sent}, there are {} rows", tally.rows);
    Ok(())
}

async fn failing(world: &World, what: &str, word: &str) -> anyhow::Result<String> {
    let says = |why: &String| why.contains(word);
    let status = world.status_when(what, |s| s.link.failing.as_ref().is_some_and(says)).await?;
    status.link.failing.context("it says nothing")
}

/// Has the agent ask at `endpoint`, with more lines for its bucket.
fn ask_at(world: &World, endpoint: &str, lines: &str) -> anyhow::Result<()> {
    let own = format!("endpoint = \"http://{}\"\n", world.bucket_address());
    world
        .vary("agent.toml", "agent.toml", &[(&own, &format!("endpoint = \"{endpoint}\"\n{lines}"))])
        .map(drop)
}

/// The wall clock is off by `off` microseconds, and whoever sets it says that it is right.
async fn clock_is_off(off: i64) -> anyhow::Result<()> {
    let world = World::with_faults(Mqtt::EmbeddedV5, 1).await?;
    let mut machine = Machine::new(&world)?;
    machine.starts(now()).await?;
    machine.synchronises()?;
    machine.shows(now().plus(off))?;
    let agent = machine.agent(&world)?;
    let _receiver = world.receiver()?;
    subscribed(&world).await?;
    let mut sent = 0;
    collected(&world, &mut sent).await?;
    delivered(&world, sent).await?;
    let refused = || -> anyhow::Result<usize> {
        Ok(world.faults()?.seen().iter().filter(|seen| seen.done == Some(403)).count())
    };
    let at_the_start = refused()?;
    ensure!(at_the_start > 0, "the bucket refused nothing: was the clock off?");
    // It is set right in the middle of it all.
    machine.shows(now())?;
    let close = |at: Timestamp| at.since(now()).abs() < MINUTE;
    world.status_when("the agent goes by the right time", |s| close(s.at)).await?;
    collected(&world, &mut sent).await?;
    delivered(&world, sent).await?;
    ensure!(refused()? > at_the_start, "what was learnt of the wrong clock was of use with the right one?");
    agent.kill().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_a_day_behind_costs_a_refusal_and_nothing_else() -> anyhow::Result<()> {
    clock_is_off(-DAY).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_three_years_ahead_costs_a_refusal_and_nothing_else() -> anyhow::Result<()> {
    clock_is_off(3 * 365 * DAY).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_in_1970_reaches_a_bucket_behind_tls_before_anybody_has_set_the_clock() -> anyhow::Result<()>
{
    let world = World::start(Mqtt::EmbeddedV5).await?;
    let authority = Authority::new(world.path("authority")).await?;
    authority.sign("bucket", "IP:127.0.0.1", 2).await?;
    // Certificates of the test are younger than the program, which knows no other time: those of real stores aren't.
    let front = TlsFront::start(anywhere(), world.bucket_address(), (&authority, "bucket"), None).await?;
    let lines = format!("ca_file = \"{}\"\n", authority.ca().display());
    ask_at(&world, &format!("https://{}", front.address()), &lines)?;
    let mut machine = Machine::new(&world)?;
    let _receiver = world.receiver()?;

    // It has seen this year once.
    machine.starts(now()).await?;
    machine.synchronises()?;
    let agent = machine.agent(&world)?;
    subscribed(&world).await?;
    let mut sent = 0;
    collected(&world, &mut sent).await?;
    delivered(&world, sent).await?;
    let (ended, _) = agent.stop().await?;
    ensure!(ended.success(), "{ended}");

    machine.starts(Timestamp(5_000_000)).await?;
    let before = front.admitted();
    let agent = machine.agent(&world)?;
    until("it is let in", async || Ok((front.admitted() > before).then_some(()))).await?;
    world
        .status_when("the bucket answers", |s| s.link.last_success.is_some() && s.link.failing.is_none())
        .await?;
    collected(&world, &mut sent).await?;
    machine.synchronises()?;
    delivered(&world, sent).await?;
    agent.kill().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_whose_name_has_no_address_stops_no_collecting() -> anyhow::Result<()> {
    let world = World::start(Mqtt::EmbeddedV5).await?;
    let whole = std::fs::read_to_string(world.path("agent.toml"))?;
    ask_at(&world, "http://no-such-host.invalid:9000", "")?;
    let agent = world.agent()?;
    let _receiver = world.receiver()?;
    subscribed(&world).await?;
    let mut sent = 0;
    collected(&world, &mut sent).await?;
    let said = failing(&world, "the agent says it", "the endpoint's name has no address").await?;
    ensure!(said.contains("no-such-host.invalid"), "{said}");
    collected(&world, &mut sent).await?;
    agent.stop().await?;
    world.write("agent.toml", &whole)?;
    let _agent = world.agent()?;
    world.settled(sent).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_whose_certificate_nobody_vouches_for_gets_no_byte_until_somebody_does() -> anyhow::Result<()>
{
    let world = World::start(Mqtt::EmbeddedV5).await?;
    let theirs = Authority::new(world.path("theirs")).await?;
    theirs.sign("bucket", "IP:127.0.0.1", 2).await?;
    let others = Authority::new(world.path("others")).await?;
    let front = TlsFront::start(anywhere(), world.bucket_address(), (&theirs, "bucket"), None).await?;
    std::fs::copy(others.ca(), world.path("trusted.pem"))?;
    let lines = format!("ca_file = \"{}\"\n", world.path("trusted.pem").display());
    ask_at(&world, &format!("https://{}", front.address()), &lines)?;
    let _agent = world.agent()?;
    let _receiver = world.receiver()?;
    subscribed(&world).await?;
    let mut sent = 0;
    collected(&world, &mut sent).await?;
    let said = failing(&world, "the agent says it", "no trusted TLS connection to the endpoint").await?;
    ensure!(said.contains("UnknownIssuer") && said.contains("set `ca_file`"), "{said}");
    until("it tries again", async || Ok((front.refused() > 2).then_some(()))).await?;
    ensure!(front.admitted() == 0, "it was let in");
    // The file is set right, and read again without a restart.
    std::fs::copy(theirs.ca(), world.path("trusted.pem"))?;
    world.settled(sent).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_only_a_proxy_can_reach_is_reached_through_it() -> anyhow::Result<()> {
    const HOST: &str = "bucket.plant.invalid";
    let world = World::start(Mqtt::EmbeddedV5).await?;
    let authority = Authority::new(world.path("authority")).await?;
    authority.sign("bucket", &format!("DNS:{HOST}"), 2).await?;
    let front = TlsFront::start(anywhere(), world.bucket_address(), (&authority, "bucket"), None).await?;
    let whole = std::fs::read_to_string(world.path("agent.toml"))?;
    let trusted = format!("ca_file = \"{}\"\n", authority.ca().display());
    let _receiver = world.receiver()?;
    let mut sent = 0;

    // A tunnel, by the environment, with a password.
    let password = Some(basic("plant", "open-sesame"));
    let proxy =
        ForwardProxy::start(Rules { host: (format!("{HOST}:443"), front.address()), password }).await?;
    ask_at(&world, &format!("https://{HOST}"), &trusted)?;
    let url = format!("http://plant:open-sesame@{}", proxy.address());
    let agent = world.agent_with(&[("TRIBUTARY_LOG", "trace"), ("HTTPS_PROXY", url.as_str())])?;
    subscribed(&world).await?;
    collected(&world, &mut sent).await?;
    world.settled(sent).await?;
    ensure!(
        proxy.seen().iter().all(|line| line.starts_with("CONNECT bucket.plant.invalid:443 ")),
        "{:?}",
        proxy.seen()
    );
    agent.stop().await?;

    // The same by the configuration, and the proxy asks for a password that nobody has.
    world.write("agent.toml", &whole)?;
    let setting = format!("proxy = \"http://{}\"\n", proxy.address());
    ask_at(&world, &format!("https://{HOST}"), &format!("{trusted}{setting}"))?;
    let agent = world.agent_with(&[])?;
    let said = failing(&world, "the agent says who is in the way", "the proxy").await?;
    ensure!(
        said.contains(&proxy.address().to_string()) && said.contains("proxy authorization required"),
        "{said}"
    );
    world.publish(sent + 1..=sent + PORTION).await?;
    sent += PORTION;
    world.acknowledged(sent).await?;
    agent.stop().await?;

    // Without TLS the proxy reads the requests.
    let plain = Rules { host: (format!("{HOST}:9000"), world.bucket_address()), password: None };
    let proxy = ForwardProxy::start(plain).await?;
    world.write("agent.toml", &whole)?;
    let setting = format!("proxy = \"http://{}\"\n", proxy.address());
    ask_at(&world, &format!("http://{HOST}:9000"), &setting)?;
    let _agent = world.agent_with(&[])?;
    world.settled(sent).await?;
    ensure!(
        proxy.seen().iter().any(|line| line.contains(" http://bucket.plant.invalid:9000/lake/")),
        "{:?}",
        proxy.seen()
    );
    let log = std::fs::read_to_string(world.path("agent.log"))?;
    ensure!(
        !log.contains("open-sesame") && !log.contains(&basic("plant", "open-sesame")),
        "the password is in the log"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_is_gone_and_comes_back_gets_what_was_kept_for_it() -> anyhow::Result<()> {
    let world = World::with_faults(Mqtt::EmbeddedV5, 1).await?;
    let mut machine = Machine::new(&world)?;
    machine.starts(now()).await?;
    machine.synchronises()?;
    let agent = machine.agent(&world)?;
    let _receiver = world.receiver()?;
    subscribed(&world).await?;
    let mut sent = 0;
    collected(&world, &mut sent).await?;
    world.settled(sent).await?;

    let gone = Spoil::Instead(Reply::error(404, "NoSuchBucket"));
    let which = Which {
        operation: Some(Operation::PutObject),
        key: "/segments/",
        times: u32::MAX,
        ..Which::default()
    };
    world.faults()?.add(Fault { which, spoil: gone });
    collected(&world, &mut sent).await?;
    failing(&world, "the agent says it", "NoSuchBucket").await?;
    collected(&world, &mut sent).await?;
    world.faults()?.clear();
    // It would try again within five minutes.
    machine.shows(now().plus(6 * MINUTE))?;
    collected(&world, &mut sent).await?;
    delivered(&world, sent).await?;
    agent.kill().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bit_that_changes_on_the_way_is_refused_by_the_bucket_and_sent_again() -> anyhow::Result<()> {
    let world = World::with_faults(Mqtt::EmbeddedV5, 1).await?;
    let _agent = world.agent()?;
    let _receiver = world.receiver()?;
    subscribed(&world).await?;
    let which =
        Which { operation: Some(Operation::PutObject), key: "/segments/", times: 3, ..Which::default() };
    let flipped = world.faults()?.add(Fault { which, spoil: Spoil::FlipBit });
    let mut sent = 0;
    while world.faults()?.struck(flipped) < 3 {
        collected(&world, &mut sent).await?;
        world.settled(sent).await?;
    }
    let seen = world.faults()?.seen();
    let struck: Vec<_> = seen.iter().filter(|seen| seen.spoil == Some(Spoil::FlipBit)).collect();
    ensure!(struck.iter().all(|seen| seen.done == Some(400)), "{struck:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_ignores_conditions_is_found_out_and_gets_no_segment() -> anyhow::Result<()> {
    let world = World::with_faults(Mqtt::EmbeddedV5, 1).await?;
    let which = Which {
        operation: Some(Operation::PutObject),
        key: "/status/",
        answered: Some(412),
        times: u32::MAX,
        ..Which::default()
    };
    world.faults()?.add(Fault { which, spoil: Spoil::After(Reply::bare(200)) });
    let agent = world.agent()?;
    let _receiver = world.receiver()?;
    subscribed(&world).await?;
    let mut sent = 0;
    collected(&world, &mut sent).await?;
    let says = |reasons: &[String]| reasons.iter().any(|why| why.contains("ignores If-None-Match"));
    world.status_when("the agent says it", |s| says(&s.reasons)).await?;
    world.status_when("something is sealed", |s| s.segments.undelivered > 0).await?;
    ensure!(world.keys("segments").await?.is_empty());
    agent.stop().await?;
    // Another store, or a newer version of this one.
    world.faults()?.clear();
    let _agent = world.agent()?;
    world.settled(sent).await.map(drop)
}

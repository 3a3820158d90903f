//! Keys for the bucket from AWS IoT, from a container's endpoint, from systemd, from a file: fetched in time, fetched again
//! when the bucket refuses them, and shown nowhere.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use tributary_tests::keys::{CONTAINER_TOKEN, Given, KeyServer, ROLE_ALIAS, Session, THING};
use tributary_tests::s3::Keys;
use tributary_tests::tls::{Authority, TlsFront};
use tributary_tests::world::machine::now;
use tributary_tests::world::process::command;
use tributary_tests::world::{Machine, Mqtt, World, until};

const PORTION: u64 = 20;
const HOUR: Duration = Duration::from_secs(3600);
/// Everything that is logged, by us and by what we use.
const ALL: (&str, &str) = ("TRIBUTARY_LOG", "trace");

fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Admits new keys to the bucket each time it is asked, and gives them.
fn fresh(bucket: Keys, lifetime: Duration) -> impl Fn() -> Given + Send + Sync + 'static {
    move || {
        let session = Session::named(&format!("{:016X}", fastrand::u64(..)));
        bucket.admit_for(&session.id, &session.secret, &session.token, lifetime);
        Given::Keys(session, lifetime)
    }
}

/// Gives these keys, which the bucket knows from now on.
fn these(bucket: &Keys, name: &str, lifetime: Duration) -> impl Fn() -> Given + Send + Sync + 'static {
    let session = Session::named(name);
    bucket.admit(&session.id, &session.secret, Some(&session.token));
    move || Given::Keys(session.clone(), lifetime)
}

/// AWS IoT, and a gateway with its certificate.
struct Fleet {
    world: World,
    keys: KeyServer,
    servers: Authority,
    front: Option<TlsFront>,
}

impl Fleet {
    async fn start(giver: impl Fn(&Keys) -> Giver) -> anyhow::Result<Self> {
        let world = World::with_faults(Mqtt::EmbeddedV5, 1).await?;
        let keys = KeyServer::start(giver(&world.keys_of_bucket()?)).await?;
        let servers = Authority::new(world.path("servers")).await?;
        // Valid by the clocks of all tests here.
        servers.sign("iot", "IP:127.0.0.1", 3650).await?;
        let devices = Authority::new(world.path("devices")).await?;
        devices.sign("gateway", "DNS:gw-1", 2).await?;
        let front = TlsFront::start(anywhere(), keys.address(), (&servers, "iot"), Some(&devices)).await?;
        std::fs::copy(devices.cert("gateway"), world.path("gateway.pem"))?;
        std::fs::copy(devices.key("gateway"), world.path("gateway.key"))?;
        let iot = format!(
            "credentials = \"iot\"\n\n[bucket.iot]\nendpoint = \"{}\"\nrole_alias = \"{ROLE_ALIAS}\"\nthing_name = \
             \"{THING}\"\ncert_file = \"{}\"\nkey_file = \"{}\"\nca_file = \"{}\"\n",
            front.address(),
            world.path("gateway.pem").display(),
            world.path("gateway.key").display(),
            servers.ca().display()
        );
        credentials(&world, &iot)?;
        Ok(Self { world, keys, servers, front: Some(front) })
    }

    /// What the bucket answered to the agent, other than success.
    fn refusals(&self) -> anyhow::Result<Vec<u16>> {
        let seen = self.world.faults()?.seen();
        Ok(seen.iter().filter_map(|s| s.done).filter(|status| [400, 401, 403].contains(status)).collect())
    }
}

type Giver = Box<dyn Fn() -> Given + Send + Sync>;

/// Has the world's agent take its keys from there.
fn credentials(world: &World, lines: &str) -> anyhow::Result<()> {
    let own = format!("credentials = {{ file = \"{}\" }}\n", world.path("credentials.toml").display());
    world.vary("agent.toml", "agent.toml", &[(&own, lines)]).map(drop)
}

/// Another portion of messages goes all the way. `sent`: how many did before.
async fn portion(world: &World, sent: &mut u64) -> anyhow::Result<()> {
    world.publish(*sent + 1..=*sent + PORTION).await?;
    *sent += PORTION;
    world.acknowledged(*sent).await?;
    world.settled(*sent).await.map(drop)
}

async fn subscribed(world: &World) -> anyhow::Result<()> {
    world.status_when("the agent is subscribed", |_| world.proxy.counts().subscribed > 0).await.map(drop)
}

/// The agent says of the bucket what `says` finds, and goes on collecting meanwhile.
async fn failing(world: &World, what: &str, says: impl Fn(&str) -> bool) -> anyhow::Result<String> {
    let found = world.status_when(what, |s| s.link.failing.as_deref().is_some_and(&says)).await?;
    found.link.failing.context("it says nothing")
}

/// No secret stands in what the agent has logged or shows.
async fn shows_no_secret(world: &World, planted: &[&str]) -> anyhow::Result<()> {
    let mut texts = vec![std::fs::read_to_string(world.path("agent.log"))?];
    if let Some(status) = world.status().await {
        texts.push(serde_json::to_string(&status)?);
    }
    let config = world.path("agent.toml").display().to_string();
    for arguments in [["status", "--config", &config], ["check", "--config", &config]] {
        let said = command(&world.programs.agent, &arguments).await?;
        texts.push(format!(
            "{}{}",
            String::from_utf8_lossy(&said.stdout),
            String::from_utf8_lossy(&said.stderr)
        ));
    }
    for text in &texts {
        for secret in ["secret-key-of-", "session-token-of-", "PRIVATE KEY"].iter().chain(planted) {
            let line = text.lines().find(|line| line.contains(secret));
            ensure!(line.is_none(), "{secret} is shown: {line:?}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_from_aws_iot_are_fetched_again_when_the_bucket_says_that_they_have_expired()
-> anyhow::Result<()> {
    let fleet = Fleet::start(|bucket| Box::new(these(bucket, "One", HOUR))).await?;
    let (world, mut sent) = (&fleet.world, 0);
    let bucket = world.keys_of_bucket()?;
    let _agent = world.agent_with(&[ALL])?;
    let _receiver = world.receiver()?;
    subscribed(world).await?;
    portion(world, &mut sent).await?;
    ensure!(bucket.used("ASIAOne") > 0 && fleet.keys.given() == 1, "{}", fleet.keys.given());

    // The hour isn't over, the session is.
    fleet.keys.give(these(&bucket, "Two", HOUR));
    bucket.expire("ASIAOne");
    portion(world, &mut sent).await?;
    ensure!(bucket.used("ASIATwo") > 0 && fleet.keys.given() == 2, "{}", fleet.keys.given());
    ensure!(!fleet.refusals()?.is_empty());

    // Nobody gives any for a while.
    fleet.keys.give(|| Given::Refusal(500, "unwell"));
    bucket.remove("ASIATwo");
    world.publish(sent + 1..=sent + PORTION).await?;
    sent += PORTION;
    world.acknowledged(sent).await?;
    let said =
        failing(world, "the agent says who gives no keys", |why| why.contains("gives no keys now")).await?;
    ensure!(said.contains("500") && said.contains(": unwell"), "{said}");
    fleet.keys.give(these(&bucket, "Three", HOUR));
    world.settled(sent).await?;
    shows_no_secret(world, &[]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_seconds_are_renewed_before_they_end_and_no_request_is_refused() -> anyhow::Result<()> {
    let fleet = Fleet::start(|bucket| Box::new(fresh(bucket.clone(), Duration::from_secs(2)))).await?;
    let (world, mut sent) = (&fleet.world, 0);
    let _agent = world.agent_with(&[])?;
    let _receiver = world.receiver()?;
    subscribed(world).await?;
    while fleet.keys.given() < 4 {
        portion(world, &mut sent).await?;
    }
    ensure!(fleet.refusals()?.is_empty(), "{:?}", fleet.refusals()?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_years_off_and_turned_has_no_keys_fetched_and_none_kept_too_long()
-> anyhow::Result<()> {
    const DAY: i64 = 24 * 3600 * 1_000_000;
    let fleet = Fleet::start(|bucket| Box::new(these(bucket, "One", HOUR))).await?;
    let (world, mut sent) = (&fleet.world, 0);
    let bucket = world.keys_of_bucket()?;
    let mut machine = Machine::new(world)?;
    machine.starts(now()).await?;
    machine.synchronises()?;
    machine.shows(now().plus(3 * 365 * DAY))?;
    let agent = machine.agent(world)?;
    let _receiver = world.receiver()?;
    subscribed(world).await?;
    for off in [3 * 365 * DAY, -DAY, 0] {
        machine.shows(now().plus(off))?;
        world.publish(sent + 1..=sent + PORTION).await?;
        sent += PORTION;
        world.acknowledged(sent).await?;
        let missing = async || Ok((world.tally().await?.numbers.missing(1, sent) == 0).then_some(()));
        until("every message is in the table", missing).await.with_context(|| world.logs())?;
        ensure!(fleet.keys.given() == 1, "{off}: {}", fleet.keys.given());
    }
    // Whatever the clock says, the bucket has the last word.
    fleet.keys.give(these(&bucket, "Two", HOUR));
    bucket.expire("ASIAOne");
    until("other keys are in use", async || Ok((bucket.used("ASIATwo") > 0).then_some(()))).await?;
    agent.kill().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_are_still_good_are_used_while_nobody_gives_others() -> anyhow::Result<()> {
    // Every second time nobody gives any.
    let fleet = Fleet::start(|bucket| {
        let give = fresh(bucket.clone(), Duration::from_secs(8));
        let asked = AtomicUsize::new(0);
        Box::new(move || {
            let odd = asked.fetch_add(1, Ordering::SeqCst) % 2 == 1;
            if odd { Given::Refusal(503, "busy") } else { give() }
        })
    })
    .await?;
    let (world, mut sent) = (&fleet.world, 0);
    let _agent = world.agent_with(&[])?;
    let _receiver = world.receiver()?;
    subscribed(world).await?;
    while !std::fs::read_to_string(world.path("agent.log"))?.contains("the old ones are still good") {
        portion(world, &mut sent).await?;
    }
    portion(world, &mut sent).await?;
    ensure!(fleet.keys.refused() > 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_replaced_takes_effect_without_a_restart() -> anyhow::Result<()> {
    let mut fleet = Fleet::start(|bucket| Box::new(these(bucket, "One", HOUR))).await?;
    let bucket = fleet.world.keys_of_bucket()?;
    let mut sent = 0;
    let _agent = fleet.world.agent_with(&[ALL])?;
    let _receiver = fleet.world.receiver()?;
    subscribed(&fleet.world).await?;
    portion(&fleet.world, &mut sent).await?;

    // From now on only what another authority has signed counts.
    let others = Authority::new(fleet.world.path("others")).await?;
    others.sign("gateway", "DNS:gw-1", 2).await?;
    let front = fleet.front.take().context("no front")?;
    let address = front.address();
    front.stop().await;
    let front =
        TlsFront::start(address, fleet.keys.address(), (&fleet.servers, "iot"), Some(&others)).await?;
    let world = &fleet.world;
    fleet.keys.give(these(&bucket, "Two", HOUR));
    bucket.expire("ASIAOne");
    world.publish(sent + 1..=sent + PORTION).await?;
    sent += PORTION;
    world.acknowledged(sent).await?;
    let said =
        failing(world, "the agent says that it isn't let in", |why| why.contains("doesn't answer")).await?;
    ensure!(said.contains("AWS IoT") && front.refused() > 0, "{said}");
    std::fs::copy(others.cert("gateway"), world.path("gateway.pem"))?;
    std::fs::copy(others.key("gateway"), world.path("gateway.key"))?;
    world.settled(sent).await?;
    ensure!(bucket.used("ASIATwo") > 0);
    shows_no_secret(world, &[]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_aws_iot_does_not_know_is_told_what_to_look_at() -> anyhow::Result<()> {
    let fleet = Fleet::start(|_| Box::new(|| Given::Refusal(403, "Access Denied"))).await?;
    let world = &fleet.world;
    let _agent = world.agent_with(&[ALL])?;
    subscribed(world).await?;
    world.publish(1..=PORTION).await?;
    world.acknowledged(PORTION).await?;
    let said =
        failing(world, "the agent says who refuses", |why| why.contains("no credentials to sign with"))
            .await?;
    for word in ["403", "Access Denied", ROLE_ALIAS, THING, "iot:AssumeRoleWithCertificate"] {
        ensure!(said.contains(word), "{word} is missing: {said}");
    }
    ensure!(world.faults()?.seen().is_empty(), "something was sent without keys");
    let config = world.path("agent.toml").display().to_string();
    let check = command(&world.programs.agent, &["check", "--config", &config]).await?;
    let text = String::from_utf8_lossy(&check.stdout);
    ensure!(text.contains("iot:AssumeRoleWithCertificate") && check.status.code() == Some(1), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_a_container_s_endpoint_as_greengrass_has_it_are_found_by_the_default_chain()
-> anyhow::Result<()> {
    let world = World::with_faults(Mqtt::EmbeddedV5, 1).await?;
    let bucket = world.keys_of_bucket()?;
    let keys = KeyServer::start(these(&bucket, "One", HOUR)).await?;
    credentials(&world, "credentials = \"default\"\n")?;
    let url = keys.container_url();
    let home = world.path("home").display().to_string();
    let environment = [
        ALL,
        ("HOME", home.as_str()),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", url.as_str()),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", CONTAINER_TOKEN),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        // Nobody is there: neither keys nor bucket are asked for through it, both are on this machine.
        ("HTTP_PROXY", "http://127.0.0.1:1"),
    ];
    let _agent = world.agent_with(&environment)?;
    let _receiver = world.receiver()?;
    subscribed(&world).await?;
    let mut sent = 0;
    portion(&world, &mut sent).await?;
    ensure!(bucket.used("ASIAOne") > 0 && keys.given() == 1, "{}", keys.given());
    keys.give(these(&bucket, "Two", HOUR));
    bucket.expire("ASIAOne");
    portion(&world, &mut sent).await?;
    ensure!(bucket.used("ASIATwo") > 0 && keys.refused() == 0);
    shows_no_secret(&world, &[CONTAINER_TOKEN]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_systemd_hands_over_are_read_and_those_that_replace_them_too() -> anyhow::Result<()> {
    let world = World::with_faults(Mqtt::EmbeddedV5, 1).await?;
    let bucket = world.keys_of_bucket()?;
    let folder = world.path("handed-over");
    std::fs::create_dir(&folder)?;
    let hand_over = |name: &str| -> anyhow::Result<()> {
        let Session { id, secret, token } = Session::named(name);
        bucket.admit(&id, &secret, Some(&token));
        let text = format!(
            "access_key_id = \"{id}\"\nsecret_access_key = \"{secret}\"\nsession_token = \"{token}\"\n"
        );
        world.write("handed-over/new", &text)?;
        std::fs::rename(folder.join("new"), folder.join("lake"))?;
        Ok(())
    };
    hand_over("One")?;
    credentials(&world, "credentials = { systemd = \"lake\" }\n")?;
    let place = folder.display().to_string();
    let _agent = world.agent_with(&[ALL, ("CREDENTIALS_DIRECTORY", place.as_str())])?;
    let _receiver = world.receiver()?;
    subscribed(&world).await?;
    let mut sent = 0;
    portion(&world, &mut sent).await?;
    bucket.remove("ASIAOne");
    world.publish(sent + 1..=sent + PORTION).await?;
    sent += PORTION;
    world.acknowledged(sent).await?;
    failing(&world, "the agent says that its keys are unknown", |why| why.contains("InvalidAccessKeyId"))
        .await?;
    hand_over("Two")?;
    world.settled(sent).await?;
    ensure!(bucket.used("ASIATwo") > 0);
    shows_no_secret(&world, &[]).await?;
    // Not run as a unit: what to do is said.
    let config = world.path("agent.toml").display().to_string();
    let check = command(&world.programs.agent, &["check", "--config", &config]).await?;
    let text = String::from_utf8_lossy(&check.stdout);
    ensure!(text.contains("LoadCredential=lake:PATH"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_keys_that_is_missing_at_the_start_stops_no_collecting() -> anyhow::Result<()> {
    let world = World::start(Mqtt::EmbeddedV5).await?;
    let (file, aside) = (world.path("credentials.toml"), world.path("aside.toml"));
    let _receiver = world.receiver()?;
    until("the receiver has its keys", async || Ok(world.fleet().await)).await?;
    std::fs::rename(&file, &aside)?;
    let agent = world.agent()?;
    subscribed(&world).await?;
    world.publish(1..=PORTION).await?;
    world.acknowledged(PORTION).await?;
    let said = failing(&world, "the agent says which file", |why| why.contains("credentials file")).await?;
    ensure!(said.contains("credentials.toml"), "{said}");
    std::fs::rename(&aside, &file)?;
    // What only a person can mend is tried again every five minutes, and at each start.
    agent.stop().await?;
    let _agent = world.agent()?;
    world.settled(PORTION).await?;
    Ok(())
}

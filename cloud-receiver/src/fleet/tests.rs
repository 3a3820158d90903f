//! What the fleet page promises.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tributary_contract::digest::Digest;
use tributary_contract::id::{Epoch, GatewayId};
use tributary_contract::range::Ranges;
use tributary_contract::receipt::Quarantined;
use tributary_contract::reject::QuarantineReason;
use tributary_contract::status::{
    BackfillStatus, DesiredStatus, GatewayStatus, Health as OwnWord, RefusedSegment, ShortStatus,
};

use super::roster::fleet;
use super::server::{Shown, router, serve};
use super::*;
use crate::dedupe::{EpochFacts, GatewayFacts, Ledger, LedgerHandle, TableState};
use crate::pipeline::health::{Health, Part};

const NOW: Timestamp = Timestamp(1_800_000_000_000_000);
const MINUTE: i64 = 60_000_000;

fn facts(name: &str) -> GatewayFacts {
    GatewayFacts {
        gateway: GatewayId::new(name).unwrap(),
        last_seen: Some(NOW.plus(-MINUTE)),
        short: Some(ShortStatus { at: NOW, agent: "0.1.0".into(), ..ShortStatus::default() }),
        counters: None,
        status: None,
        receipt_revision: 1,
        receipt_due: false,
        epochs: BTreeMap::new(),
    }
}

fn status(name: &str) -> GatewayStatus {
    let json = format!(
        r#"{{"version":1,"gateway":"{name}","epoch":"0000000000000001","at":{},"agent":"0.2.0"}}"#,
        NOW.0 + 1
    );
    serde_json::from_str(&json).unwrap()
}

fn word(facts: GatewayFacts) -> Word {
    let mut fleet = fleet(vec![facts], Vec::new(), Vec::new(), 0, NOW);
    let row = fleet.gateways.remove(0);
    assert_eq!(row.reasons.is_empty(), row.health == Word::Healthy, "a reason for every word but healthy");
    row.health
}

#[test]
fn each_gateway_has_the_worst_word_that_fits_and_the_roster_begins_with_the_worst() {
    assert_eq!(word(facts("a")), Word::Healthy);
    assert_eq!(word(GatewayFacts { last_seen: Some(NOW.plus(-46 * MINUTE)), ..facts("a") }), Word::Silent);
    assert_eq!(word(GatewayFacts { last_seen: None, ..facts("a") }), Word::Silent);
    let behind = |minutes: i64| {
        let short =
            ShortStatus { oldest_unsafe: Some(NOW.plus(-minutes * MINUTE)), ..ShortStatus::default() };
        GatewayFacts { short: Some(short), ..facts("b") }
    };
    assert_eq!((word(behind(59)), word(behind(61))), (Word::Healthy, Word::Behind));
    let losing = GatewayFacts {
        status: Some(GatewayStatus { health: OwnWord::Losing, ..status("l") }),
        last_seen: None,
        ..facts("l")
    };
    assert_eq!(word(losing.clone()), Word::Losing, "worse than silent");
    let refused = |reason| {
        let quarantined = [(1, Quarantined { reason, detail: "d".into() })].into();
        let epoch = EpochFacts { quarantined, refused: Ranges::from_iter([1]), ..EpochFacts::default() };
        GatewayFacts { epochs: [(Epoch(1), epoch)].into(), ..facts("f") }
    };
    assert_eq!(word(refused(QuarantineReason::Forked)), Word::Forked);
    assert_eq!(word(refused(QuarantineReason::WrongRows)), Word::Behind);
    let all = vec![facts("a"), behind(61), refused(QuarantineReason::Forked), losing];
    let fleet = fleet(all, Vec::new(), Vec::new(), 0, NOW);
    let order: Vec<&str> = fleet.gateways.iter().map(|g| g.gateway.as_str()).collect();
    assert_eq!(order, ["l", "f", "b", "a"]);
}

#[test]
fn the_newer_of_status_and_manifest_speaks_for_a_gateway() {
    let both = GatewayFacts { status: Some(status("a")), ..facts("a") };
    let fleet = fleet(vec![both], Vec::new(), Vec::new(), 0, NOW);
    assert_eq!(fleet.gateways[0].agent.as_deref(), Some("0.2.0"));
}

fn hostile_fleet() -> Fleet {
    let mut status = status("gw:1");
    status.reasons.push("<script>alert(1)</script>".into());
    status.tags.insert("<b>site</b>".into(), "\"><img src=x>".into());
    status.agent = "</title><script>".into();
    let hostile = "<script>\u{1b}[2J";
    let backfill = BackfillStatus {
        id: hostile.into(),
        state: "sending".into(),
        refused: Some(hostile.into()),
        asked: 1_000,
        absent: vec![(NOW, NOW.plus(MINUTE)), (Timestamp(i64::MIN), Timestamp(i64::MAX))],
        ..Default::default()
    };
    status.desired = Some(DesiredStatus {
        revision: 3,
        refused: Some(hostile.into()),
        not_applied: vec![hostile.into()],
        backfills: vec![backfill],
        more_backfills: 80,
    });
    status.segments.refused = vec![RefusedSegment {
        epoch: hostile.into(),
        number: 7,
        state: "superseded".into(),
        reason: format!("another object {hostile}"),
    }];
    let gateway = GatewayFacts { status: Some(status), ..facts("gw:1") };
    let table = TableState {
        namespace: "t".parse().unwrap(),
        table: tributary_contract::table::Table::Readings,
        batch: 3,
        snapshot: Some(42),
        rows: 1_234_567,
        files: 9,
        waiting: 0,
        settled_at: Some(NOW),
        stopped: Some("table t.readings belongs to ledger <x>".into()),
    };
    fleet(vec![gateway], vec![table], Vec::new(), 2, NOW)
}

#[test]
fn texts_from_gateways_are_never_markup() {
    let fleet = hostile_fleet();
    let roster = page::roster(&fleet).unwrap();
    let detail = page::gateway(&fleet, "gw:1").unwrap().unwrap();
    for html in [&roster, &detail] {
        assert!(!html.contains("<script") && !html.contains("<img") && !html.contains("<b>"), "{html}");
    }
    assert!(roster.contains("&#60;script&#62;alert(1)"), "{roster}");
    assert!(roster.contains("belongs to ledger &#60;x&#62;"));
    assert!(roster.contains("1\u{202f}234\u{202f}567"));
    assert!(page::gateway(&fleet, "gw-2").is_none());
    for words in [
        "80 more",
        "another object &#60;script",
        "-7<",
        "2027-01-15 08:01:00",
        "1\u{202f}000",
        "not applied: &#60;",
    ] {
        assert!(detail.contains(words), "{words}: {detail}");
    }
    let text = text::detail(&fleet.gateways[0], &NOW);
    assert!(!text.contains('\u{1b}') && text.contains("\\u{1b}[2J"), "{text}");
    for words in
        ["is superseded there: another object", "80 more backfills", "revision 3", "none there from 2027"]
    {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn what_came_of_a_backfill_is_a_line_of_its_gateway() {
    let of = |state: &str| BackfillStatus {
        state: state.into(),
        asked: 9,
        waiting: 4,
        already: 2,
        ..Default::default()
    };
    assert_eq!(text::outcome(&of("pending")), "pending");
    assert_eq!(
        text::outcome(&of("sending")),
        "sending: 9 asked for, 4 of them waiting, 0 given up; 2 sent or on their way before"
    );
}

#[test]
fn times_and_counts_read_as_people_say_them() {
    let ago = |seconds: i64| page::ago(&Some(NOW.plus(-seconds * 1_000_000)), &NOW);
    assert_eq!(
        [ago(0), ago(119), ago(7200), ago(200_000), ago(-90)],
        ["just now", "1 min ago", "2 h ago", "2 days ago", "in the future"]
    );
    assert_eq!(page::ago(&None, &NOW), "never");
    assert_eq!((page::count(&0).as_str(), page::count(&1000).as_str()), ("0", "1\u{202f}000"));
}

struct Server {
    _folder: tempfile::TempDir,
    address: SocketAddr,
    health: Health,
    stop: CancellationToken,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn server(token: Option<&str>) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let ledger = LedgerHandle::new(Ledger::open(&folder.path().join("ledger.db")).unwrap());
    let health = Health::default();
    let shown = Shown { ledger, health: health.clone(), token: token.map(|t| Digest::of(t.as_bytes())) };
    let catalog = axum::Router::new().route("/v1/config", axum::routing::get(|| async { "catalog" }));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(serve(listener, router(shown, catalog), stop.clone()));
    Server { _folder: folder, address, health, stop }
}

impl Server {
    async fn get(&self, path: &str, header: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.0\r\nHost: x\r\n{header}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

fn code(answer: &str) -> &str {
    answer.split_whitespace().nth(1).unwrap()
}

#[tokio::test]
async fn pages_api_and_catalog_are_served_under_a_strict_policy() {
    let server = server(None).await;
    for (path, found) in [
        ("/", "No gateway has delivered"),
        ("/api/fleet", "\"gateways\":[]"),
        ("/api/health", "\"ok\":true"),
        ("/iceberg/v1/config", "catalog"),
        ("/style.css", "color-scheme"),
    ] {
        let answer = server.get(path, "").await;
        assert_eq!(code(&answer), "200", "{path}");
        assert!(answer.contains(found), "{path}: {answer}");
        assert!(answer.contains("content-security-policy: default-src 'none'"), "{answer}");
    }
    assert_eq!(code(&server.get("/gateway/gw-1", "").await), "404");
    assert_eq!(code(&server.get("/nothing", "").await), "404");
}

#[tokio::test]
async fn what_fails_is_on_the_page_and_in_the_health_report() {
    let server = server(None).await;
    server.health.failed(Part::Bucket, "bucket: list p/segments/: no route".into(), NOW);
    let report = server.get("/api/health", "").await;
    assert_eq!(code(&report), "503");
    assert!(report.contains("no route"));
    assert!(server.get("/", "").await.contains("no route"));
}

#[tokio::test]
async fn with_a_token_nothing_is_shown_without_it() {
    let server = server(Some("correct horse battery")).await;
    for path in ["/", "/api/fleet", "/iceberg/v1/config", "/?token=wrong"] {
        assert_eq!(code(&server.get(path, "").await), "401", "{path}");
        assert_eq!(code(&server.get(path, "Authorization: Bearer correct\r\n").await), "401", "{path}");
    }
    let bearer = "Authorization: Bearer correct horse battery\r\n";
    assert_eq!(code(&server.get("/iceberg/v1/config", bearer).await), "200");
    let login = server.get("/?token=correct%20horse%20battery", "").await;
    assert_eq!(code(&login), "303");
    let cookie = login.lines().find_map(|l| l.strip_prefix("set-cookie: ")).unwrap();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"));
    let pair = cookie.split(';').next().unwrap();
    assert_eq!(code(&server.get("/", &format!("Cookie: other=1; {pair}\r\n")).await), "200");
}

#[tokio::test]
async fn fleet_list_asks_the_running_receiver_and_reads_the_ledger_when_none_runs() {
    let server = server(Some("correct horse battery")).await;
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "state_dir = {:?}\n[bucket]\nurl = \"s3://lake\"\n[fleet]\nlisten = \"{}\"",
        folder.path().display().to_string(),
        server.address
    );
    let source = crate::config::Source { name: "test".into(), text };
    let config = crate::config::Config::parse(&[source], &|_| None).unwrap();
    let fleet = ask::ask(&config, Some("correct horse battery")).await.unwrap();
    assert!(fleet.gateways.is_empty() && fleet.failing.is_empty());
    assert!(ask::ask(&config, None).await.unwrap_err().to_string().contains("isn't this receiver"));
    drop(server);

    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let config = crate::config::Config {
        fleet: crate::config::FleetConfig { listen: free, token_file: None },
        ..config
    };
    let nothing = ask::ask(&config, None).await.unwrap_err().to_string();
    assert!(nothing.contains("no receiver listens"), "{nothing}");
    let _running_elsewhere = Ledger::open(&config.ledger).unwrap();
    let fleet = ask::ask(&config, None).await.unwrap();
    assert_eq!(fleet.failing.len(), 1, "it says where this is from");
}

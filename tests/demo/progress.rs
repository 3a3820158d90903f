//! How far the readings have come, shown in place on a terminal and as a line every few seconds elsewhere.

use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tributary_contract::status::GatewayStatus;

/// Pause between two lines where the output isn't a terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// How long an agent may take to tell its status.
const ASK_WITHIN: Duration = Duration::from_secs(2);
/// Largest status that is read, in bytes.
const STATUS_LIMIT: u64 = 4 << 20;

/// Sums over all gateways at one moment; `None` where nobody can tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Messages published; absent when another broker's data is read.
    pub(crate) sent: Option<u64>,
    /// Messages to publish in all.
    pub(crate) total: Option<u64>,
    /// Messages the agents acknowledged.
    pub(crate) acknowledged: u64,
    /// From the agents' status, once all have answered.
    pub(crate) agents: Option<AgentCounters>,
    /// Rows of `readings`.
    pub(crate) registered: u64,
    /// How long ago the oldest reading was sent that isn't registered.
    pub(crate) lag: Option<Duration>,
}

/// What the agents say of themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AgentCounters {
    /// Readings written to the journal.
    pub(crate) journaled: u64,
    /// Readings in sealed segments.
    pub(crate) sealed: u64,
    /// Segments in the bucket, of all tables.
    pub(crate) delivered: u64,
    /// Readings that receipts say are in the table.
    pub(crate) receipted: u64,
}

impl AgentCounters {
    /// One agent's, from its status.
    pub(crate) fn from_status(status: &GatewayStatus) -> Self {
        let readings = &status.counters.readings;
        Self {
            journaled: readings.journaled,
            sealed: readings.sealed,
            delivered: status.segments.delivered,
            receipted: readings.registered,
        }
    }

    /// Sums two gateways.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            journaled: self.journaled.saturating_add(other.journaled),
            sealed: self.sealed.saturating_add(other.sealed),
            delivered: self.delivered.saturating_add(other.delivered),
            receipted: self.receipted.saturating_add(other.receipted),
        }
    }
}

impl Progress {
    fn sensors(&self) -> String {
        match (self.sent, self.total) {
            (Some(sent), Some(total)) => {
                format!("sent {sent} of {total} · acknowledged {}", self.acknowledged)
            }
            (Some(sent), None) => format!("sent {sent} · acknowledged {}", self.acknowledged),
            (None, _) => format!("acknowledged {}", self.acknowledged),
        }
    }

    fn gateways(&self) -> String {
        self.agents.map_or_else(
            || "no word yet".to_owned(),
            |agents| {
                let AgentCounters { journaled, sealed, delivered, .. } = agents;
                format!("journaled {journaled} · sealed {sealed} · {delivered} segments delivered")
            },
        )
    }

    fn lake(&self) -> String {
        let mut text = format!("registered {}", self.registered);
        if let Some(agents) = self.agents {
            text.push_str(&format!(" · receipts for {}", agents.receipted));
        }
        if let Some(lag) = self.lag {
            text.push_str(&format!(" · lag {:.1} s", lag.as_secs_f64()));
        }
        text
    }
}

/// One line for a log; with `#`, one line for each leg of the road, for a terminal.
impl std::fmt::Display for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (sensors, gateways, lake) = (self.sensors(), self.gateways(), self.lake());
        if f.alternate() {
            write!(f, "sensors   {sensors}\n  gateways  {gateways}\n  lake      {lake}")
        } else {
            write!(f, "{sensors} · {gateways} · {lake}")
        }
    }
}

/// Works out the lag: when was sent what is registered now?
#[derive(Debug, Default)]
pub(crate) struct Lag {
    /// When how many had been sent, oldest first.
    sent: VecDeque<(Instant, u64)>,
}

impl Lag {
    /// Notes what was sent by `now` and returns how long ago more was sent than is registered.
    pub(crate) fn note(&mut self, now: Instant, sent: u64, registered: u64) -> Duration {
        if self.sent.back().is_none_or(|&(_, last)| sent > last) {
            self.sent.push_back((now, sent));
        }
        while self.sent.len() > 1 && self.sent.front().is_some_and(|&(_, count)| count <= registered) {
            self.sent.pop_front();
        }
        match self.sent.front() {
            Some(&(at, count)) if count > registered => now.duration_since(at),
            _ => Duration::ZERO,
        }
    }
}

/// Standard error, for people.
#[derive(Debug)]
pub(crate) struct Screen {
    bar: Option<ProgressBar>,
    last_line: Option<(Instant, Progress)>,
}

impl Screen {
    /// A screen in place if standard error is a terminal, else lines.
    pub(crate) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(ProgressStyle::default_spinner());
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { bar, last_line: None }
    }

    /// Shows how far everything has come.
    pub(crate) fn show(&mut self, now: Instant, progress: Progress) {
        match &self.bar {
            Some(bar) => bar.set_message(format!("{progress:#}")),
            None => {
                let due = self
                    .last_line
                    .is_none_or(|(at, shown)| now.duration_since(at) >= LINE_EVERY && shown != progress);
                if due {
                    self.last_line = Some((now, progress));
                    self.say(&progress.to_string());
                }
            }
        }
    }

    /// Writes lines above the progress.
    pub(crate) fn say(&self, text: &str) {
        let write = || {
            // A closed standard error is no reason to stop.
            let _ = writeln!(std::io::stderr(), "{text}");
        };
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Leaves the terminal as it was, for another program's output or the end.
    pub(crate) fn clear(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// One agent's status, or `None` when it doesn't answer.
pub(crate) async fn ask(port: u16) -> Option<GatewayStatus> {
    tokio::time::timeout(ASK_WITHIN, get(port)).await.ok()?.ok()?
}

async fn get(port: u16) -> std::io::Result<Option<GatewayStatus>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    // HTTP/1.0: the answer comes unchunked and ends with the connection.
    stream.write_all(b"GET /status HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.take(STATUS_LIMIT).read_to_end(&mut answer).await?;
    let body = answer.windows(4).position(|end| end == b"\r\n\r\n").and_then(|at| answer.get(at + 4..));
    Ok(body.and_then(|body| serde_json::from_slice(body).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_the_age_of_the_oldest_reading_not_registered() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut lag = Lag::default();
        assert_eq!(lag.note(at(0), 0, 0), Duration::ZERO);
        assert_eq!(lag.note(at(1), 100, 0), Duration::ZERO);
        assert_eq!(lag.note(at(3), 200, 0), Duration::from_secs(2));
        assert_eq!(lag.note(at(4), 200, 100), Duration::from_secs(1));
        assert_eq!(lag.note(at(9), 200, 200), Duration::ZERO);
        assert_eq!(lag.note(at(20), 201, 200), Duration::ZERO);
        assert_eq!(lag.note(at(22), 201, 200), Duration::from_secs(2));
    }

    /// A whole status, as an agent wrote it.
    const STATUS: &str =
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../contract/golden/v1/status.json"));

    #[test]
    fn what_the_agents_say_is_summed_and_shown_on_the_way_from_sent_to_registered() {
        let mut status: GatewayStatus = serde_json::from_str(STATUS).unwrap();
        status.segments.delivered = 4;
        let one = AgentCounters::from_status(&status);
        let readings = &status.counters.readings;
        assert!(readings.sealed > 0, "an empty status shows nothing");
        assert_eq!((one.journaled, one.sealed), (readings.journaled, readings.sealed));
        assert_eq!((one.delivered, one.receipted), (4, readings.registered));
        assert_eq!(one.plus(one).sealed, 2 * readings.sealed);

        let agents = AgentCounters { journaled: 12, sealed: 9, delivered: 3, receipted: 5 };
        let mut progress = Progress {
            sent: Some(12),
            total: Some(20),
            acknowledged: 12,
            registered: 7,
            ..Progress::default()
        };
        assert_eq!(progress.to_string(), "sent 12 of 20 · acknowledged 12 · no word yet · registered 7");
        progress.agents = Some(agents);
        progress.lag = Some(Duration::from_millis(1_500));
        assert_eq!(
            progress.to_string(),
            "sent 12 of 20 · acknowledged 12 · journaled 12 · sealed 9 · 3 segments delivered · registered 7 · \
             receipts for 5 · lag 1.5 s"
        );
        assert_eq!(format!("{progress:#}").lines().count(), 3);
    }

    #[tokio::test]
    async fn a_status_is_read_over_http_and_an_absent_agent_is_no_error() {
        let app = axum::Router::new().route("/status", axum::routing::get(|| async { STATUS }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move { axum::serve(listener, app).await });
        let status = ask(port).await.unwrap();
        assert_eq!(status, serde_json::from_str(STATUS).unwrap());
        server.abort();
        assert!(server.await.unwrap_err().is_cancelled());
        assert_eq!(ask(port).await, None);
    }
}

//! How far the readings have come, shown in place on a terminal and as a line every few seconds elsewhere.

use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

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
    /// From the agents' status.
    pub(crate) agents: AgentCounters,
    /// Rows of `readings`.
    pub(crate) registered: u64,
    /// How long ago the oldest reading was sent that isn't registered.
    pub(crate) lag: Option<Duration>,
}

/// What the agents say of themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AgentCounters {
    /// Readings written to the journal.
    pub(crate) journaled: Option<u64>,
    /// Readings in sealed segments.
    pub(crate) sealed: Option<u64>,
    /// Segments in the bucket.
    pub(crate) delivered: Option<u64>,
}

impl AgentCounters {
    /// Reads one agent's status; fields that aren't there stay unknown.
    pub(crate) fn from_status(status: &serde_json::Value) -> Self {
        let number = |path: &str| status.pointer(path).and_then(serde_json::Value::as_u64);
        Self {
            journaled: number("/counters/journaled"),
            sealed: number("/counters/sealed"),
            delivered: number("/segments/delivered"),
        }
    }

    /// Sums two gateways; what only one can tell counts alone.
    pub(crate) fn plus(self, other: Self) -> Self {
        let sum = |a: Option<u64>, b: Option<u64>| match (a, b) {
            (Some(a), Some(b)) => Some(a.saturating_add(b)),
            (one, other) => one.or(other),
        };
        Self {
            journaled: sum(self.journaled, other.journaled),
            sealed: sum(self.sealed, other.sealed),
            delivered: sum(self.delivered, other.delivered),
        }
    }
}

impl std::fmt::Display for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let known = |count: Option<u64>| count.map_or_else(|| "?".to_owned(), |count| count.to_string());
        if let Some(sent) = self.sent {
            write!(f, "sent {sent}")?;
            if let Some(total) = self.total {
                write!(f, " of {total}")?;
            }
            f.write_str(" · ")?;
        }
        write!(
            f,
            "acknowledged {} · journaled {} · sealed {} · delivered {} segments · registered {}",
            self.acknowledged,
            known(self.agents.journaled),
            known(self.agents.sealed),
            known(self.agents.delivered),
            self.registered,
        )?;
        match self.lag {
            Some(lag) => write!(f, " · lag {:.1} s", lag.as_secs_f64()),
            None => Ok(()),
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
            Some(bar) => bar.set_message(progress.to_string()),
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
pub(crate) async fn ask(port: u16) -> Option<serde_json::Value> {
    tokio::time::timeout(ASK_WITHIN, get(port)).await.ok()?.ok()?
}

async fn get(port: u16) -> std::io::Result<Option<serde_json::Value>> {
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

    #[test]
    fn fields_a_status_lacks_stay_unknown_and_the_rest_is_summed() {
        let full =
            serde_json::json!({"counters": {"journaled": 5, "sealed": 3}, "segments": {"delivered": 2}});
        let partial = serde_json::json!({"counters": {"journaled": 7}});
        let sum = AgentCounters::from_status(&full).plus(AgentCounters::from_status(&partial));
        assert_eq!(sum, AgentCounters { journaled: Some(12), sealed: Some(3), delivered: Some(2) });
        let progress = Progress { sent: Some(12), total: Some(20), acknowledged: 12, ..Progress::default() };
        let line = progress.to_string();
        assert!(line.starts_with("sent 12 of 20 · acknowledged 12 · journaled ? · sealed ?"), "{line}");
    }

    #[tokio::test]
    async fn a_status_is_read_over_http_and_an_absent_agent_is_no_error() {
        let app = axum::Router::new().route(
            "/status",
            axum::routing::get(|| async { axum::Json(serde_json::json!({"counters": {"sealed": 4}})) }),
        );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move { axum::serve(listener, app).await });
        let status = ask(port).await.unwrap();
        assert_eq!(AgentCounters::from_status(&status).sealed, Some(4));
        server.abort();
        assert!(server.await.unwrap_err().is_cancelled());
        assert_eq!(ask(port).await, None);
    }
}

//! The agent's own stages in this process, by a clock that is turned by hand: hours and days of readings in seconds.

use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context, anyhow};
use tokio::sync::watch;
use tributary_agent::buffer::{NewBatch, SourceFacts};
use tributary_agent::config::{Config, Upload, Zone, parse};
use tributary_agent::pipeline::{Clock, Sealer, Seams, Shared, first_status, new_live, open};
use tributary_agent::reading::{Accepted, Reading, Value};
use tributary_agent::upload::memory::MemoryBucket;
use tributary_contract::counters::MessageCounters;
use tributary_contract::quality::Quality;
use tributary_contract::time::Timestamp;

use crate::load;

struct HandClock(AtomicI64);

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

/// An agent without connections.
pub(crate) struct Stages {
    clock: Arc<HandClock>,
    config: Arc<Config>,
    sources: Arc<Vec<SourceFacts>>,
    shared: Arc<Shared>,
    sealer: Sealer,
    bucket: MemoryBucket,
    taken: u64,
}

impl Stages {
    /// On the buffer in `dir`, with `more` lines of configuration, at `now`.
    ///
    /// # Errors
    /// When the buffer can't be opened.
    pub(crate) async fn open(dir: &Path, more: &str, now: Timestamp) -> anyhow::Result<Self> {
        let text = format!(
            "gateway = \"gw-1\"\nstate_dir = {:?}\n[[broker]]\nurl = \"mqtt://127.0.0.1\"\n[[source]]\n\
             name = \"plant\"\ntopics = [\"s/{{device}}/{{metric}}\"]\n{more}\n[bucket]\nurl = \"s3://lake/site\"\n",
            dir.display().to_string()
        );
        let facts = parse::Facts { env: &|_| None, hostname: None, serial: None, zones: &Zone::read };
        let config = parse::parse(&[("bench".into(), text)], &facts);
        let config = Arc::new(config.map_err(|problems| anyhow!("configuration: {problems:?}"))?);
        let source = config.sources.first().context("a source")?;
        let sources = vec![SourceFacts {
            name: source.name.clone(),
            namespace: source.namespace.clone(),
            max_series: 1_000_000,
            max_device_series: 1_000_000,
            priority: source.priority,
            kept: source.upload == Upload::Aggregates,
        }];
        let clock = Arc::new(HandClock(AtomicI64::new(now.0)));
        let wall: Arc<dyn Clock> = clock.clone();
        let live = Arc::new(Mutex::new(new_live(&config, now)));
        let (status, _) = watch::channel(Arc::new(first_status(&config, &*wall)));
        let (shared, _) = open(&config, &live, &status, &wall, Seams::default()).await?;
        let shared = Arc::new(shared);
        {
            let mut live = shared.live();
            live.drained.fill(true);
            live.clock_synced = true;
        }
        let (sealer, bucket) = (Sealer::new(Arc::clone(&shared)), MemoryBucket::new());
        Ok(Self { clock, config, sources: Arc::new(sources), shared, sealer, bucket, taken: 0 })
    }

    /// Lets so many microseconds pass.
    pub(crate) fn pass(&self, micros: i64) {
        self.clock.0.fetch_add(micros, Ordering::SeqCst);
    }

    /// One commit of `readings`, a message each, of so many series in their turn; all are taken now.
    ///
    /// # Errors
    /// The buffer's.
    pub(crate) async fn commit(&mut self, readings: u64, series: u64) -> anyhow::Result<()> {
        let now = self.clock.now();
        let message = |number: u64| {
            let wave = (number as f64 / 500.0).sin() * 5.0 + 20.0;
            let noise = (number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f64 / f64::from(1 << 24);
            let (device, metric) = load::series(number % series);
            let reading = Reading {
                ts: now.plus(-1),
                device,
                metric: metric.into(),
                tags: Default::default(),
                row_tags: Default::default(),
                value: Value::Float(wave + noise),
                unit: None,
                quality: Quality::GOOD,
                kept_back: false,
            };
            Accepted { source: 0, received_at: now, readings: vec![reading] }
        };
        let accepted = (self.taken..self.taken + readings).map(message).collect();
        self.taken += readings;
        let messages = MessageCounters { received: readings, accepted: readings, ..Default::default() };
        let batch = NewBatch { accepted, messages, committed_at: now, ..NewBatch::default() };
        let sources = Arc::clone(&self.sources);
        let appended = self.shared.buffer.run(move |b| b.append(batch, &sources)).await??;
        let names = Arc::clone(&self.shared.dictionary);
        if !self.config.windows.is_empty() {
            self.shared.windows().observe(&appended.rows, &|key| names.get(key), now);
        }
        Ok(())
    }

    /// Seals what is due, windows that may close included.
    ///
    /// # Errors
    /// The buffer's.
    pub(crate) async fn seal(&mut self) -> anyhow::Result<()> {
        self.sealer.pass(&self.bucket, self.clock.now()).await?;
        Ok(())
    }

    /// Windows of one series each that aren't closed.
    pub(crate) fn open_windows(&self) -> usize {
        self.shared.windows().waiting()
    }

    /// Readings that were taken in.
    pub(crate) const fn taken(&self) -> u64 {
        self.taken
    }

    /// Closes the buffer in order.
    ///
    /// # Errors
    /// The buffer's.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        let Self { shared, sealer, .. } = self;
        drop(sealer);
        let shared = Arc::into_inner(shared).context("somebody still works on the buffer")?;
        shared.buffer.stop().await?;
        Ok(())
    }
}

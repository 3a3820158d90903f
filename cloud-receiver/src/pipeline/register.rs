//! The pass that forms batches and commits each one exactly once.
//!
//! The lake is behind [`Register`]: one look at a table and, if the batch isn't in it, one commit pinned to that look.
//! A batch gets its number only after a look that the table isn't ahead of the ledger. Then, always: (1) the batch is durable in the ledger; (2) look: if the table has it, it is settled;
//! (3) else commit against exactly what was looked at; (4) conflict or unknown outcome: back to (2).

use std::sync::{Arc, PoisonError};

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use parquet::file::metadata::ParquetMetaData;
use tributary_contract::id::Namespace;
use tributary_contract::key::SegmentKey;
use tributary_contract::table::Table;
use tributary_contract::time::{Day, Timestamp};
use uuid::Uuid;

use super::{PassError, Pipeline};
use crate::dedupe::{Batch, BatchFile, Known};
use crate::validate::inspect::{Footer, footer};

/// Looks at objects at a time.
const LOOKS: usize = 16;
/// Attempts at one batch within a pass.
const ATTEMPTS: usize = 8;

/// A batch for the lake.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Owner of the data.
    pub namespace: Namespace,
    /// Table.
    pub table: Table,
    /// Number of the batch.
    pub n: u64,
    /// The ledger that offers it.
    pub ledger: String,
    /// What that ledger knows of the table.
    pub known: Known,
    /// The batch's files.
    pub files: Vec<OfferedFile>,
    /// Segments of the batch before, where the lake asked for them by [`Attempt::Prove`].
    pub before: Option<Vec<SegmentKey>>,
}

/// One file of an offer.
#[derive(Debug, Clone)]
pub struct OfferedFile {
    /// URI of the object.
    pub uri: String,
    /// Bytes.
    pub size: u64,
    /// Owner of its rows.
    pub namespace: Namespace,
    /// Table of its rows.
    pub table: Table,
    /// UTC day of its rows.
    pub day: Day,
    /// The segment that it is; none for rows of the receiver's own.
    pub segment: Option<SegmentKey>,
    /// Its Parquet footer.
    pub footer: Arc<ParquetMetaData>,
}

/// What became of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// The table has the batch, since now or before.
    Settled {
        /// The snapshot that brought it, if it is known.
        snapshot: Option<i64>,
        /// The table's id.
        uuid: Uuid,
    },
    /// The history of the table is too short to say whether it holds the batch before: the same offer again, with
    /// [`Offer::before`].
    Prove,
    /// Another commit came between, or nobody knows whether ours happened: look again.
    Again(String),
    /// Nothing may be registered in this table until a person acted; the sentence says how.
    Stop(String),
    /// The batch can't be committed as it is.
    Refused(String),
}

/// The lake, as registration needs it.
#[async_trait]
pub trait Register: Send + Sync {
    /// Whether the table has batches that this ledger never formed: the sentence that stops it. Asked before the next
    /// batch gets its number, for afterwards a batch of that number in the table would be taken for this one.
    async fn ahead(
        &self,
        namespace: &Namespace,
        table: Table,
        ledger: &str,
        known: Known,
    ) -> Result<Option<String>, String>;

    /// Looks at the table and commits the batch if it isn't there. The error is a sentence: the catalog is out of reach.
    async fn attempt(&self, offer: &Offer) -> Result<Attempt, String>;
}

impl Pipeline {
    /// Commits what is due, table by table; returns how many batches were settled. One table's trouble leaves the others
    /// alone.
    pub async fn register_pass(&self, now: Timestamp) -> Result<u64, PassError> {
        let wait = i64::try_from(self.register.max_wait.as_micros()).unwrap_or(i64::MAX);
        let (max_files, before) = (self.register.max_files, now.plus(wait.saturating_neg()));
        let due = self.ledger.call(move |l| l.due_tables(max_files, before)).await?;
        let mut first_error = None;
        let mut settled = 0;
        for (namespace, table) in due {
            match self.register_table(&namespace, table, now).await {
                Ok(batches) => settled += batches,
                Err(e) => first_error = first_error.or(Some(e)),
            }
            self.health.beat();
        }
        if settled > 0 {
            self.settled.notify_one();
        }
        first_error.map_or(Ok(settled), Err)
    }

    async fn register_table(
        &self,
        namespace: &Namespace,
        table: Table,
        now: Timestamp,
    ) -> Result<u64, PassError> {
        let mut settled = 0;
        loop {
            let name = (namespace.clone(), table);
            if self.stopped.lock().unwrap_or_else(PoisonError::into_inner).contains(&name) {
                return Ok(settled);
            }
            let open = self.ledger.call(move |l| l.open_batch(&name.0, name.1)).await?;
            let batch = match open {
                Some(batch) => Some(batch),
                None => self.form(namespace, table, now).await?,
            };
            let Some(batch) = batch else { return Ok(settled) };
            let full = batch.files.len() >= self.register.max_files;
            if !self.commit(batch, now).await? {
                return Ok(settled);
            }
            settled += 1;
            if !full {
                return Ok(settled);
            }
        }
    }

    /// Forms a batch of the oldest checked segments that are still in the bucket.
    async fn form(
        &self,
        namespace: &Namespace,
        table: Table,
        now: Timestamp,
    ) -> Result<Option<Batch>, PassError> {
        let (ns, limit) = (namespace.clone(), self.register.max_files);
        let candidates = self.ledger.call(move |l| l.candidates(&ns, table, limit)).await?;
        let looked: Vec<(BatchFile, Option<String>)> = futures::stream::iter(candidates)
            .map(|file| async move {
                let etag = self.bucket.head(&file.object_key).await?;
                Ok::<_, PassError>((file, etag))
            })
            .buffered(LOOKS)
            .try_collect()
            .await?;
        let mut rows = Vec::new();
        for (file, etag) in looked {
            match etag {
                Some(etag) if etag == file.etag => rows.push(file.row),
                // Written again: the next listing brings it, and only then is it known whether it is the same.
                Some(_) => {}
                None => {
                    tracing::warn!(key = %file.object_key, "segment is gone from the bucket; its gateway is told");
                    self.ledger.call(move |l| l.forget_checked(file.row)).await?;
                }
            }
        }
        let ns = namespace.clone();
        let own = table == Table::Gaps && self.ledger.call(move |l| l.own_gaps_wait(&ns)).await?;
        if rows.is_empty() && !own {
            return Ok(None);
        }
        let ns = namespace.clone();
        let known = self.ledger.call(move |l| l.known(&ns, table)).await?;
        let ahead = self.lake.ahead(namespace, table, &self.ledger_id, known).await;
        if let Some(sentence) = ahead.map_err(PassError::Catalog)? {
            self.stop(namespace.clone(), table, sentence).await?;
            return Ok(None);
        }
        let ns = namespace.clone();
        let formed = self.ledger.call(move |l| {
            l.form_batch(&ns, table, &rows, now)?;
            l.open_batch(&ns, table)
        });
        Ok(formed.await?)
    }

    /// Steps (2) to (4) for an open batch. `false` if the table stands still.
    async fn commit(&self, batch: Batch, now: Timestamp) -> Result<bool, PassError> {
        let rows: Vec<i64> = batch.files.iter().map(|f| f.row).collect();
        let settled = self.commit_now(batch, now).await;
        // Settled: they aren't needed any more. Else it may be long until the next attempt, and that one must find each
        // object in the bucket again before it lets the table refer to it.
        self.drop_footers(rows);
        settled
    }

    async fn commit_now(&self, batch: Batch, now: Timestamp) -> Result<bool, PassError> {
        let Batch { namespace, table, n, files, gaps } = batch;
        let mut offered = self.offered(&namespace, table, n, files).await?;
        offered.extend(self.own_files(&namespace, n, &gaps).await?);
        let files_of_batch = offered.len();
        let mut before = None;
        let mut last = String::new();
        for _ in 0..ATTEMPTS {
            let ns = namespace.clone();
            let known = self.ledger.call(move |l| l.known(&ns, table)).await?;
            let (namespace, ledger) = (namespace.clone(), self.ledger_id.clone());
            let offer =
                Offer { namespace, table, n, ledger, known, files: offered.clone(), before: before.clone() };
            let attempt = self.lake.attempt(&offer).await.map_err(PassError::Catalog)?;
            self.health.ok(super::health::Part::Catalog);
            match attempt {
                Attempt::Settled { snapshot, uuid } => {
                    let ns = offer.namespace;
                    tracing::info!(table = %format!("{ns}.{table}"), batch = n, files = files_of_batch, "registered");
                    self.ledger.call(move |l| l.settle(&ns, table, n, snapshot, uuid, now)).await?;
                    return Ok(true);
                }
                Attempt::Prove => {
                    let ns = offer.namespace;
                    let keys = self.ledger.call(move |l| l.newest_batch(&ns, table)).await?;
                    before =
                        Some(keys.iter().filter_map(|k| SegmentKey::parse(&self.prefix, k).ok()).collect());
                }
                Attempt::Again(why) => {
                    tracing::debug!(table = %format!("{}.{table}", offer.namespace), batch = n, %why, "look again");
                    last = why;
                }
                Attempt::Stop(sentence) => {
                    self.stop(offer.namespace, table, sentence).await?;
                    return Ok(false);
                }
                Attempt::Refused(why) => return Err(PassError::Catalog(why)),
            }
        }
        Err(PassError::Catalog(format!("{namespace}.{table}, batch {n}: still not settled: {last}")))
    }

    /// The batch's files with their footers, from memory or the bucket.
    async fn offered(
        &self,
        namespace: &Namespace,
        table: Table,
        n: u64,
        files: Vec<BatchFile>,
    ) -> Result<Vec<OfferedFile>, PassError> {
        let read = |file: BatchFile| async move {
            let footer = match self.kept_footer(file.row) {
                Some(footer) => Footer::Read(footer),
                None if file.etag.is_empty() => Footer::Gone,
                None => footer(self.bucket.as_ref(), &file.object_key, &file.etag).await?,
            };
            Ok::<_, PassError>((file, footer))
        };
        let read: Vec<(BatchFile, Footer)> =
            futures::stream::iter(files).map(read).buffered(LOOKS).try_collect().await?;
        let mut offered = Vec::with_capacity(read.len());
        for (file, footer) in read {
            let Footer::Read(footer) = footer else {
                let row = file.row;
                self.ledger.call(move |l| l.miss_batched(row)).await?;
                self.settled.notify_one();
                let key = file.object_key;
                return Err(PassError::Catalog(format!(
                    "{namespace}.{table}, batch {n} waits for {key}, which is gone from the bucket: its gateway was \
                     told and sends it again; if that gateway is no more, put the object back from a backup"
                )));
            };
            let key = SegmentKey::parse(&self.prefix, &file.object_key)
                .map_err(|e| PassError::Catalog(format!("the ledger was made for another prefix: {e}")))?;
            let uri = format!("{}{}", self.uri_base, file.object_key);
            let (namespace, table, day) = (key.namespace.clone(), key.table, key.day);
            offered.push(OfferedFile {
                uri,
                size: file.size,
                namespace,
                table,
                day,
                segment: Some(key),
                footer,
            });
        }
        Ok(offered)
    }

    async fn stop(&self, namespace: Namespace, table: Table, sentence: String) -> Result<(), PassError> {
        let name = (namespace, table);
        let first = self.stopped.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone());
        if first {
            tracing::error!(table = %format!("{}.{table}", name.0), "{sentence}");
        }
        self.ledger.call(move |l| l.stop_table(&name.0, table, &sentence)).await?;
        Ok(())
    }
}

//! The pipeline: every stage in its order, each as a pass that may die anywhere and be run again.
//!
//! In: bucket, lake, ledger, a moment. Out: rows in tables, receipts and copies of refused objects in the bucket. Passes
//! meet in the ledger, never in memory; what they hand each other is a wake-up. Absent on purpose: anything that has to
//! be stopped cleanly to be right.

pub mod arrivals;
pub mod health;
pub mod lake;
pub mod own_gaps;
pub mod quarantine;
pub mod receipts;
pub mod register;
pub mod run;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use parquet::file::metadata::ParquetMetaData;
use tokio::sync::Notify;
use tributary_contract::key::Prefix;
use tributary_contract::time::Timestamp;

use crate::bucket::{Bucket, BucketError};
use crate::config::RegisterConfig;
use crate::dedupe::batches::TableName;
use crate::dedupe::{LedgerError, LedgerHandle};
use crate::receipt::write::WriteError;
use health::{Health, Part};
use register::Register;

/// The parts that a pass works with. Shared by all loops.
pub struct Pipeline {
    /// Where gateways deliver.
    pub bucket: Arc<dyn Bucket>,
    /// Where tables are.
    pub lake: Arc<dyn Register>,
    /// What became of every object.
    pub ledger: LedgerHandle,
    /// The ledger's id, as tables carry it.
    pub ledger_id: String,
    /// Our part of the bucket.
    pub prefix: Prefix,
    /// What stands before an object's key in the names that tables use: `s3://bucket/`.
    pub uri_base: String,
    /// When a batch is full.
    pub register: RegisterConfig,
    /// What works and what doesn't.
    pub health: Health,
    /// Woken when segments have been checked.
    pub checked: Notify,
    /// Woken when receipts have become due.
    pub settled: Notify,
    footers: Mutex<HashMap<i64, Arc<ParquetMetaData>>>,
    stopped: Mutex<BTreeSet<TableName>>,
}

/// Why a pass ended early. What it had done stays done.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The bucket didn't answer as hoped.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// The catalog didn't, or a batch can't be registered.
    #[error("catalog: {0}")]
    Catalog(String),
    /// The ledger didn't.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl PassError {
    /// Which part it is about.
    pub fn part(&self) -> Part {
        match self {
            PassError::Bucket(_) => Part::Bucket,
            PassError::Catalog(_) => Part::Catalog,
            PassError::Ledger(_) => Part::Ledger,
        }
    }
}

impl From<WriteError> for PassError {
    fn from(e: WriteError) -> Self {
        match e {
            WriteError::Bucket(e) => PassError::Bucket(e),
            WriteError::Ledger(e) => PassError::Ledger(e),
            WriteError::Contested(_) => {
                PassError::Bucket(BucketError { what: "put receipt".to_owned(), why: e.to_string() })
            }
        }
    }
}

/// The most footers that wait in memory for their batch; others are read again.
const MAX_FOOTERS: usize = 2000;

impl Pipeline {
    /// Puts the parts together.
    pub fn new(
        bucket: Arc<dyn Bucket>,
        lake: Arc<dyn Register>,
        ledger: LedgerHandle,
        ledger_id: String,
        places: Places,
        register: RegisterConfig,
    ) -> Self {
        Self {
            bucket,
            lake,
            ledger,
            ledger_id,
            prefix: places.prefix,
            uri_base: places.uri_base,
            register,
            health: Health::default(),
            checked: Notify::new(),
            settled: Notify::new(),
            footers: Mutex::default(),
            stopped: Mutex::default(),
        }
    }

    /// Every pass once, in the order of the flow.
    pub async fn pass(&self, now: Timestamp) -> Result<(), PassError> {
        self.arrivals_pass(now).await?;
        self.quarantine_pass().await?;
        self.register_pass(now).await?;
        self.receipts_pass(now).await?;
        self.statuses_pass().await
    }

    fn keep_footer(&self, row: i64, footer: Arc<ParquetMetaData>) {
        let mut footers = self.footers.lock().unwrap_or_else(PoisonError::into_inner);
        if footers.len() < MAX_FOOTERS {
            footers.insert(row, footer);
        }
    }

    fn kept_footer(&self, row: i64) -> Option<Arc<ParquetMetaData>> {
        self.footers.lock().unwrap_or_else(PoisonError::into_inner).get(&row).cloned()
    }

    fn drop_footers(&self, rows: impl IntoIterator<Item = i64>) {
        let mut footers = self.footers.lock().unwrap_or_else(PoisonError::into_inner);
        for row in rows {
            footers.remove(&row);
        }
    }
}

/// Where objects lie, as keys and as tables name them.
#[derive(Debug, Clone)]
pub struct Places {
    /// Our part of the bucket.
    pub prefix: Prefix,
    /// What stands before a key in a table's names: `s3://bucket/`.
    pub uri_base: String,
}

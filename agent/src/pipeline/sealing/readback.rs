//! Before anything is sealed: segments that the lease knows and the database doesn't are read back, from the folder or the bucket.

use std::path::Path;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use tracing::{info, warn};
use tributary_contract::digest::Digest;

use super::super::shared::StartAgain;
use super::super::windows_of;
use super::Sealer;
use crate::buffer::{Adopted, BufferError, ReadbackContents, ReadbackItem};
use crate::offload::offload;
use crate::segment::readback;
use crate::upload::bucket::{Bucket, Fetched};
use crate::upload::classify::{Outcome, classify};

/// The greatest segment that is read back from the bucket, bytes.
const LARGEST: u64 = 256 << 20;

/// Where the bytes of a segment were found.
enum Found {
    InFolder(Bytes),
    InBucket(Bytes),
    Absent,
}

impl Sealer {
    /// Restores what a crash between lease line and transaction left unknown. False: something can't be read yet.
    pub(super) async fn read_back<B: Bucket>(&mut self, bucket: &B) -> anyhow::Result<bool> {
        let pending = self.shared.buffer.run(|b| b.pending_readback()).await?;
        if pending.is_empty() {
            return Ok(true);
        }
        for item in pending {
            let Some(bytes) = self.find(bucket, &item).await? else { return Ok(false) };
            match bytes {
                Found::InBucket(bytes) => self.adopt(ReadbackItem { file: None, ..item }, bytes).await?,
                Found::Absent => {
                    info!(epoch = %item.epoch, number = %item.number, "segment never existed: its number is void");
                    self.shared.buffer.run(move |b| b.declare_void(item.epoch, item.number)).await??;
                }
                Found::InFolder(bytes) => self.adopt(item, bytes).await?,
            }
        }
        let (now, config) = (self.shared.now(), Arc::clone(&self.shared.config));
        let (names, windows) = (Arc::clone(&self.shared.dictionary), self.shared.window_stage());
        self.shared
            .buffer
            .run(move |b| -> anyhow::Result<()> {
                b.finish_readback(now)?;
                // What was read back may hold decisions, and what was left over has other seqs now. In one go with the
                // buffer, so that no commit comes between.
                let again = windows_of(b, &config, &names, now)?;
                windows.lock().unwrap_or_else(PoisonError::into_inner).replace(again);
                Ok(())
            })
            .await??;
        info!("read back: what the lease and the database know of segments agrees again");
        Ok(true)
    }

    async fn adopt(&self, item: ReadbackItem, bytes: Bytes) -> anyhow::Result<()> {
        let size = bytes.len() as u64;
        match readback::read(bytes) {
            Ok(found) => {
                let contents = into_buffer_words(found.contents);
                info!(epoch = %item.epoch, number = %item.number, "segment read back");
                let (manifest, digest, now) = (found.manifest, found.digest, self.shared.now());
                let (epoch, number) = (item.epoch, item.number);
                let adopted = self
                    .shared
                    .buffer
                    .run(move |b| b.adopt(&item, &manifest, &contents, size, digest, now))
                    .await?;
                match adopted {
                    Ok(Adopted::Whole) => {}
                    Ok(Adopted::TailLost) => {
                        return Err(StartAgain("the database lost its newest commits".into()).into());
                    }
                    // Not the segment that was sealed here, and it would be refused for ever: its rows are sealed again.
                    Err(e @ (BufferError::WrongBytes { .. } | BufferError::WrongManifest { .. })) => {
                        warn!(%epoch, %number, "what bears the segment's name isn't it: {e}");
                        self.shared.buffer.run(move |b| b.declare_void(epoch, number)).await??;
                    }
                    Err(e) => return Err(e.into()),
                }
            }
            Err(e) => {
                warn!(epoch = %item.epoch, number = %item.number, "segment can't be read back: {e}");
                self.shared.buffer.run(move |b| b.declare_void(item.epoch, item.number)).await??;
            }
        }
        Ok(())
    }

    /// The bytes of a segment: from the folder, else from the bucket. None: the bucket doesn't answer now.
    async fn find<B: Bucket>(&self, bucket: &B, item: &ReadbackItem) -> anyhow::Result<Option<Found>> {
        if let Some(path) = &item.file {
            match read_file(path).await {
                Ok(bytes) if item.digest.is_none_or(|digest| digest == Digest::of(&bytes)) => {
                    return Ok(Some(Found::InFolder(bytes)));
                }
                Ok(_) => warn!("{}: the disk damaged it", path.display()),
                Err(e) => warn!("{}: {e}", path.display()),
            }
        }
        // Without a file the table and day in its key aren't known; a lease line alone names no object that could be
        // asked for. What the bucket may hold under that number is found by the receiver, and reported as a fork.
        let Some(key) = &item.key else { return Ok(Some(Found::Absent)) };
        let key = key.object_key(&self.shared.config.bucket.prefix);
        match bucket.get(&key, None, LARGEST).await {
            Ok(Fetched::Body { bytes, .. }) => Ok(Some(Found::InBucket(bytes))),
            Ok(Fetched::Unchanged) => Ok(None),
            Err(answer) if classify(&answer) == Outcome::Absent => Ok(Some(Found::Absent)),
            Err(answer) => {
                warn!("segment {key} can't be asked for: {answer}");
                Ok(None)
            }
        }
    }
}

async fn read_file(path: &Path) -> std::io::Result<Bytes> {
    let path = path.to_owned();
    offload(move || std::fs::read(path)).await.map_err(std::io::Error::other)?.map(Bytes::from)
}

fn into_buffer_words(contents: readback::Contents) -> ReadbackContents {
    match contents {
        readback::Contents::Seqs(seqs) => ReadbackContents::Seqs(seqs),
        readback::Contents::Decisions(decided) => ReadbackContents::Aggregates {
            newest: decided.decisions.iter().map(|d| d.end).max().unwrap_or_default(),
            decisions: decided.encode(),
        },
        readback::Contents::Series(ids) => ReadbackContents::Series(ids),
        readback::Contents::Gaps(ids) => ReadbackContents::Gaps(ids),
        readback::Contents::Rejects(keys) => ReadbackContents::Rejects(keys),
        readback::Contents::Alerts(ids) => ReadbackContents::Alerts(ids),
    }
}

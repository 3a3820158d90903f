//! Rejects tried again by the present configuration: what kept bytes say now goes into the buffer, as if it had been
//! understood when it came.

use std::sync::Arc;

use anyhow::{Context, bail};

use super::intake::{decoder_key, facts_of};
use super::shared::Shared;
use crate::buffer::row::RejectRow;
use crate::buffer::{Appended, Buffer, Retry, RetryOutcome};
use crate::clock::Moment;
use crate::config::Config;
use crate::ingest::decode::{Decoders, Reject};

/// Rejects that are tried again at a time: the buffer's thread has other work.
pub const AT_ONCE: usize = 50;

/// Tries rejects again, and has the windows see what comes of it.
///
/// # Errors
/// That there are too many, or the clock can't be believed; the buffer's.
pub async fn retry(shared: &Arc<Shared>, ids: Vec<i64>, moment: Moment) -> anyhow::Result<Vec<RetryOutcome>> {
    if ids.len() > AT_ONCE {
        bail!("{} rejects at once; ask for at most {AT_ONCE}", ids.len());
    }
    let config = Arc::clone(&shared.config);
    let done = shared.buffer.run(move |b| retry_in(b, &config, &ids, moment)).await??;
    let dictionary = |key| shared.dictionary.get(key);
    let mut outcomes = Vec::with_capacity(done.len());
    for (outcome, appended) in done {
        if !appended.rows.is_empty() {
            shared.windows().observe(&appended.rows, &dictionary, shared.now());
            shared.committed.notify_one();
        }
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

/// Tries rejects again in an open buffer.
///
/// # Errors
/// That the clock can't be believed, a source's settings can't be followed, or the buffer's.
pub fn retry_in(
    buffer: &mut Buffer,
    config: &Config,
    ids: &[i64],
    moment: Moment,
) -> anyhow::Result<Vec<(RetryOutcome, Appended)>> {
    if !moment.synced {
        bail!(
            "the clock isn't synchronised: what is stored now would get another time later; try again when it is"
        );
    }
    let mut decoders = Decoders::new(config)?;
    for (at, source) in config.sources.iter().enumerate() {
        if let Some(kept) = buffer.setting(&decoder_key(&source.name))? {
            decoders.restore(at, &kept);
        }
    }
    let sources = facts_of(config);
    let limit = config.limits.payload as u64;
    let done = buffer.retry(ids, &sources, moment, |row| decode(&mut decoders, row, limit));
    done.context("trying rejects again")
}

fn decode(decoders: &mut Decoders, row: &RejectRow, limit: u64) -> Result<Retry, String> {
    let kept = row.payload.as_deref().unwrap_or_default();
    if kept.len() as u64 != row.size {
        return Err(format!("of its {} bytes only {} are kept", row.size, kept.len()));
    }
    if row.size > limit {
        return Err(format!("it has {} bytes, limits.payload is {limit}", row.size));
    }
    let Some(source) = decoders.source_of(&row.topic) else {
        return Err(format!("no source takes topic {:?}", row.topic));
    };
    match decoders.decode(source, &row.topic, kept, row.received_at, false) {
        Ok(decoded) if decoded.readings.is_empty() => {
            Err("it holds no readings: messages of this kind hold none".into())
        }
        Ok(decoded) => Ok((source, decoded.readings)),
        Err(Reject { reason, detail }) => Err(format!("rejected again, {reason}: {detail}")),
    }
}

//! Reads an object from the bucket and has it checked: the edge of validation.

use std::sync::Arc;

use parquet::file::metadata::ParquetMetaData;
use tributary_contract::digest::Digest;
use tributary_contract::key::SegmentKey;
use tributary_contract::reject::QuarantineReason;

use super::check::{Facts, check};
use super::{Accepted, MAX_OBJECT_BYTES, Refused, content};
use crate::bucket::{Bucket, BucketError, Extent, Got, Object};
use crate::offload::offload;

/// How much of an object's end is read in the hope that its footer is in it.
const TAIL_BYTES: u64 = 64 << 10;
/// The longest footer that is read.
const MAX_FOOTER_BYTES: u64 = 16 << 20;

/// What became of an object.
#[derive(Debug)]
pub enum Inspected {
    /// It may be registered.
    Accepted(Box<Accepted>),
    /// It must not be.
    Refused(Refused),
    /// It is gone.
    Absent,
}

/// Reads the object at `object_key`, which is the key of `key`, and checks it.
pub async fn inspect(
    bucket: &dyn Bucket,
    object_key: &str,
    key: &SegmentKey,
) -> Result<Inspected, BucketError> {
    let object = match bucket.get(object_key, Extent::Whole { limit: MAX_OBJECT_BYTES }).await? {
        Got::Object(object) => object,
        Got::Absent => return Ok(Inspected::Absent),
        Got::TooLarge { size } => return Ok(Inspected::Refused(too_large(size))),
    };
    let of = key.clone();
    let verdict = offload(move || judge(object, &of)).await;
    Ok(match verdict {
        Ok(Ok(accepted)) => Inspected::Accepted(Box::new(accepted)),
        Ok(Err(refused)) => Inspected::Refused(refused),
        Err(e) => {
            let detail = format!("reading it failed: {e}");
            Inspected::Refused(Refused::unread(QuarantineReason::Unreadable, detail))
        }
    })
}

/// The refusal of an object of `size` bytes.
pub fn too_large(size: u64) -> Refused {
    let detail = format!("it has {size} bytes, at most {MAX_OBJECT_BYTES} are taken");
    Refused::unread(QuarantineReason::TooLarge, detail)
}

/// The verdict on an object's bytes.
pub fn judge(object: Object, key: &SegmentKey) -> Result<Accepted, Refused> {
    let Object { bytes, digest: claimed, etag: _ } = object;
    let (size, digest) = (bytes.len() as u64, Digest::of(&bytes));
    check(key, Facts { size, digest, claimed, content: content::read(bytes, key) })
}

/// A footer that was read again, or why it can't be.
#[derive(Debug)]
pub enum Footer {
    /// The footer.
    Read(Arc<ParquetMetaData>),
    /// The object is gone, or isn't the one that was checked.
    Gone,
}

/// Reads the footer of an object that was checked before, if it still has that etag.
pub async fn footer(bucket: &dyn Bucket, object_key: &str, etag: &str) -> Result<Footer, BucketError> {
    Ok(match read_footer(bucket, object_key, Some(etag)).await? {
        Latest::Read(footer) => Footer::Read(footer),
        Latest::Unreadable(_) | Latest::Gone => Footer::Gone,
    })
}

/// The footer of whatever lies at a key.
#[derive(Debug)]
pub enum Latest {
    /// The footer.
    Read(Arc<ParquetMetaData>),
    /// There is an object, and its footer can't be read.
    Unreadable(String),
    /// There is none.
    Gone,
}

/// Reads the footer of the object at `object_key`, whichever it is.
pub async fn latest_footer(bucket: &dyn Bucket, object_key: &str) -> Result<Latest, BucketError> {
    read_footer(bucket, object_key, None).await
}

async fn read_footer(
    bucket: &dyn Bucket,
    object_key: &str,
    etag: Option<&str>,
) -> Result<Latest, BucketError> {
    let mut bytes = TAIL_BYTES;
    loop {
        let object = match bucket.get(object_key, Extent::Tail { bytes }).await? {
            Got::Object(object) if etag.is_none_or(|etag| etag == object.etag) => object,
            Got::Object(_) | Got::Absent | Got::TooLarge { .. } => return Ok(Latest::Gone),
        };
        match content::read_footer(&object.bytes) {
            Ok(Ok(footer)) => return Ok(Latest::Read(footer)),
            Ok(Err(needed)) if needed > bytes && needed <= MAX_FOOTER_BYTES => bytes = needed,
            Ok(Err(needed)) => return Ok(Latest::Unreadable(format!("its footer claims {needed} bytes"))),
            Err(why) => return Ok(Latest::Unreadable(why)),
        }
    }
}

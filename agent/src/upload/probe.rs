//! The one question asked of a store before anything is entrusted to it: does it honour `If-None-Match: *`?
//!
//! Without it a create-only request overwrites, and everything that relies on names being written once is void. The
//! question is asked with the gateway's status object, the only one that it may replace.

use bytes::Bytes;
use tributary_contract::digest::Digest;

use super::answer::Answer;
use super::bucket::{Bucket, Content};
use super::classify::{Outcome, classify};

/// What the store did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// It refused to create what exists.
    Honoured,
    /// It overwrote: nothing may be sent to it.
    Ignored,
}

impl Probe {
    /// What to tell the operator about a store that is refused.
    pub const REFUSAL: &'static str = "the bucket's store ignores If-None-Match: it would overwrite segments, so \
                                       nothing is sent to it; use a store with conditional writes (AWS S3, MinIO, \
                                       Ceph and others have them in current versions)";
}

/// Asks. `status` is the JSON of the gateway's status, so that readers of `status_key` see a valid one at any time.
///
/// Two creations in a row: the first finds the object or makes it, the second must be refused. An answer that says
/// neither is given back, and the question is asked again later.
pub async fn probe<B: Bucket>(bucket: &B, status_key: &str, status: Bytes) -> Result<Probe, Answer> {
    let digest = Digest::of(&status);
    for _ in 0..2 {
        match bucket.put_new(status_key, Content::Bytes(status.clone()), digest).await {
            Ok(()) => {}
            Err(answer) if classify(&answer) == Outcome::Conflict => return Ok(Probe::Honoured),
            Err(answer) => return Err(answer),
        }
    }
    Ok(Probe::Ignored)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upload::answer::Transport;
    use crate::upload::memory::{Fault, MemoryBucket, Reply};

    #[tokio::test]
    async fn a_store_that_overwrites_is_found_out_and_one_that_refuses_is_trusted() {
        let status = Bytes::from_static(b"{}");
        for existing in [false, true] {
            let honest = MemoryBucket::new();
            let sloppy = MemoryBucket::that_ignores_conditions();
            if existing {
                honest.put_replace("status/gw.json", status.clone()).await.unwrap();
                sloppy.put_replace("status/gw.json", status.clone()).await.unwrap();
            }
            assert_eq!(probe(&honest, "status/gw.json", status.clone()).await, Ok(Probe::Honoured));
            assert_eq!(probe(&sloppy, "status/gw.json", status.clone()).await, Ok(Probe::Ignored));
        }
    }

    #[tokio::test]
    async fn a_store_that_does_not_answer_is_neither_trusted_nor_refused() {
        let bucket = MemoryBucket::new();
        for fault in [Fault::before(Reply::Nothing(Transport::NoConnection)), Fault::lost_reply()] {
            bucket.script([Some(fault)]);
            assert!(probe(&bucket, "status/gw.json", Bytes::from_static(b"{}")).await.is_err());
        }
    }
}

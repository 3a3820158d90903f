//! One step of one upload, done: asks the bucket and classifies what came back. Any [`Bucket`] will do.

use std::path::Path;

use tributary_contract::digest::Digest;
use tributary_contract::key::Prefix;

use super::answer::{Answer, Code, Got, Operation, Transport};
use super::bucket::{Bucket, Content};
use super::classify::classify;
use super::step::{Event, Step};
use crate::buffer::entry::Entry;

/// Does `step` for `entry`, whose bytes are in `file`; they give way to what is sent beside them if they are to. None for
/// [`Step::Nothing`].
pub async fn perform<B: Bucket>(
    bucket: &B,
    prefix: &Prefix,
    entry: &Entry,
    file: &Path,
    step: &Step,
    gives_way: bool,
) -> Option<Event> {
    let key = entry.key.object_key(prefix);
    let stretch = |offset, length| Content::File { path: file.to_owned(), offset, length, gives_way };
    let done = match step {
        Step::Nothing => return None,
        Step::Put => bucket.put_new(&key, stretch(0, entry.size), entry.digest).await.map(|()| Event::Stored),
        Step::CreateMultipart { part_size } => bucket
            .create_multipart(&key, entry.digest)
            .await
            .map(|upload_id| Event::Opened { upload_id, part_size: *part_size }),
        Step::ListParts { upload_id } => bucket.list_parts(&key, upload_id).await.map(Event::Parts),
        Step::UploadPart { upload_id, number, offset, length } => bucket
            .upload_part(&key, upload_id, *number, stretch(*offset, *length))
            .await
            .map(Event::PartStored),
        Step::Complete { upload_id, parts } => {
            // Parts carry checksums of what was read, not of what was sealed: only now can the whole be vouched for.
            match damaged(entry, file, Operation::Complete).await {
                Some(answer) => Err(answer),
                None => bucket.complete(&key, upload_id, parts).await.map(|()| Event::Stored),
            }
        }
        Step::Look => bucket.head(&key).await.map(Event::Found),
    };
    Some(match done {
        Ok(event) => event,
        Err(answer) => {
            let spoilt = matches!(answer.got, Got::Reply { code: Some(Code::BadDigest), .. });
            // Spoilt on the way is worth another try; spoilt on our disk is not.
            let on_disk = if spoilt { damaged(entry, file, answer.operation).await } else { None };
            let answer = on_disk.unwrap_or(answer);
            Event::Failed { outcome: classify(&answer), answer }
        }
    })
}

/// Whether the file no longer holds what was sealed, as the answer that this amounts to.
async fn damaged(entry: &Entry, file: &Path, operation: Operation) -> Option<Answer> {
    let content = Content::File { path: file.to_owned(), offset: 0, length: entry.size, gives_way: false };
    let detail = match content.digest().await {
        Ok(digest) if digest == entry.digest => return None,
        Ok(digest) => {
            format!("the file's digest is {digest}, it was sealed with {}: the disk damaged it", entry.digest)
        }
        Err(e) => e.to_string(),
    };
    Some(Answer { operation, got: Got::Nothing(Transport::File), detail })
}

impl Content {
    /// The digest of all its bytes.
    pub async fn digest(&self) -> std::io::Result<Digest> {
        use sha2::Digest as _;
        let mut hash = sha2::Sha256::new();
        self.each_piece(|piece| hash.update(piece)).await?;
        Ok(Digest(hash.finalize().into()))
    }
}

//! Conditional requests: which writes and reads S3 refuses because of what stands under the key.

use s3s::dto::{ETagCondition, Timestamp};
use s3s::{S3Result, s3_error};

use super::model::{Object, time_of};

/// What must hold under a key at the moment of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteCondition {
    /// Anything.
    Always,
    /// Nothing stands there (`If-None-Match: *`).
    Absent,
    /// An object with this ETag stands there (`If-Match`).
    Matches(String),
}

impl WriteCondition {
    /// Reads the two headers of a write.
    ///
    /// # Errors
    /// `NotImplemented` for the forms that S3 doesn't implement: both at once, `If-None-Match` with an ETag,
    /// `If-Match: *`.
    pub fn of(if_match: Option<&ETagCondition>, if_none_match: Option<&ETagCondition>) -> S3Result<Self> {
        match (if_match, if_none_match) {
            (None, None) => Ok(Self::Always),
            (None, Some(ETagCondition::Any)) => Ok(Self::Absent),
            (Some(ETagCondition::ETag(etag)), None) => Ok(Self::Matches(etag.value().to_owned())),
            (Some(_), Some(_)) | (None, Some(ETagCondition::ETag(_))) | (Some(ETagCondition::Any), None) => {
                Err(s3_error!(
                    NotImplemented,
                    "A header you provided implies functionality that is not implemented: on writes S3 takes If-None-Match: * or If-Match with one ETag"
                ))
            }
        }
    }

    /// Decides over what stands under the key now.
    ///
    /// # Errors
    /// `PreconditionFailed`, or `NoSuchKey` for `If-Match` on a key without an object.
    pub fn check(&self, current: Option<&Object>) -> S3Result<()> {
        match (self, current) {
            (Self::Always, _) | (Self::Absent, None) => Ok(()),
            (Self::Absent, Some(_)) => Err(failed("If-None-Match")),
            (Self::Matches(_), None) => Err(s3_error!(NoSuchKey, "The specified key does not exist.")),
            (Self::Matches(etag), Some(object)) if *etag == object.etag => Ok(()),
            (Self::Matches(_), Some(_)) => Err(failed("If-Match")),
        }
    }
}

/// The conditions of a GET or HEAD.
#[derive(Debug, Default)]
pub struct ReadCondition {
    /// `If-Match`.
    pub if_match: Option<ETagCondition>,
    /// `If-None-Match`.
    pub if_none_match: Option<ETagCondition>,
    /// `If-Modified-Since`.
    pub if_modified_since: Option<Timestamp>,
    /// `If-Unmodified-Since`.
    pub if_unmodified_since: Option<Timestamp>,
}

impl ReadCondition {
    /// Decides over the object that stands under the key.
    ///
    /// # Errors
    /// `PreconditionFailed` (412) or `NotModified` (304), in the precedence of RFC 9110.
    pub fn check(&self, object: &Object) -> S3Result<()> {
        // HTTP dates have whole seconds; the object's own fraction must not make it look newer.
        let modified = Timestamp::from(time_of(object.modified_ms / 1000 * 1000));
        match (&self.if_match, &self.if_unmodified_since) {
            (Some(condition), _) if !holds(condition, object) => return Err(failed("If-Match")),
            (None, Some(since)) if modified > *since => return Err(failed("If-Unmodified-Since")),
            _ => {}
        }
        match (&self.if_none_match, &self.if_modified_since) {
            (Some(condition), _) if holds(condition, object) => Err(not_modified(object)),
            (None, Some(since)) if modified <= *since => Err(not_modified(object)),
            _ => Ok(()),
        }
    }
}

fn holds(condition: &ETagCondition, object: &Object) -> bool {
    match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(etag) => etag.value() == object.etag,
    }
}

fn failed(header: &str) -> s3s::S3Error {
    s3_error!(PreconditionFailed, "At least one of the pre-conditions you specified did not hold: {header}")
}

fn not_modified(object: &Object) -> s3s::S3Error {
    let mut error = s3_error!(NotModified, "Not Modified");
    let mut headers = hyper::HeaderMap::new();
    if let Ok(etag) = format!("\"{}\"", object.etag).parse() {
        headers.insert(hyper::header::ETAG, etag);
    }
    error.set_headers(headers);
    error
}

//! Every answer of the bucket, classified once: what we do next, and with it what becomes of the data.

use super::answer::{Answer, Code, Got, Operation, Transport};

/// What to do about an answer that isn't success. In no case does a segment leave the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Nothing happened, and nothing is wrong with the link: ask the same again after a short pause. The segment's
    /// file and state stay.
    Again,
    /// The link or the store isn't well, nothing happened: ask the same again after a growing pause, which holds for
    /// everything that wants to go over the link. The segment's file and state stay.
    Later,
    /// It may have happened, or have happened long ago: look at the object before anything else. The segment's file
    /// and state stay until the look.
    LookFirst(Lost),
    /// An object holds the name: ours, from an attempt whose reply was lost, or another's. Look whose it is: with our
    /// digest the segment is delivered, with another it is superseded.
    Conflict,
    /// There is no such object. A segment that was looked for is sent again.
    Absent,
    /// The bucket won't say whether there is such an object (403: that is also its answer for an absent one to those
    /// who may not list). Never a reason to stop; a create-only request settles it.
    Unknown,
    /// The store will never take this segment as it is. It is held on disk, counted and shown; the others go on.
    Refused,
    /// The store takes nothing from us: keys, policy, bucket or endpoint are wrong. All stays as it is, the operator
    /// is told, and it is tried again at the longest pause.
    Stop,
}

impl Outcome {
    /// Whether it says something about the link or the store as a whole: then nothing else is sent before the pause is
    /// over either.
    pub const fn holds_the_link(self) -> bool {
        match self {
            Outcome::Later | Outcome::Stop => true,
            Outcome::Again
            | Outcome::LookFirst(_)
            | Outcome::Conflict
            | Outcome::Absent
            | Outcome::Unknown
            | Outcome::Refused => false,
        }
    }
}

/// What was lost when a look is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lost {
    /// The reply to a request that creates the object.
    Reply,
    /// The multipart upload: completed (perhaps by us, with the reply lost) or given up by the bucket.
    Upload,
}

/// What to do about `answer`.
pub fn classify(answer: &Answer) -> Outcome {
    let operation = answer.operation;
    match &answer.got {
        Got::Nothing(transport) => match transport {
            Transport::NoAddress | Transport::NoConnection | Transport::Tls | Transport::NoCredentialsNow => {
                Outcome::Later
            }
            Transport::NoReply => effect_unknown(operation, Outcome::Later),
            Transport::NoCredentials | Transport::NotBuilt => Outcome::Stop,
            Transport::File => Outcome::Refused,
        },
        Got::Reply { status, code: Some(code) } => match code {
            // A look is answered with 403 for an absent object too, if we may not list; see `Outcome::Unknown`.
            Code::AccessDenied => refused_access(operation),
            Code::SignatureDoesNotMatch | Code::NoSuchBucket | Code::WrongRegion | Code::NotImplemented => {
                Outcome::Stop
            }
            // Fresh keys and a corrected clock come by themselves. Keys that nobody knows may have been replaced.
            Code::RequestTimeTooSkewed | Code::ExpiredToken | Code::InvalidAccessKeyId => Outcome::Later,
            Code::NoSuchKey => absent(operation),
            Code::NoSuchUpload => Outcome::LookFirst(Lost::Upload),
            Code::PreconditionFailed => taken(operation),
            Code::ConditionalRequestConflict => effect_unknown_at_complete(operation, Outcome::Again),
            Code::BadDigest => Outcome::Again,
            // The look finds nothing, and then the parts are listed anew.
            Code::InvalidPart => effect_unknown_at_complete(operation, Outcome::Again),
            Code::EntityTooSmall | Code::EntityTooLarge | Code::KeyTooLong => Outcome::Refused,
            Code::SlowBody | Code::SlowDown | Code::Unavailable => {
                effect_unknown_at_complete(operation, Outcome::Later)
            }
            Code::InternalError => effect_unknown(operation, Outcome::Later),
            // The store understood and refused: this request is at fault, not the link.
            Code::Other(_) if (400..500).contains(status) && !retryable(*status) => {
                by_status(operation, *status, Outcome::Refused)
            }
            Code::Other(_) => by_status(operation, *status, Outcome::Later),
        },
        // No code: a reply to HEAD, or the word of a proxy or a captive portal, which says nothing about a segment.
        Got::Reply { status, code: None } => by_status(operation, *status, Outcome::Later),
    }
}

fn by_status(operation: Operation, status: u16, otherwise: Outcome) -> Outcome {
    match status {
        401 => Outcome::Stop,
        403 => refused_access(operation),
        404 => absent(operation),
        409 => effect_unknown_at_complete(operation, Outcome::Again),
        412 => taken(operation),
        429 | 503 => effect_unknown_at_complete(operation, Outcome::Later),
        // An unreadable success, or a failure in the middle.
        200..=299 | 500..=599 => effect_unknown(operation, Outcome::Later),
        _ => otherwise,
    }
}

const fn retryable(status: u16) -> bool {
    matches!(status, 408 | 425 | 429)
}

/// Requests that create the object may have done so.
const fn effect_unknown(operation: Operation, otherwise: Outcome) -> Outcome {
    match operation {
        Operation::PutNew | Operation::Complete => Outcome::LookFirst(Lost::Reply),
        Operation::CreateMultipart
        | Operation::UploadPart
        | Operation::ListParts
        | Operation::Head
        | Operation::Get
        | Operation::PutReplace => otherwise,
    }
}

/// Complete is the one request whose repetition can't tell our own success from a failure.
const fn effect_unknown_at_complete(operation: Operation, otherwise: Outcome) -> Outcome {
    match operation {
        Operation::Complete => Outcome::LookFirst(Lost::Reply),
        Operation::PutNew
        | Operation::CreateMultipart
        | Operation::UploadPart
        | Operation::ListParts
        | Operation::Head
        | Operation::Get
        | Operation::PutReplace => otherwise,
    }
}

const fn refused_access(operation: Operation) -> Outcome {
    match operation {
        Operation::Head | Operation::Get => Outcome::Unknown,
        Operation::PutNew
        | Operation::CreateMultipart
        | Operation::UploadPart
        | Operation::ListParts
        | Operation::Complete
        | Operation::PutReplace => Outcome::Stop,
    }
}

const fn absent(operation: Operation) -> Outcome {
    match operation {
        Operation::Head | Operation::Get => Outcome::Absent,
        // Some stores answer so instead of NoSuchUpload.
        Operation::UploadPart | Operation::ListParts | Operation::Complete => {
            Outcome::LookFirst(Lost::Upload)
        }
        // No bucket, or no S3, behind this endpoint; a proxy in between may also say so for a while.
        Operation::PutNew | Operation::CreateMultipart | Operation::PutReplace => Outcome::Later,
    }
}

const fn taken(operation: Operation) -> Outcome {
    match operation {
        Operation::PutNew | Operation::Complete => Outcome::Conflict,
        // No condition was set on these.
        Operation::CreateMultipart
        | Operation::UploadPart
        | Operation::ListParts
        | Operation::Head
        | Operation::Get
        | Operation::PutReplace => Outcome::Later,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(operation: Operation, status: u16, code: &str) -> Outcome {
        let code = (!code.is_empty()).then(|| Code::parse(code));
        classify(&Answer { operation, got: Got::Reply { status, code }, detail: String::new() })
    }

    fn nothing(operation: Operation, transport: Transport) -> Outcome {
        classify(&Answer { operation, got: Got::Nothing(transport), detail: String::new() })
    }

    #[test]
    fn each_answer_means_one_thing() {
        use Operation::*;
        use Outcome::{Absent, Again, Conflict, Later, LookFirst, Refused, Stop, Unknown};
        let table = [
            (PutNew, 412, "PreconditionFailed", Conflict),
            (PutNew, 412, "", Conflict),
            (Complete, 412, "PreconditionFailed", Conflict),
            (PutNew, 409, "ConditionalRequestConflict", Again),
            (Complete, 409, "ConditionalRequestConflict", LookFirst(Lost::Reply)),
            (Complete, 409, "", LookFirst(Lost::Reply)),
            (Complete, 404, "NoSuchUpload", LookFirst(Lost::Upload)),
            (UploadPart, 404, "NoSuchUpload", LookFirst(Lost::Upload)),
            (ListParts, 404, "NoSuchUpload", LookFirst(Lost::Upload)),
            (PutNew, 404, "NoSuchBucket", Stop),
            (Head, 404, "", Absent),
            (Head, 404, "NotFound", Absent),
            (Get, 404, "NoSuchKey", Absent),
            (Head, 403, "", Unknown),
            (Get, 403, "AccessDenied", Unknown),
            (Get, 403, "SignatureDoesNotMatch", Stop),
            (PutNew, 403, "AccessDenied", Stop),
            (PutNew, 403, "", Stop),
            (PutNew, 403, "SignatureDoesNotMatch", Stop),
            (PutNew, 403, "InvalidAccessKeyId", Later),
            (PutNew, 403, "RequestTimeTooSkewed", Later),
            (PutNew, 400, "ExpiredToken", Later),
            (PutNew, 400, "BadDigest", Again),
            (UploadPart, 400, "XAmzContentChecksumMismatch", Again),
            (Complete, 400, "InvalidPart", LookFirst(Lost::Reply)),
            (Complete, 400, "EntityTooSmall", Refused),
            (PutNew, 400, "EntityTooLarge", Refused),
            (PutNew, 400, "KeyTooLongError", Refused),
            (PutNew, 400, "SomethingNew", Refused),
            (PutNew, 400, "", Later),
            (PutNew, 400, "RequestTimeout", Later),
            (PutNew, 400, "IncompleteBody", Later),
            (PutNew, 500, "InternalError", LookFirst(Lost::Reply)),
            (UploadPart, 500, "InternalError", Later),
            (PutNew, 502, "", LookFirst(Lost::Reply)),
            (PutNew, 503, "SlowDown", Later),
            (PutNew, 503, "", Later),
            (Complete, 503, "SlowDown", LookFirst(Lost::Reply)),
            (Complete, 200, "InternalError", LookFirst(Lost::Reply)),
            (Complete, 200, "", LookFirst(Lost::Reply)),
            (PutNew, 301, "PermanentRedirect", Stop),
            (PutNew, 302, "", Later),
            (PutNew, 501, "NotImplemented", Stop),
            (PutNew, 401, "", Stop),
            (PutReplace, 500, "InternalError", Later),
        ];
        for (operation, status, code, expected) in table {
            assert_eq!(reply(operation, status, code), expected, "{operation} {status} {code}");
        }
        let table = [
            (PutNew, Transport::NoConnection, Later),
            (PutNew, Transport::NoAddress, Later),
            (PutNew, Transport::Tls, Later),
            (PutNew, Transport::NoReply, LookFirst(Lost::Reply)),
            (Complete, Transport::NoReply, LookFirst(Lost::Reply)),
            (UploadPart, Transport::NoReply, Later),
            (Head, Transport::NoReply, Later),
            (PutNew, Transport::NoCredentials, Stop),
            (PutNew, Transport::NoCredentialsNow, Later),
            (PutNew, Transport::File, Refused),
        ];
        for (operation, transport, expected) in table {
            assert_eq!(nothing(operation, transport), expected, "{operation} {transport:?}");
        }
    }

    /// Stopping or holding on a look would leave a lost reply unsettled for ever.
    #[test]
    fn the_status_of_a_head_never_stops_or_holds_anything() {
        for status in 400..600 {
            let outcome = reply(Operation::Head, status, "");
            assert!(!matches!(outcome, Outcome::Refused), "{status}: {outcome:?}");
            assert!(status == 401 || outcome != Outcome::Stop, "{status}: {outcome:?}");
        }
    }

    #[test]
    fn only_a_creating_request_can_find_its_name_taken() {
        for operation in Operation::ALL {
            let creates = matches!(operation, Operation::PutNew | Operation::Complete);
            assert_eq!(reply(operation, 412, "") == Outcome::Conflict, creates, "{operation}");
        }
    }

    #[test]
    fn codes_read_back_as_they_are_written() {
        for code in Code::KNOWN {
            assert_eq!(&Code::parse(&code.to_string()), code);
        }
        assert_eq!(Code::parse("Odd"), Code::Other("Odd".into()));
    }
}

//! What came back from the bucket when it wasn't what was asked for: a plain description, nothing decided yet.

use std::fmt;

/// What was asked of the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Create an object in one request, only if its name is free.
    PutNew,
    /// Open a multipart upload.
    CreateMultipart,
    /// Send one part.
    UploadPart,
    /// Ask which parts the bucket has.
    ListParts,
    /// Make the object of its parts, only if its name is free.
    Complete,
    /// Ask whether an object is there, and its digest.
    Head,
    /// Read a small object.
    Get,
    /// Replace a small object of our own.
    PutReplace,
}

impl Operation {
    /// All of them.
    pub const ALL: [Operation; 8] = [
        Operation::PutNew,
        Operation::CreateMultipart,
        Operation::UploadPart,
        Operation::ListParts,
        Operation::Complete,
        Operation::Head,
        Operation::Get,
        Operation::PutReplace,
    ];
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operation::PutNew => "PutObject (create)",
            Operation::CreateMultipart => "CreateMultipartUpload",
            Operation::UploadPart => "UploadPart",
            Operation::ListParts => "ListParts",
            Operation::Complete => "CompleteMultipartUpload",
            Operation::Head => "HeadObject",
            Operation::Get => "GetObject",
            Operation::PutReplace => "PutObject (replace)",
        })
    }
}

/// An answer other than success.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{operation}: {got}{}{detail}", if detail.is_empty() { "" } else { ": " })]
pub struct Answer {
    /// What was asked.
    pub operation: Operation,
    /// What came back, or didn't.
    pub got: Got,
    /// The store's or the system's own words, for people; nothing is decided by it.
    pub detail: String,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Got {
    /// A reply of the store.
    Reply {
        /// HTTP status. 200 too: some operations report their failure in the body.
        status: u16,
        /// The store's error code, where the reply has one; replies to HEAD never do.
        code: Option<Code>,
    },
    /// No reply.
    Nothing(Transport),
}

/// Why there is no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// The host's name has no address. Nothing was sent.
    NoAddress,
    /// Refused, unreachable, or not connected in time. Nothing was sent.
    NoConnection,
    /// The TLS handshake failed. Nothing was sent.
    Tls,
    /// The connection broke, stalled, or gave something that isn't HTTP. The request may have had its effect.
    NoReply,
    /// There are no keys to sign with, and only a person can help. Nothing was sent.
    NoCredentials,
    /// Nobody gives keys to sign with just now. Nothing was sent.
    NoCredentialsNow,
    /// The segment's file can't be read. Nothing whole was sent.
    File,
    /// The request couldn't be built. Nothing was sent.
    NotBuilt,
}

impl fmt::Display for Got {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Got::Reply { status, code: Some(code) } => write!(f, "{status} {code}"),
            Got::Reply { status, code: None } => write!(f, "{status}"),
            Got::Nothing(transport) => f.write_str(match transport {
                Transport::NoAddress => "the endpoint's name has no address",
                Transport::NoConnection => "no connection to the endpoint",
                Transport::Tls => "no trusted TLS connection to the endpoint",
                Transport::NoReply => "the connection gave no whole reply",
                Transport::NoCredentials => "no credentials to sign with",
                Transport::NoCredentialsNow => "no credentials to sign with for now",
                Transport::File => "the segment's file can't be read",
                Transport::NotBuilt => "the request couldn't be built",
            }),
        }
    }
}

macro_rules! error_codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal $(| $more:literal)*,)*) => {
        /// Error codes of S3 and its look-alikes, as far as they make a difference to what we do next.
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[$doc])* $variant,)*
            /// A code that makes no difference by itself; the status decides.
            Other(String),
        }

        impl Code {
            /// The ones with a meaning of their own.
            pub const KNOWN: &'static [Code] = &[$(Code::$variant),*];

            /// Reads the store's spelling.
            pub fn parse(code: &str) -> Self {
                match code {
                    $($text $(| $more)* => Code::$variant,)*
                    other => Code::Other(other.chars().take(80).collect()),
                }
            }
        }

        impl fmt::Display for Code {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Code::$variant => $text,)*
                    Code::Other(other) => other,
                })
            }
        }
    };
}

error_codes! {
    /// The policy says no.
    AccessDenied = "AccessDenied" | "AllAccessDisabled" | "AccountProblem" | "Forbidden",
    /// The keys are unknown.
    InvalidAccessKeyId = "InvalidAccessKeyId" | "InvalidToken" | "InvalidSecurity" | "UnrecognizedClientException",
    /// The secret is wrong.
    SignatureDoesNotMatch = "SignatureDoesNotMatch",
    /// The gateway's clock is too far off.
    RequestTimeTooSkewed = "RequestTimeTooSkewed" | "RequestExpired" | "RequestInTheFuture",
    /// The session's keys have expired; new ones may be had.
    ExpiredToken = "ExpiredToken" | "TokenRefreshRequired",
    /// The bucket doesn't exist, or not here.
    NoSuchBucket = "NoSuchBucket" | "InvalidBucketName" | "InvalidBucketState",
    /// The bucket lives in another region or behind another endpoint.
    WrongRegion = "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException",
    /// The store doesn't know what we ask for.
    NotImplemented = "NotImplemented" | "MethodNotAllowed",
    /// No such object.
    NoSuchKey = "NoSuchKey" | "NotFound" | "NoSuchVersion",
    /// No such multipart upload: never was, was given up, or was completed.
    NoSuchUpload = "NoSuchUpload",
    /// The name is taken.
    PreconditionFailed = "PreconditionFailed",
    /// Another request for the same name is under way.
    ConditionalRequestConflict = "ConditionalRequestConflict" | "OperationAborted",
    /// Bytes changed on the way, or on our disk.
    BadDigest = "BadDigest" | "XAmzContentSHA256Mismatch" | "XAmzContentChecksumMismatch" | "InvalidDigest",
    /// The store's parts aren't the ones we name.
    InvalidPart = "InvalidPart" | "InvalidPartOrder",
    /// Parts are smaller than the store takes.
    EntityTooSmall = "EntityTooSmall",
    /// The object is larger than the store takes.
    EntityTooLarge = "EntityTooLarge",
    /// The name is longer than the store takes.
    KeyTooLong = "KeyTooLongError",
    /// The body came too slowly, or not whole; nothing is kept.
    SlowBody = "RequestTimeout" | "IncompleteBody" | "MissingContentLength",
    /// The store asks for patience.
    SlowDown = "SlowDown" | "Throttling" | "ThrottlingException" | "RequestLimitExceeded" | "TooManyRequests",
    /// The store is unwell.
    Unavailable = "ServiceUnavailable" | "Busy" | "ServerBusy",
    /// The store failed in the middle.
    InternalError = "InternalError" | "InternalFailure",
}

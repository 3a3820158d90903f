//! Checksums as S3 defines them: the algorithms, what a request claims of its body, and what the bytes say.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::HeaderMap;
use s3s::crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Md5, Sha1, Sha256};
use s3s::{S3Result, s3_error};
use serde::{Deserialize, Serialize};

/// A checksum algorithm that S3 takes in `x-amz-checksum-*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// CRC-32 as in zlib.
    Crc32,
    /// CRC-32 with the Castagnoli polynomial.
    Crc32c,
    /// CRC-64/NVME, what S3 computes when a client names nothing.
    Crc64Nvme,
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
}

/// Whether the checksum of a multipart object covers its bytes or the checksums of its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Over all bytes.
    FullObject,
    /// Over the parts' raw checksums, written with `-N` behind it.
    Composite,
}

/// A checksum as it is kept and echoed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    /// How it was computed.
    pub algorithm: Algorithm,
    /// What it covers.
    pub kind: Kind,
    /// Base64 of the raw checksum; composite ones end in `-N`.
    pub value: String,
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Algorithm; 5] = [Self::Crc32, Self::Crc32c, Self::Crc64Nvme, Self::Sha1, Self::Sha256];

    /// Its name in S3's API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Crc64Nvme => "CRC64NVME",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
        }
    }

    /// The algorithm of an API name, in any case.
    ///
    /// # Errors
    /// `InvalidRequest` for a name that S3 doesn't know.
    pub fn parse(name: &str) -> S3Result<Self> {
        Self::ALL.into_iter().find(|a| a.name().eq_ignore_ascii_case(name)).ok_or_else(|| {
            s3_error!(InvalidRequest, "Checksum algorithm provided is unsupported: {name}. Use one of CRC32, CRC32C, CRC64NVME, SHA1, SHA256")
        })
    }

    /// What a multipart checksum covers unless the client says otherwise.
    pub fn default_kind(self) -> Kind {
        match self {
            Self::Crc64Nvme => Kind::FullObject,
            Self::Crc32 | Self::Crc32c | Self::Sha1 | Self::Sha256 => Kind::Composite,
        }
    }

    /// Whether S3 can compute a multipart checksum of this kind.
    pub fn allows(self, kind: Kind) -> bool {
        match (self, kind) {
            (Self::Crc64Nvme, Kind::Composite) | (Self::Sha1 | Self::Sha256, Kind::FullObject) => false,
            (Self::Crc32 | Self::Crc32c, _)
            | (Self::Crc64Nvme, Kind::FullObject)
            | (Self::Sha1 | Self::Sha256, Kind::Composite) => true,
        }
    }

    fn raw_len(self) -> usize {
        match self {
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64Nvme => 8,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }
}

impl Kind {
    /// Its name in S3's API.
    pub fn name(self) -> &'static str {
        match self {
            Self::FullObject => "FULL_OBJECT",
            Self::Composite => "COMPOSITE",
        }
    }

    /// The kind of an API name.
    ///
    /// # Errors
    /// `InvalidRequest` for another name.
    pub fn parse(name: &str) -> S3Result<Self> {
        match name {
            "FULL_OBJECT" => Ok(Self::FullObject),
            "COMPOSITE" => Ok(Self::Composite),
            other => Err(s3_error!(
                InvalidRequest,
                "Value for x-amz-checksum-type header is invalid: {other}. Use COMPOSITE or FULL_OBJECT"
            )),
        }
    }
}

/// One running checksum.
pub struct Hasher(Running);

enum Running {
    Crc32(Crc32),
    Crc32c(Crc32c),
    Crc64Nvme(Crc64Nvme),
    Sha1(Sha1),
    Sha256(Sha256),
}

impl Hasher {
    /// Starts with no bytes.
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Crc32 => Running::Crc32(Crc32::new()),
            Algorithm::Crc32c => Running::Crc32c(Crc32c::new()),
            Algorithm::Crc64Nvme => Running::Crc64Nvme(Crc64Nvme::new()),
            Algorithm::Sha1 => Running::Sha1(Sha1::new()),
            Algorithm::Sha256 => Running::Sha256(Sha256::new()),
        })
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Running::Crc32(h) => h.update(bytes),
            Running::Crc32c(h) => h.update(bytes),
            Running::Crc64Nvme(h) => h.update(bytes),
            Running::Sha1(h) => h.update(bytes),
            Running::Sha256(h) => h.update(bytes),
        }
    }

    /// The checksum over everything taken, in base64.
    pub fn finish(self) -> String {
        match self.0 {
            Running::Crc32(h) => BASE64.encode(h.finalize()),
            Running::Crc32c(h) => BASE64.encode(h.finalize()),
            Running::Crc64Nvme(h) => BASE64.encode(h.finalize()),
            Running::Sha1(h) => BASE64.encode(h.finalize()),
            Running::Sha256(h) => BASE64.encode(h.finalize()),
        }
    }
}

/// MD5 and one checksum over the bytes of a body: everything S3 remembers of it.
pub struct Meter {
    size: u64,
    md5: Md5,
    algorithm: Algorithm,
    hasher: Hasher,
}

/// What a [`Meter`] saw.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Bytes.
    pub size: u64,
    /// Raw MD5.
    pub md5: [u8; 16],
    /// The checksum over the whole body.
    pub sum: Sum,
}

impl Meter {
    /// Starts with no bytes.
    pub fn new(algorithm: Algorithm) -> Self {
        Self { size: 0, md5: Md5::new(), algorithm, hasher: Hasher::new(algorithm) }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        self.md5.update(bytes);
        self.hasher.update(bytes);
    }

    /// Bytes so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Closes the sums.
    pub fn finish(self) -> Measured {
        let sum = Sum { algorithm: self.algorithm, kind: Kind::FullObject, value: self.hasher.finish() };
        Measured { size: self.size, md5: self.md5.finalize(), sum }
    }
}

impl Measured {
    /// The ETag of a body sent in one piece: its MD5 in hex.
    pub fn etag(&self) -> String {
        hex(&self.md5)
    }
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The checksum that a request's own headers state, if any.
///
/// # Errors
/// `InvalidRequest` for more than one or a malformed one, `NotImplemented` for algorithms we can't verify: an
/// unverified checksum must not look like a verified one.
pub fn stated(headers: &HeaderMap) -> S3Result<Option<(Algorithm, String)>> {
    let mut found = None;
    for (name, value) in headers {
        let Some(algorithm) = algorithm_of_header(name.as_str())? else { continue };
        if found.is_some() {
            return Err(s3_error!(
                InvalidRequest,
                "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed."
            ));
        }
        let value = value.to_str().map_err(|_| malformed(algorithm))?;
        found = Some((algorithm, value.trim().to_owned()));
    }
    Ok(found)
}

fn algorithm_of_header(name: &str) -> S3Result<Option<Algorithm>> {
    match name.strip_prefix("x-amz-checksum-") {
        None | Some("algorithm" | "type" | "mode") => Ok(None),
        Some(suffix) => match Algorithm::ALL.into_iter().find(|a| a.name().eq_ignore_ascii_case(suffix)) {
            Some(algorithm) => Ok(Some(algorithm)),
            None => Err(s3_error!(NotImplemented, "This server can't verify {name}")),
        },
    }
}

fn malformed(algorithm: Algorithm) -> s3s::S3Error {
    s3_error!(
        InvalidRequest,
        "Value for x-amz-checksum-{} header is invalid.",
        algorithm.name().to_lowercase()
    )
}

fn check_form(algorithm: Algorithm, value: &str) -> S3Result<()> {
    match BASE64.decode(value) {
        Ok(raw) if raw.len() == algorithm.raw_len() => Ok(()),
        Ok(_) | Err(_) => Err(malformed(algorithm)),
    }
}

/// What a request claims about its body, before the body is read.
#[derive(Debug)]
pub struct Claim {
    md5: Option<[u8; 16]>,
    sum: Stated,
}

#[derive(Debug)]
enum Stated {
    Nothing,
    Header(Algorithm, String),
    Trailer(Algorithm),
}

impl Claim {
    /// Reads `Content-MD5`, `x-amz-checksum-*`, `x-amz-trailer` and `x-amz-sdk-checksum-algorithm`.
    ///
    /// # Errors
    /// `InvalidDigest` or `InvalidRequest` where they contradict each other or are malformed.
    pub fn of(headers: &HeaderMap) -> S3Result<Self> {
        let md5 = match headers.get("content-md5") {
            None => None,
            Some(value) => {
                let raw = BASE64.decode(value.as_bytes()).ok().and_then(|raw| <[u8; 16]>::try_from(raw).ok());
                Some(
                    raw.ok_or_else(|| {
                        s3_error!(InvalidDigest, "The Content-MD5 you specified is not valid.")
                    })?,
                )
            }
        };
        let mut sum = match stated(headers)? {
            None => Stated::Nothing,
            Some((algorithm, value)) => {
                check_form(algorithm, &value)?;
                Stated::Header(algorithm, value)
            }
        };
        for value in headers.get_all("x-amz-trailer") {
            for name in value.to_str().unwrap_or_default().split(',') {
                let Some(algorithm) = algorithm_of_header(&name.trim().to_lowercase())? else { continue };
                if !matches!(sum, Stated::Nothing) {
                    return Err(s3_error!(
                        InvalidRequest,
                        "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed."
                    ));
                }
                sum = Stated::Trailer(algorithm);
            }
        }
        let claim = Self { md5, sum };
        if let Some(named) = headers.get("x-amz-sdk-checksum-algorithm") {
            let named = Algorithm::parse(named.to_str().unwrap_or_default())?;
            match claim.algorithm() {
                Some(stated) if stated == named => {}
                Some(_) => {
                    return Err(s3_error!(
                        InvalidRequest,
                        "Value for x-amz-sdk-checksum-algorithm header is invalid."
                    ));
                }
                None => {
                    return Err(s3_error!(
                        InvalidRequest,
                        "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer headers were found."
                    ));
                }
            }
        }
        Ok(claim)
    }

    /// The algorithm to run over the body, where the request names one.
    pub fn algorithm(&self) -> Option<Algorithm> {
        match self.sum {
            Stated::Nothing => None,
            Stated::Header(algorithm, _) | Stated::Trailer(algorithm) => Some(algorithm),
        }
    }

    /// Compares the claim, completed by the trailers behind the body, with what the body was.
    ///
    /// # Errors
    /// `BadDigest` where they differ, `InvalidRequest` where an announced trailer is missing or malformed.
    pub fn verify(&self, measured: &Measured, trailers: Option<&HeaderMap>) -> S3Result<()> {
        if self.md5.is_some_and(|md5| md5 != measured.md5) {
            return Err(s3_error!(
                BadDigest,
                "The Content-MD5 you specified did not match what we received."
            ));
        }
        let (algorithm, stated) = match &self.sum {
            Stated::Nothing => return Ok(()),
            Stated::Header(algorithm, value) => (*algorithm, value.clone()),
            Stated::Trailer(algorithm) => {
                let name = format!("x-amz-checksum-{}", algorithm.name().to_lowercase());
                let value =
                    trailers.and_then(|t| t.get(&name)).and_then(|v| v.to_str().ok()).ok_or_else(|| {
                        s3_error!(
                            InvalidRequest,
                            "x-amz-trailer announced {name}, but the body ended without it."
                        )
                    })?;
                check_form(*algorithm, value.trim())?;
                (*algorithm, value.trim().to_owned())
            }
        };
        if algorithm == measured.sum.algorithm && stated == measured.sum.value {
            Ok(())
        } else {
            Err(s3_error!(
                BadDigest,
                "The {} you specified did not match the calculated checksum.",
                algorithm.name()
            ))
        }
    }
}

/// The composite checksum of parts: the algorithm over their raw checksums, then `-N`.
///
/// # Errors
/// `InternalError` if a part's kept checksum isn't base64.
pub fn composite(algorithm: Algorithm, parts: &[&str]) -> S3Result<Sum> {
    let mut hasher = Hasher::new(algorithm);
    for part in parts {
        hasher.update(&BASE64.decode(part).map_err(s3s::S3Error::internal_error)?);
    }
    let value = format!("{}-{}", hasher.finish(), parts.len());
    Ok(Sum { algorithm, kind: Kind::Composite, value })
}

//! The rules of multipart uploads: what an upload agrees on, and which list of parts completes it.

use s3s::crypto::{Checksum as _, Md5};
use s3s::{S3Result, s3_error};

use super::model::{Part, Upload};
use super::sums::{self, Algorithm, Kind, Sum};

/// The least size of every part but the last, in bytes.
pub const MIN_PART: u64 = 5 * 1024 * 1024;

/// The greatest part number.
pub const MAX_PART_NUMBER: u16 = 10_000;

/// A part as a Complete names it.
#[derive(Debug, Clone)]
pub struct NamedPart {
    /// Its number, as sent.
    pub number: i32,
    /// ETag without quotes.
    pub etag: String,
    /// Its checksums, as sent.
    pub sums: Vec<(Algorithm, String)>,
}

/// Checks a part number as sent.
///
/// # Errors
/// `InvalidArgument` outside 1 to 10,000.
pub fn part_number(number: i32) -> S3Result<u16> {
    u16::try_from(number).ok().filter(|n| (1..=MAX_PART_NUMBER).contains(n)).ok_or_else(|| {
        s3_error!(
            InvalidArgument,
            "Part number must be an integer between 1 and 10000, inclusive; got {number}"
        )
    })
}

/// What the checksum of the object will cover.
///
/// # Errors
/// `InvalidRequest` for combinations that S3 can't compute, and for a kind without an algorithm.
pub fn kind_of(algorithm: Option<Algorithm>, kind: Option<Kind>) -> S3Result<Kind> {
    match (algorithm, kind) {
        (None, None) => Ok(Algorithm::Crc64Nvme.default_kind()),
        (None, Some(_)) => Err(s3_error!(
            InvalidRequest,
            "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header."
        )),
        (Some(algorithm), None) => Ok(algorithm.default_kind()),
        (Some(algorithm), Some(kind)) if algorithm.allows(kind) => Ok(kind),
        (Some(algorithm), Some(kind)) => Err(s3_error!(
            InvalidRequest,
            "The {} checksum type cannot be used with the {} checksum algorithm.",
            kind.name(),
            algorithm.name()
        )),
    }
}

/// The algorithm to run over a part that claims `claimed`.
///
/// # Errors
/// `InvalidRequest` where the upload agreed on another one, or the parts of a composite checksum carry none.
pub fn part_algorithm(upload: &Upload, claimed: Option<Algorithm>) -> S3Result<Algorithm> {
    match (upload.algorithm, claimed) {
        (Some(agreed), Some(claimed)) if agreed == claimed => Ok(agreed),
        (Some(agreed), None) if upload.kind == Kind::FullObject => Ok(agreed),
        (None, claimed) => Ok(claimed.unwrap_or(Algorithm::Crc64Nvme)),
        (Some(agreed), claimed) => Err(s3_error!(
            InvalidRequest,
            "Checksum Type mismatch occurred, expected checksum Type: {}, actual checksum Type: {}",
            agreed.name().to_lowercase(),
            claimed.map_or_else(|| "null".to_owned(), |c| c.name().to_lowercase())
        )),
    }
}

/// The stored parts that a Complete names, in order, after every rule about the list itself.
///
/// # Errors
/// `MalformedXML`, `InvalidPart`, `InvalidPartOrder`, `EntityTooSmall` or `InvalidRequest`, as S3 answers.
pub fn named_parts(upload: &Upload, named: &[NamedPart]) -> S3Result<Vec<Part>> {
    if named.is_empty() {
        return Err(s3_error!(MalformedXML, "You must specify at least one part"));
    }
    if !named.is_sorted_by(|a, b| a.number < b.number) {
        return Err(s3_error!(
            InvalidPartOrder,
            "The list of parts was not in ascending order. The parts list must be specified in order by part number."
        ));
    }
    let mut parts = Vec::with_capacity(named.len());
    for name in named {
        let stored = u16::try_from(name.number).ok().and_then(|number| upload.parts.get(&number));
        let Some(part) = stored.filter(|part| part.etag() == name.etag) else {
            return Err(s3_error!(
                InvalidPart,
                "One or more of the specified parts could not be found, or its ETag did not match: part {}, ETag {}",
                name.number,
                name.etag
            ));
        };
        check_part_sums(upload, part, name)?;
        parts.push(part.clone());
    }
    if let Some((_, all_but_last)) = parts.split_last()
        && let Some(small) = all_but_last.iter().find(|part| part.size < MIN_PART)
    {
        return Err(s3_error!(
            EntityTooSmall,
            "Your proposed upload is smaller than the minimum allowed size: part {} has {} bytes, at least {MIN_PART} are needed",
            small.number,
            small.size
        ));
    }
    Ok(parts)
}

fn check_part_sums(upload: &Upload, part: &Part, name: &NamedPart) -> S3Result<()> {
    for (algorithm, value) in &name.sums {
        if *algorithm != part.sum.algorithm || *value != part.sum.value {
            return Err(s3_error!(
                InvalidPart,
                "The {} checksum of part {} is not the one it was stored with",
                algorithm.name(),
                part.number
            ));
        }
    }
    if upload.kind == Kind::Composite && name.sums.is_empty() {
        return Err(s3_error!(
            InvalidRequest,
            "The upload was created using a {} checksum. The complete request must include the checksum for each part. It was missing for part {} in the request.",
            upload.effective_algorithm().name().to_lowercase(),
            part.number
        ));
    }
    Ok(())
}

/// The ETag of an object made of parts: MD5 over their MD5s, then `-N`.
pub fn etag(parts: &[Part]) -> String {
    let mut md5 = Md5::new();
    for part in parts {
        md5.update(&part.md5);
    }
    format!("{}-{}", sums::hex(&md5.finalize()), parts.len())
}

/// What a Complete may state about the finished object.
#[derive(Debug, Default)]
pub struct Expected {
    /// The object's checksum.
    pub sum: Option<(Algorithm, String)>,
    /// What that checksum covers.
    pub kind: Option<Kind>,
    /// The object's size in bytes.
    pub size: Option<i64>,
}

impl Expected {
    /// Checks what can be checked before the parts are put together.
    ///
    /// # Errors
    /// `InvalidRequest` where type, algorithm or size can't agree with the upload.
    pub fn check_upload(&self, upload: &Upload, parts: &[Part]) -> S3Result<()> {
        if self.kind.is_some_and(|kind| kind != upload.kind) {
            return Err(s3_error!(
                InvalidRequest,
                "The upload was created using the {} checksum mode. The complete request must use the same checksum mode.",
                upload.kind.name()
            ));
        }
        if let Some((algorithm, _)) = &self.sum
            && *algorithm != upload.effective_algorithm()
        {
            return Err(s3_error!(
                InvalidRequest,
                "The upload was created using a {} checksum; the complete request states a {} one.",
                upload.effective_algorithm().name(),
                algorithm.name()
            ));
        }
        let size: u64 = parts.iter().map(|part| part.size).sum();
        if self.size.is_some_and(|expected| u64::try_from(expected) != Ok(size)) {
            return Err(s3_error!(
                InvalidRequest,
                "The provided x-amz-mp-object-size header does not match the {size} bytes of the parts."
            ));
        }
        Ok(())
    }

    /// Compares the stated checksum with the real one; composite ones may come with or without `-N`.
    ///
    /// # Errors
    /// `BadDigest` where they differ.
    pub fn check_sum(&self, actual: &Sum) -> S3Result<()> {
        let Some((_, stated)) = &self.sum else { return Ok(()) };
        let bare = match actual.kind {
            Kind::FullObject => actual.value.as_str(),
            Kind::Composite => actual.value.split_once('-').map_or(actual.value.as_str(), |(bare, _)| bare),
        };
        if *stated == actual.value || stated == bare {
            Ok(())
        } else {
            Err(s3_error!(
                BadDigest,
                "The {} you specified did not match the calculated checksum.",
                actual.algorithm.name()
            ))
        }
    }
}

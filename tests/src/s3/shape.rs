//! The shapes of the S3 API: its generated types from and to ours.

use s3s::dto::*;
use s3s::{S3Response, S3Result, s3_error};

use super::model::{Head, Object as Stored, time_of};
use super::multipart::NamedPart;
use super::percent;
use super::sums::{Algorithm, Kind, Sum};

/// Entries of a page, and objects of one DeleteObjects, at most.
pub(super) const MAX_PAGE: i32 = 1000;
const MAX_USER_METADATA: usize = 2 * 1024;

/// Sets the one checksum field that a kept checksum belongs in; the generated types share no trait.
macro_rules! echo_sum {
    ($output:expr, $sum:expr) => {{
        let value = Some($sum.value.clone());
        match $sum.algorithm {
            Algorithm::Crc32 => $output.checksum_crc32 = value,
            Algorithm::Crc32c => $output.checksum_crc32c = value,
            Algorithm::Crc64Nvme => $output.checksum_crc64nvme = value,
            Algorithm::Sha1 => $output.checksum_sha1 = value,
            Algorithm::Sha256 => $output.checksum_sha256 = value,
        }
    }};
}

/// The headers of an object to be, from the inputs that can carry them.
macro_rules! head_of {
    ($input:expr) => {
        head(
            Head {
                content_type: $input.content_type.take(),
                cache_control: $input.cache_control.take(),
                content_disposition: $input.content_disposition.take(),
                content_encoding: $input.content_encoding.take(),
                content_language: $input.content_language.take(),
                user: Default::default(),
            },
            $input.metadata.take(),
        )
    };
}

/// Completes the headers of an object to be: the limit on metadata, the default type, no transfer coding.
pub(super) fn head(mut head: Head, metadata: Option<Metadata>) -> S3Result<Head> {
    head.user = metadata.unwrap_or_default().into_iter().collect();
    let size: usize = head.user.iter().map(|(name, value)| name.len() + value.len()).sum();
    if size > MAX_USER_METADATA {
        return Err(s3_error!(
            MetadataTooLarge,
            "Your metadata headers exceed the maximum allowed metadata size: {size} bytes, {MAX_USER_METADATA} are allowed"
        ));
    }
    let coding = head.content_encoding.as_deref().unwrap_or_default();
    let kept: Vec<&str> = coding
        .split(',')
        .map(str::trim)
        .filter(|c| !c.is_empty() && !c.eq_ignore_ascii_case("aws-chunked"))
        .collect();
    head.content_encoding = (!kept.is_empty()).then(|| kept.join(","));
    head.content_type.get_or_insert_with(|| "binary/octet-stream".to_owned());
    Ok(head)
}

/// The API's word for what a checksum covers.
pub(super) fn kind_type(kind: Kind) -> ChecksumType {
    ChecksumType::from_static(kind.name())
}

/// An ETag as the API takes it.
pub(super) fn strong(etag: &str) -> Option<ETag> {
    Some(ETag::Strong(etag.to_owned()))
}

/// A time, from milliseconds since 1970.
pub(super) fn time(ms: u64) -> Option<Timestamp> {
    Some(Timestamp::from(time_of(ms)))
}

/// A size in bytes, in the API's signed type.
pub(super) fn signed(size: u64) -> Option<i64> {
    Some(i64::try_from(size).unwrap_or(i64::MAX))
}

/// A plain answer.
pub(super) fn ok<T>(output: T) -> S3Result<S3Response<T>> {
    Ok(S3Response::new(output))
}

/// A page size as sent: at most 1,000, and never negative.
pub(super) fn limit(name: &str, asked: Option<i32>) -> S3Result<i32> {
    match asked.unwrap_or(MAX_PAGE) {
        negative if negative < 0 => Err(s3_error!(
            InvalidArgument,
            "Argument {name} must be an integer between 0 and 2147483647; got {negative}"
        )),
        asked => Ok(asked.min(MAX_PAGE)),
    }
}

/// A count, in the API's signed type.
pub(super) fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// Encodes names the way the client asked for.
pub(super) struct Naming(bool);

impl Naming {
    pub(super) fn of(asked: Option<&EncodingType>) -> S3Result<Self> {
        match asked.map(EncodingType::as_str) {
            None => Ok(Self(false)),
            Some("url") => Ok(Self(true)),
            Some(other) => {
                Err(s3_error!(InvalidArgument, "Invalid Encoding Method specified in Request: {other}"))
            }
        }
    }

    pub(super) fn name(&self, name: &str) -> String {
        if self.0 { percent::encode(name) } else { name.to_owned() }
    }

    pub(super) fn prefixes(&self, prefixes: &[String]) -> Vec<CommonPrefix> {
        prefixes.iter().map(|prefix| CommonPrefix { prefix: Some(self.name(prefix)) }).collect()
    }
}

/// A part of a Complete, with every checksum it names.
pub(super) fn named_part(part: CompletedPart) -> S3Result<NamedPart> {
    let (Some(number), Some(etag)) = (part.part_number, part.e_tag) else {
        return Err(s3_error!(MalformedXML, "Each Part needs a PartNumber and an ETag"));
    };
    let sums = [
        (Algorithm::Crc32, part.checksum_crc32),
        (Algorithm::Crc32c, part.checksum_crc32c),
        (Algorithm::Crc64Nvme, part.checksum_crc64nvme),
        (Algorithm::Sha1, part.checksum_sha1),
        (Algorithm::Sha256, part.checksum_sha256),
    ];
    let sums = sums.into_iter().filter_map(|(algorithm, value)| Some((algorithm, value?))).collect();
    Ok(NamedPart { number, etag: etag.into_value(), sums })
}

/// The checksum of an object and what it covers.
pub(super) fn full_sum(object: &Stored) -> (&Sum, ChecksumType) {
    (&object.sum, kind_type(object.sum.kind))
}

pub(super) use {echo_sum, head_of};

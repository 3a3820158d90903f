//! The S3 API over the store: requests in, answers out, every rule elsewhere.

use std::sync::Arc;

use s3s::dto::*;
use s3s::{S3, S3Error, S3Request, S3Response, S3Result, s3_error};

use super::body;
use super::condition::{ReadCondition, WriteCondition};
use super::disk;
use super::model::{Head, Object as Stored, time_of};
use super::multipart::{self, Expected, NamedPart};
use super::page::After;
use super::percent;
use super::store::Store;
use super::sums::{self, Algorithm, Claim, Kind, Sum};

const MAX_PAGE: i32 = 1000;
const MAX_USER_METADATA: usize = 2 * 1024;

/// The S3 trait over one store.
pub struct Api {
    /// Where everything is.
    pub store: Arc<Store>,
    /// The region that buckets say they are in.
    pub region: String,
}

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

fn head(mut head: Head, metadata: Option<Metadata>) -> S3Result<Head> {
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

async fn blocking<T: Send + 'static>(act: impl FnOnce() -> S3Result<T> + Send + 'static) -> S3Result<T> {
    tokio::task::spawn_blocking(act).await.map_err(S3Error::internal_error)?
}

/// Reads the rest of a body before an early refusal, so that the client isn't cut off while it sends.
async fn or_drain<T>(result: S3Result<T>, body: &mut Option<StreamingBlob>) -> S3Result<T> {
    if result.is_err() {
        disk::drain(body.take()).await;
    }
    result
}

fn kind_type(kind: Kind) -> ChecksumType {
    ChecksumType::from_static(kind.name())
}

fn strong(etag: &str) -> Option<ETag> {
    Some(ETag::Strong(etag.to_owned()))
}

fn time(ms: u64) -> Option<Timestamp> {
    Some(Timestamp::from(time_of(ms)))
}

fn signed(size: u64) -> Option<i64> {
    Some(i64::try_from(size).unwrap_or(i64::MAX))
}

fn ok<T>(output: T) -> S3Result<S3Response<T>> {
    Ok(S3Response::new(output))
}

/// A page size as sent: at most 1,000, and never negative.
fn limit(name: &str, asked: Option<i32>) -> S3Result<i32> {
    match asked.unwrap_or(MAX_PAGE) {
        negative if negative < 0 => Err(s3_error!(
            InvalidArgument,
            "Argument {name} must be an integer between 0 and 2147483647; got {negative}"
        )),
        asked => Ok(asked.min(MAX_PAGE)),
    }
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// Encodes names the way the client asked for.
struct Naming(bool);

impl Naming {
    fn of(asked: Option<&EncodingType>) -> S3Result<Self> {
        match asked.map(EncodingType::as_str) {
            None => Ok(Self(false)),
            Some("url") => Ok(Self(true)),
            Some(other) => {
                Err(s3_error!(InvalidArgument, "Invalid Encoding Method specified in Request: {other}"))
            }
        }
    }

    fn name(&self, name: &str) -> String {
        if self.0 { percent::encode(name) } else { name.to_owned() }
    }

    fn prefixes(&self, prefixes: &[String]) -> Vec<CommonPrefix> {
        prefixes.iter().map(|prefix| CommonPrefix { prefix: Some(self.name(prefix)) }).collect()
    }
}

fn named_part(part: CompletedPart) -> S3Result<NamedPart> {
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

fn full_sum(object: &Stored) -> (&Sum, ChecksumType) {
    (&object.sum, kind_type(object.sum.kind))
}

#[async_trait::async_trait]
impl S3 for Api {
    async fn create_bucket(
        &self,
        req: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        let (store, name) = (self.store.clone(), req.input.bucket);
        let location = format!("/{name}");
        match blocking(move || store.create_bucket(&name).map_err(S3Error::internal_error)).await? {
            true => ok(CreateBucketOutput { location: Some(location) }),
            false => Err(s3_error!(BucketAlreadyOwnedByYou, "The bucket exists, and you own it.")),
        }
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        self.store.dir(&req.input.bucket)?;
        ok(HeadBucketOutput { bucket_region: Some(self.region.clone()), ..Default::default() })
    }

    async fn list_buckets(&self, _: S3Request<ListBucketsInput>) -> S3Result<S3Response<ListBucketsOutput>> {
        let buckets = self.store.list_buckets().into_iter().map(|(name, created)| Bucket {
            name: Some(name),
            creation_date: Some(created.into()),
            ..Default::default()
        });
        ok(ListBucketsOutput { buckets: Some(buckets.collect()), ..Default::default() })
    }

    async fn get_bucket_location(
        &self,
        req: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.store.dir(&req.input.bucket)?;
        // S3 calls its first region by no name here.
        let named = (self.region != "us-east-1").then(|| self.region.clone().into());
        ok(GetBucketLocationOutput { location_constraint: named })
    }

    async fn put_object(&self, mut req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let prepared = (|| {
            let condition =
                WriteCondition::of(req.input.if_match.as_ref(), req.input.if_none_match.as_ref())?;
            let claim = Claim::of(&req.headers)?;
            let head = head_of!(req.input)?;
            if req.input.write_offset_bytes.is_some() {
                return Err(s3_error!(NotImplemented, "Appending to objects is not implemented"));
            }
            Ok((condition, claim, head, self.store.dir(&req.input.bucket)?))
        })();
        let (condition, claim, head, dir) = or_drain(prepared, &mut req.input.body).await?;
        let body = req.input.body.take().unwrap_or_else(|| s3s::Body::empty().into());
        let landed = disk::land(&dir, body, claim.algorithm().unwrap_or(Algorithm::Crc64Nvme)).await?;
        claim.verify(&landed.measured, req.trailing_headers.as_ref().and_then(|t| t.take()).as_ref())?;
        let (store, bucket, key) = (self.store.clone(), req.input.bucket, req.input.key);
        let object = blocking(move || store.put(&bucket, &key, landed, head, &condition)).await?;
        let mut output = PutObjectOutput {
            e_tag: strong(&object.etag),
            checksum_type: Some(kind_type(object.sum.kind)),
            ..Default::default()
        };
        echo_sum!(output, object.sum);
        ok(output)
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = req.input;
        if input.part_number.is_some() {
            return Err(s3_error!(NotImplemented, "GET by part number is not implemented; use Range"));
        }
        let (store, bucket, key) = (self.store.clone(), input.bucket, input.key);
        let (object, file) = blocking(move || store.open_object(&bucket, &key)).await?;
        let condition = ReadCondition {
            if_match: input.if_match,
            if_none_match: input.if_none_match,
            if_modified_since: input.if_modified_since,
            if_unmodified_since: input.if_unmodified_since,
        };
        condition.check(&object)?;
        let range = input.range.map(|range| range.check(object.size)).transpose()?;
        let content_range =
            range.as_ref().map(|r| format!("bytes {}-{}/{}", r.start, r.end - 1, object.size));
        let whole = range.is_none();
        let range = range.unwrap_or(0..object.size);
        let head = object.head.clone();
        let mut output = GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: signed(range.end - range.start),
            content_range,
            body: Some(body::slice(file, range).map_err(S3Error::internal_error)?),
            e_tag: strong(&object.etag),
            last_modified: time(object.modified_ms),
            content_type: head.content_type,
            cache_control: head.cache_control,
            content_disposition: head.content_disposition,
            content_encoding: head.content_encoding,
            content_language: head.content_language,
            metadata: Some(head.user.into_iter().collect()),
            ..Default::default()
        };
        if whole && input.checksum_mode.is_some_and(|mode| mode.as_str() == ChecksumMode::ENABLED) {
            let (sum, kind) = full_sum(&object);
            echo_sum!(output, sum);
            output.checksum_type = Some(kind);
        }
        ok(output)
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = req.input;
        let object = self.store.object(&input.bucket, &input.key)?;
        let condition = ReadCondition {
            if_match: input.if_match,
            if_none_match: input.if_none_match,
            if_modified_since: input.if_modified_since,
            if_unmodified_since: input.if_unmodified_since,
        };
        condition.check(&object)?;
        let head = object.head.clone();
        let mut output = HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: signed(object.size),
            e_tag: strong(&object.etag),
            last_modified: time(object.modified_ms),
            content_type: head.content_type,
            cache_control: head.cache_control,
            content_disposition: head.content_disposition,
            content_encoding: head.content_encoding,
            content_language: head.content_language,
            metadata: Some(head.user.into_iter().collect()),
            ..Default::default()
        };
        if input.checksum_mode.is_some_and(|mode| mode.as_str() == ChecksumMode::ENABLED) {
            let (sum, kind) = full_sum(&object);
            echo_sum!(output, sum);
            output.checksum_type = Some(kind);
        }
        ok(output)
    }

    async fn list_objects_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = req.input;
        let naming = Naming::of(input.encoding_type.as_ref())?;
        let max_keys = limit("max-keys", input.max_keys)?;
        let after = match (&input.continuation_token, &input.start_after) {
            (Some(token), _) => After::from_token(token)
                .ok_or_else(|| s3_error!(InvalidArgument, "The continuation token provided is incorrect"))?,
            (None, Some(key)) => After::Key(key.clone()),
            (None, None) => After::Start,
        };
        let prefix = input.prefix.as_deref().unwrap_or_default();
        let page = self.store.page(
            &input.bucket,
            prefix,
            input.delimiter.as_deref(),
            &after,
            usize::try_from(max_keys).unwrap_or_default(),
        )?;
        let contents = page.entries.iter().map(|object| Object {
            key: Some(naming.name(&object.key)),
            size: signed(object.size),
            e_tag: strong(&object.etag),
            last_modified: time(object.modified_ms),
            checksum_algorithm: Some(vec![ChecksumAlgorithm::from_static(object.sum.algorithm.name())]),
            checksum_type: Some(kind_type(object.sum.kind)),
            storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
            ..Default::default()
        });
        ok(ListObjectsV2Output {
            contents: Some(contents.collect()),
            common_prefixes: Some(naming.prefixes(&page.prefixes)),
            key_count: Some(count(page.entries.len() + page.prefixes.len())),
            is_truncated: Some(page.next.is_some()),
            next_continuation_token: page.next.as_ref().map(After::to_token),
            max_keys: Some(max_keys),
            prefix: Some(naming.name(prefix)),
            delimiter: input.delimiter.as_deref().map(|d| naming.name(d)),
            start_after: input.start_after.as_deref().map(|s| naming.name(s)),
            name: Some(input.bucket),
            continuation_token: input.continuation_token,
            encoding_type: input.encoding_type,
            ..Default::default()
        })
    }

    async fn delete_object(
        &self,
        req: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let input = req.input;
        if input.version_id.is_some() {
            return Err(s3_error!(NotImplemented, "Versions are not implemented"));
        }
        let condition = WriteCondition::of(input.if_match.as_ref(), None)?;
        let store = self.store.clone();
        blocking(move || store.delete(&input.bucket, &input.key, &condition)).await?;
        ok(DeleteObjectOutput::default())
    }

    async fn delete_objects(
        &self,
        req: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        // The adapter has read this body already: its integrity is the signature's payload hash.
        if Claim::of(&req.headers)?.algorithm().is_none() && !req.headers.contains_key("content-md5") {
            return Err(s3_error!(
                InvalidRequest,
                "Missing required header for this request: Content-MD5 OR x-amz-checksum-*"
            ));
        }
        let input = req.input;
        self.store.dir(&input.bucket)?;
        if input.delete.objects.is_empty() || count(input.delete.objects.len()) > MAX_PAGE {
            return Err(s3_error!(MalformedXML, "Name between 1 and {MAX_PAGE} objects"));
        }
        let quiet = input.delete.quiet.unwrap_or(false);
        let store = self.store.clone();
        let (deleted, errors) = blocking(move || {
            let (mut deleted, mut errors) = (Vec::new(), Vec::new());
            for named in input.delete.objects {
                let condition =
                    named.e_tag.map_or(WriteCondition::Always, |e| WriteCondition::Matches(e.into_value()));
                match store.delete(&input.bucket, &named.key, &condition) {
                    Ok(()) if quiet => {}
                    Ok(()) => deleted.push(DeletedObject { key: Some(named.key), ..Default::default() }),
                    Err(error) => errors.push(Error {
                        code: Some(error.code().as_str().to_owned()),
                        message: error.message().map(str::to_owned),
                        key: Some(named.key),
                        version_id: None,
                    }),
                }
            }
            Ok((deleted, errors))
        })
        .await?;
        ok(DeleteObjectsOutput { deleted: Some(deleted), errors: Some(errors), ..Default::default() })
    }

    async fn copy_object(
        &self,
        mut req: S3Request<CopyObjectInput>,
    ) -> S3Result<S3Response<CopyObjectOutput>> {
        let CopySource::Bucket { bucket: from, key: from_key, version_id: None } = &req.input.copy_source
        else {
            return Err(s3_error!(NotImplemented, "Copies are made from bucket/key only"));
        };
        let (from, from_key) = (from.to_string(), from_key.to_string());
        let stated = |name: &str| -> S3Result<Option<ETagCondition>> {
            let Some(value) = req.headers.get(name) else { return Ok(None) };
            let parsed = ETagCondition::parse_http_header(value.as_bytes());
            parsed.map(Some).map_err(|error| s3_error!(InvalidArgument, "invalid header {name}: {error}"))
        };
        let condition = WriteCondition::of(stated("if-match")?.as_ref(), stated("if-none-match")?.as_ref())?;
        let source = ReadCondition {
            if_match: req.input.copy_source_if_match.take(),
            if_none_match: req.input.copy_source_if_none_match.take(),
            if_modified_since: req.input.copy_source_if_modified_since.take(),
            if_unmodified_since: req.input.copy_source_if_unmodified_since.take(),
        };
        let algorithm =
            req.input.checksum_algorithm.as_ref().map(|a| Algorithm::parse(a.as_str())).transpose()?;
        let replace =
            req.input.metadata_directive.as_ref().is_some_and(|d| d.as_str() == MetadataDirective::REPLACE);
        let replaced = if replace { Some(head_of!(req.input)?) } else { None };
        let (store, bucket, key) = (self.store.clone(), req.input.bucket, req.input.key);
        if !replace && from == bucket && from_key == key {
            return Err(s3_error!(
                InvalidRequest,
                "This copy request is illegal because it is trying to copy an object to itself without changing the object's metadata."
            ));
        }
        let object = blocking(move || {
            let (object, file) = store.open_object(&from, &from_key)?;
            // A copy refuses with 412 where a read would answer 304.
            source.check(&object).map_err(|_| s3_error!(PreconditionFailed, "The source doesn't match"))?;
            let algorithm = algorithm.unwrap_or(object.sum.algorithm);
            let landed = disk::concatenate(&store.dir(&bucket)?, vec![(file, object.size)], algorithm);
            let head = replaced.unwrap_or_else(|| object.head.clone());
            store.put(&bucket, &key, landed.map_err(S3Error::internal_error)?, head, &condition)
        })
        .await?;
        let mut result = CopyObjectResult {
            e_tag: strong(&object.etag),
            last_modified: time(object.modified_ms),
            checksum_type: Some(kind_type(object.sum.kind)),
            ..Default::default()
        };
        echo_sum!(result, object.sum);
        ok(CopyObjectOutput { copy_object_result: Some(result), ..Default::default() })
    }

    async fn create_multipart_upload(
        &self,
        mut req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let head = head_of!(req.input)?;
        let input = req.input;
        let algorithm =
            input.checksum_algorithm.as_ref().map(|a| Algorithm::parse(a.as_str())).transpose()?;
        let kind = input.checksum_type.as_ref().map(|k| Kind::parse(k.as_str())).transpose()?;
        let kind = multipart::kind_of(algorithm, kind)?;
        let (store, bucket, key) = (self.store.clone(), input.bucket.clone(), input.key.clone());
        let id = blocking(move || store.create_upload(&bucket, &key, head, algorithm, kind)).await?;
        ok(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            checksum_algorithm: algorithm.map(|a| ChecksumAlgorithm::from_static(a.name())),
            checksum_type: algorithm.map(|_| kind_type(kind)),
            ..Default::default()
        })
    }

    async fn upload_part(
        &self,
        mut req: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let prepared = (|| {
            let input = &req.input;
            let number = multipart::part_number(input.part_number)?;
            let claim = Claim::of(&req.headers)?;
            let upload = self.store.upload(&input.bucket, &input.key, &input.upload_id)?;
            let algorithm = multipart::part_algorithm(&upload, claim.algorithm())?;
            Ok((number, claim, algorithm, self.store.dir(&input.bucket)?))
        })();
        let (number, claim, algorithm, dir) = or_drain(prepared, &mut req.input.body).await?;
        let body = req.input.body.take().unwrap_or_else(|| s3s::Body::empty().into());
        let landed = disk::land(&dir, body, algorithm).await?;
        claim.verify(&landed.measured, req.trailing_headers.as_ref().and_then(|t| t.take()).as_ref())?;
        let (store, input) = (self.store.clone(), req.input);
        let part =
            blocking(move || store.put_part(&input.bucket, &input.key, &input.upload_id, number, landed))
                .await?;
        let mut output = UploadPartOutput { e_tag: strong(&part.etag()), ..Default::default() };
        echo_sum!(output, part.sum);
        ok(output)
    }

    async fn list_parts(&self, req: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
        let input = req.input;
        let upload = self.store.upload(&input.bucket, &input.key, &input.upload_id)?;
        let max_parts = limit("max-parts", input.max_parts)?;
        let after = input.part_number_marker.unwrap_or(0);
        let mut rest = upload.parts.values().filter(|part| i32::from(part.number) > after).peekable();
        let taken: Vec<_> = rest.by_ref().take(usize::try_from(max_parts).unwrap_or_default()).collect();
        let parts = taken.iter().map(|part| {
            let mut output = Part {
                part_number: Some(part.number.into()),
                size: signed(part.size),
                e_tag: strong(&part.etag()),
                last_modified: time(part.modified_ms),
                ..Default::default()
            };
            echo_sum!(output, part.sum);
            output
        });
        ok(ListPartsOutput {
            parts: Some(parts.collect()),
            is_truncated: Some(max_parts > 0 && rest.peek().is_some()),
            next_part_number_marker: taken.last().map(|part| part.number.into()),
            part_number_marker: Some(after),
            max_parts: Some(max_parts),
            checksum_algorithm: upload.algorithm.map(|a| ChecksumAlgorithm::from_static(a.name())),
            checksum_type: upload.algorithm.map(|_| kind_type(upload.kind)),
            storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            ..Default::default()
        })
    }

    async fn list_multipart_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let input = req.input;
        if input.delimiter.is_some() {
            return Err(s3_error!(NotImplemented, "Delimiters in listings of uploads are not implemented"));
        }
        let naming = Naming::of(input.encoding_type.as_ref())?;
        let max_uploads = limit("max-uploads", input.max_uploads)?;
        let uploads = self.store.uploads(&input.bucket, input.prefix.as_deref().unwrap_or_default())?;
        let behind = |key: &str, id: &str| match (&input.key_marker, &input.upload_id_marker) {
            (None, _) => true,
            (Some(marker), None) => key > marker.as_str(),
            (Some(marker), Some(id_marker)) => (key, id) > (marker.as_str(), id_marker.as_str()),
        };
        let mut rest = uploads.iter().filter(|upload| behind(&upload.key, &upload.id)).peekable();
        let taken: Vec<_> = rest.by_ref().take(usize::try_from(max_uploads).unwrap_or_default()).collect();
        let truncated = max_uploads > 0 && rest.peek().is_some();
        let last = taken.last().filter(|_| truncated);
        let listed = taken.iter().map(|upload| MultipartUpload {
            key: Some(naming.name(&upload.key)),
            upload_id: Some(upload.id.clone()),
            initiated: time(upload.initiated_ms),
            checksum_algorithm: upload.algorithm.map(|a| ChecksumAlgorithm::from_static(a.name())),
            checksum_type: upload.algorithm.map(|_| kind_type(upload.kind)),
            storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
            ..Default::default()
        });
        ok(ListMultipartUploadsOutput {
            uploads: Some(listed.collect()),
            is_truncated: Some(truncated),
            next_key_marker: last.map(|upload| naming.name(&upload.key)),
            next_upload_id_marker: last.map(|upload| upload.id.clone()),
            max_uploads: Some(max_uploads),
            prefix: input.prefix.as_deref().map(|p| naming.name(p)),
            key_marker: input.key_marker.as_deref().map(|k| naming.name(k)),
            upload_id_marker: input.upload_id_marker.clone(),
            encoding_type: input.encoding_type.clone(),
            bucket: Some(input.bucket.clone()),
            ..Default::default()
        })
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let condition = WriteCondition::of(req.input.if_match.as_ref(), req.input.if_none_match.as_ref())?;
        let expected = Expected {
            sum: sums::stated(&req.headers)?,
            kind: req.input.checksum_type.as_ref().map(|k| Kind::parse(k.as_str())).transpose()?,
            size: req.input.mpu_object_size,
        };
        let input = req.input;
        let parts = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        let named: Vec<NamedPart> = parts.into_iter().map(named_part).collect::<S3Result<_>>()?;
        let (store, bucket, key) = (self.store.clone(), input.bucket.clone(), input.key.clone());
        let object =
            blocking(move || store.complete(&bucket, &key, &input.upload_id, &named, &expected, &condition))
                .await?;
        let mut output = CompleteMultipartUploadOutput {
            location: Some(format!("/{}/{}", input.bucket, percent::encode(&input.key))),
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: strong(&object.etag),
            checksum_type: Some(kind_type(object.sum.kind)),
            ..Default::default()
        };
        echo_sum!(output, object.sum);
        ok(output)
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let (store, input) = (self.store.clone(), req.input);
        blocking(move || store.abort(&input.bucket, &input.key, &input.upload_id)).await?;
        ok(AbortMultipartUploadOutput::default())
    }
}

//! Which operation of the S3 API a request is, by its method, path and query.

use hyper::{Method, Uri};

use crate::s3::percent;

/// An operation of the S3 API, as far as the programs use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Write an object in one request.
    PutObject,
    /// Look at an object.
    HeadObject,
    /// Read an object, or a stretch of it.
    GetObject,
    /// Delete an object.
    DeleteObject,
    /// Open a multipart upload.
    CreateMultipartUpload,
    /// Send a part.
    UploadPart,
    /// Ask which parts there are.
    ListParts,
    /// Make an object of its parts.
    CompleteMultipartUpload,
    /// Give an upload up.
    AbortMultipartUpload,
    /// A page of keys.
    ListObjects,
    /// Anything else.
    Other,
}

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The operation.
    pub operation: Operation,
    /// The key, empty for requests of the bucket; for a listing the prefix.
    pub key: String,
    /// Number of the part.
    pub part: Option<u32>,
}

impl Asked {
    /// Reads a request with the bucket in its path.
    #[must_use]
    pub fn of(method: &Method, uri: &Uri) -> Self {
        let path = uri.path().trim_start_matches('/');
        let key = percent::decode(path.split_once('/').map_or("", |(_, key)| key));
        let query = uri.query().unwrap_or_default();
        let value = |name: &str| {
            let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
            pairs.into_iter().find(|(found, _)| *found == name).map(|(_, value)| percent::decode(value))
        };
        let upload = value("uploadId").is_some();
        let operation = match (method.as_str(), key.is_empty()) {
            ("PUT", false) if upload => Operation::UploadPart,
            ("PUT", false) => Operation::PutObject,
            ("POST", false) if upload => Operation::CompleteMultipartUpload,
            ("POST", false) if value("uploads").is_some() => Operation::CreateMultipartUpload,
            ("GET", false) if upload => Operation::ListParts,
            ("GET", false) => Operation::GetObject,
            ("HEAD", false) => Operation::HeadObject,
            ("DELETE", false) if upload => Operation::AbortMultipartUpload,
            ("DELETE", false) => Operation::DeleteObject,
            ("GET", true) if value("list-type").is_some() => Operation::ListObjects,
            _ => Operation::Other,
        };
        let key = if operation == Operation::ListObjects { value("prefix").unwrap_or_default() } else { key };
        Self { operation, key, part: value("partNumber").and_then(|number| number.parse().ok()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_is_known_by_method_path_and_query() {
        use Operation::*;
        let table = [
            ("PUT", "/lake/a/b.parquet?x-id=PutObject", PutObject, "a/b.parquet", None),
            ("PUT", "/lake/a%3Db?partNumber=7&uploadId=u", UploadPart, "a=b", Some(7)),
            ("POST", "/lake/k?uploads", CreateMultipartUpload, "k", None),
            ("POST", "/lake/k?uploadId=u", CompleteMultipartUpload, "k", None),
            ("GET", "/lake/k?uploadId=u&part-number-marker=2", ListParts, "k", None),
            ("GET", "/lake/k", GetObject, "k", None),
            ("HEAD", "/lake/k", HeadObject, "k", None),
            ("DELETE", "/lake/k?uploadId=u", AbortMultipartUpload, "k", None),
            ("DELETE", "/lake/k", DeleteObject, "k", None),
            ("GET", "/lake/?list-type=2&prefix=e2e%2Fsegments", ListObjects, "e2e/segments", None),
            ("GET", "/lake?list-type=2", ListObjects, "", None),
            ("HEAD", "/lake", Other, "", None),
            ("POST", "/lake?delete", Other, "", None),
        ];
        for (method, uri, operation, key, part) in table {
            let asked = Asked::of(&method.parse().unwrap(), &uri.parse().unwrap());
            assert_eq!(asked, Asked { operation, key: key.to_owned(), part }, "{method} {uri}");
        }
    }
}

//! A strict S3 API server on local files.

//! Bodies of answers, streamed from a file.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::Stream;
use s3s::StdError;
use s3s::dto::StreamingBlob;
use s3s::stream::{ByteStream, RemainingLength};
use tokio::io::{AsyncRead as _, ReadBuf};

const CHUNK: usize = 128 * 1024;

struct Slice {
    file: tokio::fs::File,
    remaining: u64,
    buffer: Vec<u8>,
}

/// The bytes `range` of a file.
///
/// # Errors
/// Those of seeking.
pub fn slice(mut file: File, range: Range<u64>) -> io::Result<StreamingBlob> {
    file.seek(SeekFrom::Start(range.start))?;
    let remaining = range.end.saturating_sub(range.start);
    let buffer = vec![0; CHUNK.min(usize::try_from(remaining).unwrap_or(CHUNK))];
    Ok(StreamingBlob::new(Slice { file: tokio::fs::File::from_std(file), remaining, buffer }))
}

impl Stream for Slice {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { file, remaining, buffer } = &mut *self;
        if *remaining == 0 {
            return Poll::Ready(None);
        }
        let want = usize::try_from(*remaining).unwrap_or(usize::MAX).min(buffer.len());
        let mut read = ReadBuf::new(buffer.get_mut(..want).unwrap_or_default());
        ready!(Pin::new(file).poll_read(cx, &mut read))?;
        let bytes = read.filled();
        if bytes.is_empty() {
            return Poll::Ready(Some(Err(Box::new(io::Error::from(io::ErrorKind::UnexpectedEof)))));
        }
        *remaining -= bytes.len() as u64;
        Poll::Ready(Some(Ok(Bytes::copy_from_slice(bytes))))
    }
}

impl ByteStream for Slice {
    fn remaining_length(&self) -> RemainingLength {
        usize::try_from(self.remaining)
            .map_or_else(|_| RemainingLength::unknown(), RemainingLength::new_exact)
    }
}

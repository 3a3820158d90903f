//! Files of the server: bytes with their description behind them, so that one rename makes both appear.
//!
//! A file is `body | JSON | length of the JSON (8 bytes, little-endian) | magic`. It is written under a name in
//! `tmp/`, synced, renamed to where it belongs, and the folder is synced before anyone is answered. What a kill
//! leaves in `tmp/` is swept at the next start.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use futures::StreamExt as _;
use s3s::dto::StreamingBlob;
use s3s::{S3Error, S3Result, StdError, s3_error};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::AsyncWriteExt as _;

use super::sums::{self, Algorithm, Measured, Meter};

const MAGIC: &[u8; 8] = b"s3file-1";
const TAIL: u64 = 16;
const MAX_JSON: u64 = 4 * 1024 * 1024;
const MAX_BODY: u64 = 5 * 1024 * 1024 * 1024;
const BUFFER: usize = 256 * 1024;

/// The folders of one bucket.
#[derive(Debug, Clone)]
pub struct BucketDir(PathBuf);

impl BucketDir {
    /// Makes the folders where they are missing, and sweeps what was never finished.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn open(root: &Path, bucket: &str) -> io::Result<Self> {
        let this = Self(root.join(bucket));
        let tmp = this.0.join("tmp");
        if tmp.exists() {
            fs::remove_dir_all(&tmp)?;
        }
        for folder in [this.objects(), this.uploads(), tmp] {
            fs::create_dir_all(folder)?;
        }
        sync_dir(&this.0)?;
        sync_dir(root)?;
        Ok(this)
    }

    /// When the bucket was made.
    pub fn created(&self) -> SystemTime {
        let metadata = fs::metadata(self.objects());
        metadata.and_then(|m| m.created().or_else(|_| m.modified())).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Where objects lie.
    pub fn objects(&self) -> PathBuf {
        self.0.join("objects")
    }

    /// Where uploads lie, a folder each.
    pub fn uploads(&self) -> PathBuf {
        self.0.join("uploads")
    }

    /// The file of a key: named by hash, because a key may be longer than any file name.
    pub fn object(&self, key: &str) -> PathBuf {
        use s3s::crypto::Checksum as _;
        self.objects().join(sums::hex(s3s::crypto::Sha256::checksum(key.as_bytes()).as_ref()))
    }

    /// The folder of an upload.
    pub fn upload(&self, id: &str) -> PathBuf {
        self.uploads().join(id)
    }

    /// The file that describes an upload.
    pub fn upload_file(&self, id: &str) -> PathBuf {
        self.upload(id).join("upload")
    }

    /// The file of a part.
    pub fn part(&self, id: &str, number: u16) -> PathBuf {
        self.upload(id).join(format!("part-{number:05}"))
    }

    fn temp(&self) -> Temp {
        Temp(Some(self.0.join("tmp").join(format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..)))))
    }
}

/// A file that nobody sees yet; it is removed unless it is put in place.
#[derive(Debug)]
pub struct Temp(Option<PathBuf>);

impl Temp {
    fn path(&self) -> &Path {
        self.0.as_deref().unwrap_or(Path::new(""))
    }

    /// Puts the file where it belongs; the folder must be synced before the answer.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn place(mut self, target: &Path) -> io::Result<()> {
        fs::rename(self.path(), target)?;
        self.0 = None;
        Ok(())
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if let Some(path) = self.0.take()
            && let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "a temporary file stays until the next start");
        }
    }
}

/// A body on disk, not yet described or visible.
#[derive(Debug)]
pub struct Landed {
    temp: Temp,
    file: File,
    /// What the body was.
    pub measured: Measured,
}

impl Landed {
    /// Writes the description behind the body and syncs the file.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn describe<T: Serialize>(mut self, description: &T) -> io::Result<Temp> {
        write_description(&mut self.file, description)?;
        Ok(self.temp)
    }
}

fn write_description<T: Serialize>(file: &mut File, description: &T) -> io::Result<()> {
    let mut tail = serde_json::to_vec(description)?;
    tail.extend_from_slice(&(tail.len() as u64).to_le_bytes());
    tail.extend_from_slice(MAGIC);
    file.write_all(&tail)?;
    file.sync_all()
}

/// Streams a body to a temporary file while measuring it.
///
/// # Errors
/// `IncompleteBody`, `XAmzContentSHA256Mismatch` or `SignatureDoesNotMatch` where the body isn't what was signed;
/// nothing is kept then.
pub async fn land(dir: &BucketDir, mut body: StreamingBlob, algorithm: Algorithm) -> S3Result<Landed> {
    let temp = dir.temp();
    let file = tokio::fs::File::create(temp.path()).await.map_err(S3Error::internal_error)?;
    let mut file = tokio::io::BufWriter::with_capacity(BUFFER, file);
    let mut meter = Meter::new(algorithm);
    while let Some(bytes) = body.next().await {
        let bytes = bytes.map_err(|error| body_error(&error))?;
        meter.update(&bytes);
        if meter.size() > MAX_BODY {
            return Err(s3_error!(EntityTooLarge, "Your proposed upload exceeds the maximum allowed size"));
        }
        file.write_all(&bytes).await.map_err(S3Error::internal_error)?;
    }
    file.flush().await.map_err(S3Error::internal_error)?;
    Ok(Landed { temp, file: file.into_inner().into_std().await, measured: meter.finish() })
}

/// Reads a body to its end, so that the client gets to read why it was refused.
pub async fn drain(body: Option<StreamingBlob>) {
    if let Some(mut body) = body {
        while let Some(Ok(_)) = body.next().await {}
    }
}

// The adapter's stream errors are private types; their texts are the only way to tell them apart.
fn body_error(error: &StdError) -> S3Error {
    let text = error.to_string();
    if text.contains("Sha256Mismatch") {
        let mut mismatch = S3Error::with_message(
            s3s::S3ErrorCode::Custom("XAmzContentSHA256Mismatch".into()),
            "The provided 'x-amz-content-sha256' header does not match what was computed.",
        );
        mismatch.set_status_code(hyper::StatusCode::BAD_REQUEST);
        mismatch
    } else if text.contains("SignatureMismatch") {
        s3_error!(SignatureDoesNotMatch, "A chunk of the body has a wrong signature.")
    } else {
        s3_error!(
            IncompleteBody,
            "You did not provide the number of bytes specified by the Content-Length HTTP header: {text}"
        )
    }
}

/// Copies the bodies of `sources` (with their sizes in bytes) into one temporary file.
///
/// # Errors
/// Those of the file system, and one for a source that is shorter than its size.
pub fn concatenate(dir: &BucketDir, sources: Vec<(File, u64)>, algorithm: Algorithm) -> io::Result<Landed> {
    let temp = dir.temp();
    let mut file = File::create(temp.path())?;
    let mut meter = Meter::new(algorithm);
    let mut buffer = vec![0; BUFFER];
    for (source, size) in sources {
        let mut source = source.take(size);
        let before = meter.size();
        loop {
            let read = source.read(&mut buffer)?;
            let bytes = buffer.get(..read).unwrap_or_default();
            if bytes.is_empty() {
                break;
            }
            meter.update(bytes);
            file.write_all(bytes)?;
        }
        if meter.size() - before != size {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "a stored body is shorter than its size",
            ));
        }
    }
    Ok(Landed { temp, file, measured: meter.finish() })
}

/// Writes a file that is only a description, in place and durable but for its folder.
///
/// # Errors
/// Those of the file system.
pub fn write_description_file<T: Serialize>(
    dir: &BucketDir,
    target: &Path,
    description: &T,
) -> io::Result<()> {
    let temp = dir.temp();
    write_description(&mut File::create(temp.path())?, description)?;
    temp.place(target)
}

/// Reads the description behind a body, and the size of that body in bytes.
///
/// # Errors
/// Those of the file system, and `InvalidData` naming the file if it isn't one of ours.
pub fn read_description<T: DeserializeOwned>(path: &Path) -> io::Result<(T, u64)> {
    let damaged = |what: &str| {
        let text = format!("{} is damaged ({what}): remove it to lose what it holds", path.display());
        io::Error::new(io::ErrorKind::InvalidData, text)
    };
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let tail_at = length.checked_sub(TAIL).ok_or_else(|| damaged("too short"))?;
    file.seek(SeekFrom::Start(tail_at))?;
    let mut json_length = [0; 8];
    let mut magic = [0; 8];
    file.read_exact(&mut json_length)?;
    file.read_exact(&mut magic)?;
    let json_length = u64::from_le_bytes(json_length);
    if magic != *MAGIC || json_length > MAX_JSON {
        return Err(damaged("no description at its end"));
    }
    let body = tail_at.checked_sub(json_length).ok_or_else(|| damaged("description longer than the file"))?;
    file.seek(SeekFrom::Start(body))?;
    let mut json = Vec::new();
    file.take(json_length).read_to_end(&mut json)?;
    let description = serde_json::from_slice(&json).map_err(|error| damaged(&error.to_string()))?;
    Ok((description, body))
}

/// Makes renames and removals in a folder durable.
///
/// # Errors
/// Those of the file system.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

//! The store: an index in memory over the files, and the one place where a write becomes visible.
//!
//! Every commit decides and renames under one lock: of racing creates of a key exactly one finds it absent. The
//! folder is synced after the lock, before the answer. All functions block.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use s3s::{S3Error, S3Result, s3_error};

use super::condition::WriteCondition;
use super::disk::{self, BucketDir, Landed};
use super::model::{Assembled, Head, Object, Part, Upload, now_ms};
use super::multipart::{self, Expected, NamedPart};
use super::page::{self, After, Page};
use super::sums::{self, Algorithm, Kind};

/// Buckets, objects and uploads of one server.
pub struct Store {
    root: PathBuf,
    buckets: Mutex<BTreeMap<String, Bucket>>,
}

struct Bucket {
    dir: BucketDir,
    objects: BTreeMap<String, Arc<Object>>,
    uploads: BTreeMap<String, Upload>,
    /// Upload id to the key that it became, while that object stands.
    assembled: HashMap<String, String>,
}

impl Bucket {
    fn open(root: &Path, name: &str) -> io::Result<Self> {
        let dir = BucketDir::open(root, name)?;
        let mut objects = BTreeMap::new();
        let mut assembled = HashMap::new();
        for entry in fs::read_dir(dir.objects())? {
            let (object, size): (Object, u64) = disk::read_description(&entry?.path())?;
            if size != object.size {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!(
                        "object {} of bucket {name} has {size} bytes, {} were written",
                        object.key, object.size
                    ),
                ));
            }
            if let Some(made_by) = &object.assembled {
                assembled.insert(made_by.upload_id.clone(), object.key.clone());
            }
            objects.insert(object.key.clone(), Arc::new(object));
        }
        let mut uploads = BTreeMap::new();
        for entry in fs::read_dir(dir.uploads())? {
            let folder = entry?.path();
            match open_upload(&folder)?.filter(|upload| !assembled.contains_key(&upload.id)) {
                Some(upload) => {
                    uploads.insert(upload.id.clone(), upload);
                }
                // Never answered, or completed and killed before its parts were removed.
                None => fs::remove_dir_all(&folder)?,
            }
        }
        Ok(Self { dir, objects, uploads, assembled })
    }

    fn insert(&mut self, object: Arc<Object>) {
        self.forget_assembly(&object.key);
        if let Some(made_by) = &object.assembled {
            self.uploads.remove(&made_by.upload_id);
            self.assembled.insert(made_by.upload_id.clone(), object.key.clone());
        }
        self.objects.insert(object.key.clone(), object);
    }

    fn forget_assembly(&mut self, key: &str) {
        if let Some(made_by) = self.objects.get(key).and_then(|old| old.assembled.as_ref()) {
            self.assembled.remove(&made_by.upload_id);
        }
    }

    fn upload(&self, key: &str, id: &str) -> S3Result<&Upload> {
        self.uploads.get(id).filter(|upload| upload.key == key).ok_or_else(no_such_upload)
    }
}

fn open_upload(folder: &Path) -> io::Result<Option<Upload>> {
    let file = folder.join("upload");
    if !file.exists() {
        return Ok(None);
    }
    let (mut upload, _): (Upload, u64) = disk::read_description(&file)?;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path != file {
            let (part, _): (Part, u64) = disk::read_description(&path)?;
            upload.parts.insert(part.number, part);
        }
    }
    Ok(Some(upload))
}

fn no_such_upload() -> S3Error {
    s3_error!(
        NoSuchUpload,
        "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed."
    )
}

fn no_such_bucket(name: &str) -> S3Error {
    s3_error!(NoSuchBucket, "The specified bucket does not exist: {name}")
}

fn no_such_key() -> S3Error {
    s3_error!(NoSuchKey, "The specified key does not exist.")
}

impl Store {
    /// Opens a folder and reads what is in it.
    ///
    /// # Errors
    /// Those of the file system, and damaged files.
    pub fn open(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let mut buckets = BTreeMap::new();
        for entry in fs::read_dir(root)? {
            let entry = entry?;
            if let Some(name) = entry.file_name().to_str().filter(|_| entry.path().is_dir()) {
                buckets.insert(name.to_owned(), Bucket::open(root, name)?);
            }
        }
        Ok(Self { root: root.to_owned(), buckets: Mutex::new(buckets) })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Bucket>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn within<T>(&self, bucket: &str, act: impl FnOnce(&mut Bucket) -> S3Result<T>) -> S3Result<T> {
        act(self.lock().get_mut(bucket).ok_or_else(|| no_such_bucket(bucket))?)
    }

    /// Makes a bucket; `false` if it stood already.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create_bucket(&self, name: &str) -> io::Result<bool> {
        let mut buckets = self.lock();
        if buckets.contains_key(name) {
            return Ok(false);
        }
        buckets.insert(name.to_owned(), Bucket::open(&self.root, name)?);
        Ok(true)
    }

    /// Names and times of creation of all buckets.
    pub fn list_buckets(&self) -> Vec<(String, SystemTime)> {
        self.lock().iter().map(|(name, bucket)| (name.clone(), bucket.dir.created())).collect()
    }

    /// The folders of a bucket.
    ///
    /// # Errors
    /// `NoSuchBucket`.
    pub fn dir(&self, bucket: &str) -> S3Result<BucketDir> {
        self.within(bucket, |bucket| Ok(bucket.dir.clone()))
    }

    /// One object.
    ///
    /// # Errors
    /// `NoSuchBucket`, `NoSuchKey`.
    pub fn object(&self, bucket: &str, key: &str) -> S3Result<Arc<Object>> {
        self.within(bucket, |bucket| bucket.objects.get(key).cloned().ok_or_else(no_such_key))
    }

    /// One object and its open file, which stays readable when the key is overwritten or deleted.
    ///
    /// # Errors
    /// `NoSuchBucket`, `NoSuchKey`, and those of the file system.
    pub fn open_object(&self, bucket: &str, key: &str) -> S3Result<(Arc<Object>, File)> {
        self.within(bucket, |bucket| {
            let object = bucket.objects.get(key).cloned().ok_or_else(no_such_key)?;
            let file = File::open(bucket.dir.object(key)).map_err(S3Error::internal_error)?;
            Ok((object, file))
        })
    }

    /// A page of objects in key order.
    ///
    /// # Errors
    /// `NoSuchBucket`.
    pub fn page(
        &self,
        bucket: &str,
        prefix: &str,
        delimiter: Option<&str>,
        after: &After,
        limit: usize,
    ) -> S3Result<Page<Arc<Object>>> {
        self.within(bucket, |bucket| Ok(page::page(&bucket.objects, prefix, delimiter, after, limit)))
    }

    /// Makes a landed body the object under `key`, if the condition holds at that moment.
    ///
    /// # Errors
    /// Those of the condition, `NoSuchBucket`, and those of the file system. Nothing is kept then.
    pub fn put(
        &self,
        bucket: &str,
        key: &str,
        landed: Landed,
        head: Head,
        condition: &WriteCondition,
    ) -> S3Result<Arc<Object>> {
        let object = Object {
            key: key.to_owned(),
            size: landed.measured.size,
            etag: landed.measured.etag(),
            modified_ms: now_ms(),
            head,
            sum: landed.measured.sum.clone(),
            assembled: None,
        };
        self.commit(bucket, landed, object, condition, |_| Ok(()))
    }

    fn commit(
        &self,
        bucket: &str,
        landed: Landed,
        object: Object,
        condition: &WriteCondition,
        still: impl FnOnce(&Bucket) -> S3Result<()>,
    ) -> S3Result<Arc<Object>> {
        let file = landed.describe(&object).map_err(S3Error::internal_error)?;
        let object = Arc::new(object);
        let dir = self.within(bucket, |bucket| {
            condition.check(bucket.objects.get(&object.key).map(AsRef::as_ref))?;
            still(bucket)?;
            file.place(&bucket.dir.object(&object.key)).map_err(S3Error::internal_error)?;
            bucket.insert(object.clone());
            Ok(bucket.dir.objects())
        })?;
        disk::sync_dir(&dir).map_err(S3Error::internal_error)?;
        Ok(object)
    }

    /// Deletes an object, if it has this ETag where one is given; an absent key is fine, as on S3.
    ///
    /// # Errors
    /// `NoSuchBucket`, those of the condition, and those of the file system.
    pub fn delete(&self, bucket: &str, key: &str, condition: &WriteCondition) -> S3Result<()> {
        let dir = self.within(bucket, |bucket| {
            let current = bucket.objects.get(key);
            condition.check(current.map(AsRef::as_ref))?;
            if current.is_some() {
                fs::remove_file(bucket.dir.object(key)).map_err(S3Error::internal_error)?;
                bucket.forget_assembly(key);
                bucket.objects.remove(key);
            }
            Ok(bucket.dir.objects())
        })?;
        disk::sync_dir(&dir).map_err(S3Error::internal_error)
    }

    /// Begins an upload and returns its id.
    ///
    /// # Errors
    /// `NoSuchBucket`, and those of the file system.
    pub fn create_upload(
        &self,
        bucket: &str,
        key: &str,
        head: Head,
        algorithm: Option<Algorithm>,
        kind: Kind,
    ) -> S3Result<String> {
        let initiated_ms = now_ms();
        let id = format!("{initiated_ms:012x}{:016x}", fastrand::u64(..));
        let upload = Upload {
            id: id.clone(),
            key: key.to_owned(),
            initiated_ms,
            head,
            algorithm,
            kind,
            parts: BTreeMap::new(),
        };
        let dir = self.dir(bucket)?;
        let write = || -> io::Result<()> {
            fs::create_dir(dir.upload(&id))?;
            disk::write_description_file(&dir, &dir.upload_file(&id), &upload)?;
            disk::sync_dir(&dir.upload(&id))?;
            disk::sync_dir(&dir.uploads())
        };
        write().map_err(S3Error::internal_error)?;
        self.within(bucket, |bucket| {
            bucket.uploads.insert(id.clone(), upload);
            Ok(id)
        })
    }

    /// One upload as it stands now.
    ///
    /// # Errors
    /// `NoSuchBucket`, `NoSuchUpload`.
    pub fn upload(&self, bucket: &str, key: &str, id: &str) -> S3Result<Upload> {
        self.within(bucket, |bucket| bucket.upload(key, id).cloned())
    }

    /// All uploads of a bucket whose key begins with `prefix`, by key, then by time.
    ///
    /// # Errors
    /// `NoSuchBucket`.
    pub fn uploads(&self, bucket: &str, prefix: &str) -> S3Result<Vec<Upload>> {
        let mut uploads: Vec<Upload> = self.within(bucket, |bucket| {
            Ok(bucket.uploads.values().filter(|upload| upload.key.starts_with(prefix)).cloned().collect())
        })?;
        uploads.sort_by(|a, b| (&a.key, &a.id).cmp(&(&b.key, &b.id)));
        Ok(uploads)
    }

    /// Makes a landed body a part, in place of an earlier one with its number.
    ///
    /// # Errors
    /// `NoSuchBucket`, `NoSuchUpload`, and those of the file system. Nothing is kept then.
    pub fn put_part(&self, bucket: &str, key: &str, id: &str, number: u16, landed: Landed) -> S3Result<Part> {
        let part = Part {
            number,
            size: landed.measured.size,
            md5: landed.measured.md5,
            sum: landed.measured.sum.clone(),
            modified_ms: now_ms(),
        };
        let file = landed.describe(&part).map_err(S3Error::internal_error)?;
        let dir = self.within(bucket, |bucket| {
            bucket.upload(key, id)?;
            file.place(&bucket.dir.part(id, number)).map_err(S3Error::internal_error)?;
            if let Some(upload) = bucket.uploads.get_mut(id) {
                upload.parts.insert(number, part.clone());
            }
            Ok(bucket.dir.upload(id))
        })?;
        // An abort may have taken the folder meanwhile; then there is nothing left to make durable.
        match disk::sync_dir(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(S3Error::internal_error(error)),
            Ok(()) | Err(_) => Ok(part),
        }
    }

    /// Forgets an upload and its parts.
    ///
    /// # Errors
    /// `NoSuchBucket`, `NoSuchUpload`, and those of the file system.
    pub fn abort(&self, bucket: &str, key: &str, id: &str) -> S3Result<()> {
        let dir = self.within(bucket, |bucket| {
            bucket.upload(key, id)?;
            fs::remove_dir_all(bucket.dir.upload(id)).map_err(S3Error::internal_error)?;
            bucket.uploads.remove(id);
            Ok(bucket.dir.uploads())
        })?;
        disk::sync_dir(&dir).map_err(S3Error::internal_error)
    }

    /// Puts the named parts together as the object. Repeated after its own success with the same parts, it answers
    /// what it answered first: the client may have lost the reply.
    ///
    /// # Errors
    /// Those of the rules in [`multipart`], of the condition, and of the file system. The upload stays then.
    pub fn complete(
        &self,
        bucket: &str,
        key: &str,
        id: &str,
        named: &[NamedPart],
        expected: &Expected,
        condition: &WriteCondition,
    ) -> S3Result<Arc<Object>> {
        if let Some(object) = self.already_complete(bucket, key, id, named)? {
            return Ok(object);
        }
        let (dir, upload, parts, sources) = self.within(bucket, |bucket| {
            let upload = bucket.upload(key, id)?.clone();
            let parts = multipart::named_parts(&upload, named)?;
            expected.check_upload(&upload, &parts)?;
            condition.check(bucket.objects.get(key).map(AsRef::as_ref))?;
            // Opened under the lock: a part sent again meanwhile gets a file of its own.
            let open = |part: &Part| -> io::Result<(File, u64)> {
                Ok((File::open(bucket.dir.part(id, part.number))?, part.size))
            };
            let sources: io::Result<Vec<_>> = parts.iter().map(open).collect();
            Ok((bucket.dir.clone(), upload, parts, sources.map_err(S3Error::internal_error)?))
        })?;
        let algorithm = upload.effective_algorithm();
        let landed = disk::concatenate(&dir, sources, algorithm).map_err(S3Error::internal_error)?;
        let sum = match upload.kind {
            Kind::FullObject => landed.measured.sum.clone(),
            Kind::Composite => {
                let values: Vec<&str> = parts.iter().map(|part| part.sum.value.as_str()).collect();
                sums::composite(algorithm, &values)?
            }
        };
        expected.check_sum(&sum)?;
        let object = Object {
            key: key.to_owned(),
            size: landed.measured.size,
            etag: multipart::etag(&parts),
            modified_ms: now_ms(),
            head: upload.head.clone(),
            sum,
            assembled: Some(Assembled {
                upload_id: id.to_owned(),
                parts: parts.iter().map(|part| (part.number, part.etag())).collect(),
            }),
        };
        let committed =
            self.commit(bucket, landed, object, condition, |bucket| bucket.upload(key, id).map(|_| ()));
        match committed {
            Ok(object) => {
                fs::remove_dir_all(dir.upload(id)).map_err(S3Error::internal_error)?;
                Ok(object)
            }
            // Two Completes of one upload at once: the second finds the first one's object.
            Err(error) => self.already_complete(bucket, key, id, named)?.ok_or(error),
        }
    }

    fn already_complete(
        &self,
        bucket: &str,
        key: &str,
        id: &str,
        named: &[NamedPart],
    ) -> S3Result<Option<Arc<Object>>> {
        self.within(bucket, |bucket| {
            if bucket.assembled.get(id).map(String::as_str) != Some(key) {
                return Ok(None);
            }
            let named: Vec<(i32, &str)> =
                named.iter().map(|part| (part.number, part.etag.as_str())).collect();
            let same = |object: &Arc<Object>| {
                let parts = object.assembled.iter().flat_map(|made_by| &made_by.parts);
                parts.map(|(number, etag)| (i32::from(*number), etag.as_str())).eq(named.iter().copied())
            };
            match bucket.objects.get(key).filter(|object| same(object)) {
                Some(object) => Ok(Some(object.clone())),
                None => Err(no_such_upload()),
            }
        })
    }
}

//! The buffer's folder: its lock, and files written so that a power cut leaves the old or the new, never half. Edge: files.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tributary_contract::id::{Epoch, Number};

use super::error::{BufferError, OpenError, io};
use super::faults::Faults;

/// The folder, locked as long as this lives.
pub struct Files {
    dir: PathBuf,
    faults: Arc<dyn Faults>,
    _lock: File,
}

/// A segment file in the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentFile {
    /// Epoch of its name.
    pub epoch: Epoch,
    /// Number of its name.
    pub number: Number,
    /// Where it is.
    pub path: PathBuf,
}

/// How often a lock that another holds is tried again, and the pause between: a second in all.
const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: std::time::Duration = std::time::Duration::from_millis(20);

/// The name of a segment's file in the folder `segments`.
pub fn segment_name(epoch: Epoch, number: Number) -> String {
    format!("{epoch}-{number}.parquet")
}

impl Files {
    /// Makes the folder if need be and locks it; refuses when another process has it. The lock is on the folder itself:
    /// there is no file that could stay behind, be another user's, or be restored with an image.
    pub fn lock(dir: &Path, faults: Arc<dyn Faults>) -> Result<Self, OpenError> {
        fs::create_dir_all(dir.join("segments")).map_err(io(format!("can't make {}", dir.display())))?;
        let path = dir.to_owned();
        let lock = File::open(&path).map_err(io(format!("can't open {}", path.display())))?;
        // One that is just ending may hold it a moment longer.
        for _ in 0..LOCK_TRIES {
            match lock.try_lock() {
                Ok(()) => return Ok(Self { dir: dir.to_owned(), faults, _lock: lock }),
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
                Err(TryLockError::Error(e)) => {
                    return Err(io(format!("can't lock {}", path.display()))(e).into());
                }
            }
        }
        Err(OpenError::Locked { path })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The database.
    pub fn database(&self) -> PathBuf {
        self.dir.join("buffer.db")
    }

    /// The database's write-ahead log.
    pub fn wal(&self) -> PathBuf {
        self.dir.join("buffer.db-wal")
    }

    /// The lease.
    pub fn lease(&self) -> PathBuf {
        self.dir.join("lease")
    }

    /// Where a segment lies.
    pub fn segment(&self, epoch: Epoch, number: Number) -> PathBuf {
        self.dir.join("segments").join(segment_name(epoch, number))
    }

    /// Passes a point at which a test may let the buffer die.
    pub fn hit(&self, point: &'static str) -> Result<(), BufferError> {
        self.faults.hit(point).map_err(io(point))
    }

    /// Reads a whole file; none if it isn't there.
    pub fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, BufferError> {
        match fs::read(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(io(format!("can't read {}", path.display()))(e)),
        }
    }

    /// The first bytes of a file, at most `length`; none if it isn't there.
    pub fn head(&self, path: &Path, length: u64) -> Result<Vec<u8>, BufferError> {
        use std::io::Read as _;
        let what = || io(format!("can't read {}", path.display()));
        let mut head = Vec::new();
        match File::open(path) {
            Ok(file) => file.take(length).read_to_end(&mut head).map_err(what())?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
            Err(e) => return Err(what()(e)),
        };
        Ok(head)
    }

    /// Writes `bytes` to `path` with `.tmp` behind it and syncs them; [`Files::appear`] is the second half.
    pub fn prepare(&self, path: &Path, bytes: &[u8]) -> Result<(), BufferError> {
        let mut file = self.begin(path)?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        written.map_err(io(format!("can't write {}", temporary(path).display())))
    }

    /// Begins `path` with `.tmp` behind it.
    pub fn begin(&self, path: &Path) -> Result<File, BufferError> {
        let tmp = temporary(path);
        // One that was left behind may be anybody's.
        self.remove(&tmp)?;
        File::create(&tmp).map_err(io(format!("can't make {}", tmp.display())))
    }

    /// Removes what was begun.
    pub fn discard(&self, path: &Path) -> Result<(), BufferError> {
        self.remove(&temporary(path))
    }

    /// Renames what was begun, and is durable, to its name and syncs the folder.
    pub fn appear(&self, path: &Path) -> Result<(), BufferError> {
        fs::rename(temporary(path), path).map_err(io(format!("can't rename to {}", path.display())))?;
        sync_parent(path)
    }

    /// Removes a file; that it isn't there is fine.
    pub fn remove(&self, path: &Path) -> Result<(), BufferError> {
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(io(format!("can't remove {}", path.display()))(e))
            }
            _ => Ok(()),
        }
    }

    /// Removes unfinished files and lists the segments, in the order of their names. Files of other names are left.
    pub fn segments(&self) -> Result<Vec<SegmentFile>, BufferError> {
        let folder = self.dir.join("segments");
        let list = || fs::read_dir(&folder)?.map(|e| e.map(|e| e.path())).collect::<io::Result<Vec<_>>>();
        let mut found = Vec::new();
        for path in list().map_err(io(format!("can't list {}", folder.display())))? {
            let Some(name) = path.file_name().and_then(|n| n.to_str()) else { continue };
            if name.ends_with(".parquet.tmp") {
                self.remove(&path)?;
            } else if let Some((epoch, number)) =
                name.strip_suffix(".parquet").and_then(|stem| stem.split_once('-'))
                && let (Ok(epoch), Ok(number)) = (epoch.parse(), number.parse())
            {
                found.push(SegmentFile { epoch, number, path });
            }
        }
        found.sort_by_key(|f| (f.epoch, f.number));
        Ok(found)
    }

    /// Makes a file one that may be read and written, if it is there: by its mode, else as a copy of itself, else by
    /// setting it aside unread. Tells what had to be done.
    pub fn own(&self, path: &Path, stamp: i64) -> Result<Option<String>, BufferError> {
        let usable = || OpenOptions::new().read(true).write(true).open(path).map(|_| ());
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let why = match usable() {
            Ok(()) => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) if matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::IsADirectory) => e,
            Err(e) => return Err(io(format!("can't open {}", path.display()))(e)),
        };
        let mode = fs::Permissions::from_mode(0o600);
        if fs::set_permissions(path, mode).and_then(|()| usable()).is_ok() {
            return Ok(Some(format!("{name} could not be written ({why}): its mode was mended")));
        }
        let copy = temporary(path);
        self.remove(&copy)?;
        if fs::copy(path, &copy).is_ok()
            && fs::set_permissions(&copy, fs::Permissions::from_mode(0o600)).is_ok()
            && File::open(&copy).and_then(|f| f.sync_all()).is_ok()
        {
            self.appear(path)?;
            return Ok(Some(format!("{name} belongs to someone else ({why}): it was copied")));
        }
        self.remove(&copy)?;
        let folder = self.aside_folder(stamp)?;
        let to = folder.join(&*name);
        fs::rename(path, &to).map_err(io(format!("can't set {} aside", path.display())))?;
        sync_parent(&to)?;
        sync_parent(path)?;
        Ok(Some(format!("{name} can't be read ({why}): it was set aside in {}", folder.display())))
    }

    /// The note of the newest batch.
    pub fn tail(&self) -> PathBuf {
        self.dir.join("tail")
    }

    /// Where a salvaged database is built, and where it lies once it is whole.
    pub fn salvage(&self) -> (PathBuf, PathBuf) {
        (self.dir.join("buffer.db.new"), self.dir.join("buffer.db.salvaged"))
    }

    /// A new folder below `aside/`.
    fn aside_folder(&self, stamp: i64) -> Result<PathBuf, BufferError> {
        let parent = self.dir.join("aside");
        let what = || io(format!("can't set files aside in {}", parent.display()));
        fs::create_dir_all(&parent).map_err(what())?;
        let mut names = (0u64..).map(|n| parent.join(format!("{stamp}-{n}")));
        let folder = names.find(|path| !path.exists()).unwrap_or_else(|| parent.clone());
        fs::create_dir(&folder).map_err(what())?;
        Ok(folder)
    }

    /// Copies database and log into a new folder below `aside/`.
    pub fn aside(&self, stamp: i64) -> Result<PathBuf, BufferError> {
        let folder = self.aside_folder(stamp)?;
        let parent = self.dir.join("aside");
        let what = || io(format!("can't set files aside in {}", parent.display()));
        for (path, name) in [(self.database(), "buffer.db"), (self.wal(), "buffer.db-wal")] {
            if path.exists() {
                fs::copy(&path, folder.join(name)).map_err(what())?;
                File::open(folder.join(name)).and_then(|f| f.sync_all()).map_err(what())?;
            }
        }
        for path in [folder.join("buffer.db"), folder.clone(), parent.clone()] {
            sync_parent(&path)?;
        }
        self.hit("aside: copied")?;
        Ok(folder)
    }

    /// Puts a salvaged database, if a whole one is there, in the place of the damaged one. The log of the damaged one must
    /// be gone first: SQLite would play it into the other file.
    pub fn take_salvaged(&self) -> Result<(), BufferError> {
        let (_, whole) = self.salvage();
        if whole.exists() {
            self.remove(&self.wal())?;
            self.hit("salvage: log removed")?;
            let what = format!("can't rename {}", whole.display());
            fs::rename(&whole, self.database()).map_err(io(what))?;
            sync_parent(&whole)?;
            self.hit("salvage: database replaced")?;
        }
        Ok(())
    }

    /// Bytes of all files below `path`, or of the file itself; what can't be read counts nothing.
    pub fn bytes_of(path: &Path) -> u64 {
        let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
        if !meta.is_dir() {
            return meta.len();
        }
        let Ok(entries) = fs::read_dir(path) else { return 0 };
        entries.flatten().map(|e| Self::bytes_of(&e.path())).sum()
    }

    /// Number of the database's file in its file system: another after it was copied or restored.
    pub fn inode(&self) -> Result<u64, BufferError> {
        use std::os::unix::fs::MetadataExt as _;
        let path = self.database();
        Ok(fs::metadata(&path).map_err(io(format!("can't look at {}", path.display())))?.ino())
    }

    /// 64 random bits.
    pub fn random(&self) -> Result<u64, BufferError> {
        self.faults.random().map_err(io("can't read /dev/urandom"))
    }
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}

/// Makes a rename, creation or removal durable.
pub(super) fn sync_parent(path: &Path) -> Result<(), BufferError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    File::open(parent).and_then(|d| d.sync_all()).map_err(io(format!("can't sync {}", parent.display())))
}

//! Folders: this workspace's own, and one copied as a person copies one, an image of a card, a backup.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The folder of the workspace whose program this is: where cargo runs it from, else where it was built. Clones share
/// a target folder, so a program may have been built in another clone, which may be gone.
pub fn workspace() -> PathBuf {
    let package = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let package = package.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    package.parent().map_or_else(|| package.clone(), Path::to_path_buf)
}

/// Copies a folder of files and folders; files that exist keep their inode, and sockets stay behind.
///
/// # Errors
/// The first file that can't be read or written.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            copy(&entry.path(), &target)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

//! A folder copied as a person copies one: an image of a card, a backup.

use std::fs;
use std::io;
use std::path::Path;

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

//! A file of secrets: read whole if nobody else may read it, and replaced whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Largest file that is read, in bytes: some thousand certificates.
pub(super) const LIMIT_BYTES: u64 = 64 << 20;

/// Puts a text in the place of a file, so that there is always one of the two.
pub(super) fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    // Through links: what they point to is replaced, not they.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut next = path.clone().into_os_string();
    next.push(".new");
    let _ = fs::remove_file(&next);
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&next)?;
    let written = file.write_all(text).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&next, &path));
    if written.is_err() {
        let _ = fs::remove_file(&next);
    }
    written?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// The text of a file that nobody else may read.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let found = file.metadata()?;
    let mode = found.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let message = format!("its permissions are {mode:o}, and others must not read keys: set them to 600");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    if !found.is_file() || found.len() > LIMIT_BYTES {
        let message = format!("it is no file of {LIMIT_BYTES} bytes at most");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    let mut text = Vec::new();
    file.take(LIMIT_BYTES).read_to_end(&mut text)?;
    Ok(text)
}

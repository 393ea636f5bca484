//! Log files that were set aside: how they are named, compressed and removed. Names are those that Traefik's rotation gives.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::calendar::Moment;

/// When a file is set aside, and for how long it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rotation {
    /// A file does not grow beyond this, in bytes.
    pub(crate) max_bytes: u64,
    /// Older files are removed.
    pub(crate) max_age: Option<Duration>,
    /// So many files are kept.
    pub(crate) max_backups: Option<usize>,
    /// Whether they are compressed.
    pub(crate) compress: bool,
}

/// Renames the file to `name-<time>.ext`, and tidies up behind in a thread of its own.
pub(crate) fn set_aside(path: &Path, rotation: &Rotation, now: SystemTime) -> io::Result<()> {
    fs::rename(path, free_name(path, now))?;
    let (path, rotation) = (path.to_owned(), rotation.clone());
    // Compressing takes seconds; the writer must not wait for it. One such thread at a time; the next rotation catches up.
    static BUSY: AtomicBool = AtomicBool::new(false);
    if !BUSY.swap(true, Ordering::AcqRel) {
        let spawned = std::thread::Builder::new().name("log-rotation".to_owned()).spawn(move || {
            let _ = tidy(&path, &rotation, now);
            BUSY.store(false, Ordering::Release);
        });
        if spawned.is_err() {
            BUSY.store(false, Ordering::Release);
        }
    }
    Ok(())
}

/// Compresses and removes files that were set aside.
pub(crate) fn tidy(path: &Path, rotation: &Rotation, now: SystemTime) -> io::Result<()> {
    let mut aside = files_aside(path)?;
    // Stamps sort by age. A file's own times would not do: compressing it makes it young again.
    aside.sort_unstable_by(|a, b| b.cmp(a));
    let too_many = rotation.max_backups.unwrap_or(usize::MAX);
    let oldest = rotation.max_age.and_then(|age| now.checked_sub(age)).map(|time| Moment::of(time).file_stamp());
    for (index, (stamp, file)) in aside.iter().enumerate() {
        if index >= too_many || oldest.as_ref().is_some_and(|oldest| stamp < oldest) {
            fs::remove_file(file)?;
        } else if rotation.compress && file.extension().is_none_or(|extension| extension != "gz") {
            compress(file)?;
        }
    }
    Ok(())
}

fn compress(path: &Path) -> io::Result<()> {
    let mut target = path.as_os_str().to_owned();
    target.push(".gz");
    let target = PathBuf::from(target);
    let write = || -> io::Result<()> {
        use std::os::unix::fs::OpenOptionsExt;
        let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&target)?;
        let mut encoder = GzEncoder::new(io::BufWriter::new(file), Compression::default());
        io::copy(&mut File::open(path)?, &mut encoder)?;
        encoder.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    };
    if let Err(error) = write() {
        let _ = fs::remove_file(&target);
        return Err(error);
    }
    fs::remove_file(path)
}

/// Splits `a/name.ext` into its folder, `name-` and `.ext`.
fn parts(path: &Path) -> (PathBuf, String, String) {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let extension = path.extension().map(|extension| format!(".{}", extension.to_string_lossy())).unwrap_or_default();
    (folder, format!("{stem}-"), extension)
}

/// A name for `path` set aside `now` that no file has: two rotations within a millisecond must not lose lines.
fn free_name(path: &Path, now: SystemTime) -> PathBuf {
    let (folder, prefix, extension) = parts(path);
    (0..1000)
        .map(|millis| now + Duration::from_millis(millis))
        .map(|time| folder.join(format!("{prefix}{}{extension}", Moment::of(time).file_stamp())))
        .find(|name| !name.exists() && !name.with_added_extension("gz").exists())
        .unwrap_or_else(|| folder.join(format!("{prefix}{}{extension}", Moment::of(now).file_stamp())))
}

/// The files that were set aside, each with the time in its name.
fn files_aside(path: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let (folder, prefix, extension) = parts(path);
    let stamp = |name: &str| {
        let rest = name.strip_prefix(&prefix)?;
        let stamp = rest.strip_suffix(".gz").unwrap_or(rest).strip_suffix(&extension)?;
        is_stamp(stamp).then(|| stamp.to_owned())
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if let Some(stamp) = entry.file_name().to_str().and_then(stamp) {
            found.push((stamp, entry.path()));
        }
    }
    Ok(found)
}

/// Whether the text is a time as it stands in names; other files beside the log are none of our business.
fn is_stamp(text: &str) -> bool {
    const FORM: &[u8] = b"0000-00-00T00-00-00.000";
    text.len() == FORM.len()
        && text.bytes().zip(FORM).all(|(byte, form)| if *form == b'0' { byte.is_ascii_digit() } else { byte == *form })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::time::UNIX_EPOCH;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn keeps_the_newest_and_leaves_strangers_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.log");
        for name in [
            "p-2024-01-01T00-00-00.000.log",
            "p-2024-01-02T00-00-00.000.log.gz",
            "p-2024-01-03T00-00-00.000.log",
            "p-notes.log",
            "q.log",
        ] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let rotation = Rotation { max_bytes: 1, max_age: None, max_backups: Some(2), compress: true };
        tidy(&path, &rotation, SystemTime::now()).unwrap();
        assert_eq!(
            names(folder.path()),
            ["p-2024-01-02T00-00-00.000.log.gz", "p-2024-01-03T00-00-00.000.log.gz", "p-notes.log", "q.log"]
        );
        let mut text = String::new();
        let packed = File::open(folder.path().join("p-2024-01-03T00-00-00.000.log.gz")).unwrap();
        flate2::read::GzDecoder::new(packed).read_to_string(&mut text).unwrap();
        assert_eq!(text, "p-2024-01-03T00-00-00.000.log");
    }

    #[test]
    fn removes_what_is_too_old() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.log");
        fs::write(folder.path().join("p-1970-01-01T00-00-00.000.log.gz"), "x").unwrap();
        let day = Duration::from_secs(86_400);
        let rotation = Rotation { max_bytes: 1, max_age: Some(day), max_backups: None, compress: false };
        tidy(&path, &rotation, UNIX_EPOCH + day).unwrap();
        assert_eq!(names(folder.path()).len(), 1);
        tidy(&path, &rotation, UNIX_EPOCH + day + Duration::from_millis(1)).unwrap();
        assert_eq!(names(folder.path()).len(), 0);
    }

    #[test]
    fn a_name_that_is_taken_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.log");
        let rotation = Rotation { max_bytes: 1, max_age: None, max_backups: None, compress: false };
        for text in ["a", "b", "c"] {
            fs::write(&path, text).unwrap();
            set_aside(&path, &rotation, UNIX_EPOCH).unwrap();
        }
        assert_eq!(
            names(folder.path()),
            ["p-1970-01-01T00-00-00.000.log", "p-1970-01-01T00-00-00.001.log", "p-1970-01-01T00-00-00.002.log"]
        );
    }
}

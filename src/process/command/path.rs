//! Where the control socket lies.

use std::ffi::OsStr;
use std::fs::{DirBuilder, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::problem::Problem;

const FILE: &str = "control.sock";

/// Where this process binds its control socket: the setting; the runtime directory that systemd made; `/run/portcullis` if it is
/// ours; the user's runtime directory; at last a directory in `/tmp` that belongs to us alone.
///
/// # Errors
/// When that last directory belongs to somebody else.
pub fn socket_path(setting: Option<&Path>) -> Result<PathBuf, Problem> {
    if let Some(path) = setting {
        return Ok(path.to_owned());
    }
    for (folder, made_by_us) in folders() {
        if made_by_us {
            // Whether that worked shows in the next line.
            let _ = DirBuilder::new().mode(0o700).create(&folder);
        }
        if folder.symlink_metadata().is_ok_and(|found| is_ours(&found)) {
            return Ok(folder.join(FILE));
        }
    }
    let text = format!("{} is not a directory of ours alone", private_folder().display());
    Err(Problem::at("control.socket", text).with_help("name another path"))
}

/// Where a command finds a running process: the setting, or the first of the usual places with a socket in it.
///
/// # Errors
/// When there is none.
pub fn find_socket(setting: Option<&Path>) -> Result<PathBuf, Problem> {
    if let Some(path) = setting {
        return Ok(path.to_owned());
    }
    let trusted =
        |folder: &Path| *folder != private_folder() || folder.symlink_metadata().is_ok_and(|found| is_ours(&found));
    let folders = folders().into_iter().map(|(folder, _)| folder).filter(|folder| trusted(folder));
    let found = folders.map(|folder| folder.join(FILE)).find(|path| path.exists());
    found.ok_or_else(|| {
        Problem::at("control.socket", "no running process found in the usual places")
            .with_help("name its control socket")
    })
}

/// The usual places, and whether it is for us to make them.
fn folders() -> Vec<(PathBuf, bool)> {
    let mut folders = Vec::with_capacity(4);
    if let Some(list) = std::env::var_os("RUNTIME_DIRECTORY") {
        // systemd separates several with colons; ours is the first.
        let first = list.as_bytes().split(|byte| *byte == b':').next().unwrap_or_default();
        folders.push((PathBuf::from(OsStr::from_bytes(first)), false));
    }
    folders.push((PathBuf::from("/run/portcullis"), false));
    if let Some(folder) = std::env::var_os("XDG_RUNTIME_DIR") {
        folders.push((PathBuf::from(folder).join("portcullis"), true));
    }
    folders.push((private_folder(), true));
    folders.retain(|(folder, _)| folder.is_absolute());
    folders
}

/// `/tmp` is everybody's, so the name carries our user and [`is_ours`] looks whose it is.
fn private_folder() -> PathBuf {
    std::env::temp_dir().join(format!("portcullis-{}", rustix::process::geteuid().as_raw()))
}

fn is_ours(found: &Metadata) -> bool {
    let others_write = found.mode() & 0o022 != 0;
    found.is_dir() && found.uid() == rustix::process::geteuid().as_raw() && !others_write
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_a_directory_of_ours_alone_is_trusted() {
        let folder = tempfile::tempdir().unwrap();
        let check = |mode| {
            std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            is_ours(&folder.path().symlink_metadata().unwrap())
        };
        assert!(check(0o700) && check(0o755));
        assert!(!check(0o777) && !check(0o770));
        let link = folder.path().with_extension("link");
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        assert!(!is_ours(&link.symlink_metadata().unwrap()));
        std::fs::remove_file(link).unwrap();
    }

    #[test]
    fn the_setting_wins() {
        let path = Path::new("/somewhere/c.sock");
        assert_eq!(socket_path(Some(path)).unwrap(), path);
        assert_eq!(find_socket(Some(path)).unwrap(), path);
    }
}

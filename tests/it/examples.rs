//! The configuration that is shipped is right, down to its warnings.

use std::path::Path;
use std::process::Command;

#[test]
fn what_is_shipped_passes_its_own_check() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = ["conf/examples", "conf/dynamic.d", "conf"]
        .iter()
        .flat_map(|folder| std::fs::read_dir(root.join(folder)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file());
    let mut count = 0;
    for file in files {
        // From the project's folder, as the paths in the examples are meant.
        let checked = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(["check", "--strict"])
            .arg(file.strip_prefix(root).unwrap())
            .current_dir(root)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&checked.stdout);
        assert!(checked.status.success(), "{}: {said}{}", file.display(), String::from_utf8_lossy(&checked.stderr));
        count += 1;
    }
    assert!(count > 10, "only {count} files were found");
}

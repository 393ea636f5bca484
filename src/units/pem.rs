//! PEM, as settings have it: the text itself, or the name of a file with it.

/// Largest file that is read, in bytes.
const LIMIT_BYTES: u64 = 1 << 20;

/// Whether `written` is the text itself.
pub fn is_inline(written: &str) -> bool {
    written.contains("-----BEGIN")
}

/// The PEM text itself, or what stands in the file of that name.
///
/// # Errors
/// A sentence without a subject, for a problem at the setting.
pub fn read(written: &str) -> Result<Vec<u8>, String> {
    if is_inline(written) {
        return Ok(written.as_bytes().to_vec());
    }
    if written.is_empty() {
        return Err("must be set".to_owned());
    }
    let unreadable = |error: std::io::Error| format!("cannot read the file: {error}");
    let size = std::fs::metadata(written).map_err(unreadable)?.len();
    if size > LIMIT_BYTES {
        return Err(format!("is larger than {LIMIT_BYTES} bytes"));
    }
    std::fs::read(written).map_err(unreadable)
}

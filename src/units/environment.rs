//! The variables of the process.

/// All of them. Bytes that are no text stand as `\u{fffd}`: whoever reads such a value finds something wrong, and nobody else
/// is bothered.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
}

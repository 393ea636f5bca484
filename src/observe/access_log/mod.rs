//! One line per request, in Traefik's formats.

mod format;
mod settings;

pub use format::Field;
pub use settings::{Fields, Filters, Format, HeaderMode, Headers, Mode, QueryParameters, Settings, StatusRange};

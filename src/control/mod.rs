//! Configuration in motion: from what providers publish to what traffic reads.

pub mod compile;
pub mod inbox;
pub mod pipeline;
pub mod status;

pub use compile::{Built, EntryPointModel, Kit, Wanted, compile};
pub use inbox::{Inbox, Locate, Published, Updates};
pub use pipeline::{Outcome, Pipeline};
pub use status::Status;

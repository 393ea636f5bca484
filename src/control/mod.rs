//! Configuration in motion: from what providers publish to what traffic reads.

pub mod compile;
pub mod entry_points;
pub mod inbox;
pub mod pipeline;
pub mod status;

pub use compile::{Built, Internals, Kit, Wanted, compile};
pub use entry_points::{EntryPointModel, EntryPoints, Standing, UdpEntryPointModel};
pub use inbox::{Inbox, Locate, Published, Updates};
pub use pipeline::{Outcome, Pipeline};
pub use status::Status;

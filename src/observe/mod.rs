//! What we tell the world.

pub mod meters;

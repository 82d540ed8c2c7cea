//! Content on coordinators: chunks for members, and tidying up.
//!
//! * [`serve`]: the answering side of `/lote/data/1`, one conversation per stream.
//! * [`access`]: what a URL of our own storage names and allows, judged as over HTTP.
//! * [`plan`]: who pulls a content from whom, so that it goes from host to host; [`swarm`] is its shell.
//! * [`replicas`]: the second copy of every chunk, and chunks that are not here.
//! * [`upkeep`]: what runs all the time so that chunks are where they should be and nowhere else, with [`collect`] and
//!   [`repair`], which decide, and [`references`], which says what is referred to.
//! * [`sweeper`]: drives the removal of what the records have detached.
//!
//! Nothing here survives a crash and nothing needs to: chunks are on the disk, records in the state.

pub mod access;
pub mod collect;
pub mod plan;
pub mod references;
pub mod repair;
pub mod replicas;
pub mod serve;
pub mod swarm;
pub mod sweeper;
pub mod upkeep;

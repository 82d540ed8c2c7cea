//! The REST interfaces: Azure Batch, Azure Blob, and health and metrics.

pub mod auth;
pub mod batch;
pub mod blob;
pub mod odata;
pub mod ops;

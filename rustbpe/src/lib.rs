//! Byte-level byte-pair encoding: learning merges from a stream of texts, and turning text into ids.
//!
//! ```text
//! texts -> pretokenize (split) -> trainer (count, merge) -> merges
//! bytes -> pretokenize (split) -> encoder (apply merges) -> ids -> bytes
//! ```
//!
//! `python` holds everything that knows Python and exists only with the feature of that name; `reference` is
//! the slow twin the tests compare with. Special tokens, files and the choice of a pattern are the caller's.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

mod encoder;
mod error;
mod pretokenize;
#[cfg(feature = "python")]
mod python;
#[cfg(test)]
mod reference;
mod trainer;

pub use encoder::{Bpe, FlatIds};
pub use error::{Error, Result};
pub use pretokenize::Splitter;
pub use trainer::{Pair, PretokenCounts, tokens_of_merges};

/// Ids of single bytes come first, so a vocabulary has at least these.
pub const BYTES: usize = 256;

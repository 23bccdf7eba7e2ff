//! What a caller can do wrong, in sentences a user can act on.

use std::fmt;

/// Result of anything in this crate that depends on its input.
pub type Result<T> = std::result::Result<T, Error>;

/// Why something could not be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The split pattern is not a regular expression.
    Pattern(String),
    /// The pattern gave up on a text, such as one it would have to backtrack through for too long.
    Split(String),
    /// A vocabulary must hold the 256 single bytes.
    VocabularyTooSmall(usize),
    /// A vocabulary, or the number of distinct pretokens, does not fit 32 bits.
    TooMany(&'static str),
    /// A single byte has no token, so some texts could not be encoded.
    MissingByte(u8),
    /// A token is empty.
    EmptyToken(u32),
    /// Two ids stand for the same bytes.
    DuplicateToken(u32, u32),
    /// A token is not the merge of two tokens of lower rank.
    NotAMerge(u32),
    /// An id lies outside the vocabulary.
    UnknownId(u32, usize),
    /// The caller asked to stop.
    Interrupted,
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pattern(reason) => write!(out, "the split pattern is not valid: {reason}"),
            Self::Split(reason) => write!(out, "the split pattern failed on a text: {reason}"),
            Self::VocabularyTooSmall(size) => {
                write!(out, "a vocabulary of {size} cannot hold the 256 single bytes")
            }
            Self::TooMany(what) => write!(out, "too many {what}: more than 32 bits can number"),
            Self::MissingByte(byte) => write!(out, "no token stands for the single byte {byte:#04x}"),
            Self::EmptyToken(id) => write!(out, "token {id} is empty"),
            Self::DuplicateToken(first, second) => {
                write!(out, "tokens {first} and {second} stand for the same bytes")
            }
            Self::NotAMerge(id) => write!(out, "token {id} is not the merge of two tokens of lower rank"),
            Self::UnknownId(id, size) => write!(out, "id {id} is outside the vocabulary of {size}"),
            Self::Interrupted => write!(out, "interrupted"),
        }
    }
}

impl std::error::Error for Error {}

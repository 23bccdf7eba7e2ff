//! Bytes to ids and back, with a finished vocabulary.
//!
//! Inside a pretoken the neighbouring pair that makes the token of the lowest rank is joined first, the leftmost
//! of equals before the others, until no pair makes a token. Short pretokens are scanned once for every merge,
//! which is quadratic but touches little memory; long ones go through a heap, so that a megabyte without a
//! single space costs n log n. Both orders of work give the same ids.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rayon::prelude::*;
use rustc_hash::FxHashMap;

use crate::BYTES;
use crate::error::{Error, Result};
use crate::pretokenize::Splitter;
use crate::trainer::Pair;

const LONGEST_SCANNED: usize = 128;
const NO_RANK: u32 = u32::MAX;
const CHUNKS_PER_THREAD: usize = 8;

/// A byte-level BPE: a vocabulary without special tokens, and a split pattern.
#[derive(Debug)]
pub struct Bpe {
    splitter: Splitter,
    tokens: Vec<Box<[u8]>>,
    ids: FxHashMap<Box<[u8]>, u32>,
    id_of_byte: [u32; BYTES],
    joined: FxHashMap<Pair, u32>, // every way to cut a token into two tokens
}

/// The ids of many texts, one after another.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct FlatIds {
    /// All ids.
    pub ids: Vec<u32>,
    /// Where each text begins in `ids`, and the number of ids as the last entry.
    pub offsets: Vec<i64>,
}

impl Bpe {
    /// Build an encoder from a vocabulary.
    ///
    /// # Arguments
    /// * `tokens` - the bytes of each id; the id is also the token's rank.
    /// * `pattern` - the split pattern the vocabulary was trained with.
    ///
    /// # Errors
    /// `Pattern`, `TooMany`, `EmptyToken`, `DuplicateToken`, `MissingByte`.
    pub fn new(tokens: Vec<Vec<u8>>, pattern: &str) -> Result<Self> {
        if u32::try_from(tokens.len()).is_err() {
            return Err(Error::TooMany("tokens"));
        }
        let tokens: Vec<Box<[u8]>> = tokens.into_iter().map(Vec::into_boxed_slice).collect();
        let mut ids = FxHashMap::default();
        for (id, token) in (0..).zip(&tokens) {
            if token.is_empty() {
                return Err(Error::EmptyToken(id));
            }
            if let Some(first) = ids.insert(token.clone(), id) {
                return Err(Error::DuplicateToken(first, id));
            }
        }
        let mut id_of_byte = [0; BYTES];
        for byte in 0..=u8::MAX {
            id_of_byte[byte as usize] = *ids.get([byte].as_slice()).ok_or(Error::MissingByte(byte))?;
        }
        let joined = ways_to_join(&tokens, &ids);
        Ok(Self { splitter: Splitter::new(pattern)?, tokens, ids, id_of_byte, joined })
    }

    /// The split pattern.
    #[must_use]
    pub fn pattern(&self) -> &str {
        self.splitter.pattern()
    }

    /// The bytes of each id.
    #[must_use]
    pub fn tokens(&self) -> &[Box<[u8]>] {
        &self.tokens
    }

    /// The pair each token of two bytes or more is made of, in order of rank.
    ///
    /// # Errors
    /// `NotAMerge`: a token cannot be reached by joining tokens of lower rank.
    pub fn merges(&self) -> Result<Vec<Pair>> {
        let mut work = Workspace::default();
        (0..)
            .zip(&self.tokens)
            .filter(|(_, token)| token.len() > 1)
            .map(|(id, token)| {
                let mut parts = Vec::new();
                self.join(token, id, &mut work, &mut parts);
                <[u32; 2]>::try_from(parts).map(Pair::from).map_err(|_| Error::NotAMerge(id))
            })
            .collect()
    }

    /// Turn text, or bytes that need not be UTF-8, into ids.
    ///
    /// # Errors
    /// `Split`: the pattern gave up.
    pub fn encode(&self, bytes: &[u8]) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(bytes.len() / 3);
        self.encode_into(bytes, &mut Workspace::default(), &mut ids)?;
        Ok(ids)
    }

    /// Encode many texts in parallel.
    ///
    /// # Arguments
    /// * `texts` - UTF-8 or any bytes.
    /// * `first` - an id to put before each text, such as that of the token that begins a document.
    ///
    /// # Errors
    /// `Split`: the pattern gave up on one of them.
    pub fn encode_batch<T: AsRef<[u8]> + Sync>(&self, texts: &[T], first: Option<u32>) -> Result<FlatIds> {
        let chunk = texts.len().div_ceil(rayon::current_num_threads() * CHUNKS_PER_THREAD).max(1);
        let parts: Vec<FlatIds> =
            texts.par_chunks(chunk).map(|chunk| self.encode_chunk(chunk, first)).collect::<Result<_>>()?;
        let total = parts.iter().map(|part| part.ids.len()).sum();
        let mut flat =
            FlatIds { ids: Vec::with_capacity(total), offsets: Vec::with_capacity(texts.len() + 1) };
        flat.offsets.push(0);
        for part in parts {
            let before = flat.ids.len() as i64;
            flat.offsets.extend(part.offsets.iter().map(|end| before + end));
            flat.ids.extend(part.ids);
        }
        Ok(flat)
    }

    /// Turn ids back into the bytes they stand for.
    ///
    /// # Errors
    /// `UnknownId`: an id is outside the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        for &id in ids {
            let token = self.tokens.get(id as usize).ok_or(Error::UnknownId(id, self.tokens.len()))?;
            bytes.extend_from_slice(token);
        }
        Ok(bytes)
    }

    /// Encode texts one after another; the offsets are the ends of the texts.
    fn encode_chunk<T: AsRef<[u8]>>(&self, texts: &[T], first: Option<u32>) -> Result<FlatIds> {
        let mut work = Workspace::default();
        let mut flat = FlatIds::default();
        for text in texts {
            flat.ids.extend(first);
            self.encode_into(text.as_ref(), &mut work, &mut flat.ids)?;
            flat.offsets.push(flat.ids.len() as i64);
        }
        Ok(flat)
    }

    fn encode_into(&self, bytes: &[u8], work: &mut Workspace, ids: &mut Vec<u32>) -> Result<()> {
        self.splitter.split_bytes(bytes, |pretoken| match self.ids.get(pretoken) {
            Some(&id) => ids.push(id),
            None => self.join(pretoken, NO_RANK, work, ids),
        })
    }

    /// Append the ids of one pretoken, joining only pairs that make a token of a rank below `limit`.
    fn join(&self, pretoken: &[u8], limit: u32, work: &mut Workspace, ids: &mut Vec<u32>) {
        work.parts.clear();
        work.parts.extend(pretoken.iter().map(|&byte| self.id_of_byte[byte as usize]));
        let rank = |left, right| self.joined.get(&(left, right)).copied().filter(|&rank| rank < limit);
        if pretoken.len() <= LONGEST_SCANNED {
            join_by_scan(&mut work.parts, &mut work.ranks, rank);
        } else {
            join_by_heap(&mut work.parts, rank);
        }
        ids.extend_from_slice(&work.parts);
    }
}

/// Memory one thread uses again for every pretoken.
#[derive(Debug, Default)]
struct Workspace {
    parts: Vec<u32>,
    ranks: Vec<u32>,
}

/// For every token every way to cut it into two tokens, and the token's rank.
fn ways_to_join(tokens: &[Box<[u8]>], ids: &FxHashMap<Box<[u8]>, u32>) -> FxHashMap<Pair, u32> {
    let mut joined = FxHashMap::default();
    for (rank, token) in (0..).zip(tokens) {
        for cut in 1..token.len() {
            if let (Some(&left), Some(&right)) = (ids.get(&token[..cut]), ids.get(&token[cut..])) {
                joined.insert((left, right), rank);
            }
        }
    }
    joined
}

/// Join the leftmost pair of the lowest rank until there is none.
fn join_by_scan(parts: &mut Vec<u32>, ranks: &mut Vec<u32>, rank: impl Fn(u32, u32) -> Option<u32>) {
    let rank_at = |parts: &[u32], at: usize| match parts.get(at..at + 2) {
        Some(pair) => rank(pair[0], pair[1]).unwrap_or(NO_RANK),
        None => NO_RANK,
    };
    ranks.clear();
    ranks.extend((0..parts.len()).map(|at| rank_at(parts, at)));
    while let Some((at, &lowest)) = ranks.iter().enumerate().min_by_key(|&(_, rank)| rank) {
        if lowest == NO_RANK {
            return;
        }
        parts[at] = lowest;
        parts.remove(at + 1);
        ranks.remove(at + 1);
        ranks[at] = rank_at(parts, at);
        if at > 0 {
            ranks[at - 1] = rank_at(parts, at - 1);
        }
    }
}

/// The same as `join_by_scan`, for long pretokens. Parts form a linked list over their first positions; the heap
/// holds every pair that could be joined when it arose, and one that has changed since is passed over.
fn join_by_heap(parts: &mut Vec<u32>, rank: impl Fn(u32, u32) -> Option<u32>) {
    let end = parts.len();
    let mut next: Vec<usize> = (1..=end).collect();
    let mut previous: Vec<usize> = (0..end).map(|at| at.wrapping_sub(1)).collect();
    let mut gone = vec![false; end];
    let mut heap: BinaryHeap<_> = (1..end)
        .filter_map(|at| {
            let (left, right) = (parts[at - 1], parts[at]);
            rank(left, right).map(|rank| Reverse((rank, at - 1, left, right)))
        })
        .collect();
    while let Some(Reverse((joined, at, left, right))) = heap.pop() {
        let second = next[at];
        if gone[at] || second == end || (parts[at], parts[second]) != (left, right) {
            continue;
        }
        parts[at] = joined;
        gone[second] = true;
        let after = next[second];
        next[at] = after;
        if after < end {
            previous[after] = at;
            heap.extend(rank(joined, parts[after]).map(|rank| Reverse((rank, at, joined, parts[after]))));
        }
        if at > 0 {
            let before = previous[at];
            heap.extend(
                rank(parts[before], joined).map(|rank| Reverse((rank, before, parts[before], joined))),
            );
        }
    }
    let mut position = 0;
    parts.retain(|_| {
        position += 1;
        !gone[position - 1]
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::reference::{self, PATTERN, texts};
    use crate::trainer::tokens_of_merges;

    fn trained(texts: &[String]) -> Bpe {
        let merges = reference::learn_merges(texts, 80);
        Bpe::new(tokens_of_merges(&merges), PATTERN).unwrap()
    }

    fn rank_of(bpe: &Bpe) -> impl Fn(u32, u32) -> Option<u32> {
        |left, right| bpe.joined.get(&(left, right)).copied()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn ids_are_those_of_the_slow_twin(
            learned in prop::collection::vec(texts(), 1..6), bytes in prop::collection::vec(any::<u8>(), 0..20), text in texts()
        ) {
            let bpe = trained(&learned);
            let tokens = bpe.tokens();
            for input in learned.iter().map(String::as_bytes).chain([text.as_bytes(), &bytes]) {
                let ids = bpe.encode(input).unwrap();
                prop_assert_eq!(&ids, &reference::encode(tokens, &bpe.splitter, input));
                prop_assert_eq!(bpe.decode(&ids).unwrap(), input);
            }
        }

        #[test]
        fn the_heap_joins_what_the_scan_joins(learned in "[ab]{2,60}", text in "[abc]{0,200}") {
            let bpe = trained(&[learned]);
            let bytes: Vec<u32> = text.bytes().map(u32::from).collect();
            let (mut scanned, mut heaped) = (bytes.clone(), bytes);
            join_by_scan(&mut scanned, &mut Vec::new(), rank_of(&bpe));
            join_by_heap(&mut heaped, rank_of(&bpe));
            prop_assert_eq!(scanned, heaped);
        }

        #[test]
        fn merges_found_from_the_tokens_are_those_that_were_learned(learned in prop::collection::vec(texts(), 1..6)) {
            prop_assert_eq!(trained(&learned).merges().unwrap(), reference::learn_merges(&learned, 80));
        }

        #[test]
        fn a_batch_is_its_texts_one_by_one(batch in prop::collection::vec(texts(), 0..20), first in prop::option::of(9..9_999_u32)) {
            let bpe = trained(&batch);
            let flat = bpe.encode_batch(&batch, first).unwrap();
            prop_assert_eq!(flat.offsets.len(), batch.len() + 1);
            for (text, ends) in batch.iter().zip(flat.offsets.windows(2)) {
                let expected: Vec<u32> = first.into_iter().chain(bpe.encode(text.as_bytes()).unwrap()).collect();
                prop_assert_eq!(&flat.ids[ends[0] as usize..ends[1] as usize], expected);
            }
        }
    }

    #[test]
    fn vocabularies_that_cannot_work_are_refused() {
        let bytes = || tokens_of_merges(&[]);
        let refused = |tokens: Vec<Vec<u8>>| Bpe::new(tokens, PATTERN).unwrap_err();
        assert_eq!(refused(bytes().split_off(1)), Error::MissingByte(0));
        assert_eq!(refused([bytes(), vec![vec![7]]].concat()), Error::DuplicateToken(7, 256));
        assert_eq!(refused([bytes(), vec![vec![]]].concat()), Error::EmptyToken(256));
        let unreachable = Bpe::new([bytes(), vec![b"abc".to_vec()]].concat(), PATTERN).unwrap();
        assert_eq!(unreachable.merges(), Err(Error::NotAMerge(256)));
        assert_eq!(unreachable.decode(&[257]), Err(Error::UnknownId(257, 257)));
    }
}

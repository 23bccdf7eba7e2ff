//! Learning merges: count the pretokens of all texts, then join the most frequent pair again and again.
//!
//! ```text
//! buffers of texts -> counts of distinct pretokens -> pairs with their counts -> heap -> merges
//! ```
//!
//! Of two pairs equally frequent the smaller one wins, compared by its first id and then by its second, so the
//! merges depend on the texts alone and not on their order or on the number of threads. The count of a pair that
//! exists can only fall; the heap therefore keeps old counts and corrects an entry when it comes to the top.
//! Memory grows with the distinct pretokens, not with the texts.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rayon::prelude::*;
use rustc_hash::FxHashMap;

use crate::BYTES;
use crate::error::{Error, Result};
use crate::pretokenize::Splitter;

/// Two neighbouring ids.
pub type Pair = (u32, u32);

const CHUNKS_PER_THREAD: usize = 4;

/// How often each pretoken occurs in the texts seen so far.
#[derive(Debug)]
pub struct PretokenCounts<'splitter> {
    splitter: &'splitter Splitter,
    counts: FxHashMap<Box<str>, u64>,
}

impl<'splitter> PretokenCounts<'splitter> {
    /// Nothing counted yet.
    #[must_use]
    pub fn new(splitter: &'splitter Splitter) -> Self {
        Self { splitter, counts: FxHashMap::default() }
    }

    /// Count the pretokens of some texts, in parallel.
    ///
    /// # Errors
    /// `Split`: the pattern gave up on one of them.
    pub fn add(&mut self, texts: &[String]) -> Result<()> {
        let chunk = texts.len().div_ceil(rayon::current_num_threads() * CHUNKS_PER_THREAD).max(1);
        let partial: Vec<_> =
            texts.par_chunks(chunk).map(|chunk| self.count(chunk)).collect::<Result<_>>()?;
        for (pretoken, count) in partial.into_iter().flatten() {
            match self.counts.get_mut(pretoken) {
                Some(total) => *total += count,
                None => drop(self.counts.insert(pretoken.into(), count)),
            }
        }
        Ok(())
    }

    fn count<'text>(&self, texts: &'text [String]) -> Result<FxHashMap<&'text str, u64>> {
        let mut counts = FxHashMap::default();
        for text in texts {
            self.splitter.split(text, |pretoken| *counts.entry(pretoken).or_insert(0) += 1)?;
        }
        Ok(counts)
    }

    /// Learn merges until the vocabulary has `vocab_size` tokens or no pair is left.
    ///
    /// # Arguments
    /// * `vocab_size` - single bytes and merges together, at least 256.
    /// * `go_on` - asked once per merge; an error ends the training with that error.
    ///
    /// # Returns
    /// The pairs in the order they are merged: the first becomes id 256. Fewer than asked for where the texts
    /// support no more.
    ///
    /// # Errors
    /// `VocabularyTooSmall`, `TooMany`, or what `go_on` says.
    pub fn learn_merges(self, vocab_size: usize, go_on: &mut dyn FnMut() -> Result<()>) -> Result<Vec<Pair>> {
        let wanted = vocab_size.checked_sub(BYTES).ok_or(Error::VocabularyTooSmall(vocab_size))?;
        if u32::try_from(vocab_size).is_err() {
            return Err(Error::TooMany("tokens"));
        }
        let mut merging = Merging::new(self.counts)?;
        let mut merges = Vec::new();
        while merges.len() < wanted {
            go_on()?;
            let Some(pair) = merging.most_frequent() else { break };
            merging.merge(pair, (BYTES + merges.len()) as u32);
            merges.push(pair);
        }
        Ok(merges)
    }
}

/// The bytes of every token of a vocabulary made by `merges`, single bytes first.
#[must_use]
pub fn tokens_of_merges(merges: &[Pair]) -> Vec<Vec<u8>> {
    let mut tokens: Vec<Vec<u8>> = (0..=u8::MAX).map(|byte| vec![byte]).collect();
    for &(left, right) in merges {
        let joined = [tokens[left as usize].as_slice(), &tokens[right as usize]].concat();
        tokens.push(joined);
    }
    tokens
}

/// A distinct pretoken as it stands after the merges so far: a stretch of `Merging::ids`.
#[derive(Debug, Clone, Copy)]
struct Word {
    start: usize,
    length: usize,
    count: u64,
}

/// How often a pair occurs, and in which words it may.
#[derive(Debug, Default)]
struct Occurrences {
    count: u64,
    words: Vec<u32>,
}

impl Occurrences {
    fn add(&mut self, count: u64, word: u32) {
        self.count += count;
        if self.words.last() != Some(&word) {
            self.words.push(word);
        }
    }
}

/// Ordered so that the greatest is the next to be merged.
type Candidate = (u64, Reverse<Pair>);

/// The state between two merges.
#[derive(Debug)]
struct Merging {
    ids: Vec<u32>,
    words: Vec<Word>,
    pairs: FxHashMap<Pair, Occurrences>,
    heap: BinaryHeap<Candidate>,
}

impl Merging {
    fn new(counts: FxHashMap<Box<str>, u64>) -> Result<Self> {
        let counts: Vec<_> = counts.into_iter().filter(|(pretoken, _)| pretoken.len() > 1).collect();
        if u32::try_from(counts.len()).is_err() {
            return Err(Error::TooMany("distinct pretokens"));
        }
        let mut ids = Vec::with_capacity(counts.iter().map(|(pretoken, _)| pretoken.len()).sum());
        let mut words = Vec::with_capacity(counts.len());
        let mut pairs = FxHashMap::<Pair, Occurrences>::default();
        for (number, (pretoken, count)) in counts.into_iter().enumerate() {
            words.push(Word { start: ids.len(), length: pretoken.len(), count });
            ids.extend(pretoken.bytes().map(u32::from));
            for pair in pretoken.as_bytes().windows(2) {
                pairs.entry((pair[0].into(), pair[1].into())).or_default().add(count, number as u32);
            }
        }
        let heap = pairs.iter().map(|(&pair, found)| (found.count, Reverse(pair))).collect();
        Ok(Self { ids, words, pairs, heap })
    }

    /// Take the most frequent pair off the heap; None when no pair is left.
    fn most_frequent(&mut self) -> Option<Pair> {
        while let Some((count, Reverse(pair))) = self.heap.pop() {
            match self.pairs.get(&pair).map(|found| found.count) {
                Some(current) if current == count => return Some(pair),
                Some(0) => drop(self.pairs.remove(&pair)),
                Some(current) => self.heap.push((current, Reverse(pair))),
                None => {}
            }
        }
        None
    }

    /// Replace every occurrence of `pair` by `joined` and bring all counts up to date.
    fn merge(&mut self, pair: Pair, joined: u32) {
        let found = self.pairs.remove(&pair).unwrap_or_default();
        let mut created = Vec::new();
        for number in found.words {
            self.merge_in_word(number, pair, joined, &mut created);
        }
        for pair in created {
            match self.pairs.get(&pair).map_or(0, |found| found.count) {
                0 => drop(self.pairs.remove(&pair)),
                count => self.heap.push((count, Reverse(pair))),
            }
        }
    }

    /// Merge in one word, from left to right. The word is at any moment what was written and what is yet to be
    /// read; every replacement changes the counts of the pairs to its two sides.
    fn merge_in_word(&mut self, number: u32, (left, right): Pair, joined: u32, created: &mut Vec<Pair>) {
        let word = self.words[number as usize];
        let ids = &mut self.ids[word.start..word.start + word.length];
        let mut gain = |pair| {
            self.pairs
                .entry(pair)
                .or_insert_with(|| {
                    created.push(pair);
                    Occurrences::default()
                })
                .add(word.count, number);
        };
        let mut changes = Vec::new();
        let (mut read, mut written) = (0, 0);
        while read < ids.len() {
            if ids[read] == left && ids.get(read + 1) == Some(&right) {
                if written > 0 {
                    changes.push(((ids[written - 1], left), (ids[written - 1], joined)));
                }
                if let Some(&next) = ids.get(read + 2) {
                    changes.push(((right, next), (joined, next)));
                }
                ids[written] = joined;
                read += 2;
            } else {
                ids[written] = ids[read];
                read += 1;
            }
            written += 1;
        }
        for &(_, gained) in &changes {
            gain(gained);
        }
        for (lost, _) in changes {
            if let Some(found) = self.pairs.get_mut(&lost) {
                found.count -= word.count;
            }
        }
        self.words[number as usize].length = written;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::reference::{self, PATTERN, texts};

    fn learn(texts: &[String], vocab_size: usize) -> Vec<Pair> {
        let splitter = Splitter::new(PATTERN).unwrap();
        let mut counts = PretokenCounts::new(&splitter);
        for buffer in texts.chunks(3) {
            counts.add(buffer).unwrap();
        }
        counts.learn_merges(vocab_size, &mut || Ok(())).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn merges_are_those_of_the_slow_twin(texts in prop::collection::vec(texts(), 0..12), merges in 0..60_usize) {
            prop_assert_eq!(learn(&texts, BYTES + merges), reference::learn_merges(&texts, merges));
        }

        #[test]
        fn merges_in_long_runs_of_few_letters_are_those_of_the_slow_twin(text in "[ab]{0,60}", merges in 0..40_usize) {
            let texts = [text];
            prop_assert_eq!(learn(&texts, BYTES + merges), reference::learn_merges(&texts, merges));
        }
    }

    #[test]
    fn of_equally_frequent_pairs_the_smaller_is_merged_first() {
        let texts = ["zy zy ba ba ca ca"].map(String::from);
        let [space, b, c, y, z] = [b' ', b'b', b'c', b'y', b'z'].map(u32::from);
        assert_eq!(learn(&texts, BYTES + 3), [(space, b), (space, c), (z, y)]);
    }

    #[test]
    fn training_ends_where_no_pair_is_left() {
        assert_eq!(learn(&["aaaa".into()], 1000).len(), 2);
        assert!(learn(&[], 1000).is_empty());
    }

    #[test]
    fn a_vocabulary_without_all_bytes_is_refused() {
        let splitter = Splitter::new(PATTERN).unwrap();
        let result = PretokenCounts::new(&splitter).learn_merges(255, &mut || Ok(()));
        assert_eq!(result, Err(Error::VocabularyTooSmall(255)));
    }

    #[test]
    fn training_stops_when_asked() {
        let splitter = Splitter::new(PATTERN).unwrap();
        let mut counts = PretokenCounts::new(&splitter);
        counts.add(&["abcdef".into()]).unwrap();
        assert_eq!(counts.learn_merges(300, &mut || Err(Error::Interrupted)), Err(Error::Interrupted));
    }
}

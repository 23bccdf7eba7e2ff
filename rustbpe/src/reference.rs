//! The slow twin: training and encoding as one would explain them on a blackboard. For tests only.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::pretokenize::Splitter;
use crate::trainer::Pair;

/// The pattern of the tests.
pub const PATTERN: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";

/// Texts in which words repeat, with every kind of character the pattern tells apart.
pub fn texts() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => prop::sample::select(vec![
            "the", "then", "other", "aaa", "abab", " ", " ", "  ", "\n", "\r\n", "\t", "1", "12", "'s", "'LL", "'ſ", "'", ".",
            "...", "日本", "語", "é", "e\u{301}", "🙂", "👩\u{200d}👩", "\u{a0}", "\u{2028}", "\u{85}", "Ⅷ", "½", "٣", "ß", "ﬀ", "_",
        ]).prop_map(String::from),
        1 => any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

/// Count all pairs anew before every merge.
pub fn learn_merges(texts: &[String], wanted: usize) -> Vec<Pair> {
    let splitter = Splitter::by_regex(PATTERN);
    let mut words: Vec<Vec<u32>> = Vec::new();
    for text in texts {
        splitter.split(text, |word| words.push(word.bytes().map(u32::from).collect())).unwrap();
    }
    let mut merges = Vec::new();
    while merges.len() < wanted {
        let mut counts = BTreeMap::<Pair, u64>::new();
        for pair in words.iter().flat_map(|word| word.windows(2)) {
            *counts.entry((pair[0], pair[1])).or_default() += 1;
        }
        let Some(most) = counts.values().max() else { break };
        let (&pair, _) = counts.iter().find(|(_, count)| *count == most).unwrap(); // the smallest of them
        let joined = 256 + merges.len() as u32;
        words = words.iter().map(|word| replace(word, pair, joined)).collect();
        merges.push(pair);
    }
    merges
}

fn replace(word: &[u32], pair: Pair, joined: u32) -> Vec<u32> {
    match word {
        [left, right, rest @ ..] if (*left, *right) == pair => {
            [vec![joined], replace(rest, pair, joined)].concat()
        }
        [first, rest @ ..] => [vec![*first], replace(rest, pair, joined)].concat(),
        [] => Vec::new(),
    }
}

/// Look through the whole vocabulary for the token that joins two neighbours and has the lowest rank.
pub fn encode(tokens: &[Box<[u8]>], splitter: &Splitter, bytes: &[u8]) -> Vec<u32> {
    let mut ids = Vec::new();
    let id_of = |token: &[u8]| tokens.iter().position(|other| **other == *token);
    let take = |pretoken: &[u8]| {
        let mut parts: Vec<Vec<u8>> = pretoken.iter().map(|&byte| vec![byte]).collect();
        while let Some((id, at)) =
            (1..parts.len()).filter_map(|at| id_of(&parts[at - 1..=at].concat()).map(|id| (id, at))).min()
        {
            parts.splice(at - 1..=at, [tokens[id].to_vec()]);
        }
        ids.extend(parts.iter().map(|part| id_of(part).unwrap() as u32));
    };
    splitter.split_bytes(bytes, take).unwrap();
    ids
}

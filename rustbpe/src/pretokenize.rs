//! Cutting text into pretokens, the pieces no merge crosses.
//!
//! Any regular expression may be the pattern. The GPT-4 family, in which only the longest run of digits varies,
//! is recognised by its spelling and cut by a scanner that needs no backtracking: it is many times faster and
//! has no limit on the length of a run of spaces. A test holds the scanner to the regular expression.
//!
//! Input that is not UTF-8 is cut first: every maximal stretch of valid UTF-8 is split as a text of its own, and
//! every maximal run of invalid bytes between two of them is one pretoken. What a pattern does not match becomes
//! a pretoken too, so the pretokens of an input always add up to the input.

use regex_syntax::hir::{Class, HirKind};

use crate::error::{Error, Result};

const FAMILY_HEAD: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,";
const FAMILY_TAIL: &str = r"}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";

/// Cuts texts by one pattern.
#[derive(Debug)]
pub struct Splitter {
    pattern: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Scanner(Scanner),
    Regex(Box<fancy_regex::Regex>),
}

impl Splitter {
    /// Compile a pattern.
    ///
    /// # Errors
    /// `Pattern`: it is not a regular expression.
    pub fn new(pattern: &str) -> Result<Self> {
        let kind = match digits_in_family(pattern) {
            Some(most_digits) => Kind::Scanner(Scanner::new(most_digits)?),
            None => Kind::Regex(Box::new(compile(pattern)?)),
        };
        Ok(Self { pattern: pattern.to_owned(), kind })
    }

    /// A splitter that always uses the regular expression.
    #[cfg(test)]
    pub(crate) fn by_regex(pattern: &str) -> Self {
        let kind = Kind::Regex(Box::new(compile(pattern).unwrap()));
        Self { pattern: pattern.to_owned(), kind }
    }

    /// The pattern as it was given.
    #[must_use]
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// Hand every pretoken of `text` to `take`, in order.
    ///
    /// # Errors
    /// `Split`: the regular expression gave up.
    pub fn split<'text>(&self, text: &'text str, mut take: impl FnMut(&'text str)) -> Result<()> {
        match &self.kind {
            Kind::Scanner(scanner) => {
                scanner.split(text, take);
                Ok(())
            }
            Kind::Regex(regex) => split_by_regex(regex, text, &mut take),
        }
    }

    /// Hand every pretoken of `bytes` to `take`, in order; the bytes need not be UTF-8.
    ///
    /// # Errors
    /// `Split`: the regular expression gave up.
    pub fn split_bytes<'text>(&self, bytes: &'text [u8], mut take: impl FnMut(&'text [u8])) -> Result<()> {
        let (mut start, mut end) = (0, 0); // of the run of invalid bytes not handed over yet
        for chunk in bytes.utf8_chunks() {
            let valid = chunk.valid();
            if !valid.is_empty() {
                if start < end {
                    take(&bytes[start..end]);
                }
                self.split(valid, |piece| take(piece.as_bytes()))?;
                start = end + valid.len();
                end = start;
            }
            end += chunk.invalid().len();
        }
        if start < end {
            take(&bytes[start..end]);
        }
        Ok(())
    }
}

/// The longest run of digits in a pattern of the GPT-4 family, or None for any other pattern.
fn digits_in_family(pattern: &str) -> Option<usize> {
    let digits = pattern.strip_prefix(FAMILY_HEAD)?.strip_suffix(FAMILY_TAIL)?;
    digits.parse().ok().filter(|most| (1..=9).contains(most) && digits.len() == 1)
}

fn compile(pattern: &str) -> Result<fancy_regex::Regex> {
    fancy_regex::Regex::new(pattern).map_err(|error| Error::Pattern(error.to_string()))
}

fn split_by_regex<'text>(
    regex: &fancy_regex::Regex,
    text: &'text str,
    take: &mut impl FnMut(&'text str),
) -> Result<()> {
    let mut done = 0;
    for found in regex.find_iter(text) {
        let found = found.map_err(|error| Error::Split(error.to_string()))?;
        for (start, end) in [(done, found.start()), (found.start(), found.end())] {
            if start < end {
                take(&text[start..end]);
            }
        }
        done = found.end();
    }
    if done < text.len() {
        take(&text[done..]);
    }
    Ok(())
}

/// What the patterns of the family ask of a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kin {
    Other,
    Letter,
    Number,
    Space,
    Newline, // a space too: \r or \n
}

/// The GPT-4 family of patterns, by hand.
#[derive(Debug)]
struct Scanner {
    most_digits: usize,
    kin: Vec<Kin>, // of every code point
}

impl Scanner {
    fn new(most_digits: usize) -> Result<Self> {
        let mut kin = vec![Kin::Other; char::MAX as usize + 1];
        for (class, value) in [(r"\p{L}", Kin::Letter), (r"\p{N}", Kin::Number), (r"\s", Kin::Space)] {
            for (first, last) in ranges_of(class)? {
                kin[first as usize..=last as usize].fill(value);
            }
        }
        kin['\r' as usize] = Kin::Newline;
        kin['\n' as usize] = Kin::Newline;
        Ok(Self { most_digits, kin })
    }

    fn split<'text>(&self, text: &'text str, mut take: impl FnMut(&'text str)) {
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let (piece, after) = rest.split_at(self.first_length(rest, first));
            take(piece);
            rest = after;
        }
    }

    /// Bytes of the first pretoken of a text that begins with `first`. The branches are the pattern's, in order.
    fn first_length(&self, text: &str, first: char) -> usize {
        let kin = self.of(first);
        if first == '\''
            && let Some(length) = contraction(text)
        {
            return length;
        }
        if kin == Kin::Letter {
            return self.run(text, |kin| kin == Kin::Letter);
        }
        if kin == Kin::Number {
            return text
                .chars()
                .take(self.most_digits)
                .take_while(|&c| self.of(c) == Kin::Number)
                .map(char::len_utf8)
                .sum();
        }
        let after = &text[first.len_utf8()..];
        if kin != Kin::Newline {
            let letters = self.run(after, |kin| kin == Kin::Letter);
            if letters > 0 {
                return first.len_utf8() + letters;
            }
        }
        if kin == Kin::Other {
            return self.marks(text);
        }
        if first == ' ' && after.chars().next().is_some_and(|c| self.of(c) == Kin::Other) {
            return 1 + self.marks(after);
        }
        self.spaces(text)
    }

    /// Bytes of a run of neither letters, numbers nor spaces, with the newlines after it.
    fn marks(&self, text: &str) -> usize {
        let marks = self.run(text, |kin| kin == Kin::Other);
        marks + self.run(&text[marks..], |kin| kin == Kin::Newline)
    }

    /// Bytes of leading white space that go together: up to the last newline, or all but the last space, which
    /// belongs to the word that follows.
    fn spaces(&self, text: &str) -> usize {
        let run = &text[..self.run(text, |kin| matches!(kin, Kin::Space | Kin::Newline))];
        if let Some(newline) = run.rfind(['\r', '\n']) {
            return newline + 1;
        }
        let last = run.chars().next_back().map_or(0, char::len_utf8);
        if run.len() == text.len() || run.len() == last { run.len() } else { run.len() - last }
    }

    fn run(&self, text: &str, wanted: impl Fn(Kin) -> bool) -> usize {
        text.char_indices().find(|&(_, c)| !wanted(self.of(c))).map_or(text.len(), |(at, _)| at)
    }

    fn of(&self, c: char) -> Kin {
        self.kin[c as usize]
    }
}

/// Bytes of a contraction at the start of a text that begins with an apostrophe.
fn contraction(text: &str) -> Option<usize> {
    let mut letters = text.chars().skip(1).map(folded);
    match (letters.next()?, letters.next()) {
        ('s' | 'd' | 'm' | 't', _) => Some(1 + text.chars().nth(1)?.len_utf8()),
        ('l', Some('l')) | ('v' | 'r', Some('e')) => Some(3),
        _ => None,
    }
}

/// A letter without its case, as `(?i)` sees it; the long s is an s.
fn folded(c: char) -> char {
    if c == 'ſ' { 's' } else { c.to_ascii_lowercase() }
}

/// The ranges of code points in a character class of one pattern.
fn ranges_of(class: &str) -> Result<Vec<(char, char)>> {
    let parsed = regex_syntax::parse(class).map_err(|error| Error::Pattern(error.to_string()))?;
    match parsed.kind() {
        HirKind::Class(Class::Unicode(class)) => {
            Ok(class.iter().map(|range| (range.start(), range.end())).collect())
        }
        _ => Err(Error::Pattern(format!("{class} is not a class"))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::reference::{PATTERN, texts};

    fn pieces<'text>(splitter: &Splitter, text: &'text str) -> Vec<&'text str> {
        let mut pieces = Vec::new();
        splitter.split(text, |piece| pieces.push(piece)).unwrap();
        pieces
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn scanner_cuts_where_the_regular_expression_cuts(text in texts(), most_digits in 1..4) {
            let pattern = format!("{FAMILY_HEAD}{most_digits}{FAMILY_TAIL}");
            let scanner = Splitter::new(&pattern).unwrap();
            prop_assert!(matches!(scanner.kind, Kind::Scanner(_)));
            prop_assert_eq!(pieces(&scanner, &text), pieces(&Splitter::by_regex(&pattern), &text));
        }

        #[test]
        fn pretokens_of_bytes_add_up_to_the_bytes(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut joined = Vec::new();
            Splitter::new(PATTERN).unwrap().split_bytes(&bytes, |piece| joined.extend_from_slice(piece)).unwrap();
            prop_assert_eq!(joined, bytes);
        }
    }

    #[test]
    fn every_code_point_is_of_the_kin_the_regular_expression_says() {
        let scanner = Scanner::new(2).unwrap();
        for (class, kin) in [
            (r"\p{L}", vec![Kin::Letter]),
            (r"\p{N}", vec![Kin::Number]),
            (r"\s", vec![Kin::Space, Kin::Newline]),
        ] {
            let regex = compile(class).unwrap();
            for c in '\0'..=char::MAX {
                let is_in = regex.is_match(c.encode_utf8(&mut [0; 4])).unwrap();
                assert_eq!(is_in, kin.contains(&scanner.of(c)), "{c:?} and {class}");
            }
        }
    }

    #[test]
    fn contractions_ignore_the_case_of_the_same_letters_as_the_regular_expression() {
        let (scanner, regex) = (Splitter::new(PATTERN).unwrap(), Splitter::by_regex(PATTERN));
        for c in '\0'..=char::MAX {
            let text = format!("'{c}e'l{c}");
            assert_eq!(pieces(&scanner, &text), pieces(&regex, &text));
        }
    }

    #[test]
    fn a_run_of_invalid_bytes_is_one_pretoken_between_texts() {
        let mut pieces = Vec::new();
        let splitter = Splitter::new(PATTERN).unwrap();
        splitter.split_bytes(b"ab \xff\xfe\xe4\xb8 cd\x80", |piece| pieces.push(piece.to_vec())).unwrap();
        let expected: [&[u8]; 5] = [b"ab", b" ", b"\xff\xfe\xe4\xb8", b" cd", b"\x80"];
        assert_eq!(pieces, expected);
    }

    #[test]
    fn what_a_pattern_does_not_match_is_kept() {
        let splitter = Splitter::new(r"\d+").unwrap();
        assert_eq!(pieces(&splitter, "a12bc3 "), ["a", "12", "bc", "3", " "]);
    }

    #[test]
    fn a_million_spaces_are_cut_without_backtracking() {
        let text = format!("{}x", " ".repeat(1 << 20));
        assert_eq!(pieces(&Splitter::new(PATTERN).unwrap(), &text).len(), 2);
    }

    #[test]
    fn a_pattern_that_does_not_compile_is_refused() {
        assert!(matches!(Splitter::new("(").unwrap_err(), Error::Pattern(_)));
    }
}

//! Regular expressions that users write: matched in time linear in the input, and of bounded size.

use std::fmt;

use regex::{Captures, Regex, RegexBuilder};

/// The longest expression, in bytes.
const MAX_LENGTH: usize = 2048;
/// The most memory that a compiled expression may take, in bytes. `(a{100}){100}` and its like are refused by this.
const MAX_COMPILED: usize = 256 * 1024;
/// The most memory that matching may keep for later, in bytes.
const MAX_CACHE: usize = 256 * 1024;

/// A compiled regular expression. Two are equal if they are written and matched the same way.
#[derive(Clone)]
pub struct Pattern {
    regex: Regex,
    ignores_case: bool,
}

/// Why a text is not an expression that we take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPattern {
    /// It is too long.
    #[error("is longer than {MAX_LENGTH} bytes")]
    TooLong,
    /// Its compiled form is too large.
    #[error("is too large once compiled")]
    TooLarge,
    /// It is not in the syntax of the `regex` crate, which has no look-around and no back-references.
    #[error("is not a regular expression: {0}")]
    Syntax(String),
}

impl Pattern {
    /// Compiles `text`.
    pub fn new(text: &str) -> Result<Self, BadPattern> {
        Self::compile(text, false)
    }

    /// Compiles `text` to match whatever the case of letters.
    pub fn ignoring_case(text: &str) -> Result<Self, BadPattern> {
        Self::compile(text, true)
    }

    fn compile(text: &str, ignores_case: bool) -> Result<Self, BadPattern> {
        if text.len() > MAX_LENGTH {
            return Err(BadPattern::TooLong);
        }
        let compiled = RegexBuilder::new(text)
            .case_insensitive(ignores_case)
            .size_limit(MAX_COMPILED)
            .dfa_size_limit(MAX_CACHE)
            .build();
        let regex = compiled.map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => BadPattern::TooLarge,
            // The message's last line says it; those above draw the expression.
            other => {
                let text = other.to_string();
                let last = text.lines().last().unwrap_or_default();
                BadPattern::Syntax(last.trim_start_matches("error: ").to_owned())
            }
        })?;
        Ok(Self {
            regex,
            ignores_case,
        })
    }

    /// Whether it matches somewhere in `text`.
    pub fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    /// What its groups match in `text`.
    pub fn captures<'t>(&self, text: &'t str) -> Option<Captures<'t>> {
        self.regex.captures(text)
    }

    /// The number of its groups, the whole match included.
    pub fn groups(&self) -> usize {
        self.regex.captures_len()
    }

    /// The expression.
    pub fn as_str(&self) -> &str {
        self.regex.as_str()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str() && self.ignores_case == other.ignores_case
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({:?})", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_bounded() {
        assert_eq!(
            Pattern::new("(").err(),
            Some(BadPattern::Syntax("unclosed group".to_owned()))
        );
        assert_eq!(
            Pattern::new(&"a".repeat(MAX_LENGTH + 1)).err(),
            Some(BadPattern::TooLong)
        );
        assert_eq!(
            Pattern::new("((a{100}){100}){100}").err(),
            Some(BadPattern::TooLarge)
        );
        assert!(matches!(Pattern::new("a(?=b)"), Err(BadPattern::Syntax(_))));
    }

    #[test]
    fn equality_is_by_text_and_case() {
        assert_eq!(Pattern::new("a"), Pattern::new("a"));
        assert_ne!(Pattern::new("a"), Pattern::new("b"));
        assert_ne!(Pattern::new("a"), Pattern::ignoring_case("a"));
        assert!(Pattern::ignoring_case("^/a").is_ok_and(|pattern| pattern.is_match("/A/b")));
    }
}

//! Text with the groups of an expression in it: `/$1/x`.

use regex::Captures;

/// Text in which `$1` to `$9` stand for what the groups of an expression match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Groups(Box<[Piece]>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(Box<str>),
    Group(usize),
}

/// A dollar sign is not followed by a digit from 1 to 9.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("may contain $1 to $9 and no other variable")]
pub struct NoGroup;

impl Groups {
    /// Reads `text`.
    pub fn parse(text: &str) -> Result<Self, NoGroup> {
        let mut pieces = Vec::new();
        let mut parts = text.split('$');
        push_text(&mut pieces, parts.next().unwrap_or_default());
        for part in parts {
            let digit = part.chars().next().and_then(|first| first.to_digit(10));
            let group = digit.filter(|digit| *digit > 0).ok_or(NoGroup)?;
            pieces.push(Piece::Group(group as usize));
            push_text(&mut pieces, &part[1..]);
        }
        Ok(Self(pieces.into()))
    }

    /// The text, if there is no group in it.
    pub fn constant(&self) -> Option<&str> {
        match &*self.0 {
            [] => Some(""),
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The text for a match. A group that matches nothing is empty.
    pub fn fill(&self, captures: &Captures<'_>) -> String {
        let piece = |piece: &'_ Piece| match piece {
            Piece::Text(text) => text.to_string(),
            Piece::Group(number) => captures
                .get(*number)
                .map_or_else(String::new, |group| group.as_str().to_owned()),
        };
        self.0.iter().map(piece).collect()
    }
}

fn push_text(pieces: &mut Vec<Piece>, text: &str) {
    if !text.is_empty() {
        pieces.push(Piece::Text(text.into()));
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use crate::annotations::Pattern;
    use proptest::prelude::*;

    #[test]
    fn groups_stand_for_what_they_match() {
        let pattern = Pattern::new("^/(.)/(.)?(x)?").unwrap();
        let captures = pattern.captures("/p/q").unwrap();
        let rows = [
            ("", ""),
            ("/x", "/x"),
            ("/$1/$2$3/$9", "/p/q/"),
            ("$1st", "pst"),
            ("$12", "p2"),
        ];
        for (text, expected) in rows {
            assert_eq!(
                Groups::parse(text).unwrap().fill(&captures),
                expected,
                "{text}"
            );
        }
        for bad in ["$", "$0", "$a", "${1}", "a$"] {
            assert_eq!(Groups::parse(bad), Err(NoGroup), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[$0-9a-z/]{0,12}|\\PC{0,12}") {
            let constant = Groups::parse(&text).ok().map(|groups| groups.constant().is_some());
            prop_assert!(constant.is_none() || constant == Some(!text.contains('$')));
        }
    }
}

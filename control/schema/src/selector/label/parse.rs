//! The query form of label selectors: `app=web,tier in (a,b),!legacy`.

use std::fmt;

use super::{LabelSelector, Operator, Requirement};
use crate::validation::names;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Sign(&'static str),
    End,
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Word(word) => word,
            Self::Sign(sign) => sign,
            Self::End => "",
        })
    }
}

/// Longest first.
const SIGNS: [&str; 9] = ["==", "!=", "=", "!", "(", ")", ",", ">", "<"];

/// A reader of the text that is left.
pub(super) struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    pub(super) const fn new(text: &'a str) -> Self {
        Self { rest: text }
    }

    fn next(&mut self) -> Token<'a> {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        if self.rest.is_empty() {
            return Token::End;
        }
        if let Some(sign) = SIGNS.iter().find(|s| self.rest.starts_with(**s)) {
            self.rest = &self.rest[sign.len()..];
            return Token::Sign(sign);
        }
        let end = self
            .rest
            .find(|c: char| c.is_ascii_whitespace() || "=!(),<>".contains(c));
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        Token::Word(word)
    }

    fn peek(&self) -> Token<'a> {
        Parser::new(self.rest).next()
    }

    /// All requirements of the text.
    pub(super) fn selector(mut self) -> Result<LabelSelector, String> {
        let mut requirements = Vec::new();
        loop {
            match self.peek() {
                Token::Word(_) | Token::Sign("!") => requirements.push(self.requirement()?),
                Token::End => break,
                other => {
                    return Err(format!(
                        "found '{other}', expected: !, identifier, or 'end of string'"
                    ));
                }
            }
            match self.next() {
                Token::End => break,
                Token::Sign(",") => match self.peek() {
                    Token::Word(_) | Token::Sign("!") => {}
                    other => {
                        return Err(format!("found '{other}', expected: identifier after ','"));
                    }
                },
                other => return Err(format!("found '{other}', expected: ',' or 'end of string'")),
            }
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(LabelSelector {
            requirements,
            nothing: false,
        })
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let negated = self.peek() == Token::Sign("!");
        if negated {
            self.next();
        }
        let key = match self.next() {
            Token::Word(word) => word.to_owned(),
            other => return Err(format!("found '{other}', expected: identifier")),
        };
        check_key(&key)?;
        if negated {
            return Ok(Requirement {
                key,
                operator: Operator::DoesNotExist,
                values: Vec::new(),
            });
        }
        if matches!(self.peek(), Token::End | Token::Sign(",")) {
            return Ok(Requirement {
                key,
                operator: Operator::Exists,
                values: Vec::new(),
            });
        }
        let operator = self.operator()?;
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.exact_value()],
        };
        if matches!(operator, Operator::GreaterThan | Operator::LessThan)
            && values[0].parse::<i64>().is_err()
        {
            return Err(format!(
                "values[0]: Invalid value: {:?}: for 'Gt', 'Lt' operators, the value must be an integer",
                values[0]
            ));
        }
        values
            .iter()
            .try_for_each(|value| check_value(&key, value))?;
        Ok(Requirement {
            key,
            operator,
            values,
        })
    }

    fn operator(&mut self) -> Result<Operator, String> {
        match self.next() {
            Token::Word("in") => Ok(Operator::In),
            Token::Word("notin") => Ok(Operator::NotIn),
            Token::Sign("=" | "==") => Ok(Operator::Equals),
            Token::Sign("!=") => Ok(Operator::NotEquals),
            Token::Sign(">") => Ok(Operator::GreaterThan),
            Token::Sign("<") => Ok(Operator::LessThan),
            other => Err(format!(
                "found '{other}', expected: in, notin, =, ==, !=, gt, lt"
            )),
        }
    }

    /// `(a,b,)`: an empty value is one too.
    fn values(&mut self) -> Result<Vec<String>, String> {
        match self.next() {
            Token::Sign("(") => {}
            other => return Err(format!("found '{other}' expected: '('")),
        }
        let mut values = vec![String::new()];
        loop {
            match self.next() {
                Token::Word(word) => {
                    if let Some(last) = values.last_mut() {
                        *last = word.to_owned();
                    }
                }
                Token::Sign(",") => values.push(String::new()),
                Token::Sign(")") => {
                    values.sort_unstable();
                    return Ok(values);
                }
                other => return Err(format!("found '{other}', expected: ',', or ')'")),
            }
        }
    }

    /// A value, which may be missing.
    fn exact_value(&mut self) -> String {
        match self.peek() {
            Token::Word(word) => {
                self.next();
                word.to_owned()
            }
            _ => String::new(),
        }
    }
}

fn check_key(key: &str) -> Result<(), String> {
    match names::qualified_name(key) {
        problems if problems.is_empty() => Ok(()),
        problems => Err(format!(
            "key: Invalid value: {key:?}: {}",
            problems.join("; ")
        )),
    }
}

fn check_value(key: &str, value: &str) -> Result<(), String> {
    match names::label_value(value) {
        problems if problems.is_empty() => Ok(()),
        problems => Err(format!(
            "values[0][{key}]: Invalid value: {value:?}: {}",
            problems.join("; ")
        )),
    }
}

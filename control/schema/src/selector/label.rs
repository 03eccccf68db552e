//! Label selectors: equality (`a=b`, `a!=b`), sets (`a in (b,c)`, `a notin (b)`) and existence (`a`, `!a`).

use std::fmt;

use serde_json::{Map, Value};

use super::Error;
use parse::Parser;

mod parse;

/// A label selector, as of the query parameter `labelSelector` or of a spec's `selector`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    /// The object form was absent: it selects nothing, unlike an empty one.
    nothing: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
    /// Sorted.
    values: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    In,
    NotIn,
    /// `!=`: as `NotIn`, but written differently.
    NotEquals,
    Equals,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

impl LabelSelector {
    /// Parses the query form: `app=web,tier in (a,b),!legacy`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        Parser::new(text)
            .selector()
            .map_err(|e| Error(format!("unable to parse requirement: {e}")))
    }

    /// Parses the object form: `matchLabels` and `matchExpressions`. Null selects nothing.
    pub fn from_object(selector: &Value) -> Result<Self, Error> {
        let Some(object) = selector.as_object() else {
            return Ok(Self {
                requirements: Vec::new(),
                nothing: true,
            });
        };
        let mut requirements = Vec::new();
        if let Some(labels) = object.get("matchLabels").and_then(Value::as_object) {
            requirements.extend(equalities(labels));
        }
        for expression in object
            .get("matchExpressions")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            requirements.push(expression_of(expression)?);
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self {
            requirements,
            nothing: false,
        })
    }

    /// The selector of a Service: labels that must all be equal.
    pub fn from_map(labels: &Map<String, Value>) -> Self {
        Self {
            requirements: equalities(labels).collect(),
            nothing: false,
        }
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// Whether the labels match.
    pub fn matches(&self, labels: &Map<String, Value>) -> bool {
        !self.nothing
            && self
                .requirements
                .iter()
                .all(|r| r.matches(labels.get(&r.key).and_then(Value::as_str)))
    }

    /// Whether the labels of an object match.
    pub fn matches_object(&self, object: &Value) -> bool {
        match object["metadata"]["labels"].as_object() {
            Some(labels) => self.matches(labels),
            None => self.matches(&Map::new()),
        }
    }
}

impl Requirement {
    fn matches(&self, value: Option<&str>) -> bool {
        let listed = |v: &str| self.values.iter().any(|wanted| wanted == v);
        let number = |v: &str| v.parse::<i64>().ok();
        let bound = || self.values.first().and_then(|v| number(v));
        match self.operator {
            Operator::In | Operator::Equals => value.is_some_and(listed),
            Operator::NotIn | Operator::NotEquals => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => value
                .and_then(number)
                .zip(bound())
                .is_some_and(|(v, b)| v > b),
            Operator::LessThan => value
                .and_then(number)
                .zip(bound())
                .is_some_and(|(v, b)| v < b),
        }
    }
}

fn equalities(labels: &Map<String, Value>) -> impl Iterator<Item = Requirement> {
    labels.iter().map(|(key, value)| Requirement {
        key: key.clone(),
        operator: Operator::Equals,
        values: vec![value.as_str().unwrap_or_default().to_owned()],
    })
}

fn expression_of(expression: &Value) -> Result<Requirement, Error> {
    let text = |key: &str| expression[key].as_str().unwrap_or_default();
    let operator = match text("operator") {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        other => {
            return Err(Error(format!(
                "{other:?} is not a valid label selector operator"
            )));
        }
    };
    let values = expression["values"].as_array().into_iter().flatten();
    let mut values: Vec<String> = values
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    values.sort_unstable();
    if matches!(operator, Operator::In | Operator::NotIn) && values.is_empty() {
        return Err(Error(
            "values: Invalid value: null: for 'in', 'notin' operators, values set can't be empty"
                .to_owned(),
        ));
    }
    Ok(Requirement {
        key: text("key").to_owned(),
        operator,
        values,
    })
}

/// The query form; parsing it again gives the same selector.
impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        let first = self.values.first().map_or("", String::as_str);
        match self.operator {
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::Equals => write!(f, "{key}={first}"),
            Operator::NotEquals => write!(f, "{key}!={first}"),
            Operator::GreaterThan => write!(f, "{key}>{first}"),
            Operator::LessThan => write!(f, "{key}<{first}"),
            Operator::In | Operator::NotIn => {
                let word = if self.operator == Operator::In {
                    "in"
                } else {
                    "notin"
                };
                write!(f, "{key} {word} ({})", self.values.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(selector: &str, labels: Value, expected: bool) {
        let parsed = LabelSelector::parse(selector).expect("a selector");
        assert_eq!(
            parsed.matches(labels.as_object().expect("a map")),
            expected,
            "{selector} on {labels}"
        );
        assert_eq!(
            LabelSelector::parse(&parsed.to_string()),
            Ok(parsed),
            "{selector}"
        );
    }

    #[test]
    fn selectors_match_as_upstreams_do() {
        let web = || json!({"app": "web", "tier": "front", "n": "5", "empty": ""});
        for (selector, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web", true),
            ("app = web , tier=front", true),
            ("app!=web", false),
            ("missing!=web", true),
            ("app=db", false),
            ("app in (web,db)", true),
            ("app in (db)", false),
            ("app notin (db, cache)", true),
            ("missing notin (db)", true),
            ("missing in (db)", false),
            ("app", true),
            ("!app", false),
            ("! missing", true),
            ("empty=", true),
            ("empty in (,x)", true),
            ("n>4", true),
            ("n < 5", false),
            ("in in (in)", false),
        ] {
            check(selector, web(), expected);
        }
        check(
            "example.com/app=a.b_c-d",
            json!({"example.com/app": "a.b_c-d"}),
            true,
        );
    }

    #[test]
    fn malformed_selectors_are_refused_in_upstreams_words() {
        for (selector, message) in [
            (
                "a=b,",
                "unable to parse requirement: found '', expected: identifier after ','",
            ),
            (
                "a b",
                "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
            ),
            (
                "a in b",
                "unable to parse requirement: found 'b' expected: '('",
            ),
            (
                "a in (b",
                "unable to parse requirement: found '', expected: ',', or ')'",
            ),
            (
                "=b",
                "unable to parse requirement: found '=', expected: !, identifier, or 'end of string'",
            ),
            (
                "a=b=c",
                "unable to parse requirement: found '=', expected: ',' or 'end of string'",
            ),
        ] {
            assert_eq!(
                LabelSelector::parse(selector),
                Err(Error(message.to_owned())),
                "{selector}"
            );
        }
        assert!(LabelSelector::parse("a=?").expect_err("a bad value").0.starts_with(
            "unable to parse requirement: values[0][a]: Invalid value: \"?\": a valid label must be an empty string"
        ));
        assert!(LabelSelector::parse("-a=b").is_err());
    }

    #[test]
    fn the_object_form_says_the_same() {
        let object = json!({"matchLabels": {"app": "web"}, "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["b", "a"]}, {"key": "old", "operator": "DoesNotExist"}]});
        let selector = LabelSelector::from_object(&object).expect("a selector");
        assert_eq!(selector.to_string(), "app=web,!old,tier in (a,b)");
        assert!(
            selector.matches_object(&json!({"metadata": {"labels": {"app": "web", "tier": "a"}}}))
        );
        assert!(
            LabelSelector::from_object(&json!({}))
                .expect("everything")
                .matches_object(&json!({}))
        );
        assert!(
            !LabelSelector::from_object(&Value::Null)
                .expect("nothing")
                .matches_object(&json!({}))
        );
        assert!(
            LabelSelector::from_object(
                &json!({"matchExpressions": [{"key": "a", "operator": "Like"}]})
            )
            .is_err()
        );
    }
}

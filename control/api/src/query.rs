//! The query parameters of a request, and the options they spell.

use crate::error::ApiError;

/// Parameters in the order given; names may repeat.
#[derive(Debug, Clone, Default)]
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    pub(crate) fn parse(query: &str) -> Self {
        Self(
            form_urlencoded::parse(query.as_bytes())
                .into_owned()
                .collect(),
        )
    }

    /// The first value of a parameter.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The first value of a parameter, empty if there is none.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }

    /// All values of a parameter.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// A boolean in Go's spellings; anything else, also nothing after the `=`, is true as in upstream.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| {
            !matches!(value.to_ascii_lowercase().as_str(), "false" | "0" | "f")
        })
    }

    /// A number; 400 if it is none.
    pub(crate) fn number(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.get(name).filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        let invalid = |_| {
            ApiError::bad_request(format!(
                "strconv.ParseInt: parsing {value:?}: invalid syntax"
            ))
        };
        value.parse().map(Some).map_err(invalid)
    }
}

/// What to do about fields a kind does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// The options common to all writes.
#[derive(Debug, Clone)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    pub(crate) field_validation: FieldValidation,
    pub(crate) manager: String,
    pub(crate) force: bool,
}

impl WriteOptions {
    /// Reads the options; without `fieldManager` the manager is the client's name in its User-Agent.
    pub(crate) fn parse(params: &Params, user_agent: &str) -> Result<Self, ApiError> {
        let manager = match params.text("fieldManager") {
            "" => user_agent
                .split('/')
                .next()
                .filter(|name| !name.is_empty())
                .unwrap_or("unknown"),
            manager => manager,
        };
        check_manager(manager)?;
        Ok(Self {
            dry_run: dry_run(params)?,
            field_validation: field_validation(params)?,
            manager: manager.to_owned(),
            force: params.flag("force"),
        })
    }
}

/// Whether nothing is to be written.
pub(crate) fn dry_run(params: &Params) -> Result<bool, ApiError> {
    let mut found = false;
    for value in params.all("dryRun").filter(|value| !value.is_empty()) {
        if value != "All" {
            return Err(ApiError::new(
                422,
                "Invalid",
                format!(
                    " \"\" is invalid: dryRun: Unsupported value: [{value:?}]: supported values: \"All\""
                ),
            ));
        }
        found = true;
    }
    Ok(found)
}

fn field_validation(params: &Params) -> Result<FieldValidation, ApiError> {
    match params.text("fieldValidation") {
        "" | "Warn" => Ok(FieldValidation::Warn),
        "Ignore" => Ok(FieldValidation::Ignore),
        "Strict" => Ok(FieldValidation::Strict),
        other => Err(ApiError::new(
            422,
            "Invalid",
            format!(
                " \"\" is invalid: fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
            ),
        )),
    }
}

fn check_manager(manager: &str) -> Result<(), ApiError> {
    if manager.chars().count() > 128 {
        let text = " \"\" is invalid: fieldManager: Too long: may not be more than 128 bytes";
        return Err(ApiError::new(422, "Invalid", text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_nonsense_is_refused() {
        let parse =
            |query: &str| WriteOptions::parse(&Params::parse(query), "kubectl/v1.36 (linux)");
        let options = parse("dryRun=All&fieldValidation=Strict").expect("good options");
        assert!(options.dry_run);
        assert_eq!(
            (options.manager.as_str(), options.field_validation),
            ("kubectl", FieldValidation::Strict)
        );
        assert_eq!(
            parse("fieldManager=me").expect("good options").manager,
            "me"
        );
        for nonsense in [
            "dryRun=Some",
            "fieldValidation=Maybe",
            &format!("fieldManager={}", "x".repeat(129)),
        ] {
            assert_eq!(
                parse(nonsense).expect_err("nonsense").code,
                422,
                "{nonsense}"
            );
        }
    }

    #[test]
    fn flags_and_numbers_follow_go() {
        let params = Params::parse("a=true&b=false&c&d=0&n=7&m=x&l=a&l=b%20c");
        let flags = ["a", "b", "c", "d", "e"].map(|name| params.flag(name));
        assert_eq!(flags, [true, false, true, false, false]);
        assert_eq!(params.number("n"), Ok(Some(7)));
        assert!(params.number("m").is_err());
        assert_eq!(params.all("l").collect::<Vec<_>>(), ["a", "b c"]);
    }
}

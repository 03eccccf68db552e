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

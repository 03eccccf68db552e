//! GET of a collection: at which revision, which part, and the token to go on with.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use control_store::{Entry, Query, ReadError, Revision};
use serde::{Deserialize, Serialize};

use super::Call;
use super::filter::Selection;
use super::render::{self, Include, ListMeta};
use crate::error::ApiError;
use crate::object;
use crate::query::Params;
use crate::respond::{self, Answer};

const EXPIRED: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list \
    without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. \
    Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted \
    between the time the first chunk was returned and now may show up in the list.";

/// Where a list in parts goes on.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Token {
    v: String,
    /// The revision of the first part; none to go on inconsistently.
    rv: Option<u64>,
    /// The last object handed out.
    ns: String,
    name: String,
}

impl Token {
    fn after(revision: Revision, last: &Entry) -> Self {
        let (ns, name) = (last.key.scope.to_string(), last.key.name.to_string());
        Self {
            v: "meta.k8s.io/v1".into(),
            rv: Some(revision.0),
            ns,
            name,
        }
    }

    fn encode(&self) -> String {
        BASE64.encode(serde_json::to_vec(self).expect("a token is serialised into memory"))
    }

    fn decode(text: &str) -> Result<Option<Self>, ApiError> {
        if text.is_empty() {
            return Ok(None);
        }
        let bytes = BASE64.decode(text).ok();
        let token = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let refuse =
            || ApiError::bad_request("continue key is not valid: illegal base64 or content");
        token.map(Some).ok_or_else(refuse)
    }
}

/// Answers a list.
pub(crate) fn list(call: &Call<'_>) -> Result<Answer, ApiError> {
    let target = call.target;
    let selection = Selection::parse(target.res, &target.namespace, call.params)?;
    let limit = call.params.number("limit")?.filter(|limit| *limit > 0);
    let token = Token::decode(call.params.text("continue"))?;
    let at = revision_of(
        call.params,
        token.as_ref(),
        limit.is_some(),
        call.api.store.revision(),
    )?;

    let table = object::table(target.res);
    let after = token
        .as_ref()
        .map(|token| (token.ns.as_str(), token.name.as_str()));
    let query = Query {
        table: &table,
        scope: selection.scope(),
        after,
        at,
    };
    let page = call
        .api
        .store
        .list(&query)
        .map_err(|error| read_error(error, token.as_ref()))?;

    let mut entries = page.entries;
    if selection.is_selective() {
        entries.retain(|entry| selection.matches(entry));
    }
    let meta = cut(&mut entries, limit, page.revision, selection.is_selective());
    let body = render::list(
        target.res,
        call.accept.shape,
        Include::parse(call.params),
        &meta,
        &entries,
    );
    Ok(respond::compressed(call.headers, call.accept, body))
}

/// Keeps the first `limit` entries and describes the rest.
fn cut(
    entries: &mut Vec<Arc<Entry>>,
    limit: Option<i64>,
    revision: Revision,
    selective: bool,
) -> ListMeta {
    let mut meta = ListMeta {
        revision: revision.0,
        ..ListMeta::default()
    };
    let limit = limit
        .and_then(|limit| usize::try_from(limit).ok())
        .unwrap_or(usize::MAX);
    if entries.len() > limit {
        meta.remaining = (!selective).then(|| entries.len() - limit);
        entries.truncate(limit);
        meta.resume = entries
            .last()
            .map(|last| Token::after(revision, last).encode());
    }
    meta
}

/// The past revision to list at, none for the present.
fn revision_of(
    params: &Params,
    token: Option<&Token>,
    limited: bool,
    current: Revision,
) -> Result<Option<Revision>, ApiError> {
    let given = parse_revision(params)?;
    let rule = params.text("resourceVersionMatch");
    if let Some(token) = token {
        if given.is_some_and(|given| given.0 != 0) {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        return Ok(token.rv.map(Revision));
    }
    let Some(given) = given else {
        return if rule.is_empty() {
            Ok(None)
        } else {
            Err(forbidden_match("unless resourceVersion is provided"))
        };
    };
    if given > current {
        return Err(ApiError::future_revision(given.0, current.0));
    }
    match rule {
        "Exact" if given.0 == 0 => Err(forbidden_match("\"exact\" for resourceVersion \"0\"")),
        "Exact" => Ok(Some(given)),
        // Without a rule, a list in parts is exact: clients before resourceVersionMatch went on that way.
        "" if limited && given.0 != 0 => Ok(Some(given)),
        "" | "NotOlderThan" => Ok(None),
        other => Err(list_options(&format!(
            "resourceVersionMatch: Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\""
        ))),
    }
}

/// `resourceVersion`, none if it is not given.
pub(super) fn parse_revision(params: &Params) -> Result<Option<Revision>, ApiError> {
    let text = params.text("resourceVersion");
    if text.is_empty() {
        return Ok(None);
    }
    let refuse = |_| {
        ApiError::bad_request(format!(
            "resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
        ))
    };
    text.parse()
        .map(|number| Some(Revision(number)))
        .map_err(refuse)
}

fn forbidden_match(what: &str) -> ApiError {
    list_options(&format!(
        "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden {what}"
    ))
}

/// A refusal of the options of a list or watch.
pub(super) fn list_options(what: &str) -> ApiError {
    ApiError::new(
        422,
        "Invalid",
        format!("ListOptions.meta.k8s.io \"\" is invalid: {what}"),
    )
}

fn read_error(error: ReadError, token: Option<&Token>) -> ApiError {
    match (error, token) {
        (ReadError::Compacted { .. }, Some(token)) => {
            let mut expired = ApiError::expired(EXPIRED);
            expired.resume = Some(
                Token {
                    rv: None,
                    ..token.clone()
                }
                .encode(),
            );
            expired
        }
        (ReadError::Compacted { .. }, None) => {
            ApiError::expired("The resourceVersion for the provided list is too old.")
        }
        (ReadError::Future { requested, newest }, _) => {
            ApiError::future_revision(requested.0, newest.0)
        }
    }
}

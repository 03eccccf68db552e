//! What form of answer a client accepts: encoding and shape.

use http::HeaderMap;
use http::header::ACCEPT;

use crate::error::ApiError;

/// The encodings this server writes, as a 406 names them.
const ACCEPTED: &str = "application/json, application/yaml";

/// How an answer is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Yaml,
}

/// What an answer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The object or list itself.
    Plain,
    /// A table of the given version of `meta.k8s.io`.
    Table(&'static str),
    /// Metadata only, in the given version of `meta.k8s.io`.
    Metadata(&'static str),
    /// Aggregated discovery in the given version of `apidiscovery.k8s.io`.
    Discovery(&'static str),
}

/// The negotiated form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Accept {
    pub(crate) encoding: Encoding,
    pub(crate) shape: Shape,
}

impl Accept {
    /// JSON of the thing itself.
    pub(crate) const JSON: Self = Self {
        encoding: Encoding::Json,
        shape: Shape::Plain,
    };

    /// The first form in the `Accept` header that `offered` allows; without a header, JSON.
    pub(crate) fn negotiate(
        headers: &HeaderMap,
        offered: fn(Shape) -> bool,
    ) -> Result<Self, ApiError> {
        let values: Vec<&str> = headers
            .get_all(ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .collect();
        let mut clauses: Vec<Clause<'_>> = values
            .iter()
            .flat_map(|value| value.split(','))
            .filter_map(Clause::parse)
            .collect();
        if clauses.is_empty() {
            return Ok(Self::JSON);
        }
        clauses.sort_by(|a, b| b.quality.total_cmp(&a.quality));
        clauses
            .iter()
            .filter_map(Clause::form)
            .find(|form| offered(form.shape))
            .ok_or_else(|| ApiError::not_acceptable(ACCEPTED))
    }

    /// For objects and lists.
    pub(crate) fn for_objects(headers: &HeaderMap) -> Result<Self, ApiError> {
        Self::negotiate(headers, |shape| !matches!(shape, Shape::Discovery(_)))
    }

    /// For answers that exist in one shape only.
    pub(crate) fn plain(headers: &HeaderMap) -> Result<Self, ApiError> {
        Self::negotiate(headers, |shape| shape == Shape::Plain)
    }

    /// The `Content-Type` of the answer.
    pub(crate) fn content_type(self) -> String {
        let base = match self.encoding {
            Encoding::Json => "application/json",
            Encoding::Yaml => "application/yaml",
        };
        match self.shape {
            Shape::Discovery(version) => {
                format!("{base};g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList")
            }
            _ => base.to_owned(),
        }
    }
}

/// One element of the header.
struct Clause<'a> {
    media: &'a str,
    quality: f32,
    params: Vec<(&'a str, &'a str)>,
}

impl<'a> Clause<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let media = parts.next().filter(|media| !media.is_empty())?;
        let params: Vec<_> = parts.filter_map(|part| part.split_once('=')).collect();
        let quality = params
            .iter()
            .find(|(key, _)| *key == "q")
            .and_then(|(_, q)| q.parse().ok())
            .unwrap_or(1.0);
        Some(Self {
            media,
            quality,
            params,
        })
    }

    fn param(&self, name: &str) -> &'a str {
        self.params
            .iter()
            .find(|(key, _)| *key == name)
            .map_or("", |(_, value)| value)
    }

    /// The form it asks for, if this server can write it.
    fn form(&self) -> Option<Accept> {
        let encoding = match self.media {
            "application/json" | "*/*" | "application/*" => Encoding::Json,
            "application/yaml" => Encoding::Yaml,
            _ => return None,
        };
        let shape = match (self.param("as"), self.param("g"), self.param("v")) {
            ("", _, _) => Shape::Plain,
            ("Table", "meta.k8s.io", "v1") => Shape::Table("v1"),
            ("Table", "meta.k8s.io", "v1beta1") => Shape::Table("v1beta1"),
            ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1") => {
                Shape::Metadata("v1")
            }
            ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1beta1") => {
                Shape::Metadata("v1beta1")
            }
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => Shape::Discovery("v2"),
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2beta1") => {
                Shape::Discovery("v2beta1")
            }
            _ => return None,
        };
        Some(Accept { encoding, shape })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(header: &str, expected: Result<(Encoding, Shape), u16>) {
        let headers = HeaderMap::from_iter([(ACCEPT, header.parse().expect("a header"))]);
        let found = Accept::for_objects(&headers);
        let found = found
            .map(|accept| (accept.encoding, accept.shape))
            .map_err(|error| error.code);
        assert_eq!(found, expected, "{header}");
    }

    #[test]
    fn the_first_form_that_can_be_written_is_taken() {
        check("*/*", Ok((Encoding::Json, Shape::Plain)));
        check(
            "application/vnd.kubernetes.protobuf, application/json",
            Ok((Encoding::Json, Shape::Plain)),
        );
        check("application/vnd.kubernetes.protobuf", Err(406));
        check("application/yaml", Ok((Encoding::Yaml, Shape::Plain)));
        check(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
            Ok((Encoding::Json, Shape::Table("v1"))),
        );
        check(
            "application/json;as=Table;v=v9;g=meta.k8s.io,application/json",
            Ok((Encoding::Json, Shape::Plain)),
        );
        check(
            "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,\
             application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json",
            Ok((Encoding::Json, Shape::Metadata("v1"))),
        );
        check(
            "application/json;q=0.5, application/yaml",
            Ok((Encoding::Yaml, Shape::Plain)),
        );
        check("text/html", Err(406));
    }
}

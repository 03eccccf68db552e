//! Compression of answers, where the operator asks for it: which answers, in which coding, and the stream itself.
//!
//! The rules are those of nginx's gzip as ingress-nginx sets it up: an answer with status 200, 403 or 404, of a listed
//! type and at least as long as said, that has no coding yet and may be transformed. What a backend sends and then waits
//! is handed on at once, not held back until there is more to compress with it.

use std::fmt;
use std::io::{self, Write};

use brotli::CompressorWriter;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE,
    ETAG, HeaderMap, HeaderValue, VARY,
};
use http::{Method, StatusCode, Version};

/// Levels as in ingress-nginx: what matters is the time they take.
const GZIP_LEVEL: u32 = 1;
const BROTLI_LEVEL: u32 = 4;
const ZSTD_LEVEL: u32 = 3;
/// The window of brotli, as a power of two: half a megabyte, as in nginx.
const BROTLI_WINDOW: u32 = 19;
const BROTLI_BUFFER: usize = 4096;
/// What nginx does not compress with `gzip_http_version 1.1`.
const OLD: Version = Version::HTTP_10;
const TYPES: &str = "application/atom+xml,application/javascript,application/x-javascript,application/json,\
application/rss+xml,application/vnd.ms-fontobject,application/x-font-ttf,application/x-web-app-manifest+json,\
application/xhtml+xml,application/xml,font/opentype,image/svg+xml,image/x-icon,text/css,text/html,text/javascript,\
text/plain,text/x-component";

/// Arguments about compression.
#[derive(clap::Args, Debug, Clone)]
#[group(skip)]
pub struct CompressArgs {
    /// Codings to compress answers with, the preferred first. Without it nothing is compressed.
    #[arg(long, value_name = "CODING", value_delimiter = ',')]
    pub compress: Vec<Coding>,

    /// The shortest answer that is compressed, in bytes, where its length is known.
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    pub compress_min_length: u64,

    /// Types of answers that are compressed.
    #[arg(long, value_name = "TYPE", value_delimiter = ',', default_value = TYPES)]
    pub compress_types: Vec<String>,

    #[arg(skip = GZIP_LEVEL)]
    #[expect(
        missing_docs,
        reason = "clap would take a comment for the help of an argument that there is not"
    )]
    pub gzip_level: u32,

    #[arg(skip = BROTLI_LEVEL)]
    #[expect(
        missing_docs,
        reason = "clap would take a comment for the help of an argument that there is not"
    )]
    pub brotli_level: u32,
}

/// A content coding (RFC 9110 section 8.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Coding {
    /// RFC 1952.
    Gzip,
    /// RFC 7932.
    Br,
    /// RFC 8878.
    Zstd,
}

/// A body on its way through an encoder.
pub struct Compressor {
    encoder: Encoder,
    /// Whether something has been written that may not have come out yet.
    is_dirty: bool,
}

enum Encoder {
    Gzip(GzEncoder<Vec<u8>>),
    Br(Box<CompressorWriter<Vec<u8>>>),
    Zstd(zstd::Encoder<'static, Vec<u8>>),
    Finished,
}

impl CompressArgs {
    /// The coding for the answer to a request, if its client takes one that we have.
    pub fn accepted(
        &self,
        method: &Method,
        version: Version,
        headers: &HeaderMap,
    ) -> Option<Coding> {
        if self.compress.is_empty() || method == Method::HEAD || version <= OLD {
            return None;
        }
        let quality = |coding: &Coding| quality(headers, coding.name());
        let wanted = self.compress.iter().filter(|coding| quality(coding) > 0);
        // Of equal ones the last is the greatest, and ours begin with the preferred.
        wanted.rev().max_by_key(|coding| quality(coding)).copied()
    }

    /// Whether an answer with `status` and `headers` is worth compressing. If so its headers say that it is; whether or
    /// not, caches learn that it might be.
    pub fn announce(
        &self,
        coding: Option<Coding>,
        status: StatusCode,
        headers: &mut HeaderMap,
    ) -> bool {
        if self.compress.is_empty() || !self.is_fit(status, headers) {
            return false;
        }
        headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
        let Some(coding) = coding else { return false };
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
        headers.remove(CONTENT_LENGTH);
        headers.remove(ACCEPT_RANGES);
        weaken_tag(headers);
        true
    }

    /// What compresses with `coding`.
    pub fn compressor(&self, coding: Coding) -> io::Result<Compressor> {
        let level = match coding {
            Coding::Gzip => self.gzip_level,
            Coding::Br => self.brotli_level,
            Coding::Zstd => ZSTD_LEVEL,
        };
        Compressor::new(coding, level)
    }

    fn is_fit(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let length = text(CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
        let kind = text(CONTENT_TYPE).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        let is_fixed = text(CACHE_CONTROL)
            .is_some_and(|control| control.to_ascii_lowercase().contains("no-transform"));
        matches!(
            status,
            StatusCode::OK | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND
        ) && !headers.contains_key(CONTENT_ENCODING)
            && !is_fixed
            && length.is_none_or(|length| length >= self.compress_min_length)
            && self
                .compress_types
                .iter()
                .any(|listed| listed == "*" || listed.eq_ignore_ascii_case(kind))
    }
}

/// How much a client wants `coding`, in thousandths (RFC 9110 section 12.5.3).
fn quality(headers: &HeaderMap, coding: &str) -> u32 {
    let lines = headers
        .get_all(ACCEPT_ENCODING)
        .iter()
        .filter_map(|line| line.to_str().ok());
    let mut any = 0;
    for element in lines.flat_map(|line| line.split(',')) {
        let (name, parameters) = element.split_once(';').unwrap_or((element, ""));
        let weight = parameters
            .trim()
            .strip_prefix("q=")
            .map_or(Some(1.0), |weight| weight.trim().parse::<f32>().ok());
        let weight = weight
            .filter(|weight| (0.0..=1.0).contains(weight))
            .unwrap_or(0.0);
        let thousandths = (weight * 1000.0) as u32;
        match name.trim() {
            name if name.eq_ignore_ascii_case(coding) => return thousandths,
            "*" => any = thousandths,
            _ => {}
        }
    }
    any
}

/// A tag that promises the same bytes does not hold for compressed ones (RFC 9110 section 8.8.1).
fn weaken_tag(headers: &mut HeaderMap) {
    let Some(tag) = headers
        .get(ETAG)
        .filter(|tag| !tag.as_bytes().starts_with(b"W/"))
    else {
        return;
    };
    match HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat()) {
        Ok(weak) => drop(headers.insert(ETAG, weak)),
        Err(_) => drop(headers.remove(ETAG)),
    }
}

impl Coding {
    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Br => "br",
            Self::Zstd => "zstd",
        }
    }
}

impl Compressor {
    /// An encoder for `coding`. What `level` may be is the coding's to say, and what is beyond is the nearest.
    pub fn new(coding: Coding, level: u32) -> io::Result<Self> {
        let encoder = match coding {
            Coding::Gzip => {
                Encoder::Gzip(GzEncoder::new(Vec::new(), Compression::new(level.min(9))))
            }
            Coding::Br => {
                let writer =
                    CompressorWriter::new(Vec::new(), BROTLI_BUFFER, level.min(11), BROTLI_WINDOW);
                Encoder::Br(Box::new(writer))
            }
            Coding::Zstd => Encoder::Zstd(zstd::Encoder::new(
                Vec::new(),
                level.try_into().unwrap_or(0),
            )?),
        };
        Ok(Self {
            encoder,
            is_dirty: false,
        })
    }

    /// Takes more of the body, and returns what comes out of it by itself; perhaps nothing.
    pub fn write(&mut self, data: &[u8]) -> io::Result<Bytes> {
        match &mut self.encoder {
            Encoder::Gzip(encoder) => encoder.write_all(data)?,
            Encoder::Br(encoder) => encoder.write_all(data)?,
            Encoder::Zstd(encoder) => encoder.write_all(data)?,
            Encoder::Finished => {}
        }
        self.is_dirty = true;
        Ok(self.take())
    }

    /// Returns what has been written and has not come out yet; nothing if there is nothing.
    pub fn flush(&mut self) -> io::Result<Bytes> {
        if std::mem::take(&mut self.is_dirty) {
            match &mut self.encoder {
                Encoder::Gzip(encoder) => encoder.flush()?,
                Encoder::Br(encoder) => encoder.flush()?,
                Encoder::Zstd(encoder) => encoder.flush()?,
                Encoder::Finished => {}
            }
        }
        Ok(self.take())
    }

    /// Returns the end of the body, once.
    pub fn finish(&mut self) -> io::Result<Bytes> {
        self.is_dirty = false;
        let end = match std::mem::replace(&mut self.encoder, Encoder::Finished) {
            Encoder::Gzip(encoder) => encoder.finish()?,
            Encoder::Br(encoder) => encoder.into_inner(),
            Encoder::Zstd(encoder) => encoder.finish()?,
            Encoder::Finished => Vec::new(),
        };
        Ok(end.into())
    }

    /// Whether the end has come out.
    pub fn is_finished(&self) -> bool {
        matches!(self.encoder, Encoder::Finished)
    }

    fn take(&mut self) -> Bytes {
        let out = match &mut self.encoder {
            Encoder::Gzip(encoder) => std::mem::take(encoder.get_mut()),
            Encoder::Br(encoder) => std::mem::take(encoder.get_mut()),
            Encoder::Zstd(encoder) => std::mem::take(encoder.get_mut()),
            Encoder::Finished => Vec::new(),
        };
        out.into()
    }
}

impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compressor")
            .field("is_dirty", &self.is_dirty)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::io::Read;

    use http::HeaderName;
    use proptest::prelude::*;

    use super::*;

    const ALL: [Coding; 3] = [Coding::Zstd, Coding::Br, Coding::Gzip];

    fn settings(codings: &[Coding]) -> CompressArgs {
        CompressArgs {
            compress: codings.to_vec(),
            compress_min_length: 256,
            compress_types: TYPES.split(',').map(str::to_owned).collect(),
            gzip_level: GZIP_LEVEL,
            brotli_level: BROTLI_LEVEL,
        }
    }

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&str, &str)| {
            (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())
        };
        fields.iter().map(field).collect()
    }

    /// What comes out of `data` when it is decoded.
    fn decoded(coding: Coding, data: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        match coding {
            Coding::Gzip => flate2::read::GzDecoder::new(data).read_to_end(&mut out)?,
            Coding::Br => brotli::Decompressor::new(data, 4096).read_to_end(&mut out)?,
            Coding::Zstd => zstd::Decoder::new(data)?.read_to_end(&mut out)?,
        };
        Ok(out)
    }

    #[test]
    fn the_client_chooses_and_among_equals_the_operator() {
        for (accepts, expected) in [
            ("", None),
            ("identity", None),
            ("gzip", Some(Coding::Gzip)),
            ("GZIP;q=0.5", Some(Coding::Gzip)),
            ("gzip, br, zstd", Some(Coding::Zstd)),
            ("gzip, br;q=0.9, zstd;q=0.1", Some(Coding::Gzip)),
            ("zstd;q=0, br", Some(Coding::Br)),
            ("*", Some(Coding::Zstd)),
            ("*;q=0.5, zstd;q=0", Some(Coding::Br)),
            ("gzip;q=2", None),
            ("gzip;q=x", None),
        ] {
            let fields = headers(&[("accept-encoding", accepts)]);
            let accepted = settings(&ALL).accepted(&Method::GET, Version::HTTP_11, &fields);
            assert_eq!(accepted, expected, "{accepts:?}");
        }
        let fields = headers(&[("accept-encoding", "gzip")]);
        let accepted = |codings: &[Coding], method, version| {
            settings(codings).accepted(&method, version, &fields)
        };
        assert_eq!(accepted(&[], Method::GET, Version::HTTP_11), None);
        assert_eq!(accepted(&ALL, Method::HEAD, Version::HTTP_11), None);
        assert_eq!(accepted(&ALL, Method::GET, Version::HTTP_10), None);
    }

    #[test]
    fn only_what_is_worth_it_and_may_be_is_compressed() {
        let text = ("content-type", "text/html; charset=utf-8");
        for (status, fields, expected) in [
            (200, &[text][..], true),
            (404, &[text], true),
            (206, &[text], false),
            (500, &[text], false),
            (200, &[text, ("content-length", "256")], true),
            (200, &[text, ("content-length", "255")], false),
            (200, &[text, ("content-encoding", "br")], false),
            (
                200,
                &[text, ("cache-control", "max-age=5, No-Transform")],
                false,
            ),
            (200, &[("content-type", "image/png")], false),
            (200, &[("content-type", "text/event-stream")], false),
            (200, &[], false),
        ] {
            let (mut fields, status) = (headers(fields), StatusCode::from_u16(status).unwrap());
            let before = fields.clone();
            assert_eq!(
                settings(&ALL).announce(Some(Coding::Gzip), status, &mut fields),
                expected,
                "{status} {before:?}"
            );
            assert_eq!(fields == before, !expected, "{status} {before:?}");
        }
    }

    #[test]
    fn headers_say_what_became_of_the_body() {
        let said = [
            ("content-type", "text/css"),
            ("content-length", "1000"),
            ("etag", "\"x\""),
            ("accept-ranges", "bytes"),
        ];
        let mut fields = headers(&said);
        assert!(settings(&ALL).announce(Some(Coding::Br), StatusCode::OK, &mut fields));
        let expected = [
            ("content-type", "text/css"),
            ("etag", "W/\"x\""),
            ("vary", "Accept-Encoding"),
            ("content-encoding", "br"),
        ];
        assert_eq!(fields, headers(&expected));
        let mut fields = headers(&said[..2]);
        assert!(!settings(&ALL).announce(None, StatusCode::OK, &mut fields));
        assert_eq!(fields["vary"], "Accept-Encoding");
        assert!(!fields.contains_key("content-encoding"));
    }

    #[test]
    fn what_was_written_comes_out_when_asked_for() {
        for coding in ALL {
            let mut compressor = Compressor::new(coding, 1).unwrap();
            let mut out = compressor.write(b"hello").unwrap().to_vec();
            out.extend(compressor.flush().unwrap());
            let mut seen = [0; 5];
            let read = match coding {
                Coding::Gzip => flate2::read::GzDecoder::new(&out[..]).read_exact(&mut seen),
                Coding::Br => brotli::Decompressor::new(&out[..], 4096).read_exact(&mut seen),
                Coding::Zstd => zstd::Decoder::new(&out[..]).unwrap().read_exact(&mut seen),
            };
            assert!(read.is_ok() && seen == *b"hello", "{coding:?}");
            assert!(compressor.flush().unwrap().is_empty(), "{coding:?}");
            // Without its end it is broken, as it must be for one that broke off.
            assert!(decoded(coding, &out).is_err(), "{coding:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn what_comes_out_decodes_to_what_went_in(
            pieces in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..3000), any::<bool>()), 0..12),
        ) {
            for coding in ALL {
                let mut compressor = Compressor::new(coding, 1).unwrap();
                let (mut plain, mut out) = (Vec::new(), Vec::new());
                for (piece, flushes) in &pieces {
                    plain.extend_from_slice(piece);
                    out.extend(compressor.write(piece).unwrap());
                    if *flushes {
                        out.extend(compressor.flush().unwrap());
                    }
                }
                out.extend(compressor.finish().unwrap());
                prop_assert!(compressor.is_finished() && compressor.finish().unwrap().is_empty());
                prop_assert_eq!(decoded(coding, &out).unwrap(), plain);
            }
        }
    }
}

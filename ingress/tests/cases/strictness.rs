//! What a client must not send or what must not go on as it came: the table of the design, one row a line.

/// Every row is sent as it stands on a connection of its own; `{H}` stands for a good `Host` line. A refusal that makes
/// the rest of the connection doubtful must also end it, which the tests wait for; the others get a second request that
/// asks for the end.
pub(crate) const REFUSED: &[(&str, &str, u16)] = &[
    (
        "TE gzip, chunked",
        "POST / HTTP/1.1\r\n{H}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        501,
    ),
    (
        "TE chunked, chunked",
        "POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "two TE lines",
        "POST / HTTP/1.1\r\n{H}Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "TE not chunked",
        "POST / HTTP/1.1\r\n{H}Transfer-Encoding: gzip\r\n\r\n",
        400,
    ),
    (
        "TE in HTTP/1.0",
        "POST / HTTP/1.0\r\n{H}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "CL differs",
        "POST / HTTP/1.1\r\n{H}Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        400,
    ),
    (
        "CL list differs",
        "POST / HTTP/1.1\r\n{H}Content-Length: 1, 2\r\n\r\nab",
        400,
    ),
    (
        "CL +1",
        "POST / HTTP/1.1\r\n{H}Content-Length: +1\r\n\r\na",
        400,
    ),
    (
        "CL -1",
        "POST / HTTP/1.1\r\n{H}Content-Length: -1\r\n\r\n",
        400,
    ),
    ("obs-fold", "GET / HTTP/1.1\r\n{H}X-A: 1\r\n 2\r\n\r\n", 400),
    (
        "bare CR in value",
        "GET / HTTP/1.1\r\n{H}X-A: 1\r2\r\n\r\n",
        400,
    ),
    (
        "NUL in value",
        "GET / HTTP/1.1\r\n{H}X-A: 1\x002\r\n\r\n",
        400,
    ),
    (
        "blank before colon",
        "GET / HTTP/1.1\r\n{H}X-A : 1\r\n\r\n",
        400,
    ),
    (
        "blank before first field",
        "GET / HTTP/1.1\r\n X-A: 1\r\n{H}\r\n",
        400,
    ),
    ("no Host", "GET / HTTP/1.1\r\n\r\n", 400),
    ("two Hosts", "GET / HTTP/1.1\r\n{H}Host: b.org\r\n\r\n", 400),
    ("two equal Hosts", "GET / HTTP/1.1\r\n{H}{H}\r\n", 400),
    ("empty Host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
    ("Host u@a", "GET / HTTP/1.1\r\nHost: u@a.org\r\n\r\n", 400),
    ("Host a/b", "GET / HTTP/1.1\r\nHost: a.org/b\r\n\r\n", 400),
    (
        "Host a b",
        "GET / HTTP/1.1\r\nHost: a.org b.org\r\n\r\n",
        400,
    ),
    (
        "chunk size 0x5",
        "POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n0x5\r\nabcde\r\n0\r\n\r\n",
        400,
    ),
    (
        "chunk size +5",
        "POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n+5\r\nabcde\r\n0\r\n\r\n",
        400,
    ),
    (
        "chunk size ends in LF",
        "POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n5\nabcde\r\n0\r\n\r\n",
        400,
    ),
    (
        "chunk spills over",
        "POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n5\r\nabcdefgh\r\n0\r\n\r\n",
        400,
    ),
    (
        "Connection names Host",
        "GET / HTTP/1.1\r\n{H}Connection: Host\r\n\r\n",
        400,
    ),
    (
        "Connection names X-Forwarded-For",
        "GET / HTTP/1.1\r\n{H}Connection: close, X-Forwarded-For\r\n\r\n",
        400,
    ),
    ("CONNECT", "CONNECT a.org:443 HTTP/1.1\r\n{H}\r\n", 405),
    ("TRACE", "TRACE / HTTP/1.1\r\n{H}\r\n", 405),
    ("GET *", "GET * HTTP/1.1\r\n{H}\r\n", 400),
    ("HTTP/1.2", "GET / HTTP/1.2\r\n{H}\r\n", 400),
    (
        "raw UTF-8 in target",
        "GET /\u{fc} HTTP/1.1\r\n{H}\r\n",
        400,
    ),
    ("%00 in target", "GET /%00 HTTP/1.1\r\n{H}\r\n", 400),
    ("broken escape", "GET /%zz HTTP/1.1\r\n{H}\r\n", 400),
    ("junk", "\r\n\r\n\x16\x03\x01\x02", 400),
];

/// What is not refused, and what must reach the backend: a part of what the backend tells.
pub(crate) const FORWARDED: &[(&str, &str, &str)] = &[
    (
        "CL and TE",
        "POST / HTTP/1.1\r\n{H}Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        r#""body":"a""#,
    ),
    (
        "equal CLs",
        "POST / HTTP/1.1\r\n{H}Connection: close\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
        r#""content-length":["1"]"#,
    ),
    (
        "bare LF",
        "GET /lf HTTP/1.1\nHost: a.org\nConnection: close\n\n",
        r#""target":"/lf""#,
    ),
    (
        "absolute target",
        "GET http://a.org:81/x HTTP/1.1\r\nHost: b.org\r\nConnection: close\r\n\r\n",
        r#""host":["a.org:81"]"#,
    ),
    (
        "target of absolute",
        "GET http://a.org/x?y HTTP/1.1\r\n{H}Connection: close\r\n\r\n",
        r#""target":"/x?y""#,
    ),
    (
        "fragment",
        "GET /a#b HTTP/1.1\r\n{H}Connection: close\r\n\r\n",
        r#""target":"/a""#,
    ),
    (
        "dot segments",
        "GET /a/../b HTTP/1.1\r\n{H}Connection: close\r\n\r\n",
        r#""target":"/b""#,
    ),
    (
        "escaped dots",
        "GET /a/%2e%2e/b HTTP/1.1\r\n{H}Connection: close\r\n\r\n",
        r#""target":"/b""#,
    ),
    (
        "slashes",
        "GET //a//b HTTP/1.1\r\n{H}Connection: close\r\n\r\n",
        r#""target":"/a/b""#,
    ),
    (
        "trailer",
        "POST / HTTP/1.1\r\n{H}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nHost: evil\r\n\r\n",
        r#""host":["a.org"]"#,
    ),
    (
        "100-continue",
        "POST / HTTP/1.1\r\n{H}Connection: close\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\na",
        r#""body":"a""#,
    ),
];

/// What is forwarded without a part of it: what nobody may find in what the backend tells.
pub(crate) const CHANGED: &[(&str, &str, &str)] = &[
    (
        "X_Forwarded_For",
        "GET / HTTP/1.1\r\n{H}Connection: close\r\nX_Forwarded_For: 6.6.6.6\r\n\r\n",
        "6.6.6.6",
    ),
    (
        "X-Forwarded-For",
        "GET / HTTP/1.1\r\n{H}Connection: close\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n",
        "6.6.6.6",
    ),
    (
        "Forwarded",
        "GET / HTTP/1.1\r\n{H}Connection: close\r\nForwarded: for=6.6.6.6\r\n\r\n",
        "6.6.6.6",
    ),
    (
        "Connection names X-Secret",
        "GET / HTTP/1.1\r\n{H}Connection: close, X-Secret\r\nX-Secret: 1\r\n\r\n",
        "x-secret",
    ),
    (
        "Proxy-Connection and Keep-Alive",
        "GET / HTTP/1.1\r\n{H}Connection: close\r\nProxy-Connection: hop\r\nKeep-Alive: hop\r\n\r\n",
        "hop",
    ),
];

/// An expectation that nobody knows, and another request.
pub(crate) const BAD_EXPECTATION: &str = "GET / HTTP/1.1\r\n{H}Expect: junk\r\n\r\n\
    GET / HTTP/1.1\r\n{H}Connection: close\r\n\r\n";

/// A request to switch protocols, which the backend does not, and another request.
pub(crate) const UPGRADE_REFUSED: &str = "GET /1 HTTP/1.1\r\n{H}Connection: upgrade\r\nUpgrade: websocket\r\n\r\n\
    GET /2 HTTP/1.1\r\n{H}Connection: close\r\n\r\n";

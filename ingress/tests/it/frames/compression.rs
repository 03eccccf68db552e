//! Header compression: RFC 7541, sections 2.3 to 6.3, and what section 4.3 says of it.

use super::*;

#[tokio::test]
async fn compression() {
    let request = |block: &[u8]| frame(HEADERS, END_HEADERS | END_STREAM, 1, block);
    let after = |bytes: &[u8]| request(&[&block(&GET), bytes].concat());
    // GET, http, / and a literal authority, by the static table.
    let indexed = [&[0x82, 0x86, 0x84][..], &field(":authority", "a.org")].concat();
    let indexing = [&block(&GET)[..], &[0x40, 3], b"x-a", &[1], b"1", &[0xbe]].concat();
    check(&[
        (
            "7541 2.3 the static table",
            request(&indexed),
            End::Status(200),
        ),
        (
            "7541 6.2.1 the dynamic table",
            request(&indexing),
            End::Status(200),
        ),
        (
            "7541 2.3.3 an index beyond both tables",
            after(&[0xbf]),
            End::Connection,
        ),
        ("7541 6.1 index 0", after(&[0x80]), End::Connection),
        (
            "7541 4.2 a size change after a field",
            after(&[0x20]),
            End::Connection,
        ),
        (
            "7541 6.3 a size beyond the limit",
            request(&[&[0x3f, 0xff, 0xff, 0xff, 0x07], &block(&GET)[..]].concat()),
            End::Connection,
        ),
        (
            "7541 5.2 Huffman padding of 8 bits",
            after(&[0, 3, b'x', b'-', b'a', 0x82, 0x1f, 0xff]),
            End::Connection,
        ),
        (
            "7541 5.2 Huffman padding of zeros",
            after(&[0, 3, b'x', b'-', b'a', 0x81, 0x18]),
            End::Connection,
        ),
        (
            "7541 5.2 EOS in a string",
            after(&[0, 3, b'x', b'-', b'a', 0x84, 0xff, 0xff, 0xff, 0xff]),
            End::Connection,
        ),
        (
            "4.3 a block that breaks off",
            after(&[0, 9, b'x']),
            End::Connection,
        ),
        (
            "7541 2.3.3 a literal with an index beyond both tables",
            after(&[0x7f, 0x07, 1, b'1']),
            End::Connection,
        ),
    ])
    .await;
}

/// Every way to write a field (generic 5).
#[tokio::test]
async fn fields_in_all_their_forms() {
    // "a.org", "x-a" and "1", plain and by Huffman's code, with their lengths.
    let [host, host_coded] = [&b"\x05a.org"[..], b"\x84\x1a\xe7\xb2\x6f"];
    let [name, name_coded] = [&b"\x03x-a"[..], b"\x83\xf2\xb0\xff"];
    let [value, value_coded] = [&b"\x011"[..], b"\x81\x0f"];
    let request = |parts: &[&[u8]]| {
        let block = [&[0x82, 0x86, 0x84][..], &parts.concat()].concat();
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)
    };
    let with_size = |sizes: &[u8]| {
        let block = [sizes, &block(&GET)].concat();
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)
    };
    let mut rows = vec![
        ("generic 5 a size", with_size(&[0x20]), End::Status(200)),
        (
            "generic 5 several sizes",
            with_size(&[0x20, 0x3f, 0xe1, 0x1f]),
            End::Status(200),
        ),
    ];
    // Incremental indexing, none, and never: with an indexed name, which is :authority's, and with a new one.
    for (form, prefix) in [("added", 0x40), ("not added", 0x00), ("never added", 0x10)] {
        for (host, name, value) in [(host, name, value), (host_coded, name_coded, value_coded)] {
            rows.push((form, request(&[&[prefix | 1], host]), End::Status(200)));
            let more: [&[u8]; 5] = [&[0x41], host, &[prefix], name, value];
            rows.push((form, request(&more), End::Status(200)));
        }
    }
    check(&rows).await;
}

//! Protobuf's wire format: a reader of fields that trusts nothing.

use super::Error;

/// An iterator over the fields of a message.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

/// The content of a field.
#[derive(Debug, Clone, Copy)]
pub(super) enum Content<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// 32 or 64 bits, which no field of ours uses.
    Fixed,
}

impl<'a> Content<'a> {
    pub(super) fn varint(self) -> Result<u64, Error> {
        match self {
            Self::Varint(value) => Ok(value),
            _ => Err(Error::Malformed("proto: wrong wire type for a number")),
        }
    }

    pub(super) fn bytes(self) -> Result<&'a [u8], Error> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(Error::Malformed(
                "proto: wrong wire type for a string or message",
            )),
        }
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Result<(u16, Content<'a>), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = field(&mut self.0);
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

/// One field; numbers beyond 16 bits become 0, which no table has.
fn field<'a>(rest: &mut &'a [u8]) -> Result<(u16, Content<'a>), Error> {
    let key = varint(rest)?;
    let content = match key & 7 {
        0 => Content::Varint(varint(rest)?),
        1 => take(rest, 8).map(|_| Content::Fixed)?,
        2 => {
            let length = varint(rest)?;
            Content::Bytes(take(rest, usize::try_from(length).unwrap_or(usize::MAX))?)
        }
        5 => take(rest, 4).map(|_| Content::Fixed)?,
        _ => return Err(Error::Malformed("proto: illegal wire type")),
    };
    Ok((u16::try_from(key >> 3).unwrap_or(0), content))
}

/// A number of 7 bits a byte, lowest first.
pub(super) fn varint(rest: &mut &[u8]) -> Result<u64, Error> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, tail) = rest
            .split_first()
            .ok_or(Error::Malformed("unexpected EOF"))?;
        *rest = tail;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Error::Malformed("proto: integer overflow"))
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], Error> {
    let (taken, tail) = rest
        .split_at_checked(length)
        .ok_or(Error::Malformed("unexpected EOF"))?;
    *rest = tail;
    Ok(taken)
}

/// The low 32 bits, signed.
pub(super) fn low_half(value: u64) -> i32 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "protobuf defines int32 as the low half"
    )]
    let low = value as u32;
    low.cast_signed()
}

//! Byte ranges of a GET (blob WIRE.md §8). Pure.

use std::ops::Range;

/// The range starts at or past the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsatisfiable;

/// The bytes that a range header asks for of a blob of this size; `None` for all of it, also where the header has
/// another form than `bytes=a-b` or `bytes=a-`, which the service ignores.
pub fn resolve(header: Option<&str>, size: u64) -> Result<Option<Range<u64>>, Unsatisfiable> {
    let Some((start, end)) = header.and_then(parse) else { return Ok(None) };
    if start >= size {
        return Err(Unsatisfiable);
    }
    Ok(Some(start..end.map_or(size, |end| end.saturating_add(1).min(size))))
}

fn parse(header: &str) -> Option<(u64, Option<u64>)> {
    let (start, end) = header.trim().strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?;
    let start: u64 = number(start)?;
    match end {
        "" => Some((start, None)),
        end => number(end).filter(|end| *end >= start).map(|end| (start, Some(end))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        let cases = [
            (None, 10, Ok(None)),
            (Some("bytes=0-0"), 10, Ok(Some(0..1))),
            (Some("bytes=0-9"), 10, Ok(Some(0..10))),
            (Some("bytes=3-"), 10, Ok(Some(3..10))),
            (Some("bytes=3-100"), 10, Ok(Some(3..10))),
            (Some("bytes=9-18446744073709551615"), 10, Ok(Some(9..10))),
            (Some("bytes=10-"), 10, Err(Unsatisfiable)),
            (Some("bytes=10-20"), 10, Err(Unsatisfiable)),
            (Some("bytes=0-"), 0, Err(Unsatisfiable)),
            (Some("bytes=0-33554431"), 0, Err(Unsatisfiable)),
            (Some("bytes=-5"), 10, Ok(None)),
            (Some("bytes=5-4"), 10, Ok(None)),
            (Some("bytes=0-1,3-4"), 10, Ok(None)),
            (Some("items=0-1"), 10, Ok(None)),
            (Some("bytes=+1-2"), 10, Ok(None)),
            (Some("bytes=99999999999999999999-"), 10, Ok(None)),
        ];
        for (header, size, expected) in cases {
            assert_eq!(resolve(header, size), expected, "{header:?} of {size}");
        }
    }
}

//! Structured bodies: content in segments, each with its CRC-64, and one of all of it at the end. Pure.
//!
//! ```text
//!   1 version · 8 length of the message · 2 properties · 2 number of segments
//!   for each: 2 number, from 1 · 8 length · content · 8 CRC-64
//!   8 CRC-64 of the content
//! ```
//! All numbers have their lowest byte first.

use super::error::{Code, Error};
use bytes::{Buf, Bytes};
use crc64fast_nvme::Digest;

/// The header of whoever sends or wants one, and the only value of it.
pub const HEADER: &str = "x-ms-structured-body";
pub const VALUE: &str = "XSM/1.0; properties=crc64";
/// Length of the content in a structured body.
pub const LENGTH_HEADER: &str = "x-ms-structured-content-length";

const VERSION: u8 = 1;
const CRC64: u16 = 1;
const MESSAGE_HEAD: usize = 13;
const SEGMENT_HEAD: usize = 10;
const SUM: usize = 8;
/// Content of a segment that we write.
const SEGMENT: u64 = 4 * 1024 * 1024;

/// What comes next in a body that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    MessageHead,
    SegmentHead,
    /// So many bytes are left of the segment.
    Content(u64),
    SegmentSum,
    MessageSum,
    Nothing,
}

/// Takes the content out of a structured body, and checks it.
pub struct Decoder {
    next: Next,
    /// Of a head or sum that has not come in whole.
    held: Vec<u8>,
    /// Length of the message by its head, and of what came.
    length: u64,
    seen: u64,
    segments: u16,
    number: u16,
    segment: Digest,
    message: Digest,
}

impl Decoder {
    pub fn new() -> Decoder {
        Decoder {
            next: Next::MessageHead,
            held: Vec::new(),
            length: 0,
            seen: 0,
            segments: 0,
            number: 0,
            segment: Digest::new(),
            message: Digest::new(),
        }
    }

    /// The content in the next bytes of the body. That of a segment comes before its sum was checked.
    pub fn push(&mut self, mut bytes: Bytes) -> Result<Vec<Bytes>, Error> {
        self.seen = self.seen.saturating_add(bytes.len() as u64);
        let mut content = Vec::new();
        while !bytes.is_empty() {
            let wanted = match self.next {
                Next::Content(left) => {
                    let length = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
                    let piece = bytes.split_to(length);
                    self.segment.write(&piece);
                    self.message.write(&piece);
                    self.after_content(left - length as u64);
                    content.push(piece);
                    continue;
                }
                Next::MessageHead => MESSAGE_HEAD,
                Next::SegmentHead => SEGMENT_HEAD,
                Next::SegmentSum | Next::MessageSum => SUM,
                Next::Nothing => return Err(bad("There is more after its end.")),
            };
            let missing = wanted - self.held.len();
            self.held.extend_from_slice(&bytes.split_to(missing.min(bytes.len())));
            if self.held.len() == wanted {
                let whole = std::mem::take(&mut self.held);
                self.read(&whole)?;
            }
        }
        Ok(content)
    }

    fn read(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        match self.next {
            Next::MessageHead => {
                let version = bytes.get_u8();
                self.length = bytes.get_u64_le();
                let properties = bytes.get_u16_le();
                self.segments = bytes.get_u16_le();
                if version != VERSION || properties != CRC64 {
                    return Err(bad("Its version or properties are unknown."));
                }
                self.next = if self.segments == 0 { Next::MessageSum } else { Next::SegmentHead };
            }
            Next::SegmentHead => {
                self.number = self.number.wrapping_add(1);
                if bytes.get_u16_le() != self.number {
                    return Err(bad("Its segments are not in order."));
                }
                self.segment = Digest::new();
                self.after_content(bytes.get_u64_le());
            }
            Next::SegmentSum => {
                check(&self.segment, bytes.get_u64_le())?;
                self.next = if self.number == self.segments { Next::MessageSum } else { Next::SegmentHead };
            }
            Next::MessageSum => {
                check(&self.message, bytes.get_u64_le())?;
                self.next = Next::Nothing;
            }
            Next::Content(_) | Next::Nothing => {}
        }
        Ok(())
    }

    fn after_content(&mut self, left: u64) {
        self.next = if left == 0 { Next::SegmentSum } else { Next::Content(left) };
    }

    /// Whether all of it came.
    pub fn end(&self) -> Result<(), Error> {
        match self.next == Next::Nothing && self.length == self.seen {
            true => Ok(()),
            false => Err(bad("It does not have the length that it says.")),
        }
    }
}

fn check(sum: &Digest, given: u64) -> Result<(), Error> {
    if sum.sum64() == given { Ok(()) } else { Err(Code::Crc64Mismatch.into()) }
}

fn bad(why: &str) -> Error {
    Error::new(Code::InvalidInput).because(format!("The structured body makes no sense: {why}"))
}

/// Puts content of a known length into a structured body.
pub struct Encoder {
    length: u64,
    segment_length: u64,
    segments: u16,
    number: u16,
    /// Content that is still to come: of the segment, and of all.
    left_of_segment: u64,
    left: u64,
    segment: Digest,
    message: Digest,
}

impl Encoder {
    pub fn new(length: u64) -> Encoder {
        // So long ones that there would be too many segments have longer ones.
        let segment_length = SEGMENT.max(length.div_ceil(u64::from(u16::MAX)));
        let segments = length.div_ceil(segment_length).max(1) as u16;
        Encoder {
            length,
            segment_length,
            segments,
            number: 0,
            left_of_segment: 0,
            left: length,
            segment: Digest::new(),
            message: Digest::new(),
        }
    }

    /// Length of the body.
    pub fn encoded_length(&self) -> u64 {
        (MESSAGE_HEAD + SUM) as u64 + u64::from(self.segments) * (SEGMENT_HEAD + SUM) as u64 + self.length
    }

    /// What comes before the content; all there is, if there is no content.
    pub fn begin(&mut self) -> Vec<Bytes> {
        let mut head = vec![VERSION];
        head.extend(self.encoded_length().to_le_bytes());
        head.extend(CRC64.to_le_bytes());
        head.extend(self.segments.to_le_bytes());
        self.begin_segment(&mut head);
        if self.left == 0 {
            self.end_segment(&mut head);
        }
        vec![head.into()]
    }

    /// The body of the next bytes of the content.
    pub fn push(&mut self, mut bytes: Bytes) -> Vec<Bytes> {
        let mut body = Vec::new();
        while !bytes.is_empty() && self.left_of_segment > 0 {
            let length = usize::try_from(self.left_of_segment).map_or(bytes.len(), |n| n.min(bytes.len()));
            let piece = bytes.split_to(length);
            self.segment.write(&piece);
            self.message.write(&piece);
            self.left_of_segment -= length as u64;
            self.left -= length as u64;
            body.push(piece);
            if self.left_of_segment == 0 {
                let mut between = Vec::new();
                self.end_segment(&mut between);
                body.push(between.into());
            }
        }
        body
    }

    fn begin_segment(&mut self, into: &mut Vec<u8>) {
        self.number += 1;
        self.segment = Digest::new();
        self.left_of_segment = self.left.min(self.segment_length);
        into.extend(self.number.to_le_bytes());
        into.extend(self.left_of_segment.to_le_bytes());
    }

    fn end_segment(&mut self, into: &mut Vec<u8>) {
        into.extend(self.segment.sum64().to_le_bytes());
        if self.left == 0 {
            into.extend(self.message.sum64().to_le_bytes());
        } else {
            self.begin_segment(into);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(content: &[u8], cut: usize) -> Vec<u8> {
        let mut encoder = Encoder::new(content.len() as u64);
        let length = encoder.encoded_length();
        let mut body: Vec<u8> = encoder.begin().concat();
        for piece in content.chunks(cut.max(1)) {
            body.extend(encoder.push(Bytes::copy_from_slice(piece)).concat());
        }
        assert_eq!(body.len() as u64, length);
        body
    }

    fn decode(body: &[u8], cut: usize) -> Result<Vec<u8>, Error> {
        let mut decoder = Decoder::new();
        let mut content = Vec::new();
        for piece in body.chunks(cut.max(1)) {
            content.extend(decoder.push(Bytes::copy_from_slice(piece))?.concat());
        }
        decoder.end().map(|()| content)
    }

    #[test]
    fn bytes_of_a_short_message() {
        let sum = "8898790a86148bae";
        let hex: String = encode(b"123456789", 4).iter().map(|byte| format!("{byte:02x}")).collect();
        let content = "313233343536373839";
        let head = format!("01{}01000100", "3000000000000000");
        assert_eq!(hex, format!("{head}01000900000000000000{content}{sum}{sum}"));
        assert_eq!(decode(&encode(b"", 1), 3).unwrap(), b"");
    }

    #[test]
    fn long_content_has_several_segments() {
        let content: Vec<u8> = (0..9_000_000_u32).map(|n| (n % 253) as u8).collect();
        let body = encode(&content, 1_000_003);
        assert_eq!(body.len(), content.len() + MESSAGE_HEAD + 3 * (SEGMENT_HEAD + SUM) + SUM);
        assert!(decode(&body, 65_537).unwrap() == content);
        assert_eq!(Encoder::new(1 << 50).segments, u16::MAX);
    }

    #[test]
    fn damage_is_found() {
        let body = encode(b"123456789", 9);
        for at in 0..body.len() {
            let mut damaged = body.clone();
            damaged[at] ^= 1;
            assert!(decode(&damaged, 7).is_err(), "at {at}");
            assert!(decode(&body[..at], 7).is_err(), "cut at {at}");
        }
        assert_eq!(decode(&[body.as_slice(), b"x"].concat(), 5).unwrap_err().code, Code::InvalidInput);
        let mut damaged = body;
        damaged[25] ^= 1;
        assert_eq!(decode(&damaged, 100).unwrap_err().code, Code::Crc64Mismatch);
    }

    proptest! {
        #[test]
        fn nonsense_is_refused_or_read(body in proptest::collection::vec(any::<u8>(), 0..200), cut in 1..50_usize) {
            let _ = decode(&body, cut);
        }
    }
}

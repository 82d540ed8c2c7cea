//! Checksums of what comes in and goes out: MD5, and the CRC-64 of NVMe, which the service uses (eight bytes, the lowest
//! first).

use super::call::Call;
use super::error::{Code, Error};
use super::respond;
use actix_web::http::header::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lote_shared::chunks::Tap;
use md5::{Digest, Md5};

/// Which sums are to be made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    pub md5: bool,
    pub crc64: bool,
}

impl Wanted {
    pub fn begin(self) -> Running {
        Running { md5: self.md5.then(Md5::new), crc64: self.crc64.then(crc64fast_nvme::Digest::new) }
    }
}

/// Sums of what went by so far.
pub struct Running {
    md5: Option<Md5>,
    crc64: Option<crc64fast_nvme::Digest>,
}

impl Running {
    pub fn end(self) -> Sums {
        Sums {
            md5: self.md5.map(|md5| md5.finalize().into()),
            crc64: self.crc64.map(|crc64| crc64.sum64().to_le_bytes()),
        }
    }
}

impl Tap for Running {
    fn data(&mut self, bytes: &[u8]) {
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
        if let Some(crc64) = &mut self.crc64 {
            crc64.write(bytes);
        }
    }
}

/// Sums of all of something, as far as they were wanted, or as a client gave them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    pub md5: Option<[u8; 16]>,
    pub crc64: Option<[u8; 8]>,
}

impl Sums {
    /// Those of the body that comes with a request.
    pub fn of_body(call: &Call) -> Result<Sums, Error> {
        Sums::given(call, "content-md5", "x-ms-content-crc64")
    }

    /// Those of the source of a copy.
    pub fn of_source(call: &Call) -> Result<Sums, Error> {
        Sums::given(call, "x-ms-source-content-md5", "x-ms-source-content-crc64")
    }

    fn given(call: &Call, md5: &str, crc64: &str) -> Result<Sums, Error> {
        let sums = Sums { md5: call.md5(md5)?, crc64: call.crc64(crc64)? };
        if sums.md5.is_some() && sums.crc64.is_some() {
            let why = format!("give one of {md5} and {crc64}");
            return Err(Error::new(Code::InvalidHeaderValue).because(why));
        }
        Ok(sums)
    }

    pub fn of(bytes: &[u8], wanted: Wanted) -> Sums {
        let mut running = wanted.begin();
        running.data(bytes);
        running.end()
    }

    /// What has to be summed up to check these.
    pub fn wanted(&self) -> Wanted {
        Wanted { md5: self.md5.is_some(), crc64: self.crc64.is_some() }
    }

    /// Whether what came is what was to come.
    pub fn check(&self, found: &Sums) -> Result<(), Error> {
        if self.md5.is_some() && self.md5 != found.md5 {
            return Err(Code::Md5Mismatch.into());
        }
        if self.crc64.is_some() && self.crc64 != found.crc64 {
            return Err(Code::Crc64Mismatch.into());
        }
        Ok(())
    }

    /// `Content-MD5` and `x-ms-content-crc64` of an answer.
    pub fn write(&self, headers: &mut HeaderMap) {
        if let Some(md5) = self.md5 {
            respond::set(headers, "content-md5", &STANDARD.encode(md5));
        }
        if let Some(crc64) = self.crc64 {
            respond::set(headers, "x-ms-content-crc64", &STANDARD.encode(crc64));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc64_is_the_one_of_the_service() {
        let wanted = Wanted { crc64: true, ..Wanted::default() };
        let sums = Sums::of(b"123456789", wanted);
        // The check value of CRC-64/NVME.
        assert_eq!(sums.crc64, Some(0xae8b_1486_0a79_9888_u64.to_le_bytes()));
        assert_eq!(sums.md5, None);
    }

    #[test]
    fn what_was_not_given_is_not_checked() {
        let found = Sums::of(b"x", Wanted { md5: true, crc64: true });
        assert_eq!(Sums::default().check(&found), Ok(()));
        assert_eq!(found.check(&found), Ok(()));
        let other = Sums::of(b"y", Wanted { md5: true, crc64: true });
        let md5 = Sums { crc64: None, ..other };
        assert_eq!(md5.check(&found).unwrap_err().code, Code::Md5Mismatch);
        let crc64 = Sums { md5: None, ..other };
        assert_eq!(crc64.check(&found).unwrap_err().code, Code::Crc64Mismatch);
    }
}

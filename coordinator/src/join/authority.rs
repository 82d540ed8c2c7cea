//! The cluster's certificate authority: made by `lote init`, held by every coordinator, so that each can make its own
//! server certificate. Certificates are checked by the authority's fingerprint ([`super::pin`]), not by host name; the
//! names in them are for clients that only know how to check those.

use lote_shared::model::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::Duration;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
const AUTHORITY_DAYS: u64 = 30 * 365;
const SERVER_DAYS: u64 = 3 * 365;
/// A server certificate is made anew when less than this is left of it.
const RENEW_DAYS: u64 = 365;
/// Clocks differ: certificates are good from a little before they were made.
const EARLIER_MS: u64 = DAY_MS;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("a certificate could not be made: {0}")]
    Make(#[from] rcgen::Error),
    #[error("the {what} is damaged: {why}; restore it from a copy or from another coordinator")]
    Damaged { what: &'static str, why: String },
    #[error("the certificate does not serve: {0}")]
    Tls(#[from] rustls::Error),
}

/// Certificate and key of the authority, both PEM.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    pub certificate: String,
    pub key: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

/// A certificate for a server and its key, both PEM, and what decides whether it still serves.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerCertificate {
    pub certificate: String,
    pub key: String,
    /// Host names and addresses it is for, sorted.
    pub names: Vec<String>,
    pub until: Timestamp,
    /// Fingerprint of the authority that made it.
    pub authority: String,
}

impl std::fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerCertificate").field("names", &self.names).field("until", &self.until).finish()
    }
}

impl ServerCertificate {
    /// Whether it is for these names and not about to expire.
    pub fn still_serves(&self, authority: &str, names: &[String], now: Timestamp) -> bool {
        self.authority == authority
            && self.names == names
            && self.until.0 > now.plus_ms(RENEW_DAYS * DAY_MS).0
    }
}

/// SHA-256 over a certificate.
pub fn fingerprint(certificate: &CertificateDer<'_>) -> [u8; 32] {
    Sha256::digest(certificate.as_ref()).into()
}

/// As 64 hexadecimal digits.
pub fn hex(bytes: &[u8; 32]) -> String {
    blake3::Hash::from(*bytes).to_hex().to_string()
}

fn parameters(now: Timestamp, days: u64, names: &[String]) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(names.to_vec())?;
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_millis(now.0.saturating_sub(EARLIER_MS));
    params.not_after = epoch + Duration::from_millis(now.plus_ms(days * DAY_MS).0);
    Ok(params)
}

/// What an authority's certificate says of it, which its issues repeat.
fn of_authority(now: Timestamp) -> Result<CertificateParams, Error> {
    let mut params = parameters(now, AUTHORITY_DAYS, &[])?;
    params.distinguished_name.push(DnType::CommonName, "Lote cluster authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

impl Authority {
    pub fn make(now: Timestamp) -> Result<Authority, Error> {
        let key = KeyPair::generate()?;
        let certificate = of_authority(now)?.self_signed(&key)?.pem();
        Ok(Authority { certificate, key: key.serialize_pem() })
    }

    fn der(&self) -> Result<CertificateDer<'static>, Error> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes())
            .map_err(|error| Error::Damaged { what: "authority's certificate", why: error.to_string() })
    }

    /// By which everybody knows this authority.
    pub fn fingerprint(&self) -> Result<[u8; 32], Error> {
        Ok(fingerprint(&self.der()?))
    }

    /// A certificate for a server at these names.
    pub fn server(&self, names: &[String], now: Timestamp) -> Result<ServerCertificate, Error> {
        self.server_for_days(names, now, SERVER_DAYS)
    }

    pub(super) fn server_for_days(
        &self,
        names: &[String],
        now: Timestamp,
        days: u64,
    ) -> Result<ServerCertificate, Error> {
        let damaged =
            |error: rcgen::Error| Error::Damaged { what: "authority's key", why: error.to_string() };
        let ours = KeyPair::from_pem(&self.key).map_err(damaged)?;
        let issuer = Issuer::new(of_authority(now)?, ours);
        let key = KeyPair::generate()?;
        let mut names = names.to_vec();
        names.sort();
        names.dedup();
        let mut params = parameters(now, days, &names)?;
        params.distinguished_name.push(DnType::CommonName, "Lote coordinator");
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ServerAuth);
        let certificate = params.signed_by(&key, &issuer)?.pem();
        let until = now.plus_ms(days * DAY_MS);
        let authority = hex(&self.fingerprint()?);
        Ok(ServerCertificate { certificate, key: key.serialize_pem(), names, until, authority })
    }

    /// Serves under that certificate, and shows the authority's own behind it.
    pub fn tls(&self, server: &ServerCertificate) -> Result<Arc<rustls::ServerConfig>, Error> {
        let damaged = |error: rustls::pki_types::pem::Error| Error::Damaged {
            what: "server certificate",
            why: error.to_string(),
        };
        let leaf = CertificateDer::from_pem_slice(server.certificate.as_bytes()).map_err(damaged)?;
        let key = PrivateKeyDer::from_pem_slice(server.key.as_bytes()).map_err(damaged)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![leaf, self.der()?], key)?;
        Ok(Arc::new(config))
    }
}

//! What a member keeps of its cluster in its data folder.
//!
//! ```text
//! <data-dir>/cluster.json  a coordinator: settings, the authority and its key; a worker: coordinators, cluster id
//!            ca.pem        certificate of the authority, for clients
//!            server.json   this coordinator's certificate and key
//! ```

use crate::folder::{Folder, write_private};
use anyhow::{Context, bail};
use lote_coordinator::clock;
use lote_coordinator::join::authority::{Authority, ServerCertificate, fingerprint, hex};
use lote_coordinator::join::message::Member;
use lote_coordinator::members;
use lote_coordinator::state::ClusterSettings;
use lote_shared::protocol::members as protocol;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;

const FILE: &str = "cluster.json";
pub const CA_FILE: &str = "ca.pem";
const SERVER_FILE: &str = "server.json";
/// Longest file of these; anything longer is none of ours.
const FILE_MAX: u64 = 1024 * 1024;

/// What a coordinator was made or joined with.
#[derive(Debug, Serialize, Deserialize)]
pub struct CoordinatorFacts {
    pub name: String,
    pub cluster_id: String,
    pub lease_ms: u64,
    pub authority: Authority,
    /// Its number, and the coordinators it joined; `None` for the one that founds the cluster.
    pub joined: Option<Joined>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Joined {
    pub member: u64,
    pub coordinators: Vec<Member>,
}

impl Joined {
    pub fn seat(&self) -> members::Joined {
        let coordinators = self.coordinators.iter().map(|member| protocol::Member {
            peer: member.peer.clone(),
            role: members::network_role(member.role),
            addresses: member.addresses.clone(),
            storage: None,
        });
        members::Joined { member: self.member, coordinators: coordinators.collect() }
    }
}

/// What a worker was told when it joined.
#[derive(Debug, Serialize, Deserialize)]
pub struct WorkerFacts {
    pub name: String,
    pub cluster_id: String,
    pub coordinators: Vec<Member>,
    /// The token it joined with, so that one left in a unit file is not used at every start.
    pub token: String,
}

impl CoordinatorFacts {
    pub fn settings(&self) -> ClusterSettings {
        ClusterSettings {
            cluster_id: self.cluster_id.clone(),
            lease_ms: self.lease_ms,
            ca_certificate: self.authority.certificate.clone(),
        }
    }

    pub fn write(&self, folder: &Folder) -> anyhow::Result<()> {
        write_private(&folder.path().join(CA_FILE), self.authority.certificate.as_bytes())?;
        write(folder, FILE, self)
    }

    /// TLS under a certificate for these names, made anew when it no longer fits.
    pub fn tls(&self, folder: &Folder, names: &[String]) -> anyhow::Result<Arc<rustls::ServerConfig>> {
        let now = clock::wall();
        let authority = hex(&self.authority.fingerprint()?);
        let kept: Option<ServerCertificate> = read(folder.path(), SERVER_FILE)?;
        let kept = kept.filter(|kept| kept.still_serves(&authority, names, now));
        let certificate = match kept {
            Some(kept) => kept,
            None => {
                let made = self.authority.server(names, now)?;
                write(folder, SERVER_FILE, &made)?;
                made
            }
        };
        Ok(self.authority.tls(&certificate)?)
    }
}

impl WorkerFacts {
    pub fn write(&self, folder: &Folder) -> anyhow::Result<()> {
        write(folder, FILE, self)
    }
}

/// What the folder says; `None` if it belongs to no cluster yet.
pub fn facts<T: DeserializeOwned>(folder: &Path) -> anyhow::Result<Option<T>> {
    read(folder, FILE)
}

/// Whether the folder belongs to a cluster that others can join.
pub fn exists(folder: &Path) -> bool {
    folder.join(FILE).exists()
}

fn write<T: Serialize>(folder: &Folder, name: &str, value: &T) -> anyhow::Result<()> {
    write_private(&folder.path().join(name), &serde_json::to_vec_pretty(value)?)
}

fn read<T: DeserializeOwned>(folder: &Path, name: &str) -> anyhow::Result<Option<T>> {
    let path = folder.join(name);
    match fs::metadata(&path) {
        Ok(metadata) if metadata.len() > FILE_MAX => bail!("{} is no file of lote", path.display()),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    }
    let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let value = serde_json::from_slice(&bytes).with_context(|| {
        format!(
            "{} is damaged, or belongs to a member of the other role; restore it, or choose another --data-dir",
            path.display()
        )
    })?;
    Ok(Some(value))
}

/// Of a certificate in PEM.
pub fn fingerprint_of(pem: &[u8]) -> anyhow::Result<[u8; 32]> {
    let certificate = CertificateDer::from_pem_slice(pem).context("not a certificate")?;
    Ok(fingerprint(&certificate))
}

/// Names a server certificate is for: what is advertised, what is bound, and this machine to itself.
pub fn certificate_names(advertise: Option<&str>, bound: &[SocketAddr]) -> Vec<String> {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    names.extend(advertise.map(str::to_owned));
    let addresses = bound.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified());
    names.extend(addresses.map(|ip| ip.to_string()));
    names.sort();
    names.dedup();
    names
}

/// The address this machine has towards others; loopback if it has none. Nothing is sent.
pub fn outward_address() -> IpAddr {
    // An address for documentation, which the routing table is asked about.
    let ask = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        socket.local_addr()
    };
    ask().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip())
}

/// A name for this machine if none is given.
pub fn machine_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name: String = name.trim().chars().filter(|c| good(*c)).take(64).collect();
    if name.is_empty() { "lote".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_kept_until_its_names_change() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        let authority = Authority::make(clock::wall()).unwrap();
        let facts = CoordinatorFacts {
            name: "c1".to_owned(),
            cluster_id: "id".to_owned(),
            lease_ms: 2_000,
            authority,
            joined: None,
        };
        facts.write(&folder).unwrap();
        let names = certificate_names(Some("batch.example"), &["10.0.0.1:1".parse().unwrap()]);
        assert_eq!(names, ["10.0.0.1", "127.0.0.1", "::1", "batch.example", "localhost"]);
        let server = || fs::read(folder.path().join(SERVER_FILE)).unwrap();
        facts.tls(&folder, &names).unwrap();
        let first = server();
        facts.tls(&folder, &names).unwrap();
        assert_eq!(server(), first);
        facts.tls(&folder, &names[1..]).unwrap();
        assert_ne!(server(), first);
        let read: CoordinatorFacts = super::facts(folder.path()).unwrap().unwrap();
        assert_eq!(read.settings(), facts.settings());
        assert_eq!(
            fingerprint_of(facts.authority.certificate.as_bytes()).unwrap(),
            facts.authority.fingerprint().unwrap()
        );
        let other = super::facts::<WorkerFacts>(folder.path()).unwrap_err().to_string();
        assert!(other.contains("other role"), "{other}");
    }
}

//! The Blob interface alone, over an engine without a log: for trying clients against it.
//!
//! `cargo run -p lote-coordinator --example blob_server -- FOLDER PORT` serves the account `devacct` with the key
//! that it prints. Chunks lie in FOLDER; records are in memory and gone at the end.

#![expect(clippy::disallowed_methods, reason = "the example has no engine that would tell it the time")]

use actix_web::{App, HttpServer};
use base64::Engine as _;
use lote_coordinator::api::blob::{BlobApi, service};
use lote_coordinator::engine::direct;
use lote_coordinator::state::{Action, Cluster, keys};
use lote_coordinator::store::{Error, Store, Write};
use lote_shared::chunks::ChunkStore;
use lote_shared::model::Timestamp;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Debug, Default)]
struct Memory(RwLock<BTreeMap<Vec<u8>, Vec<u8>>>);

impl Store for Memory {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.0.read().get(key).cloned())
    }

    fn scan(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Error> {
        let rows = self.0.read();
        let inside =
            rows.range(start.to_vec()..).take_while(|(key, _)| end.is_none_or(|end| key.as_slice() < end));
        for (key, value) in inside {
            if !each(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, batch: &[Write]) -> Result<(), Error> {
        let mut rows = self.0.write();
        for (key, value) in batch {
            match value {
                Some(value) => rows.insert(key.clone(), value.clone()),
                None => rows.remove(key),
            };
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), Error> {
        Ok(())
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(since.as_millis() as u64)
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("usage: blob_server FOLDER PORT")?;
    let port: u16 = arguments.next().ok_or("usage: blob_server FOLDER PORT")?.parse()?;
    let engine = direct::start(Cluster::new(), Arc::new(Memory::default()), now);
    let key = blake3::hash(b"development key").as_bytes().to_vec();
    let add = Action::AccountAdd { name: "devacct".to_owned(), keys: vec![key.clone()] };
    engine.propose(keys::CLUSTER, add).await??;
    let api = BlobApi::new(Arc::new(engine), ChunkStore::open(Path::new(&folder))?, "devacct", now);
    let server = HttpServer::new(move || App::new().configure(|cfg| service(cfg, api.clone()))).workers(2);
    let server = server.bind(("127.0.0.1", port))?;
    println!(
        "http://127.0.0.1:{port}/devacct devacct {}",
        base64::engine::general_purpose::STANDARD.encode(key)
    );
    server.run().await?;
    Ok(())
}

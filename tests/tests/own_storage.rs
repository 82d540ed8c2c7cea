//! A host's transfers of the cluster's own storage, against a real coordinator over loopback: chunks over libp2p, the
//! failure codes of HTTP, and nothing over the wire twice.

use lote_coordinator::api::auth::blob::sas::{ContainerSas, sign_container};
use lote_coordinator::clock;
use lote_coordinator::service::{Coordinator, CoordinatorConfig};
use lote_coordinator::state::blobs::BlobAction;
use lote_coordinator::state::{Action, testing};
use lote_shared::chunks::ChunkStore;
use lote_shared::model::{
    Attempt, AttemptRef, ContainerDestination, FailureInfo, NodeKey, OutputFile, Producer, ResourceFile,
    ResourceSource, TaskKey, UploadCondition,
};
use lote_shared::network::{Config, Identity, Network, Role};
use lote_worker::attempt::fetch::fetch_all;
use lote_worker::attempt::http::{HttpStore, Limits};
use lote_worker::attempt::own::OwnStore;
use lote_worker::attempt::transfer::{Error, Retries, Sink, Source, Wanted};
use lote_worker::attempt::upload::{Place, upload_all};
use lote_worker::layout::TaskLayout;
use lote_worker::swarm::{Rates, Swarm};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

const KEY: [u8; 64] = [7; 64];
const RETRIES: Retries = Retries { count: 1, first_delay: Duration::from_millis(2) };

struct World {
    coordinator: Coordinator,
    network: Network,
    store: OwnStore,
    endpoint: String,
    folder: tempfile::TempDir,
}

impl World {
    async fn start() -> World {
        let folder = tempfile::tempdir().unwrap();
        let identity = Identity::ephemeral();
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let coordinator = Coordinator::start(CoordinatorConfig {
            data_dir: folder.path().join("coordinator"),
            account_name: "lote".to_owned(),
            account_key: KEY.to_vec(),
            batch_bind: any_port,
            blob_bind: any_port,
            p2p_bind: any_port,
            admit: vec![testing::worker(&identity.peer().to_string())],
            joinable: None,
            joined: None,
            lease_ms: 60_000,
            storage: Default::default(),
            faults: Default::default(),
        })
        .await
        .unwrap();
        let network = Network::start(Config::new(identity, vec![])).await.unwrap();
        network.set_allowed([(coordinator.peer(), Role::Coordinator)].into());
        for address in coordinator.p2p_addresses() {
            network.add_address(coordinator.peer(), address);
        }
        let cache = ChunkStore::open(&folder.path().join("cache")).unwrap();
        let http = HttpStore::new(Limits::default()).unwrap();
        let idle = Duration::from_secs(30);
        let swarm = Swarm::new(network.clone(), cache.clone(), Rates::default(), idle);
        let store = OwnStore::new(network.clone(), cache, http, idle, swarm);
        let endpoint = format!("http://{}/lote", coordinator.blob_address());
        store.home().set(coordinator.peer(), vec![endpoint.clone()]);
        let engine = coordinator.engine();
        let account = engine.read(|cluster| cluster.account_by_name("lote").unwrap().0);
        let create = BlobAction::ContainerCreate { name: "cont".into(), metadata: Default::default() };
        engine.propose(account, Action::Blob(Box::new(create))).await.unwrap().unwrap();
        World { coordinator, network, store, endpoint, folder }
    }

    /// A URL below the account with a signature for a container.
    fn url(&self, container: &str, path: &str, permissions: &str) -> String {
        let expiry = clock::wall().plus_ms(600_000);
        let sas = ContainerSas { account: "lote", key: &KEY, container, permissions, expiry, protocol: None };
        format!("{}/{container}{path}?{}", self.endpoint, sign_container(&sas))
    }

    async fn put(&self, path: &str, content: &[u8]) {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = http.put(self.url("cont", path, "racwdl")).header("x-ms-blob-type", "BlockBlob");
        let answer = request.body(content.to_vec()).send().await.unwrap();
        assert_eq!(answer.status(), 201);
    }

    async fn get(&self, path: &str) -> reqwest::Response {
        self.try_get(path).await.unwrap()
    }

    async fn try_get(&self, path: &str) -> Result<reqwest::Response, reqwest::Error> {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        http.get(self.url("cont", path, "r")).send().await
    }

    /// Takes all content from the coordinator, so that only what is cached can be laid down.
    fn lose_content(&self) {
        let chunks = self.folder.path().join("coordinator/chunks/chunks");
        let mut lost = 0;
        for folder in std::fs::read_dir(chunks).unwrap() {
            for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
                std::fs::remove_file(file.unwrap().path()).unwrap();
                lost += 1;
            }
        }
        assert!(lost > 0);
    }

    async fn fetch(&self, source: ResourceSource) -> Result<(), FailureInfo> {
        let working = self.folder.path().join("wd");
        let file = ResourceFile { source, file_path: "in".into(), file_mode: 0o640 };
        fetch_all(&self.store, &[file], (&working, self.folder.path()), RETRIES).await
    }

    async fn upload(&self, container: String) -> Option<FailureInfo> {
        let directory = self.folder.path().join("task");
        std::fs::create_dir_all(directory.join("wd")).unwrap();
        std::fs::write(directory.join("wd/out.txt"), "result").unwrap();
        let file = OutputFile {
            pattern: "out.txt".into(),
            destination: ContainerDestination { url: container, path: String::new(), headers: vec![] },
            condition: UploadCondition::TaskCompletion,
        };
        let node_root = directory.clone();
        let place = Place {
            node_root,
            directories: TaskLayout { directory },
            environment: Default::default(),
            producer: None,
        };
        upload_all(&self.store, &[&file], &place, RETRIES).await
    }

    async fn stop(self) {
        self.network.shutdown().await;
        self.coordinator.shutdown().await;
    }
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 1000 * 31 + at) as u8).collect()
}

fn with_world(test: impl AsyncFnOnce(&World)) {
    actix_rt::System::new().block_on(async {
        let world = World::start().await;
        test(&world).await;
        world.stop().await;
    });
}

/// Files at once of which each is laid down while it comes; more than there are threads for that.
#[test]
fn many_large_files_at_once_wait_for_each_other_and_not_for_ever() {
    const FILES: usize = 40;
    let runtime = || {
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(24).build().unwrap()
    };
    actix_rt::System::with_tokio_rt(runtime).block_on(async {
        let world = World::start().await;
        let of = |n: usize| content(400_000 + n);
        for n in 0..FILES {
            world.put(&format!("/{n}"), &of(n)).await;
        }
        let fetch = async |n: usize| {
            let target = world.folder.path().join(format!("file-{n}"));
            let length = world
                .store
                .fetch(&Wanted::at(world.url("cont", &format!("/{n}"), "r")), &target, 0o600)
                .await;
            assert_eq!(length.unwrap(), 400_000 + n as u64);
            assert!(std::fs::read(target).unwrap() == of(n), "file {n}");
        };
        let all = futures::future::join_all((0..FILES).map(fetch));
        tokio::time::timeout(Duration::from_secs(60), all).await.expect("they wait for each other");
        world.stop().await;
    });
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_file_comes_once_and_is_laid_down_from_the_cache_after_that() {
    with_world(async |world| {
        let (small, large) = (content(10), content(3_500_000));
        world.put("/empty", b"").await;
        world.put("/small", &small).await;
        world.put("/dir/large%20one", &large).await;
        let target = world.folder.path().join("file");
        let cases: [(&str, &[u8], u32); 3] =
            [("/small", &small, 0o600), ("/dir/large%20one", &large, 0o751), ("/empty", b"", 0o640)];
        for lost in [false, true] {
            if lost {
                world.lose_content();
            }
            for (path, expected, bits) in cases {
                let url = world.url("cont", path, "r");
                let length = world.store.fetch(&Wanted::at(&url), &target, bits).await.unwrap();
                assert_eq!(length, expected.len() as u64);
                assert!(std::fs::read(&target).unwrap() == expected, "{path}");
                assert_eq!(mode(&target), bits);
            }
        }
        // Over HTTP this content cannot come any more, so it did not. The server may hang up before its first word.
        if let Ok(answer) = world.try_get("/dir/large%20one").await {
            assert!(!answer.status().is_success() || answer.bytes().await.is_err());
        }
    });
}

#[test]
fn a_container_is_listed_and_its_files_are_laid_down() {
    with_world(async |world| {
        for path in ["/a/1", "/a/sub/2", "/b/3"] {
            world.put(path, path.as_bytes()).await;
        }
        let source = ResourceSource::ContainerUrl { url: world.url("cont", "", "rl"), prefix: "a/".into() };
        world.fetch(source).await.unwrap();
        let at = |path: &str| world.folder.path().join("wd/in").join(path);
        assert_eq!(std::fs::read(at("a/1")).unwrap(), b"/a/1");
        assert_eq!(std::fs::read(at("a/sub/2")).unwrap(), b"/a/sub/2");
        assert!(!at("b/3").exists());
    });
}

#[test]
fn outputs_are_committed_with_their_headers() {
    with_world(async |world| {
        let file = world.folder.path().join("out");
        let headers = [
            ("x-ms-blob-content-type", "text/csv"),
            ("x-ms-meta-Kind", "result"),
            ("Cache-Control", "no-store"),
        ];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
        for length in [0, 12, 2_100_000] {
            std::fs::write(&file, content(length)).unwrap();
            let container = world.url("cont", "", "racw");
            let sent = world.store.upload(&container, "dir/o ut", &file, &headers, None).await.unwrap();
            assert_eq!(sent, length as u64);
            let answer = world.get("/dir/o%20ut").await;
            let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
            assert_eq!(header("content-type"), "text/csv");
            assert_eq!(header("cache-control"), "no-store");
            assert_eq!(header("x-ms-meta-kind"), "result");
            assert!(answer.headers().contains_key("content-md5"));
            assert!(answer.bytes().await.unwrap() == content(length));
        }
    });
}

#[test]
fn an_output_of_an_attempt_that_nobody_knows_replaces_nothing() {
    with_world(async |world| {
        let file = world.folder.path().join("out");
        let container = world.url("cont", "", "racw");
        std::fs::write(&file, "of the current attempt").unwrap();
        world.store.upload(&container, "out", &file, &[], None).await.unwrap();
        std::fs::write(&file, "of one that was given up").unwrap();
        let attempt = AttemptRef { task: TaskKey(1), attempt: Attempt(1) };
        let producer = Some(Producer { node: NodeKey(1), attempt });
        let error = world.store.upload(&container, "out", &file, &[], producer).await.unwrap_err();
        assert!(matches!(&error, Error::Refused(why) if why.contains("given up")), "{error}");
        assert!(!error.is_transient());
        assert_eq!(world.get("/out").await.text().await.unwrap(), "of the current attempt");
    });
}

#[test]
fn refusals_have_the_codes_they_have_over_http() {
    with_world(async |world| {
        world.put("/there", b"x").await;
        let http = |container: &str, path: &str, rights: &str| {
            ResourceSource::HttpUrl(world.url(container, path, rights))
        };
        let list = |container: &str, rights: &str| ResourceSource::ContainerUrl {
            url: world.url(container, "", rights),
            prefix: String::new(),
        };
        let forged = world.url("cont", "/there", "r").replace("sig=", "sig=AAAA");
        let bare = format!("{}/cont/there", world.endpoint);
        let cases = [
            (http("cont", "/absent", "r"), "BlobNotFound"),
            (http("none", "/absent", "r"), "BlobNotFound"),
            (http("cont", "/there", "w"), "BlobAccessDenied"),
            (ResourceSource::HttpUrl(forged), "BlobAccessDenied"),
            (list("none", "rl"), "ResourceContainerNotFound"),
            (list("cont", "r"), "ResourceContainerAccessDenied"),
        ];
        for (source, code) in cases {
            assert_eq!(world.fetch(source.clone()).await.unwrap_err().code, code, "{source:?}");
        }
        assert!(world.fetch(ResourceSource::HttpUrl(bare)).await.is_err(), "no signature at all");
        let forged = world.url("cont", "", "racw").replace("sig=", "sig=AAAA");
        for (container, code) in [
            (world.url("none", "", "racw"), "FileUploadContainerNotFound"),
            (world.url("cont", "", "r"), "FileUploadAccessDenied"),
            (forged, "FileUploadAccessDenied"),
        ] {
            assert_eq!(world.upload(container.clone()).await.unwrap().code, code, "{container}");
        }
        assert!(world.upload(world.url("cont", "", "racw")).await.is_none());
    });
}

#[test]
fn without_the_coordinator_it_is_a_transient_fault_and_no_other_way_is_taken() {
    with_world(async |world| {
        world.put("/there", b"x").await;
        let url = world.url("cont", "/there", "r");
        world.network.set_allowed(BTreeMap::new());
        let target = world.folder.path().join("file");
        // HTTP would still answer.
        assert!(world.get("/there").await.status().is_success());
        let error: Error = world.store.fetch(&Wanted::at(&url), &target, 0o600).await.unwrap_err();
        assert!(error.is_transient(), "{error}");
        // What is not below the endpoint goes there even now.
        let cache = ChunkStore::open(&world.folder.path().join("another")).unwrap();
        let http = HttpStore::new(Limits::default()).unwrap();
        let idle = Duration::from_secs(30);
        let swarm = Swarm::new(world.network.clone(), cache.clone(), Rates::default(), idle);
        let stranger = OwnStore::new(world.network.clone(), cache, http, idle, swarm);
        stranger.home().set(world.coordinator.peer(), vec![format!("{}x", world.endpoint)]);
        assert_eq!(stranger.fetch(&Wanted::at(&url), &target, 0o600).await.unwrap(), 1);
    });
}

#[test]
fn where_the_last_leader_is_gone_another_coordinator_is_asked() {
    with_world(async |world| {
        world.put("/there", b"x").await;
        let gone = Identity::ephemeral().peer();
        world.store.home().set(gone, vec!["http://gone:1/lote".to_owned()]);
        world.store.home().set_coordinators(vec![gone, world.coordinator.peer()]);
        // The endpoint of before is remembered, too.
        let target = world.folder.path().join("file");
        assert_eq!(
            world.store.fetch(&Wanted::at(world.url("cont", "/there", "r")), &target, 0o600).await.unwrap(),
            1
        );
        let expiry_and_rights = world.url("cont", "/there", "r").split_once('?').unwrap().1.to_owned();
        let named = format!("http://gone:1/lote/cont/there?{expiry_and_rights}");
        assert_eq!(world.store.fetch(&Wanted::at(&named), &target, 0o600).await.unwrap(), 1);
    });
}

#[test]
fn small_files_of_a_container_come_together() {
    with_world(async |world| {
        let content = |n: usize| vec![n as u8; 90_000 + n];
        for n in 0..12 {
            world.put(&format!("/many/{n}"), &content(n)).await;
        }
        world.put("/many/none", b"").await;
        let container = |permissions| {
            let url = world.url("cont", "", permissions);
            ResourceSource::ContainerUrl { url, prefix: "many/".into() }
        };
        // What may be listed and not read is not laid down, although its content is known.
        let denied = world.fetch(container("l")).await.unwrap_err();
        assert_eq!(denied.code, "BlobAccessDenied");
        world.fetch(container("rl")).await.unwrap();
        let laid_down =
            |n: usize| std::fs::read(world.folder.path().join(format!("wd/in/many/{n}"))).unwrap();
        (0..12).for_each(|n| assert!(laid_down(n) == content(n), "{n}"));
        assert_eq!(std::fs::read(world.folder.path().join("wd/in/many/none")).unwrap(), b"");
        // Again, of what is here.
        world.lose_content();
        world.fetch(container("rl")).await.unwrap();
    });
}

//! Resource and output files against a server that answers, refuses, stalls and cuts short.

#[path = "support/server.rs"]
mod server;

use lote_shared::model::{
    ContainerDestination, FailureCategory, FailureInfo, OutputFile, ResourceFile, ResourceSource,
    UploadCondition,
};
use lote_worker::attempt::fetch::fetch_all;
use lote_worker::attempt::http::{HttpStore, Limits};
use lote_worker::attempt::transfer::Retries;
use lote_worker::attempt::upload::{Place, upload_all};
use lote_worker::layout::TaskLayout;
use server::{Answer, Seen, Server, ok, status};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

const RETRIES: Retries = Retries { count: 3, first_delay: Duration::from_millis(2) };

fn store() -> HttpStore {
    let limits = Limits {
        connect: Duration::from_secs(2),
        idle: Duration::from_millis(300),
        single_bytes: 10_000,
        block_bytes: 4_000,
    };
    HttpStore::new(limits).unwrap()
}

fn file(url: String, path: &str) -> ResourceFile {
    ResourceFile { source: ResourceSource::HttpUrl(url), file_path: path.into(), file_mode: 0o770 }
}

fn container(url: String, prefix: &str, path: &str) -> ResourceFile {
    let source = ResourceSource::ContainerUrl { url, prefix: prefix.into() };
    ResourceFile { source, file_path: path.into(), file_mode: 0o640 }
}

async fn fetch(files: &[ResourceFile], working: &Path) -> Result<(), FailureInfo> {
    fetch_all(&store(), files, (working, working), RETRIES).await
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[tokio::test]
async fn single_files_are_laid_down_with_their_modes() {
    let big = vec![7_u8; 3_000_000];
    let content = big.clone();
    let server = Server::start(move |seen, _| match seen.target.as_str() {
        "/big" => ok(content.clone()),
        "/md5" => Answer::Full {
            status: 200,
            headers: vec![("content-md5".into(), "kAFQmDzST7DWlj99KOF/cg==".into())],
            body: b"abc".to_vec(),
        },
        "/redirected" => {
            Answer::Full { status: 302, headers: vec![("location".into(), "/a?x".into())], body: vec![] }
        }
        target => ok(target.as_bytes()),
    })
    .await;
    let working = tempfile::tempdir().unwrap();
    let url = |target: &str| format!("{}{target}", server.base);
    let mut script = file(url("/script"), "bin/run.sh");
    script.file_mode = 0o755;
    let files = [
        script,
        file(url("/big"), "deep/er/big"),
        file(url("/first"), "same"),
        file(url("/second"), "same"),
        file(url("/md5"), "md5"),
        file(url("/redirected"), "redirected"),
        file(url("/sas?sv=1&sig=a%2Bb"), "./sas"),
    ];
    fetch(&files, working.path()).await.unwrap();
    let at = |name: &str| working.path().join(name);
    assert_eq!(read(at("bin/run.sh")), "/script");
    assert_eq!(std::fs::metadata(at("bin/run.sh")).unwrap().permissions().mode() & 0o7777, 0o755);
    assert_eq!(std::fs::metadata(at("same")).unwrap().permissions().mode() & 0o7777, 0o770);
    assert_eq!(std::fs::read(at("deep/er/big")).unwrap(), big);
    assert_eq!(read(at("same")), "/second", "the later one wins");
    assert_eq!(read(at("md5")), "abc");
    assert_eq!(read(at("redirected")), "/a?x");
    assert_eq!(read(at("sas")), "/sas?sv=1&sig=a%2Bb");
}

#[tokio::test]
async fn failures_have_their_codes_and_tries() {
    let server = Server::start(|seen, before| match seen.target.split('?').next().unwrap() {
        "/404" => status(404),
        "/403" => status(403),
        "/401" => status(401),
        "/400" => status(400),
        "/500" => status(500),
        "/flaky" if before < 3 => status(503),
        "/short" => Answer::Short { announced: 100, body: b"only this".to_vec() },
        "/cut-once" if before == 0 => Answer::Short { announced: 100, body: b"only this".to_vec() },
        "/silent" => Answer::Silent,
        "/loop" => {
            Answer::Full { status: 302, headers: vec![("location".into(), "/loop".into())], body: vec![] }
        }
        "/wrong" => Answer::Full {
            status: 200,
            headers: vec![("content-md5".into(), "kAFQmDzST7DWlj99KOF/cg==".into())],
            body: b"abd".to_vec(),
        },
        _ => ok("fine"),
    })
    .await;
    use FailureCategory::{ServerError, UserError};
    for (target, code, category, tries) in [
        ("/404?sig=s3cret", "BlobNotFound", UserError, 1),
        ("/403", "BlobAccessDenied", UserError, 1),
        ("/401", "BlobAccessDenied", UserError, 1),
        ("/400", "BlobDownloadMiscError", ServerError, 1),
        ("/500", "BlobDownloadMiscError", ServerError, 4),
        ("/short", "BlobDownloadMiscError", ServerError, 4),
        ("/silent", "BlobDownloadTimedOut", ServerError, 4),
        ("/wrong", "BlobDownloadMiscError", ServerError, 4),
        ("/loop", "BlobDownloadMiscError", ServerError, 6),
        ("/flaky", "", UserError, 4),
        ("/cut-once", "", UserError, 2),
    ] {
        let working = tempfile::tempdir().unwrap();
        let result = fetch(&[file(format!("{}{target}", server.base), "f")], working.path()).await;
        let made = server.requests().iter().filter(|seen| seen.target == target).count();
        assert_eq!(made, tries, "{target}: {result:?}");
        match result {
            Ok(()) => assert!(code.is_empty() && read(working.path().join("f")) == "fine", "{target}"),
            Err(failure) => {
                assert_eq!((failure.code.as_str(), failure.category), (code, category), "{target}");
                assert!(failure.details.iter().any(|(n, v)| n == "FilePath" && v == "f"));
                assert!(!format!("{failure:?}").contains("s3cret"));
            }
        }
    }
    let working = tempfile::tempdir().unwrap();
    for (url, path, code) in [
        ("http://127.0.0.1:1/x".to_owned(), "f", "BlobDownloadMiscError"),
        ("ftp://h/x".to_owned(), "f", "BlobDownloadMiscError"),
        ("nonsense".to_owned(), "f", "BlobDownloadMiscError"),
        (format!("{}/ok", server.base), "../f", "ResourceFileCreateFailed"),
        (format!("{}/ok", server.base), "/etc/f", "ResourceFileCreateFailed"),
        (format!("{}/ok", server.base), "", "ResourceFileCreateFailed"),
    ] {
        assert_eq!(fetch(&[file(url, path)], working.path()).await.unwrap_err().code, code, "{path}");
    }
    std::fs::write(working.path().join("file"), "").unwrap();
    let below_a_file = file(format!("{}/ok", server.base), "file/f");
    assert_eq!(
        fetch(&[below_a_file], working.path()).await.unwrap_err().code,
        "ResourceDirectoryCreateFailed"
    );
    std::fs::create_dir(working.path().join("dir")).unwrap();
    let a_directory = file(format!("{}/ok", server.base), "dir");
    assert_eq!(fetch(&[a_directory], working.path()).await.unwrap_err().code, "ResourceFileCreateFailed");
}

fn page(names: &[&str], next: &str) -> Answer {
    let blob = |name: &&str| {
        let length = if name.ends_with('/') { 0 } else { 5 };
        format!(
            "<Blob><Name>{name}</Name><Properties><Content-Length>{length}</Content-Length></Properties></Blob>"
        )
    };
    let blobs: String = names.iter().map(blob).collect();
    ok(format!(
        "<EnumerationResults><Blobs>{blobs}</Blobs><NextMarker>{next}</NextMarker></EnumerationResults>"
    ))
}

#[tokio::test]
async fn containers_are_fetched_page_by_page() {
    let server = Server::start(|seen, _| {
        if !seen.target.contains("comp=list") {
            return ok(seen.target.split('?').next().unwrap().as_bytes());
        }
        assert!(seen.target.starts_with("/acc/c?sv=1&sig=x&restype=container&comp=list"), "{}", seen.target);
        match (seen.target.contains("prefix=in%2Fp"), seen.target.contains("marker=m1")) {
            (true, false) => page(&["in/p1", "in/pdir/x &amp; y"], "m1"),
            (true, true) => page(&["in/pdir/", "in/p2"], ""),
            _ => page(&["evil/../../x"], ""),
        }
    })
    .await;
    let base = tempfile::tempdir().unwrap();
    let working = base.path().join("wd");
    let url = format!("{}/acc/c?sv=1&sig=x", server.base);
    fetch(&[container(url.clone(), "in/p", "data")], &working).await.unwrap();
    let at = |name: &str| working.join("data").join(name);
    assert_eq!(read(at("in/p1")), "/acc/c/in/p1");
    assert_eq!(read(at("in/p2")), "/acc/c/in/p2");
    assert_eq!(read(at("in/pdir/x & y")), "/acc/c/in/pdir/x%20%26%20y");
    assert_eq!(std::fs::metadata(at("in/p1")).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(server.requests().iter().all(|seen| seen.target.contains("sig=x")));
    let failure = fetch(&[container(url, "", "")], &working).await.unwrap_err();
    assert_eq!(failure.code, "ResourceFileCreateFailed", "a name that climbs out");
    assert!(!base.path().join("x").exists() && !working.join("x").exists());
}

#[tokio::test]
async fn containers_fail_with_codes_of_their_own() {
    let server = Server::start(|seen, _| match &seen.target[..4] {
        "/404" => status(404),
        "/403" => status(403),
        "/sil" => Answer::Silent,
        "/xml" => ok("<EnumerationResults><Blobs>"),
        "/gon" if seen.target.contains("comp=list") => page(&["gone"], ""),
        "/gon" => status(404),
        _ => status(500),
    })
    .await;
    for (target, code) in [
        ("/404", "ResourceContainerNotFound"),
        ("/403", "ResourceContainerAccessDenied"),
        ("/silent", "ResourceContainerListTimedOut"),
        ("/xml", "ResourceContainerListMiscError"),
        ("/500", "ResourceContainerListMiscError"),
        ("/gone", "BlobNotFound"),
    ] {
        let working = tempfile::tempdir().unwrap();
        let url = format!("{}{target}?sig=1", server.base);
        assert_eq!(
            fetch(&[container(url, "", "")], working.path()).await.unwrap_err().code,
            code,
            "{target}"
        );
    }
}

struct Task {
    root: tempfile::TempDir,
}

impl Task {
    fn new() -> Task {
        let root = tempfile::tempdir().unwrap();
        let task = Task { root };
        std::fs::create_dir_all(task.place().directories.working().join("out/sub")).unwrap();
        std::fs::write(task.place().directories.stdout(), "hello").unwrap();
        task.write("out/a.bin", 3);
        task.write("out/sub/b.bin", 9_999);
        task
    }

    fn write(&self, name: &str, length: usize) {
        let bytes: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
        std::fs::write(self.place().directories.working().join(name), bytes).unwrap();
    }

    fn place(&self) -> Place {
        let directory = self.root.path().join("workitems/j/job-1/t");
        let environment = [("AZ_BATCH_TASK_ID".to_owned(), "t".to_owned())].into();
        Place {
            node_root: self.root.path().to_owned(),
            directories: TaskLayout { directory },
            environment,
            producer: None,
        }
    }

    async fn upload(&self, files: &[OutputFile]) -> Option<FailureInfo> {
        upload_all(&store(), &files.iter().collect::<Vec<_>>(), &self.place(), RETRIES).await
    }

    fn log(&self, name: &str) -> String {
        read(self.place().directories.directory.join(name))
    }
}

fn output(pattern: &str, url: String, path: &str) -> OutputFile {
    OutputFile {
        pattern: pattern.into(),
        destination: ContainerDestination {
            url,
            path: path.into(),
            headers: vec![("x-ms-blob-content-type".into(), "text/x".into())],
        },
        condition: UploadCondition::TaskCompletion,
    }
}

fn puts(server: &Server) -> Vec<(String, Seen)> {
    server
        .requests()
        .into_iter()
        .map(|seen| (seen.target.split('?').next().unwrap().to_owned(), seen))
        .collect()
}

#[tokio::test]
async fn small_files_go_up_in_one_request() {
    let server = Server::start(|_, _| status(201)).await;
    let task = Task::new();
    let url = format!("{}/acc/c?sig=s3cret", server.base);
    let files = [
        output("out/**/*.bin", url.clone(), "$x"),
        output("../stdout.txt", url.clone(), "logs/$AZ_BATCH_TASK_ID.txt"),
        output("nothing*", url, ""),
    ];
    assert_eq!(task.upload(&files).await, None);
    let puts = puts(&server);
    let names: Vec<&str> = puts.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(names, ["/acc/c/%24x/a.bin", "/acc/c/%24x/sub/b.bin", "/acc/c/logs/%24AZ_BATCH_TASK_ID.txt"]);
    for (_, seen) in &puts {
        assert_eq!(seen.method, "PUT");
        assert!(seen.target.ends_with("?sig=s3cret"));
        assert_eq!(seen.headers["x-ms-blob-type"], "BlockBlob");
        assert_eq!(seen.headers["x-ms-blob-content-type"], "text/x");
    }
    assert_eq!(puts[1].1.body.len(), 9_999);
    assert_eq!(puts[2].1.body, b"hello");
    let log = task.log("fileuploadout.txt");
    assert!(log.contains("3 bytes") && log.contains("no file matches `nothing*`"), "{log}");
    assert!(!log.contains("s3cret"));
    assert_eq!(task.log("fileuploaderr.txt"), "");
}

#[tokio::test]
async fn large_files_go_up_in_blocks() {
    let server = Server::start(|_, _| status(201)).await;
    let task = Task::new();
    task.write("large", 10_001);
    assert_eq!(task.upload(&[output("large", format!("{}/c?sig=1", server.base), "")]).await, None);
    let requests = server.requests();
    let (commit, blocks) = requests.split_last().unwrap();
    assert_eq!(blocks.len(), 3);
    let list = String::from_utf8(commit.body.clone()).unwrap();
    let ids: Vec<&str> = list.split("<Latest>").skip(1).map(|part| part.split('<').next().unwrap()).collect();
    let mut content = Vec::new();
    for id in &ids {
        let query = format!("sig=1&comp=block&blockid={}", id.replace('=', "%3D"));
        let block = blocks.iter().find(|seen| seen.target.ends_with(&query)).unwrap();
        assert!(!block.headers.contains_key("x-ms-blob-type"));
        content.extend_from_slice(&block.body);
    }
    assert_eq!(content, std::fs::read(task.place().directories.working().join("large")).unwrap());
    assert!(commit.target.ends_with("?sig=1&comp=blocklist"));
    assert_eq!(commit.headers["x-ms-blob-content-type"], "text/x");
}

#[tokio::test]
async fn upload_failures_have_their_codes_and_the_rest_is_tried() {
    let server = Server::start(|seen, before| match seen.target.split('/').nth(1).unwrap() {
        "404" => status(404),
        "403" => status(403),
        "409" => status(409),
        "412" => status(412),
        "flaky" if before < 3 => status(503),
        "silent" => Answer::Silent,
        "500" => status(500),
        _ => status(201),
    })
    .await;
    for (name, code) in [
        ("404", "FileUploadContainerNotFound"),
        ("403", "FileUploadAccessDenied"),
        ("409", "FileUploadConflict"),
        ("412", "FileUploadConflict"),
        ("silent", "FileUploadTimedOut"),
        ("500", "FileUploadMiscError"),
    ] {
        let task = Task::new();
        let url = |name: &str| format!("{}/{name}?sig=s3cret", server.base);
        let files = [
            output("out/a.bin", url(name), ""),
            output("out/a.bin", url("500"), ""),
            output("../stdout.txt", url("fine"), name),
        ];
        let failure = task.upload(&files).await.unwrap();
        assert_eq!(failure.code, code, "the first one is reported");
        assert!(server.requests().iter().any(|seen| seen.target.starts_with(&format!("/fine/{name}"))));
        let log = task.log("fileuploaderr.txt");
        assert!(log.lines().count() == 2 && !log.contains("s3cret"), "{log}");
        assert!(!format!("{failure:?}").contains("s3cret"));
    }
    let task = Task::new();
    assert_eq!(task.upload(&[output("out/a.bin", format!("{}/flaky", server.base), "")]).await, None);
}

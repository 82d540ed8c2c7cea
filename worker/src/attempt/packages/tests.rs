use super::super::transfer::{Error as TransferError, Page, Wanted};
use super::*;
use futures::future::BoxFuture;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

fn zipped(fill: impl FnOnce(&mut ZipWriter<io::Cursor<Vec<u8>>>)) -> Vec<u8> {
    let mut writer = ZipWriter::new(io::Cursor::new(Vec::new()));
    fill(&mut writer);
    writer.finish().unwrap().into_inner()
}

fn file(writer: &mut ZipWriter<io::Cursor<Vec<u8>>>, name: &str, mode: Option<u32>, content: &[u8]) {
    let options = SimpleFileOptions::default();
    let options = mode.map_or(options, |mode| options.unix_permissions(mode));
    writer.start_file(name, options).unwrap();
    writer.write_all(content).unwrap();
}

/// Gives the same bytes for every URL, and counts.
struct Fixed(Vec<u8>, AtomicUsize);

impl Source for Fixed {
    fn fetch<'a>(
        &'a self,
        _: &'a Wanted,
        target: &'a Path,
        _: u32,
    ) -> BoxFuture<'a, Result<u64, TransferError>> {
        Box::pin(async move {
            self.1.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
            std::fs::write(target, &self.0).unwrap();
            Ok(self.0.len() as u64)
        })
    }

    fn list<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
        _: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Page, TransferError>> {
        Box::pin(async { Err(TransferError::NotFound) })
    }

    fn blob_url(&self, _: &str, _: &str) -> Result<String, TransferError> {
        Err(TransferError::NotFound)
    }
}

const RETRIES: Retries = Retries { count: 0, first_delay: Duration::from_millis(1) };

async fn deployed(zip: Vec<u8>) -> (tempfile::TempDir, Result<(), FailureInfo>) {
    let root = tempfile::tempdir().unwrap();
    let source = Fixed(zip, AtomicUsize::new(0));
    let names = (ApplicationId::new("Blender").unwrap(), PackageVersion::new("2.7").unwrap());
    let result = deploy(&source, root.path(), (&names.0, &names.1), "u", RETRIES).await;
    (root, result)
}

#[tokio::test]
async fn a_package_is_laid_down_with_its_modes_and_links() {
    let zip = zipped(|writer| {
        file(writer, "bin/run", Some(0o750), b"#!/bin/sh");
        file(writer, "data/", None, b"");
        file(writer, "data/a.txt", Some(0o640), b"a");
        writer.add_symlink("bin/again", "../data/a.txt", SimpleFileOptions::default()).unwrap();
    });
    let (root, result) = deployed(zip).await;
    result.unwrap();
    let at = root.path().join("applications/blender/2.7");
    let mode = |path: &str| fs::metadata(at.join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("bin/run"), mode("data/a.txt")), (0o750, 0o640));
    assert_eq!(fs::read(at.join("bin/again")).unwrap(), b"a");
    let left: Vec<_> = fs::read_dir(root.path().join("applications/blender")).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[tokio::test]
async fn whoever_needs_the_same_one_waits_and_finds_it() {
    let root = tempfile::tempdir().unwrap();
    let source = Fixed(zipped(|writer| file(writer, "a", None, b"a")), AtomicUsize::new(0));
    let names = (ApplicationId::new("a").unwrap(), PackageVersion::new("1").unwrap());
    let all = (0..8).map(|_| deploy(&source, root.path(), (&names.0, &names.1), "u", RETRIES));
    for result in futures::future::join_all(all).await {
        result.unwrap();
    }
    assert_eq!(source.1.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_would_leave_the_directory_is_refused() {
    let evil = [
        zipped(|writer| file(writer, "../evil", None, b"x")),
        zipped(|writer| file(writer, "/evil", None, b"x")),
        zipped(|writer| writer.add_symlink("l", "../../evil", SimpleFileOptions::default()).unwrap()),
        zipped(|writer| writer.add_symlink("l", "/etc/passwd", SimpleFileOptions::default()).unwrap()),
        b"no zip at all".to_vec(),
    ];
    for zip in evil {
        let (root, result) = deployed(zip).await;
        let failure = result.unwrap_err();
        assert_eq!(failure.code, "ApplicationPackageError");
        assert!(failure.details.contains(&("ApplicationPackageReference".into(), "Blender:2.7".into())));
        assert!(!root.path().join("applications/blender/2.7").exists());
        assert!(!root.path().join("evil").exists() && !root.path().join("applications/evil").exists());
    }
}

#[tokio::test]
async fn nothing_is_written_through_a_link_of_the_same_package() {
    let zip = zipped(|writer| {
        writer.add_symlink("d", "other", SimpleFileOptions::default()).unwrap();
        file(writer, "d/a", None, b"x");
    });
    assert!(deployed(zip).await.1.is_err());
}

#[test]
fn links_inside_are_told_from_those_that_lead_out() {
    for (place, to, inside) in [
        ("a/b", "c", true),
        ("a/b", "../c", true),
        ("a/b", "../../c", false),
        ("b", "..", false),
        ("b", "/c", false),
        ("a/b", "./x/../../y", true),
        ("b", "", false),
    ] {
        assert_eq!(stays_inside(Path::new(place), to), inside, "{place} -> {to}");
    }
}

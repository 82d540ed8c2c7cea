//! Operations on a tree with traps: nothing outside is seen, read or deleted.

use super::*;
use std::os::unix::fs::symlink;

struct Tree {
    base: tempfile::TempDir,
}

impl Tree {
    fn new() -> Tree {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("root");
        for (path, content) in [
            ("a/b/c.txt", "0123456789"),
            ("a/b.txt", "x"),
            ("a.txt", "y"),
            ("z/empty", ""),
            ("../secret/file", "s3cret"),
        ] {
            std::fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            std::fs::write(root.join(path), content).unwrap();
        }
        let tree = Tree { base };
        symlink("../secret/file", root.join("z/out")).unwrap();
        symlink("../../secret", root.join("z/outdir")).unwrap();
        symlink(tree.secret().parent().unwrap(), root.join("z/absolute")).unwrap();
        symlink("../a/b.txt", root.join("z/in")).unwrap();
        symlink("loop", root.join("z/loop")).unwrap();
        symlink("..", root.join("a/b/up")).unwrap();
        tree
    }

    fn root(&self) -> PathBuf {
        self.base.path().join("root")
    }

    fn secret(&self) -> PathBuf {
        self.base.path().join("secret/file")
    }

    fn run(&self, operation: Operation) -> Result<Response, Error> {
        carry_out(&self.root(), operation).map(|(response, _)| response)
    }

    fn read(&self, path: &str, start: u64, end: Option<u64>) -> Result<String, Error> {
        let (response, file) = carry_out(&self.root(), Operation::Read { path: path.into(), start, end })?;
        let Response::Content { start, length, .. } = response else { panic!("{response:?}") };
        let mut bytes = vec![0; length as usize];
        file.unwrap().read_exact_at(&mut bytes, start).unwrap();
        Ok(String::from_utf8(bytes).unwrap())
    }

    fn list(
        &self,
        path: &str,
        prefix: &str,
        recursive: bool,
        after: Option<&str>,
        max: u32,
    ) -> (Vec<String>, bool) {
        let operation = Operation::List {
            path: path.into(),
            prefix: prefix.into(),
            recursive,
            after: after.map(str::to_owned),
            max,
        };
        match self.run(operation) {
            Ok(Response::Entries { entries, more }) => {
                let mark = |e: Entry| if e.properties.directory { format!("{}/", e.name) } else { e.name };
                (entries.into_iter().map(mark).collect(), more)
            }
            other => panic!("{other:?}"),
        }
    }

    fn delete(&self, path: &str, recursive: bool) -> Result<Response, Error> {
        self.run(Operation::Delete { path: path.into(), recursive })
    }
}

#[test]
fn ranges_are_clamped_and_checked() {
    let tree = Tree::new();
    for (start, end, expected) in [
        (0, None, Ok("0123456789")),
        (3, None, Ok("3456789")),
        (3, Some(5), Ok("34")),
        (0, Some(999), Ok("0123456789")),
        (9, Some(10), Ok("9")),
        (10, None, Err(Error::InvalidRange { length: 10 })),
        (5, Some(4), Err(Error::InvalidRange { length: 10 })),
        (u64::MAX, None, Err(Error::InvalidRange { length: 10 })),
    ] {
        assert_eq!(tree.read("a/b/c.txt", start, end), expected.map(str::to_owned), "{start}-{end:?}");
    }
    assert_eq!(tree.read("z/empty", 0, None), Ok(String::new()));
    assert_eq!(tree.read("z/empty", 1, None), Err(Error::InvalidRange { length: 0 }));
    assert_eq!(tree.read("a", 0, None), Err(Error::NotFound));
    assert_eq!(tree.read("z/in", 0, None), Ok("x".into()), "a link that stays inside");
}

#[test]
fn nothing_outside_is_reached() {
    let tree = Tree::new();
    for path in [
        "../secret/file",
        "/etc/passwd",
        "a/../../secret/file",
        "z/out",
        "z/outdir/file",
        "z/absolute/file",
        "z/loop",
    ] {
        // `z/out` leads to `root/secret`, which does not exist, and its sibling one further up.
        let expected = if path == "z/out" { Error::NotFound } else { Error::OutsideRoot };
        assert_eq!(tree.read(path, 0, None), Err(expected.clone()), "{path}");
        assert_eq!(tree.run(Operation::Stat { path: path.into() }), Err(expected), "{path}");
    }
    for path in ["z/outdir/file", "../secret/file", "z/absolute/file", "", ".", "a/.."] {
        assert_eq!(tree.delete(path, true), Err(Error::OutsideRoot), "{path}");
    }
    // Deleting a link deletes the link.
    assert_eq!(tree.delete("z/outdir", true), Ok(Response::Deleted));
    assert!(tree.secret().exists());
    let listing = |path: &str| {
        tree.run(Operation::List {
            path: path.into(),
            prefix: String::new(),
            recursive: true,
            after: None,
            max: 9,
        })
    };
    assert_eq!(listing("z/absolute"), Err(Error::OutsideRoot));
    assert_eq!(listing("none"), Err(Error::NotFound));
    assert_eq!(listing("a.txt"), Err(Error::NotFound));
    assert_eq!(tree.read("a\0b", 0, None), Err(Error::NotFound));
    assert_eq!(tree.read(&"x/".repeat(5000), 0, None), Err(Error::NotFound));
}

#[test]
fn lists_are_sorted_paged_and_bounded() {
    let tree = Tree::new();
    let all = ["a/", "a.txt", "a/b/", "a/b.txt", "a/b/c.txt", "a/b/up/", "z/", "z/empty", "z/in"];
    assert_eq!(tree.list("", "", true, None, 1000), (all.map(str::to_owned).to_vec(), false));
    assert_eq!(tree.list("", "", false, None, 1000), (vec!["a/".into(), "a.txt".into(), "z/".into()], false));
    // Page by page the same, whatever the size of the page.
    for page in 1..=all.len() as u32 {
        let (mut found, mut after) = (Vec::new(), None::<String>);
        loop {
            let (names, more) = tree.list("", "", true, after.as_deref(), page);
            assert!(names.len() as u32 <= page);
            after = names.last().map(|name| name.trim_end_matches('/').to_owned());
            found.extend(names);
            if !more {
                break;
            }
        }
        assert_eq!(found, all, "pages of {page}");
    }
    assert_eq!(tree.list("a", "b", true, None, 9).0, ["b/", "b.txt", "b/c.txt", "b/up/"]);
    assert_eq!(tree.list("", "a/b/c", true, None, 9).0, ["a/b/c.txt"]);
    assert_eq!(tree.list("a/b/", "", false, None, 9).0, ["c.txt", "up/"]);
}

#[test]
fn directories_are_deleted_as_asked() {
    let tree = Tree::new();
    assert_eq!(tree.delete("a", false), Err(Error::NotEmpty));
    assert_eq!(tree.delete("a/b.txt", false), Ok(Response::Deleted));
    assert_eq!(tree.delete("a/", true), Ok(Response::Deleted));
    assert_eq!(tree.delete("a", true), Err(Error::NotFound));
    assert!(tree.root().join("a.txt").exists());
}

#[test]
fn a_pipe_blocks_nobody() {
    let tree = Tree::new();
    rustix::fs::mknodat(rustix::fs::CWD, tree.root().join("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    assert_eq!(tree.read("pipe", 0, None), Err(Error::NotFound));
}

//! Actions one by one, and random ones against a simple model and a reload.

use super::*;
use crate::state::reply::{Outcome, Version};
use lote_shared::chunks::{Position, Tree, tree};
use proptest::prelude::*;

const ACCOUNT: AccountId = AccountId(7);

fn manifest(n: u64) -> Manifest {
    let root = tree::chunk_id(&n.to_le_bytes(), Position::Whole);
    Manifest { length: n + 1, root, tree: Tree::Chunk }
}

/// The state and its rows, as a coordinator has them.
#[derive(Default)]
struct Rig {
    blobs: Blobs,
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    now: u64,
    most_writes: usize,
}

impl Rig {
    fn apply(&mut self, action: BlobAction) -> Reply {
        self.now += 1;
        let mut batch = Batch::default();
        let stamp = Stamp { index: self.now, now: Timestamp(self.now * 1000) };
        let reply = self.blobs.apply(stamp, ACCOUNT, &action, &mut batch);
        self.most_writes = self.most_writes.max(batch.writes.len());
        for (key, value) in batch.writes {
            match value {
                Some(value) => self.rows.insert(key, value),
                None => self.rows.remove(&key),
            };
        }
        reply
    }

    fn code(&mut self, action: BlobAction) -> Result<Outcome, RefusalCode> {
        self.apply(action).map_err(|refusal| refusal.code)
    }

    fn reloaded(&self) -> Blobs {
        let mut blobs = Blobs::default();
        for (key, value) in &self.rows {
            let (account, table, rest) = crate::state::keys::split(key).unwrap();
            blobs.load(account, table, rest, value).unwrap();
        }
        blobs
    }

    fn sweep_all(&mut self) -> usize {
        let mut steps = 1;
        while self.apply(BlobAction::Sweep) == Ok(Outcome::Continued { more: true }) {
            steps += 1;
        }
        steps
    }

    fn names(&self, container: &str, prefix: &str, delimiter: Option<&str>) -> Vec<String> {
        // Pages of two, so that every listing turns pages.
        let mut found = Vec::new();
        let mut marker = String::new();
        loop {
            let page = self.blobs.list_blobs(ACCOUNT, container, prefix, delimiter, &marker, 2).unwrap();
            found.extend(page.items.iter().map(|item| item.name().to_owned()));
            match page.next {
                Some(next) => marker = next,
                None => return found,
            }
        }
    }
}

fn create(name: &str) -> BlobAction {
    BlobAction::ContainerCreate { name: name.into(), metadata: vec![("k".into(), "v".into())] }
}

fn drop_container(name: &str) -> BlobAction {
    BlobAction::ContainerDelete { name: name.into(), condition: Condition::default() }
}

fn put_if(container: &str, blob: &str, n: u64, condition: Condition) -> BlobAction {
    BlobAction::Put {
        container: container.into(),
        blob: blob.into(),
        condition,
        content: manifest(n),
        headers: Headers { content_md5: Some([n as u8; 16]), ..Headers::default() },
        metadata: Vec::new(),
        composed: None,
    }
}

fn put(container: &str, blob: &str, n: u64) -> BlobAction {
    put_if(container, blob, n, Condition::default())
}

fn stage(container: &str, blob: &str, id: &str, n: u64) -> BlobAction {
    BlobAction::Stage { container: container.into(), blob: blob.into(), id: id.into(), content: manifest(n) }
}

fn commit(container: &str, blob: &str, generation: u64) -> BlobAction {
    let composed = Composed { generation, base: None, list: manifest(99) };
    match put(container, blob, 50) {
        BlobAction::Put { container, blob, condition, content, headers, metadata, .. } => {
            let composed = Some(composed);
            BlobAction::Put { container, blob, condition, content, headers, metadata, composed }
        }
        other => other,
    }
}

fn delete(container: &str, blob: &str) -> BlobAction {
    let condition = Condition::default();
    BlobAction::Delete { container: container.into(), blob: blob.into(), condition }
}

#[test]
fn containers_come_and_go() {
    let mut rig = Rig::default();
    assert!(rig.apply(create("c")).is_ok());
    assert_eq!(rig.code(create("c")), Err(RefusalCode::ContainerAlreadyExists));
    assert_eq!(rig.code(put("d", "b", 1)), Err(RefusalCode::ContainerNotFound));
    rig.apply(put("c", "b", 1)).unwrap();
    let first = rig.blobs.container(ACCOUNT, "c").unwrap().version;
    rig.apply(drop_container("c")).unwrap();
    assert_eq!(rig.code(drop_container("c")), Err(RefusalCode::ContainerNotFound));
    // The name is free at once, and the old blob is not in the new container.
    rig.apply(create("c")).unwrap();
    assert!(rig.blobs.container(ACCOUNT, "c").unwrap().version.etag > first.etag);
    assert_eq!(rig.blobs.blob(ACCOUNT, "c", "b"), Err(RefusalCode::BlobNotFound));
    assert_eq!(rig.reloaded(), rig.blobs);
    rig.sweep_all();
    assert_eq!(rig.rows.len(), 2, "the counter and the new container");
    assert_eq!(rig.reloaded(), rig.blobs);
}

#[test]
fn conditions_are_judged_on_apply() {
    let mut rig = Rig::default();
    rig.apply(create("c")).unwrap();
    let only_new = || Condition { if_none_match: Some(vec!["*".into()]), ..Condition::default() };
    let only =
        |version: Version| Condition { if_match: Some(vec![version.etag_text()]), ..Condition::default() };
    let Ok(Outcome::Blob(first)) = rig.apply(put_if("c", "b", 1, only_new())) else { panic!() };
    assert_eq!(rig.code(put_if("c", "b", 2, only_new())), Err(RefusalCode::BlobAlreadyExists));
    let Ok(Outcome::Blob(second)) = rig.apply(put_if("c", "b", 3, only(first))) else { panic!() };
    assert_eq!(rig.code(put_if("c", "b", 4, only(first))), Err(RefusalCode::ConditionNotMet));
    assert_eq!(rig.blobs.blob(ACCOUNT, "c", "b").unwrap().content, manifest(3));
    assert_eq!(rig.code(put_if("c", "new", 4, only(second))), Err(RefusalCode::ConditionNotMet));
    // Metadata changes the ETag but not the creation time.
    let created = rig.blobs.blob(ACCOUNT, "c", "b").unwrap().created;
    let metadata = |condition| BlobAction::SetMetadata {
        container: "c".into(),
        blob: "b".into(),
        condition,
        metadata: vec![("a".into(), "b".into())],
    };
    rig.apply(metadata(only(second))).unwrap();
    assert_eq!(rig.code(metadata(only(second))), Err(RefusalCode::ConditionNotMet));
    assert_eq!(rig.blobs.blob(ACCOUNT, "c", "b").unwrap().created, created);
    assert_eq!(rig.reloaded(), rig.blobs);
}

#[test]
fn a_commit_takes_exactly_what_it_was_composed_from() {
    let mut rig = Rig::default();
    rig.apply(create("c")).unwrap();
    rig.apply(stage("c", "b", "AAAA", 1)).unwrap();
    rig.apply(stage("c", "b", "AAAB", 2)).unwrap();
    assert_eq!(rig.code(stage("c", "b", "AAAAAA==", 2)), Err(RefusalCode::InvalidBlobOrBlock));
    assert_eq!(rig.blobs.blob(ACCOUNT, "c", "b"), Err(RefusalCode::BlobNotFound));
    let generation = rig.blobs.staged(ACCOUNT, "c", "b").unwrap().unwrap().generation;
    // A block that is staged meanwhile fences the commit, also one of a known id.
    rig.apply(stage("c", "b", "AAAB", 3)).unwrap();
    assert_eq!(rig.code(commit("c", "b", generation)), Err(RefusalCode::Fenced));
    let set = rig.blobs.staged(ACCOUNT, "c", "b").unwrap().unwrap();
    assert_eq!(set.blocks["AAAB"].content, manifest(3));
    let generation = set.generation;
    rig.apply(commit("c", "b", generation)).unwrap();
    assert_eq!(rig.blobs.staged(ACCOUNT, "c", "b"), Ok(None));
    assert_eq!(rig.code(commit("c", "b", generation)), Err(RefusalCode::Fenced));
    rig.apply(commit("c", "b", 0)).unwrap();
    assert_eq!(rig.reloaded(), rig.blobs);
    rig.sweep_all();
    assert_eq!(rig.reloaded(), rig.blobs);
    assert_eq!(rig.rows.len(), 3, "the counter, the container and the blob");
}

#[test]
fn forgotten_blocks_expire_after_seven_days_of_rest() {
    let mut rig = Rig::default();
    rig.apply(create("c")).unwrap();
    rig.apply(stage("c", "old", "AA==", 1)).unwrap();
    rig.now += STAGED_MAX_AGE_MS / 1000 - 10;
    rig.apply(stage("c", "young", "AA==", 1)).unwrap();
    rig.sweep_all();
    assert!(rig.blobs.staged(ACCOUNT, "c", "old").unwrap().is_some());
    rig.now += 10;
    assert_eq!(rig.blobs.to_sweep(Timestamp(rig.now * 1000)), vec![ACCOUNT]);
    rig.sweep_all();
    assert_eq!(rig.blobs.staged(ACCOUNT, "c", "old"), Ok(None));
    assert!(rig.blobs.staged(ACCOUNT, "c", "young").unwrap().is_some());
    assert_eq!(rig.blobs.to_sweep(Timestamp(rig.now * 1000)), vec![]);
    assert_eq!(rig.reloaded(), rig.blobs);
}

#[test]
fn large_things_go_in_bounded_steps() {
    let mut rig = Rig::default();
    rig.apply(create("c")).unwrap();
    for n in 0..2500 {
        rig.apply(put("c", &format!("blob{n}"), n)).unwrap();
        rig.apply(stage("c", "big", &format!("{n:08}"), n)).unwrap();
    }
    rig.most_writes = 0;
    let generation = rig.blobs.staged(ACCOUNT, "c", "big").unwrap().unwrap().generation;
    rig.apply(commit("c", "big", generation)).unwrap();
    rig.apply(drop_container("c")).unwrap();
    assert!(rig.most_writes <= 4);
    let steps = rig.sweep_all();
    assert!(rig.most_writes <= 1000, "{} writes", rig.most_writes);
    assert!((5..=8).contains(&steps), "{steps} steps");
    assert_eq!(rig.rows.len(), 1);
    assert_eq!(rig.reloaded(), rig.blobs);
}

#[test]
fn listing_by_prefix_and_delimiter() {
    let mut rig = Rig::default();
    rig.apply(create("c")).unwrap();
    let names = ["a", "a/", "a/1", "a/2", "a/b/3", "a0", "b//x", "ä/1", "ä/2", "z", "z/\u{10FFFF}/1"];
    for name in names {
        rig.apply(put("c", name, 1)).unwrap();
    }
    let mut sorted = names.to_vec();
    sorted.sort_unstable();
    assert_eq!(rig.names("c", "", None), sorted);
    assert_eq!(rig.names("c", "", Some("/")), ["a", "a/", "a0", "b/", "z", "z/", "ä/"]);
    assert_eq!(rig.names("c", "a/", Some("/")), ["a/", "a/1", "a/2", "a/b/"]);
    assert_eq!(rig.names("c", "a", Some("/")), ["a", "a/", "a0"]);
    assert_eq!(rig.names("c", "b", Some("//")), ["b//"]);
    assert_eq!(rig.names("c", "ä", None), ["ä/1", "ä/2"]);
    assert_eq!(rig.names("c", "nothing", Some("/")), [""; 0]);
    assert_eq!(rig.blobs.list_blobs(ACCOUNT, "d", "", None, "", 5), Err(RefusalCode::ContainerNotFound));
    rig.apply(create("d")).unwrap();
    rig.apply(create("ca")).unwrap();
    let list = |prefix, marker, max| {
        let page = rig.blobs.list_containers(ACCOUNT, prefix, marker, max);
        (page.items.iter().map(|c| c.name.to_string()).collect::<Vec<_>>(), page.next)
    };
    assert_eq!(list("", "", 2), (vec!["c".into(), "ca".into()], Some("d".into())));
    assert_eq!(list("c", "", 5), (vec!["c".into(), "ca".into()], None));
    assert_eq!(list("", "d", 5), (vec!["d".into()], None));
}

fn any_action() -> impl Strategy<Value = BlobAction> {
    let container = prop_oneof![Just("c"), Just("d")];
    let blob = prop_oneof![Just("x"), Just("x/1"), Just("y")];
    let id = prop_oneof![4 => Just("AAAA"), 4 => Just("AAAB"), 1 => Just("AAAAAA==")];
    let condition = prop_oneof![
        6 => Just(Condition::default()),
        1 => Just(Condition { if_none_match: Some(vec!["*".into()]), ..Condition::default() }),
        1 => Just(Condition { if_match: Some(vec!["*".into()]), ..Condition::default() }),
        1 => Just(Condition { if_match: Some(vec!["0x5".into()]), ..Condition::default() }),
    ];
    (container, blob, id, condition, 0..16_u8, 0..40_u64).prop_map(|(c, b, id, condition, kind, n)| {
        let (container, blob) = (c.to_owned(), b.to_owned());
        match kind {
            0 | 1 => create(c),
            2 => BlobAction::ContainerDelete { name: container, condition },
            3 => BlobAction::ContainerMetadata { name: container, condition, metadata: Vec::new() },
            4 => put_if(c, b, n, condition),
            5..=7 => stage(c, b, id, n),
            8 => commit(c, b, n),
            9 => BlobAction::Delete { container, blob, condition },
            10 => BlobAction::SetHeaders {
                container,
                blob,
                condition,
                headers: Headers { content_type: Some("text/plain".into()), ..Headers::default() },
            },
            11 => BlobAction::ContainerPolicies { name: container, condition, policies: policies(n) },
            12 => put_with(c, b, n, extras(n)),
            13 => BlobAction::Append { container, blob, condition, base: n, content: manifest(n) },
            _ => BlobAction::Sweep,
        }
    })
}

/// None, one or two.
fn policies(n: u64) -> Vec<AccessPolicy> {
    let policy = |n: u64| AccessPolicy {
        id: format!("p{n}"),
        start: None,
        expiry: Some(Timestamp(n)),
        permissions: Some("r".into()),
    };
    (0..n % 3).map(policy).collect()
}

fn extras(n: u64) -> Vec<BlobExtra> {
    let copied =
        Copied { id: "i".into(), source: "http://h/a/c/b".into(), completed: Timestamp(n), bytes: n };
    let all = [BlobExtra::Append { blocks: n as u32 }, BlobExtra::Copied(copied)];
    all.into_iter().skip((n % 3) as usize).collect()
}

fn put_with(container: &str, blob: &str, n: u64, extras: Vec<BlobExtra>) -> BlobAction {
    BlobAction::PutWith {
        container: container.into(),
        blob: blob.into(),
        condition: Condition::default(),
        content: manifest(n),
        headers: Headers::default(),
        metadata: Vec::new(),
        extras,
    }
}

#[test]
fn an_append_is_fenced_by_what_it_was_composed_from() {
    let mut rig = Rig::default();
    rig.apply(create("c")).unwrap();
    let append = |base: Version, n| BlobAction::Append {
        container: "c".into(),
        blob: "b".into(),
        condition: Condition::default(),
        base: base.etag,
        content: manifest(n),
    };
    let none = Version { etag: 1, modified: Timestamp(0) };
    assert_eq!(rig.code(append(none, 1)), Err(RefusalCode::BlobNotFound));
    let Ok(Outcome::Blob(made)) = rig.apply(put_with("c", "b", 0, vec![BlobExtra::Append { blocks: 0 }]))
    else {
        panic!()
    };
    let Ok(Outcome::Blob(grown)) = rig.apply(append(made, 5)) else { panic!() };
    assert_eq!(rig.code(append(made, 6)), Err(RefusalCode::Fenced));
    assert_eq!(rig.code(append(grown, 4)), Err(RefusalCode::Fenced), "it never shrinks");
    rig.apply(append(grown, 6)).unwrap();
    let blob = rig.blobs.blob(ACCOUNT, "c", "b").unwrap();
    assert_eq!((blob.appended(), blob.content), (Some(2), manifest(6)));
    assert_eq!(rig.reloaded(), rig.blobs);
    // In the place of it comes a block blob, to which nothing is appended.
    let Ok(Outcome::Blob(plain)) = rig.apply(put("c", "b", 1)) else { panic!() };
    assert_eq!(rig.code(append(plain, 9)), Err(RefusalCode::Fenced));
    assert_eq!(rig.blobs.blob(ACCOUNT, "c", "b").unwrap().appended(), None);
    assert_eq!(rig.rows.len(), 3, "the counter, the container and the blob");
}

proptest! {
    #[test]
    fn rows_always_rebuild_the_same_state(actions in proptest::collection::vec(any_action(), 0..120)) {
        let mut rig = Rig::default();
        for action in actions {
            let before = rig.rows.clone();
            let refused = rig.apply(action).is_err();
            if refused {
                prop_assert_eq!(&before, &rig.rows);
            }
            prop_assert_eq!(&rig.reloaded(), &rig.blobs);
        }
        for name in ["c", "d"] {
            let _ = rig.apply(drop_container(name));
        }
        rig.now += STAGED_MAX_AGE_MS / 1000;
        rig.sweep_all();
        prop_assert!(rig.rows.len() <= 1, "only the counter stays");
    }
}

#[test]
fn damaged_rows_are_errors() {
    let mut rig = Rig::default();
    rig.apply(create("c")).unwrap();
    rig.apply(put("c", "b", 1)).unwrap();
    rig.apply(delete("c", "nothing")).unwrap_err();
    let mut blobs = Blobs::default();
    for (table, key, value) in [
        (Table::Blob, vec![0; 8], b"junk".to_vec()),
        (Table::Container, vec![0; 3], vec![]),
        (Table::Block, vec![0; 16], encode_block()),
        (Table::Job, vec![], vec![]),
    ] {
        assert!(blobs.load(ACCOUNT, table, &key, &value).is_err());
    }
    // A blob whose container row is missing.
    let (key, value) = rig.rows.iter().find(|(key, _)| key[4] == Table::Blob as u8).unwrap();
    assert!(Blobs::default().load(ACCOUNT, Table::Blob, &key[5..], value).is_err());
}

fn encode_block() -> Vec<u8> {
    records::encode(&BlockRow { id: "AA==".into(), content: manifest(1) })
}

/// What lies on disks of older versions must stay readable: these texts may be added to, never changed.
#[test]
fn rows_have_these_bytes() {
    let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let version = Version { etag: 300, modified: Timestamp(1_752_580_800_000) };
    let mut container = ContainerRow {
        name: "cont".into(),
        created: Timestamp(7),
        version,
        metadata: vec![("k".into(), "v".into())],
        deleted: false,
    };
    let root = lote_shared::chunks::ChunkId([0xAB; 32]);
    let content = Manifest { length: 5_000_000, root, tree: Tree::List { top: root, depth: 1 } };
    let mut blob = BlobRow {
        container: 3,
        name: "b".into(),
        created: Timestamp(7),
        version,
        content,
        blocks: Some(Manifest { tree: Tree::Chunk, ..content }),
        metadata: vec![],
        headers: Headers { content_type: Some("t".into()), content_md5: Some([1; 16]), ..Headers::default() },
    };
    let set = SetRow { container: 3, blob: "b".into(), generation: 9, last: Timestamp(8), dead: true };
    let block =
        BlockRow { id: "QQ==".into(), content: Manifest { tree: Tree::Composed { depth: 2 }, ..content } };
    let found = [
        hex(records::encode(&container)),
        hex(records::encode(&blob)),
        hex(records::encode(&set)),
        hex(records::encode(&block)),
        hex(records::encode(&77_u64)),
        hex(records::encode(&policies(2))),
        hex(records::encode(&ExtrasRow { container: 3, name: "b".into(), extras: extras(3) })),
    ];
    expect_test::expect![[r#"
        010104636f6e7407fb2c01fd00bef40d9801000001016b017600
        010103016207fb2c01fd00bef40d98010000fc404b4c00abababababababababababababababababababababababababababababababab01abababababababababababababababababababababababababababababababab0101fc404b4c00abababababababababababababababababababababababababababababababab0000010174000000000101010101010101010101010101010101
        0101030162090801
        01010451513d3dfc404b4c00abababababababababababababababababababababababababababababababab0202
        01014d
        010102027030000100010172027031000101010172
        01010301620200030101690e687474703a2f2f682f612f632f620303"#]].assert_eq(&found.join("\n"));
    container.deleted = true;
    blob.blocks = None;
    assert_eq!(records::decode::<ContainerRow>(&records::encode(&container)).unwrap().name, container.name);
    assert_eq!(records::decode::<BlobRow>(&records::encode(&blob)).unwrap().name, blob.name);
}

#[test]
fn actions_have_these_bytes() {
    let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let condition = Condition { if_match: Some(vec!["0x1".into()]), ..Condition::default() };
    let (container, blob) = ("c".to_owned(), "b".to_owned());
    let actions = [
        create("c"),
        drop_container("c"),
        BlobAction::ContainerMetadata { name: "c".into(), condition: condition.clone(), metadata: vec![] },
        commit("c", "b", 5),
        stage("c", "b", "QQ==", 1),
        delete("c", "b"),
        BlobAction::SetMetadata {
            container: container.clone(),
            blob: blob.clone(),
            condition: condition.clone(),
            metadata: vec![],
        },
        BlobAction::SetHeaders { container, blob, condition: condition.clone(), headers: Headers::default() },
        BlobAction::Sweep,
        BlobAction::ContainerPolicies {
            name: "c".into(),
            condition: condition.clone(),
            policies: policies(2),
        },
        put_with("c", "b", 3, extras(3)),
        BlobAction::Append {
            container: "c".into(),
            blob: "b".into(),
            condition,
            base: 5,
            content: manifest(1),
        },
    ];
    let encode = |action| hex(lote_shared::protocol::codec::encode(1, action).unwrap());
    let found: Vec<_> = actions.iter().map(encode).collect();
    expect_test::expect![[r#"
        010100016301016b0176
        010101016300000000
        010102016301010330783100000000
        0101030163016200000000334f3795b8b3463cd25168b94f5e9ade476f46372b947b6121a243cdf5936bc729000000000000013232323232323232323232323232323200010500645de6b36794c798ef801aeea055ac076606a16e69326b138d79797e9fcc7eee6500
        010104016301620451513d3d021a0d12016999e47689dae5744d2b8c1903faf7ca2886a658150083100ef2c8ee00
        0101050163016200000000
        0101060163016201010330783100000000
        01010701630162010103307831000000000000000000
        010108
        010109016301010330783100000002027030000100010172027031000101010172
        01010a016301620000000004e3d5003ead1a936380020220637f7b8e1c2812992da64345e823b227195fb97c00000000000000000200030101690e687474703a2f2f682f612f632f620303
        01010b0163016201010330783100000005021a0d12016999e47689dae5744d2b8c1903faf7ca2886a658150083100ef2c8ee00"#]].assert_eq(&found.join("\n"));
}

#[test]
fn pages_of_manifests_of_any_size_hold_each_of_them_once() {
    let mut rig = Rig::default();
    for container in ["a", "b", "c"] {
        rig.apply(BlobAction::ContainerCreate { name: container.into(), metadata: Metadata::new() }).unwrap();
        for n in 0..7_u64 {
            rig.apply(BlobAction::Put {
                container: container.into(),
                blob: format!("b{n}"),
                condition: Condition::default(),
                content: manifest(n),
                headers: Headers::default(),
                metadata: Metadata::new(),
                composed: None,
            })
            .unwrap();
            rig.apply(BlobAction::Stage {
                container: container.into(),
                blob: format!("s{}", n / 3),
                id: format!("AAA{n}"),
                content: manifest(100 + n),
            })
            .unwrap();
        }
    }
    // A container that is being deleted counts until its rows are gone.
    rig.apply(BlobAction::ContainerDelete { name: "b".into(), condition: Condition::default() }).unwrap();
    let mut all = Vec::new();
    rig.blobs.for_each_manifest(|manifest| all.push(*manifest));
    assert_eq!(all.len(), 3 * 14);
    for size in 2..60 {
        let (mut found, mut place, mut pages) = (Vec::new(), Place::default(), 0);
        loop {
            let (page, next) = rig.blobs.manifests(&place, size);
            assert!(page.len() <= 2 * size);
            found.extend(page);
            pages += 1;
            match next {
                Some(next) => place = next,
                None => break,
            }
        }
        assert_eq!(found, all, "pages of {size}");
        assert!(pages <= 1 + 2 * 60 / (size - 1), "{pages} pages of {size}");
    }
}

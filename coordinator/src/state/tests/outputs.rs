//! Outputs are taken from the attempt whose end would count, and from no other (`docs/decisions/0007`).

use crate::state::blobs::{BlobAction, Headers};
use crate::state::command::{Action, TaskAdd};
use crate::state::testing::*;
use crate::state::{Condition, Outcome, RefusalCode};
use lote_shared::chunks::manifest::Tree;
use lote_shared::chunks::{ChunkId, Manifest};
use lote_shared::model::*;

struct Outputs {
    w: World,
    nodes: Vec<NodeKey>,
    written: u64,
}

impl Outputs {
    fn new() -> Outputs {
        let mut w = World::new();
        w.pool("p", 2, 1);
        w.job("j", "p");
        let container = BlobAction::ContainerCreate { name: "cont".to_owned(), metadata: Vec::new() };
        w.ok(Action::Blob(Box::new(container)));
        let nodes = w.nodes("p");
        Outputs { w, nodes, written: 0 }
    }

    /// Has a new content written as the output of an attempt by the host of this node.
    fn write_as(&mut self, node: NodeKey, attempt: AttemptRef, peer: &str) -> Result<(), RefusalCode> {
        self.written += 1;
        let content =
            Manifest { length: self.written, root: ChunkId([self.written as u8; 32]), tree: Tree::Chunk };
        let put = BlobAction::Put {
            container: "cont".to_owned(),
            blob: "out".to_owned(),
            condition: Condition::default(),
            content,
            headers: Headers::default(),
            metadata: Vec::new(),
            composed: None,
        };
        let producer = Producer { node, attempt };
        let action = Action::Output { producer, peer: peer.to_owned(), put: Box::new(put) };
        let reply = self.w.act(action);
        let is_written = self.content() == Some(self.written);
        assert_eq!(reply.is_ok(), is_written, "{reply:?}");
        match reply {
            Ok(Outcome::Blob(_)) => Ok(()),
            Ok(other) => panic!("{other:?}"),
            Err(refusal) => Err(refusal.code),
        }
    }

    fn write(&mut self, node: NodeKey, attempt: AttemptRef) -> Result<(), RefusalCode> {
        let peer = self.peer(node);
        self.write_as(node, attempt, &peer)
    }

    fn peer(&self, node: NodeKey) -> String {
        let host = self.w.node(node).host;
        self.w.cluster.host(host).unwrap().peer.clone()
    }

    /// Length of what is there, which tells who wrote it.
    fn content(&self) -> Option<u64> {
        self.w.cluster.blobs().blob(ACCOUNT, "cont", "out").ok().map(|blob| blob.content.length)
    }

    fn lose_host_of(&mut self, node: NodeKey) {
        let host = self.w.node(node).host;
        self.w.ok(Action::HostUnknown { host });
        self.w.ok(Action::HostLost { host });
    }
}

const FENCED: Result<(), RefusalCode> = Err(RefusalCode::Fenced);

#[test]
fn an_attempt_whose_host_was_lost_does_not_replace_the_output_of_the_next() {
    let mut o = Outputs::new();
    let (first, second) = (o.nodes[0], o.nodes[1]);
    let task = o.w.task("j", "a");
    let lost = o.w.run(first, task);
    assert_eq!(o.write(first, lost), Ok(()));
    o.lose_host_of(first);
    // As with its report: it counts until somebody else has the task.
    assert_eq!(o.write(first, lost), Ok(()));
    let current = o.w.run(second, task);
    assert_eq!(o.write(first, lost), FENCED);
    assert_eq!(o.write(second, current), Ok(()));
    let kept = o.content();
    assert_eq!(o.write(first, lost), FENCED);
    assert_eq!(o.write(first, current), FENCED, "the number alone is not enough");
    o.w.exit(second, current, 0);
    for (node, attempt) in [(first, lost), (second, current)] {
        assert_eq!(o.write(node, attempt), FENCED, "nobody writes after the end");
    }
    assert_eq!(o.content(), kept);
}

#[test]
fn who_may_write_when() {
    type Case = (&'static str, fn(&mut Outputs, NodeKey, TaskKey) -> AttemptRef, Result<(), RefusalCode>);
    let cases: [Case; 8] = [
        ("given out, its start not told yet", |o, node, task| o.w.assign(node, &[task])[0], Ok(())),
        ("running", |o, node, task| o.w.run(node, task), Ok(())),
        (
            "ended",
            |o, node, task| {
                let run = o.w.run(node, task);
                o.w.exit(node, run, 0);
                run
            },
            FENCED,
        ),
        (
            "failed and to be tried again",
            |o, node, task| {
                let run = o.w.run(node, task);
                o.w.exit(node, run, 1);
                run
            },
            FENCED,
        ),
        (
            "terminated by its user",
            |o, node, task| {
                let run = o.w.run(node, task);
                o.w.terminate_task("j", "a").unwrap();
                run
            },
            FENCED,
        ),
        (
            "deleted",
            |o, node, task| {
                let run = o.w.run(node, task);
                o.w.delete("j").unwrap();
                o.w.obey();
                run
            },
            FENCED,
        ),
        (
            "given back unstarted",
            |o, node, task| {
                let given = o.w.assign(node, &[task])[0];
                o.w.ok(Action::Recalled { node, attempts: vec![given] });
                given
            },
            FENCED,
        ),
        (
            "never given out",
            |o, node, task| AttemptRef { attempt: o.w.run(node, task).attempt.next(), task },
            FENCED,
        ),
    ];
    for (what, prepare, expected) in cases {
        let mut o = Outputs::new();
        let (node, other) = (o.nodes[0], o.nodes[1]);
        let task = o.w.task_with("j", TaskAdd { max_retry_count: Some(1), ..task_add("a") });
        let attempt = prepare(&mut o, node, task);
        assert_eq!(o.write(node, attempt), expected, "{what}");
        let stranger = o.peer(other);
        assert_eq!(o.write_as(node, attempt, &stranger), FENCED, "{what}, told by another host");
        assert_eq!(o.write(other, attempt), FENCED, "{what}, on another node");
    }
}

#[test]
fn nothing_but_a_blob_is_an_output() {
    let mut o = Outputs::new();
    let node = o.nodes[0];
    let task = o.w.task("j", "a");
    let attempt = o.w.run(node, task);
    let delete = BlobAction::ContainerDelete { name: "cont".to_owned(), condition: Condition::default() };
    let (producer, peer) = (Producer { node, attempt }, o.peer(node));
    let reply = o.w.act(Action::Output { producer, peer, put: Box::new(delete) });
    assert_eq!(code(reply), RefusalCode::InvalidPropertyValue);
    assert_eq!(o.write(node, attempt), Ok(()), "the container is there");
}

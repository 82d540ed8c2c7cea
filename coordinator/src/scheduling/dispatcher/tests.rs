use super::rebalance::REBALANCE_MS;
use super::*;
use crate::state::command::{Action, TaskAdd};
use crate::state::testing::*;
use crate::state::{Outcome, TaskPlace};
use lote_shared::model::*;

/// A world and the dispatcher of its pool `p`, driven as the shell drives it.
struct Rig {
    w: World,
    dispatcher: Dispatcher,
    /// What was given to whom, in order.
    given: Vec<(NodeKey, AttemptRef)>,
}

impl Rig {
    fn new(nodes: u32, slots: u16, change: impl FnOnce(&mut PoolSpec)) -> Rig {
        let mut w = World::new();
        let mut spec = pool_spec("p", nodes, slots);
        change(&mut spec);
        let pool = w.pool_with(spec);
        Rig { w, dispatcher: Dispatcher::new(pool), given: Vec::new() }
    }

    fn ask_all(&mut self, slots: u32) {
        for node in self.w.nodes("p") {
            self.dispatcher.on_ask(node, slots);
        }
    }

    fn plan(&mut self) -> Vec<Decision> {
        self.dispatcher.plan(self.w.now, &self.w.cluster)
    }

    /// Plans and carries everything out: attempts start at once while their node has free slots.
    fn step(&mut self) -> usize {
        let mut count = 0;
        for decision in self.plan() {
            match decision {
                Decision::Assign { node, tasks } => {
                    let given = self.w.assign(node, &tasks);
                    self.dispatcher.on_assign_result(node, &tasks);
                    count += given.len();
                    for attempt in given {
                        self.given.push((node, attempt));
                        self.w.report(node, attempt, true, None);
                    }
                }
                Decision::Recall { node, attempts } => {
                    self.w.ok(Action::Recalled { node, attempts });
                    self.dispatcher.on_node_changed(node);
                }
            }
        }
        count
    }

    fn finish(&mut self, task: TaskKey) {
        let record = self.w.record(task);
        let (node, attempt) = (record.held_by().expect("a run"), record.attempt_ref());
        self.w.exit(node, attempt, 0);
        self.dispatcher.on_node_changed(node);
    }

    fn running(&self, task: TaskKey) -> bool {
        matches!(self.w.record(task).place, TaskPlace::Running { .. })
    }

    fn order(&self) -> Vec<TaskKey> {
        self.given.iter().map(|(_, attempt)| attempt.task).collect()
    }
}

fn wide(id: &str, slots: u16) -> TaskAdd {
    TaskAdd { slots, ..task_add(id) }
}

#[test]
fn spec_j_s1_higher_priority_goes_first_and_interrupts_nobody() {
    let mut rig = Rig::new(1, 1, |_| ());
    rig.w.job("low", "p");
    let low = rig.w.tasks("low", 6);
    rig.ask_all(1);
    rig.step();
    rig.w.job_with(JobSpec { priority: 100, ..job_spec("high", "p") });
    let high = rig.w.task("high", "h");
    assert_eq!(rig.step(), 0);
    assert!(rig.running(low[0]));
    rig.finish(low[0]);
    rig.step();
    assert!(rig.running(high));
}

#[test]
fn a_higher_priority_recalls_what_was_prefetched() {
    let mut rig = Rig::new(1, 1, |_| ());
    rig.w.job("low", "p");
    let low = rig.w.tasks("low", 10);
    rig.ask_all(4);
    assert_eq!(rig.step(), 4);
    rig.w.job_with(JobSpec { priority: 1, ..job_spec("high", "p") });
    let high = [rig.w.task("high", "a"), rig.w.task("high", "b")];
    let decisions = rig.plan();
    let node = rig.w.nodes("p")[0];
    let attempts: Vec<_> = [low[3], low[2]].map(|task| rig.w.record(task).attempt_ref()).to_vec();
    assert_eq!(decisions, [Decision::Recall { node, attempts: attempts.clone() }]);
    assert_eq!(rig.plan(), [], "asked once");
    rig.w.ok(Action::Recalled { node, attempts });
    rig.dispatcher.on_node_changed(node);
    rig.step();
    assert_eq!(rig.order()[4..], high);
    assert_eq!(rig.plan(), []);
}

#[test]
fn spec_j_s3_max_parallel_tasks_holds_across_proposals_in_flight() {
    let mut rig = Rig::new(1, 10, |_| ());
    rig.w.job_with(JobSpec { max_parallel_tasks: 2, ..job_spec("j", "p") });
    rig.w.tasks("j", 5);
    rig.ask_all(10);
    let decisions = rig.plan();
    assert!(matches!(&decisions[..], [Decision::Assign { tasks, .. }] if tasks.len() == 2), "{decisions:?}");
    assert_eq!(rig.plan(), [], "two are in flight");
}

#[test]
fn spec_j_s4_creationtime_serves_the_older_job_first() {
    let mut rig = Rig::new(1, 1, |spec| spec.job_order = JobOrder::CreationTime);
    rig.w.job("older", "p");
    rig.w.job("newer", "p");
    let newer = rig.w.tasks("newer", 3);
    let older = rig.w.tasks("older", 3);
    rig.ask_all(1);
    for _ in 0..6 {
        rig.step();
        let task = *rig.order().last().unwrap();
        rig.finish(task);
    }
    assert_eq!(rig.order(), [older, newer].concat());
}

#[test]
fn equal_jobs_share_and_take_turns() {
    let mut rig = Rig::new(1, 4, |_| ());
    rig.w.job("a", "p");
    rig.w.job("b", "p");
    let a = rig.w.tasks("a", 10);
    let b = rig.w.tasks("b", 10);
    rig.ask_all(4);
    rig.step();
    assert_eq!(rig.order(), [a[0], b[0], a[1], b[1]]);
    // One slot that frees again and again goes to each in turn.
    let mut rig = Rig::new(1, 1, |_| ());
    rig.w.job("a", "p");
    rig.w.job("b", "p");
    let a = rig.w.tasks("a", 2);
    let b = rig.w.tasks("b", 2);
    rig.ask_all(1);
    for _ in 0..4 {
        rig.step();
        let task = *rig.order().last().unwrap();
        rig.finish(task);
    }
    assert_eq!(rig.order(), [a[0], b[0], a[1], b[1]]);
}

#[test]
fn spec_j_s5_spread_and_pack() {
    for (fill, expected) in [(FillType::Spread, [2, 2]), (FillType::Pack, [4, 0])] {
        let mut rig = Rig::new(2, 4, |spec| spec.fill_type = fill);
        rig.w.job("j", "p");
        rig.w.tasks("j", 4);
        rig.ask_all(8);
        rig.step();
        let on = |node: NodeKey| rig.given.iter().filter(|(n, _)| *n == node).count();
        let nodes = rig.w.nodes("p");
        assert_eq!([on(nodes[0]), on(nodes[1])], expected, "{fill:?}");
    }
}

#[test]
fn prefetch_comes_after_every_free_slot() {
    for fill in [FillType::Spread, FillType::Pack] {
        let mut rig = Rig::new(2, 2, |spec| spec.fill_type = fill);
        rig.w.job("j", "p");
        let tasks = rig.w.tasks("j", 20);
        rig.ask_all(6);
        assert_eq!(rig.step(), 12);
        for node in rig.w.nodes("p") {
            let first = tasks[..4].iter().filter(|task| rig.w.record(**task).last_node == Some(node));
            assert_eq!(first.count(), 2, "{fill:?}");
        }
        for node in rig.w.nodes("p") {
            assert_eq!(rig.w.cluster.node_load(node).slots(), 6, "{fill:?}");
        }
    }
}

#[test]
fn spec_j_t12_what_does_not_fit_is_skipped() {
    let mut rig = Rig::new(1, 4, |_| ());
    rig.w.job("j", "p");
    let huge = rig.w.task_with("j", wide("huge", 5));
    let a = rig.w.task_with("j", wide("a", 2));
    let b = rig.w.task_with("j", wide("b", 2));
    let c = rig.w.task_with("j", wide("c", 1));
    rig.ask_all(4);
    rig.step();
    assert_eq!(rig.order(), [a, b]);
    assert!(!rig.running(c) && !rig.running(huge));
    rig.finish(a);
    rig.step();
    assert!(rig.running(c));
}

#[test]
fn spec_j_t13_affinity_is_a_wish() {
    let mut rig = Rig::new(3, 1, |_| ());
    rig.w.job("j", "p");
    let nodes = rig.w.nodes("p");
    let add = |id: &str, node: &str| {
        let mut add = task_add(id);
        add.spec.affinity_id = format!("TVM:{node}");
        add
    };
    let wished = rig.w.node(nodes[2]).id.clone();
    let a = rig.w.task_with("j", add("a", &wished));
    let b = rig.w.task_with("j", add("b", &wished));
    let c = rig.w.task_with("j", add("c", "N9"));
    rig.ask_all(1);
    rig.step();
    assert_eq!(rig.w.record(a).last_node, Some(nodes[2]));
    assert!(rig.running(b) && rig.running(c));
}

#[test]
fn a_retry_goes_back_to_its_node() {
    let mut rig = Rig::new(3, 1, |_| ());
    rig.w.job("j", "p");
    let a = rig.w.task_with("j", TaskAdd { max_retry_count: Some(1), ..task_add("a") });
    let nodes = rig.w.nodes("p");
    rig.dispatcher.on_ask(nodes[2], 1);
    rig.step();
    rig.ask_all(1);
    let attempt = rig.w.record(a).attempt_ref();
    rig.w.exit(nodes[2], attempt, 1);
    rig.dispatcher.on_node_changed(nodes[2]);
    rig.step();
    assert_eq!(rig.w.record(a).last_node, Some(nodes[2]));
    assert_eq!(rig.w.record(a).attempt, Attempt(2));
}

#[test]
fn nothing_is_proposed_twice_and_a_failed_proposal_is_made_again() {
    let mut rig = Rig::new(2, 1, |_| ());
    rig.w.job("j", "p");
    let tasks = rig.w.tasks("j", 4);
    rig.ask_all(2);
    let first = rig.plan();
    assert_eq!(first.len(), 2);
    assert_eq!(rig.plan(), []);
    // One is lost on the way, one is applied.
    let (Decision::Assign { node: lost, tasks: lost_tasks }, Decision::Assign { node, tasks: kept }) =
        (first[0].clone(), first[1].clone())
    else {
        panic!("{first:?}")
    };
    rig.w.assign(node, &kept);
    rig.dispatcher.on_assign_result(node, &kept);
    rig.dispatcher.on_assign_result(lost, &lost_tasks);
    assert_eq!(rig.plan(), [Decision::Assign { node: lost, tasks: lost_tasks.clone() }]);
    assert_eq!(rig.dispatcher.in_flight(), 2);
    // Should the lost one be applied after all, the second changes nothing.
    rig.w.assign(lost, &lost_tasks);
    let Outcome::Assigned(again) = rig.w.ok(Action::Assign { node: lost, tasks: lost_tasks.clone() }) else {
        panic!("no answer")
    };
    assert!(again.is_empty());
    rig.dispatcher.on_assign_result(lost, &lost_tasks);
    assert_eq!(rig.plan(), []);
    assert!(tasks.iter().all(|task| rig.w.record(*task).attempt == Attempt(1)));
}

#[test]
fn tasks_in_flight_are_passed_over_where_there_is_room() {
    let mut rig = Rig::new(2, 4, |_| ());
    rig.w.job("j", "p");
    rig.w.tasks("j", 2);
    rig.ask_all(4);
    assert_eq!(rig.plan().len(), 2);
    rig.ask_all(4);
    assert_eq!(rig.plan(), []);
    let late = rig.w.task("j", "late");
    assert!(matches!(&rig.plan()[..], [Decision::Assign { tasks, .. }] if tasks[..] == [late]));
}

#[test]
fn nodes_that_do_not_ask_or_are_gone_get_nothing() {
    let mut rig = Rig::new(2, 1, |_| ());
    rig.w.job("j", "p");
    rig.w.tasks("j", 4);
    assert_eq!(rig.plan(), []);
    let nodes = rig.w.nodes("p");
    rig.ask_all(1);
    rig.dispatcher.on_node_gone(nodes[0]);
    rig.w.ok(Action::NodeRevoke { node: nodes[1], option: DeallocationOption::Requeue });
    assert_eq!(rig.plan(), []);
    rig.dispatcher.on_ask(nodes[0], 0);
    assert_eq!(rig.plan(), []);
    rig.dispatcher.on_ask(nodes[0], 1);
    assert_eq!(rig.step(), 1);
}

#[test]
fn a_lost_hint_is_made_good_within_a_second() {
    let mut rig = Rig::new(1, 1, |_| ());
    rig.w.job("j", "p");
    let tasks = rig.w.tasks("j", 2);
    rig.ask_all(1);
    rig.step();
    assert_eq!(rig.plan(), [], "the node is full");
    let attempt = rig.w.record(tasks[0]).attempt_ref();
    let node = rig.w.nodes("p")[0];
    rig.w.exit(node, attempt, 0);
    assert_eq!(rig.step(), 0);
    rig.w.pass_ms(RESYNC_MS);
    assert_eq!(rig.step(), 1);
}

#[test]
fn chunks_are_bounded_and_a_step_costs_what_it_decides() {
    let mut rig = Rig::new(4, 64, |_| ());
    rig.w.job("wide", "p");
    for n in 0..500 {
        rig.w.task_with("wide", wide(&format!("w{n}"), 256));
    }
    rig.w.job("j", "p");
    rig.w.tasks("j", 3_000);
    rig.ask_all(600);
    let before = rig.dispatcher.looked_at;
    let decisions = rig.plan();
    let mut decided = 0;
    for decision in &decisions {
        let Decision::Assign { tasks, .. } = decision else { panic!("{decision:?}") };
        assert!(tasks.len() <= CHUNK_MAX);
        decided += tasks.len() as u64;
    }
    assert_eq!(decided, 2_400);
    assert!(rig.dispatcher.looked_at - before < 2 * decided + 100, "{}", rig.dispatcher.looked_at);
}

#[test]
fn a_rebuilt_dispatcher_goes_on() {
    let mut rig = Rig::new(1, 2, |_| ());
    rig.w.job("j", "p");
    let tasks = rig.w.tasks("j", 3);
    rig.ask_all(2);
    rig.plan();
    // The leader dies with its proposals; the next one knows nothing of them.
    rig.w.cluster = rig.w.reload();
    rig.dispatcher = Dispatcher::new(rig.w.pool_key("p"));
    rig.ask_all(2);
    rig.step();
    assert!(rig.running(tasks[0]) && rig.running(tasks[1]) && !rig.running(tasks[2]));
}

/// Nodes with these slots, of which the first was given so many tasks (of so many slots) when it was alone.
struct Lopsided {
    slots: u16,
    held: usize,
    needs: u16,
    /// How long ago.
    waited_ms: u64,
    /// What the others ask for.
    others_ask: u32,
}

/// How many of them are asked back, of which tasks.
fn asked_back(case: &Lopsided, change: impl FnOnce(&mut Rig)) -> Vec<usize> {
    let mut rig = Rig::new(3, case.slots, |_| ());
    rig.w.job("j", "p");
    let tasks: Vec<TaskKey> =
        (0..case.held).map(|n| rig.w.task_with("j", wide(&format!("t{n}"), case.needs))).collect();
    let nodes = rig.w.nodes("p");
    rig.dispatcher.on_ask(nodes[0], 200);
    assert_eq!(rig.step(), case.held);
    rig.w.pass_ms(case.waited_ms);
    for node in &nodes[1..] {
        rig.dispatcher.on_ask(*node, case.others_ask);
    }
    change(&mut rig);
    let decisions = rig.plan();
    let mut found = Vec::new();
    for decision in decisions {
        let Decision::Recall { node, attempts } = decision else { panic!("{decision:?}") };
        assert_eq!(node, nodes[0]);
        found.extend(attempts.iter().map(|attempt| tasks.iter().position(|t| *t == attempt.task).unwrap()));
    }
    found
}

#[test]
fn what_others_could_start_is_asked_back() {
    const LOPSIDED: Lopsided = Lopsided { slots: 2, held: 10, needs: 1, waited_ms: 1_000, others_ask: 2 };
    let cases = [
        ("as much as the others have free", LOPSIDED, vec![9, 8, 7, 6]),
        ("what they want is the bound", Lopsided { others_ask: 1, ..LOPSIDED }, vec![9, 8]),
        ("nobody wants any", Lopsided { others_ask: 0, ..LOPSIDED }, vec![]),
        ("it keeps what fills its own slots", Lopsided { held: 4, ..LOPSIDED }, vec![3, 2]),
        ("it holds what it runs", Lopsided { held: 2, ..LOPSIDED }, vec![]),
        ("given a moment ago", Lopsided { waited_ms: 999, ..LOPSIDED }, vec![]),
        ("wide ones, one for each", Lopsided { needs: 2, held: 5, ..LOPSIDED }, vec![4, 3]),
        (
            "too wide for what is left",
            Lopsided { slots: 3, needs: 2, others_ask: 3, held: 4, ..LOPSIDED },
            vec![3, 2],
        ),
        ("not even one fits", Lopsided { slots: 2, needs: 2, others_ask: 1, ..LOPSIDED }, vec![]),
    ];
    for (name, case, expected) in cases {
        assert_eq!(asked_back(&case, |_| ()), expected, "{name}");
    }
    // A lone task that waits for room it will never find hinders nobody.
    let stuck = |rig: &mut Rig| {
        rig.w.task_with("j", wide("huge", 200));
    };
    assert_eq!(asked_back(&LOPSIDED, stuck), [9, 8, 7, 6], "a task too wide for any node waits");
    // Those that were told to end are not asked back as well.
    let ended = |rig: &mut Rig| drop(rig.w.disable("j", DisableTasks::Wait).unwrap());
    assert_eq!(asked_back(&LOPSIDED, ended), Vec::<usize>::new(), "their job was disabled");
}

#[test]
fn a_task_that_was_asked_back_does_not_come_back() {
    let mut rig = Rig::new(4, 2, |_| ());
    rig.w.job("j", "p");
    let tasks = rig.w.tasks("j", 30);
    let nodes = rig.w.nodes("p");
    rig.dispatcher.on_ask(nodes[0], 200);
    assert_eq!(rig.step(), 30);
    rig.ask_all(200);
    let recalls = |decisions: &[Decision]| {
        decisions.iter().filter(|decision| matches!(decision, Decision::Recall { .. })).count()
    };
    let mut moved = 0;
    // Nothing ends, and every node asks for far more than it can run.
    for _ in 0..10 {
        rig.w.pass_ms(REBALANCE_MS);
        let decisions = rig.plan();
        moved += recalls(&decisions);
        assert_eq!(recalls(&rig.plan()), 0, "at most once a second");
        for decision in decisions {
            let Decision::Recall { node, attempts } = decision else { continue };
            rig.w.ok(Action::Recalled { node, attempts });
            rig.dispatcher.on_node_changed(node);
        }
        rig.step();
    }
    assert_eq!(moved, 1, "one look put everything right");
    for node in &nodes {
        assert_eq!(rig.w.cluster.node_load(*node).running, 2);
    }
    let twice = tasks.iter().filter(|task| rig.w.record(**task).attempt == Attempt(2)).count();
    assert_eq!(twice, 6);
}

//! The log against a model: through power loss, kills, bit flips, cuts and a full disk.

use super::simulated::SimulatedDisk;
use super::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::Mutex as StdMutex;

/// Small segments, hardly any cache: every path is taken often.
fn small() -> Options {
    Options { segment_bytes: 14_000, cache_bytes: 300, inline: true, may_create: true }
}

fn open(disk: &SimulatedDisk) -> Result<Log, Error> {
    Log::open(Arc::new(disk.clone()), &small())
}

fn id(term: u64, index: u64) -> EntryId {
    EntryId { term, node: 1, index }
}

fn entry(term: u64, index: u64, size: usize) -> Entry {
    Entry { id: id(term, index), body: Bytes::from(vec![(term * 31 + index) as u8; size]) }
}

/// Where a callback leaves its answer.
type Answer = Arc<StdMutex<Option<Result<(), Error>>>>;

fn wait() -> (Done, Answer) {
    let place = Answer::default();
    let answer = place.clone();
    (Box::new(move |result| *answer.lock().unwrap() = Some(result)), place)
}

/// Does something with an inline log and returns how it ended.
fn now(call: impl FnOnce(Done) -> Result<(), Error>) -> Result<(), Error> {
    let (done, answer) = wait();
    call(done)?;
    answer.lock().unwrap().take().expect("an inline log answers at once")
}

fn indexes(log: &Log) -> Vec<u64> {
    log.read(0..u64::MAX, usize::MAX).unwrap().iter().map(|entry| entry.id.index).collect()
}

#[test]
fn entries_vote_and_positions_survive_a_reopen() {
    let disk = SimulatedDisk::new();
    let log = open(&disk).unwrap();
    assert_eq!(log.state(), State::default());
    now(|done| log.save_vote(Vote { term: 2, node: 1, committed: true }, done)).unwrap();
    for index in 0..40 {
        now(|done| log.append(vec![entry(2, index, 200)], done)).unwrap();
    }
    log.save_committed(id(2, 30)).unwrap();
    let state = log.state();
    drop(log);
    let log = open(&disk).unwrap();
    assert_eq!(log.state(), state);
    assert_eq!(state.committed, Some(id(2, 30)));
    assert_eq!(indexes(&log), (0..40).collect::<Vec<_>>());
    assert_eq!(log.read(7..9, usize::MAX).unwrap(), [entry(2, 7, 200), entry(2, 8, 200)]);
    assert_eq!(log.read(7..30, 520).unwrap().len(), 2, "limited by bytes");
    assert_eq!(log.read(7..30, 1).unwrap().len(), 1, "but never nothing");
    assert_eq!(log.read(40..50, usize::MAX).unwrap(), []);
    assert!(matches!(
        now(|done| log.append(vec![entry(2, 41, 1)], done)),
        Err(Error::Gap { last: Some(39), found: 41 })
    ));
}

#[test]
fn a_conflict_takes_the_tail_away_for_good() {
    let disk = SimulatedDisk::new();
    let log = open(&disk).unwrap();
    now(|done| log.append((0..10).map(|index| entry(1, index, 50)).collect(), done)).unwrap();
    now(|done| log.truncate(6, done)).unwrap();
    assert_eq!(log.state().last, Some(id(1, 5)));
    now(|done| log.append(vec![entry(2, 6, 50)], done)).unwrap();
    now(|done| log.truncate(20, done)).unwrap();
    drop(log);
    let log = open(&disk).unwrap();
    assert_eq!(log.state().last, Some(id(2, 6)));
    assert_eq!(log.read(5..9, usize::MAX).unwrap(), [entry(1, 5, 50), entry(2, 6, 50)]);
    now(|done| log.truncate(0, done)).unwrap();
    assert_eq!(log.state().last, None);
}

#[test]
fn a_purge_removes_whole_segments_and_keeps_the_vote() {
    let disk = SimulatedDisk::new();
    let log = open(&disk).unwrap();
    let vote = Vote { term: 1, node: 1, committed: true };
    now(|done| log.save_vote(vote, done)).unwrap();
    for index in 0..100 {
        now(|done| log.append(vec![entry(1, index, 200)], done)).unwrap();
    }
    let before = disk.list().unwrap();
    now(|done| log.purge(id(1, 60), done)).unwrap();
    let after = disk.list().unwrap();
    assert!(before.len() > 5 && after.len() < before.len() / 2 + 1, "{} → {}", before.len(), after.len());
    assert_eq!(indexes(&log), (61..100).collect::<Vec<_>>());
    drop(log);
    let log = open(&disk).unwrap();
    assert_eq!(indexes(&log), (61..100).collect::<Vec<_>>());
    assert_eq!((log.state().vote, log.state().purged), (Some(vote), Some(id(1, 60))));
    // Beyond the end, as after an installed snapshot.
    now(|done| log.purge(id(3, 500), done)).unwrap();
    assert_eq!(log.state().last, Some(id(3, 500)));
    now(|done| log.append(vec![entry(3, 501, 5)], done)).unwrap();
    drop(log);
    assert_eq!(indexes(&open(&disk).unwrap()), [501]);
}

/// What a correct log holds.
#[derive(Debug, Clone, Default, PartialEq)]
struct Model {
    vote: Option<Vote>,
    purged: Option<EntryId>,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone)]
enum Step {
    Vote(Vote),
    Append(Vec<Entry>),
    Truncate(u64),
    Purge(EntryId),
    Committed(EntryId),
}

impl Model {
    fn of(log: &Log) -> Model {
        let state = log.state();
        let entries = log.read(0..u64::MAX, usize::MAX).unwrap();
        let last = entries.last().map(|entry| entry.id).or(state.purged);
        assert_eq!(state.last, last);
        assert!(state.committed <= state.last, "{state:?}");
        Model { vote: state.vote, purged: state.purged, entries }
    }

    fn next_index(&self) -> u64 {
        let last = self.entries.last().map(|entry| entry.id).or(self.purged);
        last.map_or(0, |id| id.index + 1)
    }

    fn random_step(&self, term: &mut u64, rng: &mut StdRng) -> Step {
        let next = self.next_index();
        match rng.random_range(0..12) {
            0 => {
                *term += 1;
                Step::Vote(Vote { term: *term, node: rng.random_range(1..4), committed: rng.random() })
            }
            1 if !self.entries.is_empty() => {
                *term += 1;
                let keep = rng.random_range(0..self.entries.len());
                Step::Truncate(self.entries[keep].id.index)
            }
            2 if !self.entries.is_empty() => {
                Step::Purge(self.entries[rng.random_range(0..self.entries.len())].id)
            }
            3 if !self.entries.is_empty() => {
                Step::Committed(self.entries[rng.random_range(0..self.entries.len())].id)
            }
            _ => {
                let count = rng.random_range(1..4);
                Step::Append(
                    (next..next + count).map(|i| entry(*term, i, rng.random_range(0..900))).collect(),
                )
            }
        }
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Vote(vote) => self.vote = Some(*vote),
            Step::Append(entries) => self.entries.extend(entries.iter().cloned()),
            Step::Truncate(from) => self.entries.retain(|entry| entry.id.index < *from),
            Step::Purge(upto) => {
                self.entries.retain(|entry| entry.id.index > upto.index);
                self.purged = Some(*upto);
            }
            Step::Committed(_) => {}
        }
    }

    /// Everything that may be found if the step was under way at the crash.
    fn allowed(&self, step: Option<&Step>) -> Vec<Model> {
        let mut allowed = vec![self.clone()];
        match step {
            Some(Step::Append(entries)) => {
                for count in 1..=entries.len() {
                    let mut model = self.clone();
                    model.apply(&Step::Append(entries[..count].to_vec()));
                    allowed.push(model);
                }
            }
            Some(step) => {
                let mut model = self.clone();
                model.apply(step);
                allowed.push(model);
            }
            None => {}
        }
        allowed
    }
}

fn perform(log: &Log, step: &Step) -> Result<(), Error> {
    match step.clone() {
        Step::Vote(vote) => now(|done| log.save_vote(vote, done)),
        Step::Append(entries) => now(|done| log.append(entries, done)),
        Step::Truncate(from) => now(|done| log.truncate(from, done)),
        Step::Purge(upto) => now(|done| log.purge(upto, done)),
        Step::Committed(committed) => log.save_committed(committed),
    }
}

/// Works until the disk stops or `steps_max` are done; the step that was under way then.
fn work(log: &Log, model: &mut Model, term: &mut u64, steps_max: usize, rng: &mut StdRng) -> Option<Step> {
    for _ in 0..steps_max {
        let step = model.random_step(term, rng);
        match perform(log, &step) {
            Ok(()) => model.apply(&step),
            Err(_) => return Some(step),
        }
    }
    None
}

#[test]
fn power_loss_at_any_moment_loses_nothing_that_was_acknowledged() {
    for seed in 0..300 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut disk = SimulatedDisk::new();
        let mut model = Model::default();
        let mut term = 1;
        for life in 0..4 {
            disk.turn_off_after(rng.random_range(6..250));
            let log = match open(&disk) {
                Ok(log) => log,
                // Off while opening.
                Err(Error::Io { .. } | Error::Failed(_)) => {
                    disk = disk.crash(&mut rng);
                    continue;
                }
                Err(error) => panic!("seed {seed} life {life}: {error}"),
            };
            let found = Model::of(&log);
            assert_eq!(found, model, "seed {seed} life {life}: opening changes nothing");
            let under_way = work(&log, &mut model, &mut term, 200, &mut rng);
            drop(log);
            disk = disk.crash(&mut rng);
            let log = open(&disk).unwrap_or_else(|error| panic!("seed {seed} life {life}: {error}"));
            let found = Model::of(&log);
            let allowed = model.allowed(under_way.as_ref());
            assert!(allowed.contains(&found), "seed {seed} life {life}:\n{found:?}\nis none of\n{allowed:?}");
            model = found;
        }
    }
}

/// The file and the place in it that one random damage hits.
fn damage(disk: &SimulatedDisk, rng: &mut StdRng) -> String {
    let names = disk.list().unwrap();
    let name = &names[rng.random_range(0..names.len())];
    let mut what = String::new();
    if rng.random_range(0..12) == 0 {
        disk.remove(name).unwrap();
        return format!("removed {name} of {}", names.len());
    }
    let cut = rng.random_range(0..3) == 0;
    disk.tamper(name, |bytes| {
        let at = if rng.random() {
            rng.random_range(0..bytes.len())
        } else {
            rng.random_range(segment::RECORDS_AT as usize..bytes.len())
        };
        if cut {
            bytes.truncate(at);
            what = format!("cut {name} at {at}");
        } else {
            let bit = rng.random_range(0..8);
            bytes[at] ^= 1 << bit;
            what = format!("flipped bit {bit} of byte {at} of {name}");
        }
    });
    what
}

/// After a kill the mark stands at the very end, so a damage either changes nothing or is an error.
#[test]
fn damage_after_a_kill_is_an_error_or_harmless() {
    let (mut errors, mut harmless) = (0, 0);
    for seed in 0..600 {
        let mut rng = StdRng::seed_from_u64(seed);
        let disk = SimulatedDisk::new();
        let (mut model, mut term) = (Model::default(), 1);
        let log = open(&disk).unwrap();
        let steps = rng.random_range(1..60);
        assert!(work(&log, &mut model, &mut term, steps, &mut rng).is_none());
        let disk = disk.kill();
        drop(log);
        let what = damage(&disk, &mut rng);
        let options = Options { may_create: false, ..small() };
        match Log::open(Arc::new(disk.clone()), &options) {
            Err(
                Error::Damaged { .. }
                | Error::BehindMark { .. }
                | Error::MissingSegment { .. }
                | Error::Missing
                | Error::NewerFormat { .. },
            ) => errors += 1,
            Err(error) => panic!("seed {seed}: {what}: {error}"),
            Ok(log) => {
                // A position of the commit may be lost: it is not promised.
                assert_eq!(Model::of(&log), model, "seed {seed}: {what}");
                harmless += 1;
            }
        }
    }
    assert!(errors > 200 && harmless > 20, "{errors} errors, {harmless} harmless");
}

/// After power loss the last batch may lie beyond the mark: damage there is a torn tail, damage before is not.
#[test]
fn damage_after_power_loss_costs_at_most_the_last_batch_or_is_an_error() {
    let mut cut = 0;
    for seed in 0..600 {
        let mut rng = StdRng::seed_from_u64(seed);
        let disk = SimulatedDisk::new();
        let (mut model, mut term) = (Model::default(), 1);
        let log = open(&disk).unwrap();
        let steps = rng.random_range(2..30);
        assert!(work(&log, &mut model, &mut term, steps, &mut rng).is_none());
        let before = model.clone();
        let step = Step::Append(vec![entry(term, model.next_index(), 300)]);
        perform(&log, &step).unwrap();
        model.apply(&step);
        let disk = disk.crash(&mut rng);
        drop(log);
        let what = damage(&disk, &mut rng);
        let options = Options { may_create: false, ..small() };
        if let Ok(log) = Log::open(Arc::new(disk.clone()), &options) {
            let found = Model::of(&log);
            assert!(found == model || found == before, "seed {seed}: {what}: {found:?}");
            cut += usize::from(found == before);
        }
    }
    assert!(cut > 0, "no damage ever hit the ambiguous tail");
}

#[test]
fn the_errors_name_file_and_offset() {
    let disk = SimulatedDisk::new();
    let log = open(&disk).unwrap();
    for index in 0..3 {
        now(|done| log.append(vec![entry(1, index, 100)], done)).unwrap();
    }
    drop(log);
    let name = segment::file_name(1);
    let size = disk.open(&name).unwrap().size().unwrap();

    let cut = disk.kill();
    cut.tamper(&name, |bytes| bytes.truncate(size as usize - 1));
    let error = open(&cut).unwrap_err();
    assert!(matches!(&error, Error::BehindMark { mark, .. } if *mark == size), "{error}");
    assert!(error.to_string().contains("lote recover"));

    let flipped = disk.kill();
    flipped.tamper(&name, |bytes| bytes[size as usize - 50] ^= 1);
    let error = open(&flipped).unwrap_err();
    assert!(
        matches!(&error, Error::Damaged { file, offset, .. } if *file == name && *offset < size),
        "{error}"
    );

    let removed = disk.kill();
    removed.remove(&name).unwrap();
    let options = Options { may_create: false, ..small() };
    assert_eq!(Log::open(Arc::new(removed), &options).unwrap_err(), Error::Missing);

    let newer = disk.kill();
    newer.tamper(&name, |bytes| {
        bytes[8] = 9;
        let crc = crc32c::crc32c(&bytes[..36]);
        bytes[36..40].copy_from_slice(&crc.to_le_bytes());
    });
    assert_eq!(open(&newer).unwrap_err(), Error::NewerFormat { found: 9, supported: 1 });
}

/// After a failed sync the kernel may have thrown the pages away, so trying again would prove nothing.
#[test]
fn a_failed_sync_ends_the_log_and_what_was_acknowledged_stays() {
    let disk = SimulatedDisk::new();
    let log = open(&disk).unwrap();
    for n in 0..10 {
        now(|done| log.append(vec![entry(1, n, 100)], done)).unwrap();
    }
    disk.fail_syncs();
    let error = now(|done| log.append(vec![entry(1, 10, 100)], done)).unwrap_err();
    assert!(error.to_string().contains("could not sync log file"), "{error}");
    assert!(!error.is_full());
    let vote = Vote { term: 9, node: 1, committed: false };
    let refused = now(|done| log.save_vote(vote, done));
    assert!(matches!(&refused, Err(Error::Failed(why)) if why.contains("could not sync")), "{refused:?}");
    drop(log);
    let mut rng = StdRng::seed_from_u64(5);
    for _ in 0..50 {
        let log = open(&disk.crash(&mut rng)).unwrap();
        let found = indexes(&log);
        assert!(found.len() >= 10 && found.iter().copied().eq(0..found.len() as u64), "{found:?}");
        assert_eq!(log.state().vote, None);
    }
}

#[test]
fn a_full_disk_is_an_error_and_what_was_acknowledged_stays() {
    let disk = SimulatedDisk::new();
    let log = open(&disk).unwrap();
    disk.run_full_at(40_000);
    let mut acknowledged = 0;
    let error = loop {
        match now(|done| log.append(vec![entry(1, acknowledged, 500)], done)) {
            Ok(()) => acknowledged += 1,
            Err(error) => break error,
        }
    };
    assert!(error.is_full(), "{error}");
    assert!(acknowledged > 5);
    assert!(matches!(
        now(|done| log.save_vote(Vote { term: 9, node: 1, committed: false }, done)),
        Err(Error::Failed(_))
    ));
    drop(log);
    let log = open(&disk.kill()).unwrap();
    assert!(indexes(&log).len() as u64 >= acknowledged);
    assert_eq!(log.state().vote, None);
}

#[test]
fn on_a_real_disk_waiting_requests_share_a_sync() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(FolderDisk::open(&folder.path().join("log")).unwrap());
    let options = Options { segment_bytes: 64 * 1024, cache_bytes: 10_000, ..Options::default() };
    let log = Log::open(disk.clone(), &options).unwrap();
    let (answers, done) = std::sync::mpsc::sync_channel(1_000);
    for index in 0..1_000 {
        let answers = answers.clone();
        let tell: Done = Box::new(move |result| answers.send((index, result)).unwrap());
        log.append(vec![entry(1, index, 400)], tell).unwrap();
        assert_eq!(
            log.read(index..index + 1, usize::MAX).unwrap(),
            [entry(1, index, 400)],
            "readable at once"
        );
    }
    for expected in 0..1_000 {
        let (index, result) = done.recv().unwrap();
        assert_eq!((index, result), (expected, Ok(())), "answered in order");
    }
    assert_eq!(log.read(0..3, usize::MAX).unwrap().len(), 3, "also what memory no longer holds");
    assert!(log.counts().syncs < 500, "{} syncs", log.counts().syncs);
    drop(log);
    let log = Log::open(disk.clone(), &options).unwrap();
    assert_eq!(log.read(0..2_000, usize::MAX).unwrap().len(), 1_000);
}

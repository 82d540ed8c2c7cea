//! A hash over everything the state holds, records and indexes: two clusters with the same digest behave alike.
//!
//! For tests, the simulator and `lote inspect`; it walks everything. Left out are the turns of jobs, which are hints
//! for fairness and start anew after a load.

use super::cluster::Cluster;
use super::index::Standing;
use std::fmt::{Debug, Write};

struct Sink(blake3::Hasher);

impl Write for Sink {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.update(text.as_bytes());
        Ok(())
    }
}

impl Sink {
    fn add(&mut self, part: impl Debug) {
        // Writing to a hasher does not fail.
        let _ = writeln!(self, "{part:?}");
    }
}

impl Cluster {
    pub fn digest(&self) -> [u8; 32] {
        let mut sink = Sink(blake3::Hasher::new());
        sink.add(&self.meta);
        for (id, account) in &self.accounts {
            sink.add((id, &account.record, &account.pools, &account.pools_in_order, &account.jobs));
            sink.add((account.jobs_active, &account.schedules));
            if !account.applications.is_empty() {
                sink.add(&account.applications);
            }
            for (pool, queue) in &account.queues {
                sink.add((pool, &queue.by_age));
                let mut by_use: Vec<_> =
                    queue.by_use.iter().map(|(p, used, _, job)| (p, used, job)).collect();
                by_use.sort();
                sink.add(by_use);
            }
        }
        for host in self.hosts.values() {
            sink.add((&host.record, &host.nodes));
        }
        sink.add(&self.peers);
        for pool in self.pools.values() {
            sink.add((&pool.record, &pool.cold, &pool.nodes, &pool.by_name, &pool.in_order));
            sink.add((&pool.counts, &pool.leaving));
            if !pool.extras.is_empty() {
                sink.add(&pool.extras);
            }
        }
        for node in self.nodes.values() {
            sink.add((&node.record, &node.held, &node.load));
            // What earlier versions had not is left out where it is not: their hashes stand.
            if !node.open_chores.is_empty() {
                sink.add(&node.open_chores);
            }
        }
        sink.add(&self.departed);
        for job in self.jobs.values() {
            sink.add(job.dependencies.shown());
            sink.add((&job.record, &job.cold, &job.tasks, &job.ready, &job.held, job.live, job.used_slots));
            if !job.extras.is_empty() {
                sink.add((&job.extras, &job.manager, &job.chores, &job.open_chores, &job.owed_releases));
            }
        }
        for schedule in self.schedules.values() {
            sink.add((&schedule.record, &schedule.cold, &schedule.jobs));
            if !schedule.extras.is_empty() {
                sink.add(&schedule.extras);
            }
        }
        if !self.chores.is_empty() {
            sink.add(&self.chores);
        }
        sink.add(self.last_schedule);
        for task in self.tasks.iter() {
            sink.add((task, Standing::of(task)));
        }
        sink.add((&self.membership, &self.upgrade));
        sink.add((&self.cursors, &self.deadlines, &self.answers, &self.blobs));
        *sink.0.finalize().as_bytes()
    }
}

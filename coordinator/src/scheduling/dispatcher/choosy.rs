//! Nodes for tasks that not every node will do for: managers, which may want to be alone, and tasks of jobs whose nodes
//! are prepared first.

use super::{Dispatcher, Room};
use crate::state::query::ReadyPool;
use crate::state::{Cluster, Needs};
use lote_shared::model::{FillType, JobKey, NodeKey};

impl Dispatcher {
    /// The node such a task goes to: the wished one, else one that is prepared, else by fill type. Nothing is prefetched
    /// by a node that is not prepared, and no manager by any.
    pub(super) fn find_node_for(
        &self,
        cluster: &Cluster,
        view: &ReadyPool,
        job: JobKey,
        needs: Needs,
        wish: Option<NodeKey>,
    ) -> Option<NodeKey> {
        let is_manager = view.manager(job).is_some();
        let fits = |node: NodeKey, room: &Room, prefetches: bool| {
            let slots = needs.slots(room.slots);
            let is_free = room.free >= i64::from(slots);
            let kind = cluster.node(node).is_some_and(|record| record.dedicated);
            let is_prepared = view.is_prepared(job, node);
            room.takes(slots)
                && (is_free || (prefetches && !is_manager && is_prepared))
                && needs.allows(kind, cluster.node_load(node))
                && !view.is_barred(job, node)
        };
        let in_order = || self.by_free.iter().filter_map(|(_, node)| Some((*node, self.rooms.get(node)?)));
        let wished = wish.and_then(|node| Some((node, self.rooms.get(&node)?)));
        if let Some((node, _)) = wished.filter(|(node, room)| fits(*node, room, false)) {
            return Some(node);
        }
        let free = || in_order().filter(|(node, room)| fits(*node, room, false));
        let prepared = free().find(|(node, _)| view.is_prepared(job, *node));
        let other = || match view.pool.fill_type {
            FillType::Spread => free().next(),
            FillType::Pack => free().min_by_key(|(node, room)| (room.free, *node)),
        };
        let queued = || in_order().find(|(node, room)| fits(*node, room, true));
        prepared.or_else(other).or_else(queued).map(|(node, _)| node)
    }
}

//! What each shard of a pass is made from.

use std::rc::Rc;
use std::sync::Arc;

use super::FsMaker;
use super::hands::{HandsOptions, LaneHands};
use crate::model::chunks::Chunks;
use crate::model::{Instruments, Meter};
use crate::monitor::Latencies;
use crate::shard::{self, Inbox, Node, Shard, Shared};
use crate::transfer::{Lane, LaneGear, LaneOptions, LargeFiles, Written};

/// What each shard is made from, on its own executor.
#[derive(Clone)]
pub(super) struct Crew {
    pub(super) shared: Arc<Shared>,
    pub(super) inboxes: Vec<Inbox>,
    pub(super) root: Arc<Node>,
    pub(super) hands: HandsOptions,
    pub(super) lane: LaneOptions,
    pub(super) written: Written,
    pub(super) large: Arc<LargeFiles>,
    pub(super) fs: FsMaker,
    pub(super) files_max: usize,
    pub(super) latencies: Option<Arc<Latencies>>,
    pub(super) seed: u64,
    pub(super) chunks: Option<Arc<dyn Chunks>>,
}

impl Crew {
    /// Sets up a shard and runs it to the end. The first shard begins with the root.
    pub(super) async fn run(self, id: usize) -> Result<(), String> {
        let meter = self
            .latencies
            .map(|all| -> Rc<dyn Meter> { Rc::new(all.recorder(id)) });
        let instruments = Instruments::new(self.shared.tallies.clone(), id, meter);
        let (source, dest) = (self.fs)(&instruments)?;
        let seed = self.seed.wrapping_add((id as u64) << 32);
        let cancel = self.shared.cancel.clone();
        let lane = Lane::new(
            source.clone(),
            dest.clone(),
            self.lane,
            LaneGear {
                cancel,
                written: self.written,
                large: self.large,
                instruments: instruments.clone(),
                coordinator: self.shared.coordinator.clone(),
                files_max: self.files_max,
                seed,
                chunks: self.chunks,
            },
        );
        let hands = Rc::new(LaneHands {
            lane,
            options: self.hands,
        });
        let shard = Shard::new(id, self.shared, source, dest, hands, instruments);
        let root = (id == 0).then_some(self.root);
        shard::run(shard, self.inboxes[id].clone(), root).await;
        Ok(())
    }
}

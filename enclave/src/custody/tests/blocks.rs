//! Blocks that come in an unusual way: two of one epoch, and many that nobody signed.

use holdfast_shared::block::{self, BlockOverlay};

use super::*;

impl World {
    /// An overlay of epoch 1 at one custodian.
    pub(super) fn block_keys_at(
        &self,
        place: usize,
        keys: &[&str],
        administrator: &holdfast_shared::signature::SigningKey,
    ) {
        let overlay = BlockOverlay {
            label: labels::BLOCK.to_owned(),
            key_store_id: self.id,
            epoch: 1,
            store: false,
            keys: keys.iter().map(|key| ExternalKeyId::parse(key).unwrap()).collect(),
            issued_ms: 0,
        };
        let signed = bytes_of(&block::sign(&overlay, administrator, &SystemRandom::new()).unwrap());
        self.custodians[place].change(|state| {
            state.signed_overlay = Some(signed);
            state.overlay = Some(overlay);
        });
    }

    fn blocks(&self, key: &str) -> bool {
        self.served.blocks_key(&ExternalKeyId::parse(key).unwrap())
    }
}

#[tokio::test(start_paused = true)]
async fn two_overlays_of_one_epoch_are_both_in_force() {
    let world = World::start_quorum((3, 2, 0), |_| {}).serving().await;
    world.block_keys_at(1, &["a", "c"], &world.administrators[0].signing);
    world.until("a is blocked", |world| world.blocks("a")).await;
    world.block_keys_at(2, &["b", "c"], &world.administrators[0].signing);
    let both = |world: &World| world.blocks("a") && world.blocks("b") && world.blocks("c");
    world.until("both are blocked", both).await;
    world.reboot().await.until("both are blocked after a boot", both).await;
}

#[tokio::test(start_paused = true)]
async fn an_overlay_that_nobody_signed_delays_no_other() {
    let world = World::start_quorum((3, 2, 0), |_| {}).serving().await;
    let stranger = signing_key();
    world.block_keys_at(1, &["a"], &stranger);
    world.block_keys_at(2, &["b"], &world.administrators[0].signing);
    world.until("b is blocked", |world| world.blocks("b")).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(!world.blocks("a"));
}

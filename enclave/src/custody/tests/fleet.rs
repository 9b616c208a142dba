//! Key stores that leave together.

use holdfast_link::Address;
use holdfast_link::control::SignedManifest;
use holdfast_shared::audit::Terms;
use holdfast_shared::ids::BlobId;

use super::*;
use crate::audit::{NextSegment, Readers, VersionInService};
use crate::fleet::Fleet;

/// The parent stores nothing of their logs: each would wait for that by itself.
#[tokio::test(start_paused = true)]
async fn key_stores_that_leave_wait_for_their_logs_side_by_side() {
    let world = World::start();
    let manifests: Vec<_> =
        (0..8).map(|_| World::signed_manifest(&world.custodians[..1], (1, 1, 0), &world.administrators)).collect();
    let directory = tempfile::tempdir().unwrap();
    let nobody = Address::unix(&directory.path().join("nobody")).unwrap();
    let roster = Arc::new(Roster::new(Arc::clone(&world.directory), world.reporter.clone(), Authorities::default()));
    let mut fleet = Fleet::new(Arc::clone(&world.enclave), roster, Regions::Any, nobody);
    let list: Vec<_> = manifests.iter().map(|bytes| SignedManifest::new(bytes.clone()).unwrap()).collect();
    fleet.follow(&list).await;
    for bytes in &manifests {
        let log = world.enclave.audit.of(VerifiedManifest::verify(bytes).unwrap().id()).unwrap();
        let readers = Readers::of(None, &[world.administrators[0].public.clone()]);
        let drawn = Secret::take(&mut random());
        let next = NextSegment::seal(drawn, (&log.id(), 0), readers, Terms::of(None)).unwrap();
        let version = VersionInService { version: 1, blob_id: BlobId([1; 32]), executed: Vec::new(), settings: None };
        log.enter(&version, Some(next), Vec::new, Vec::new).unwrap();
    }
    let before = tokio::time::Instant::now();
    fleet.follow(&[]).await;
    // By Tokio's clock, which stands still while anything is done.
    assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
}

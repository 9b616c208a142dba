//! What enclaves publish by a standing order to renew the certificate, and when they stop.

use holdfast_link::control::ToParent;
use holdfast_shared::keystore::AcmeOrder;
use holdfast_shared::limits::RENEWAL_PAUSE_MS;
use holdfast_shared::manifest::DerCertificate;

use super::*;

/// Nobody is at the directory's address.
fn order(until_ms: u64) -> Action {
    let root = rcgen::CertificateParams::default().self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
    let root = DerCertificate(root.der().to_vec());
    let order = AcmeOrder {
        directory: "https://ca.test/directory".to_owned(),
        directory_roots: vec![root.clone()],
        contacts: vec![],
        until_ms,
        issuing_roots: vec![root],
    };
    Action::SetRenewal { order: Some(order) }
}

/// The next try was due before the end: after the end it is not made up for.
#[tokio::test(start_paused = true)]
async fn after_the_end_of_a_standing_order_no_version_is_made_for_it() {
    let pause_ms = *RENEWAL_PAUSE_MS.start();
    let world = World::start().serving().await;
    world.done(world.order(0, order(NOW_MS + 2 * pause_ms))).await;
    // The order, a claim, a failure.
    world.until("a failure", |world| world.report().version == Some(4)).await;
    world.clock.advance_ms(3 * pause_ms);
    for (name, version) in [("a", 5), ("b", 6)] {
        // Before each command it is looked whether the certificate is due.
        world.done(world.create(name)).await;
        world.until("the command's version", |world| world.report().version >= Some(version)).await;
        assert_eq!(world.report().version, Some(version));
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_attempt_is_made_again_after_its_pause() {
    let pause_ms = *RENEWAL_PAUSE_MS.start();
    let world = World::start().serving().await;
    world.done(world.order(0, order(NOW_MS + 100 * pause_ms))).await;
    world.until("a failure", |world| world.report().version == Some(4)).await;
    world.done(world.create("a")).await;
    world.until("nothing but the command", |world| world.report().version == Some(5)).await;
    world.clock.advance_ms(pause_ms);
    world.until("another claim and failure", |world| world.report().version == Some(7)).await;
}

/// What the log said of the certificate's renewal since the last look.
fn lines_about_renewals(world: &mut World) -> Vec<String> {
    let mut found = Vec::new();
    while let Ok(message) = world.lines.try_recv() {
        if let ToParent::Log { text, .. } = message
            && text.as_str().contains(": the certificate ")
        {
            found.push(text.as_str().to_owned());
        }
    }
    found
}

#[tokio::test(start_paused = true)]
async fn nothing_is_claimed_while_no_version_can_be_made() {
    let pause_ms = *RENEWAL_PAUSE_MS.start();
    let mut world = World::start_quorum((3, 2, 1), |_| {}).serving().await.settled().await;
    world.done(world.order(0, order(NOW_MS + 100 * pause_ms))).await;
    world.until("a failure", |world| world.report().version == Some(4)).await;
    world.clock.advance_ms(pause_ms - 50_000);
    world = world.serving().await.settled().await;
    world.away(&[1], true);
    // Its link must have noticed, before the pause is over.
    world.clock.advance_ms(30_000);
    world.reasoned("vault-1: ").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    lines_about_renewals(&mut world);
    world.clock.advance_ms(25_000);
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(lines_about_renewals(&mut world), Vec::<String>::new());
    assert_eq!(world.custodian.state().versions.len(), 4);
    world.away(&[1], false);
    world.until("it answers again", |world| !world.reason().contains("vault-1")).await;
    world.clock.advance_ms(10_000);
    world.until("a claim and a failure", |world| world.report().version == Some(6)).await;
    assert_eq!(lines_about_renewals(&mut world).len(), 2);
}

//! Several custodians for one key store.

use std::collections::BTreeSet;

use holdfast_tests::applicant::Applicant;
use holdfast_tests::system::{Options, System, static_configuration};

/// Each custodian that a manifest names takes it, and grants an accepted enclave a lease of its own.
#[tokio::test(flavor = "multi_thread")]
async fn each_custodian_of_a_manifest_grants_a_lease_of_its_own() {
    let options = Options { custodians: 3, shares_needed: 2, hostile_tolerated: 1, ..Options::default() };
    let system = System::enrolled(options).await;
    let manifest = system.manifest.manifest();
    let names: Vec<_> = manifest.custodians.iter().map(|custodian| custodian.name.as_str()).collect();
    assert_eq!(names, ["custodian", "custodian-2", "custodian-3"]);
    let mut applicant = Applicant::boot(&system.nsm_socket(), Some(&static_configuration()));
    let mut leases = BTreeSet::new();
    for custodian in &manifest.custodians {
        leases.insert(applicant.obtain(custodian, system.key_store_id()).await.unwrap().content.lease_id);
    }
    assert_eq!(leases.len(), 3);
    system.assert_no_panic();
}

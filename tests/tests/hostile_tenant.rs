//! Tenants whose custodians, blobs and manifests are made to harm: a good tenant notices nothing.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use holdfast_tests::hostile::{HostileTenant, MANNERS, Manner};
use holdfast_tests::interceptor::{Deed, Half, Rule};
use holdfast_tests::load::{Load, Mode};
use holdfast_tests::random::{Random, fresh_seed};
use holdfast_tests::system::{Front, KEY, Options, System, TenantOptions};
use holdfast_tests::wait::until;

const CLIENTS: [Mode; 3] = [Mode::Http1, Mode::Http2, Mode::Fresh];

/// Generous against an enclave in an unoptimised build, and far below what its hostile tenants sent it.
const MEMORY_MAX_KIB: u64 = 512 * 1024;

/// Resident memory of the enclave, at its highest.
fn peak_kib(system: &System) -> u64 {
    let id = system.enclave.as_ref().unwrap().id();
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

async fn take_on(system: &mut System, tenants: &[HostileTenant]) {
    for (number, tenant) in tenants.iter().enumerate() {
        system.allow_now(&tenant.address());
        let place = system.layout.path(&format!("parent/key-stores/hostile-{number}.manifest"));
        std::fs::write(place, &tenant.signed).unwrap();
    }
    for tenant in tenants {
        until(&format!("{:?} is asked", tenant.manner), || async { (tenant.asked() > 0).then_some(()) }).await;
    }
}

/// What a good tenant does all day, while something else goes on: its commands end, its blocks work, its lease is renewed.
async fn a_good_day(system: &System, load: &Load, round: usize) {
    let name = format!("made-{round}");
    system.order(&["key", "create", &name]);
    load.goes_on(10).await;
    system.order(&["block", "--key", &name]);
    system.order(&["unblock", "--key", &name]);
    system.order(&["key", "disable", &name]);
    load.goes_on(10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_custodian_does_the_others_are_served() {
    let mut system = System::start(Options { lease: "10s", provable: true, ..Options::default() }).await;
    let load = Load::start("the good tenant", &system.caller(), KEY, &CLIENTS);
    let mut tenants = Vec::new();
    for manner in MANNERS {
        for number in 0..3 {
            // One of each claims the good tenant's own host name.
            let host =
                if number == 0 { "localhost".to_owned() } else { format!("h{number}.{manner:?}.test").to_lowercase() };
            tenants.push(HostileTenant::start(manner, &host).await);
        }
    }
    take_on(&mut system, &tenants).await;
    for round in 0..3 {
        a_good_day(&system, &load, round).await;
    }
    // A third of the lease has passed by now, or passes here.
    system.logged("custodian", "").await;
    for tenant in tenants.iter().filter(|tenant| tenant.manner == Manner::Reset) {
        until("another try", || async { (tenant.asked() > 1).then_some(()) }).await;
    }
    for tenant in &tenants {
        let (state, _) = system.reported(tenant.manifest.id()).await.unwrap();
        assert_ne!(state, "Serving", "{:?}", tenant.manner);
    }
    let (state, _) = system.reported(system.key_store_id()).await.unwrap();
    assert_eq!(state, "Serving");
    let peak = peak_kib(&system);
    println!("{} requests, none failed; the enclave took {peak} KiB at most", load.finish().await);
    assert!(peak < MEMORY_MAX_KIB, "{peak} KiB");
    system.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_a_custodian_that_serves_and_then_distorts_harms_itself_alone() {
    let mut system = System::start(Options::default()).await;
    let hostile = TenantOptions { intercepted: true, lease: "10s", ..TenantOptions::new("mallory") };
    let mallory = system.add_tenant(hostile).await;
    let load = Load::start("the good tenant", &system.caller(), KEY, &CLIENTS);
    let Front::Interceptor(interceptor) = &mallory.custodian.as_ref().unwrap().front else { unreachable!() };
    let seed = fresh_seed();
    println!("seed {seed}");
    let mut random = Random::seeded(seed);
    let paths = ["/v1/challenge", "/v1/release", "/v1/channel"];
    for round in 0..4 {
        let mut rules: Vec<_> = (0..6).map(|_| Rule::random(&mut random, &paths)).collect();
        rules.push(Rule {
            path: paths[2],
            nth: None,
            half: Half::Answer,
            deed: Deed::Instead(vec![0x9f; 6 * 1024 * 1024]),
        });
        interceptor.set_rules(rules);
        a_good_day(&system, &load, round).await;
    }
    interceptor.set_rules(Vec::new());
    mallory.caller.serving().await;
    println!("{} requests, none failed; {} KiB at most", load.finish().await, peak_kib(&system));
    assert!(peak_kib(&system) < MEMORY_MAX_KIB);
    system.assert_no_panic();
}

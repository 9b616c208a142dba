//! The parent's memory, files and sockets hold no key, no secret and no plaintext, during traffic; nor does any log.
//!
//! The needles are the real ones: the test obtains the root key and the sealed key store as an accepted enclave does. Every
//! search is paired with one that finds: without that, an empty result would show nothing.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use holdfast_shared::channel::{Ask, Reply};
use holdfast_shared::{keystore, register};
use holdfast_tests::applicant::Applicant;
use holdfast_tests::memory::{Needle, Needles, forms};
use holdfast_tests::random::random_bytes;
use holdfast_tests::system::{Encrypted, KEY, Options, System, static_configuration};
use http::StatusCode;

/// Everything secret that the system holds.
struct Secrets {
    needles: Vec<Needle>,
}

impl Secrets {
    /// Obtains the root key under a lease of its own, and opens the newest version with it.
    async fn obtain(system: &System) -> Self {
        let custodian = system.home_custodian();
        let mut applicant = Applicant::boot(&system.nsm_socket(), Some(&static_configuration()));
        let mut lease = applicant.obtain(&custodian, system.key_store_id()).await.unwrap();
        let signed = lease.content.register.clone().unwrap().signed;
        let entry = register::open(&signed, system.key_store_id(), &custodian.signing_key).unwrap();
        let Reply::Blob { blob, .. } = lease.ask(&Ask::Fetch { blob_id: entry.blob_id }).await.unwrap() else {
            panic!("no blob")
        };
        let root = lease.content.shares.last().unwrap().share.value.duplicate();
        let body = keystore::open(&root, &entry, &blob).unwrap().body;
        let mut needles = forms("root key", root.expose());
        for key in &body.external_keys {
            for version in &key.versions {
                needles.extend(forms(&format!("external key {}", key.id), version.material.as_ref().unwrap().expose()));
            }
        }
        for credential in &body.credentials {
            needles.extend(forms("secret access key", credential.secret_access_key.expose()));
        }
        let pkcs8 = body.tls.private_key.expose();
        needles.extend(forms("TLS key, PKCS #8", pkcs8));
        needles.extend(forms("TLS key", private_scalar(pkcs8)));
        Self { needles }
    }
}

/// The 32 bytes of a P-256 private key: the first octet string of that length in its PKCS #8 form (RFC 5915).
fn private_scalar(pkcs8: &[u8]) -> &[u8] {
    let start = pkcs8.windows(2).position(|pair| pair == [0x04, 0x20]).unwrap();
    pkcs8.get(start + 2..start + 34).unwrap()
}

/// Traffic with one plaintext, until it is stopped.
struct Traffic {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Traffic {
    fn start(system: &System, plaintext: [u8; 48]) -> Self {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (client, stopping, counting) = (system.client(), Arc::clone(&stop), Arc::clone(&rounds));
        let task = tokio::spawn(async move {
            while !stopping.load(Ordering::SeqCst) {
                let encrypted = client.encrypt(KEY, &plaintext, None).await.unwrap();
                let decrypted = client.decrypt(KEY, &encrypted.body, None).await.unwrap();
                assert_eq!(decrypted.status, StatusCode::OK, "{}", decrypted.body);
                counting.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { stop, rounds, task }
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.unwrap();
    }
}

fn nothing(place: &str, found: &BTreeSet<String>) {
    assert!(found.is_empty(), "{place}: {found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parent_holds_nothing_secret() {
    let system = System::start(Options { taps: true, ..Options::default() }).await;
    let plaintext = random_bytes::<48>();
    let secrets = Secrets::obtain(&system).await;
    let needles = Needles::new([secrets.needles, forms("plaintext", &plaintext)].concat());
    let parent = system.parent.as_ref().unwrap().id();
    let enclave = system.enclave.as_ref().unwrap().id();

    let traffic = Traffic::start(&system, plaintext);
    let mut in_enclave = BTreeSet::new();
    for look in 0..3 {
        let before = traffic.rounds.load(Ordering::SeqCst);
        nothing(&format!("the parent's memory, look {look}"), &needles.found_in_process(parent));
        in_enclave.extend(needles.found_in_process(enclave));
        assert!(traffic.rounds.load(Ordering::SeqCst) > before, "there was no traffic during the look");
    }
    // Work that brings secrets into motion: commands, a new version, another release.
    system.order(&["key", "create", "another"]);
    system.order(&["credential", "create"]);
    nothing("the parent's memory after commands", &needles.found_in_process(parent));
    traffic.stop().await;

    for name in ["environ", "cmdline"] {
        nothing(name, &needles.found_in(&std::fs::read(format!("/proc/{parent}/{name}")).unwrap()));
    }
    nothing("the parent's files", &needles.found_in_files(&system.layout.path("parent")));
    nothing("the logs", &needles.found_in_files(&system.layout.path("logs")));
    nothing("the emulated NSM's files", &needles.found_in_files(&system.layout.path("nsm")));
    nothing("the custodian's files", &needles.found_in_files(&system.layout.path("custodian")));
    sockets(&system, &needles);
    that_searches_find(&system, &needles, &in_enclave, parent);
}

/// Everything that went over the parent's sockets.
fn sockets(system: &System, needles: &Needles) {
    let taps = system.taps.as_ref().unwrap();
    let hops = [
        ("control", taps.control.recorded()),
        ("egress", taps.egress.recorded()),
        ("ingress", taps.ingress.recorded()),
        ("custodian", system.custodian_tap().recorded()),
    ];
    for (hop, recorded) in hops {
        let total: usize = recorded.iter().map(|both| both.to_server.len() + both.to_client.len()).sum();
        eprintln!("{hop}: {} connections, {total} bytes", recorded.len());
        assert!(total > 2000, "{hop}: only {total} bytes were recorded");
        for both in &recorded {
            nothing(hop, &needles.found_in(&both.to_server));
            nothing(hop, &needles.found_in(&both.to_client));
        }
    }
}

/// The same searches find what is there.
fn that_searches_find(system: &System, needles: &Needles, in_enclave: &BTreeSet<String>, parent: u32) {
    eprintln!("in the enclave's memory: {in_enclave:?}");
    for name in ["root key (raw)", "secret access key (raw)"] {
        assert!(in_enclave.contains(name), "the enclave holds the {name}, and the search does not find it");
    }
    assert!(in_enclave.iter().any(|name| name.starts_with("plaintext")), "{in_enclave:?}");
    let own = needles.found_in_process(std::process::id());
    for name in ["root key (raw)", "plaintext (base64)", "TLS key, PKCS #8 (raw)", "external key both (raw)"] {
        assert!(own.contains(name), "the test holds the {name}, and the search does not find it: {own:?}");
    }
    // What the parent does hold: names and ids.
    let id = system.key_store_id();
    let public = Needles::new(forms("key store id", id.as_bytes()));
    assert!(!public.found_in_process(parent).is_empty(), "the parent knows the key store's id");
    let manifest = Needles::new(vec![forms("manifest", system.manifest.signed_bytes()).swap_remove(4)]);
    let control = system.taps.as_ref().unwrap().control.recorded();
    assert!(
        control.iter().any(|both| !manifest.found_in(&both.to_client).is_empty()),
        "the manifest went over control"
    );
}

/// A parent that dumps core, swaps or is debugged shows no more than its memory; the files of a whole life show no more either.
#[tokio::test(flavor = "multi_thread")]
async fn a_whole_life_leaves_nothing_secret_behind() {
    let mut system = System::start(Options { taps: true, ..Options::default() }).await;
    let secrets = Secrets::obtain(&system).await;
    let messages: Vec<Encrypted> = vec![system.round_trip(KEY).await, system.round_trip(KEY).await];
    system.order(&["block", "--store"]);
    system.order(&["unblock", "--store"]);
    system.start_enclave().await;
    system.serving().await;
    system.custodian.kill();
    system.custodian.start().await;
    for message in &messages {
        system.decrypt(message).await;
    }
    let plaintexts = messages.iter().flat_map(|message| forms("plaintext", &message.plaintext));
    let needles = Needles::new(secrets.needles.into_iter().chain(plaintexts).collect());
    nothing("the parent's memory", &needles.found_in_process(system.parent.as_ref().unwrap().id()));
    drop(system.parent.take());
    drop(system.enclave.take());
    drop(system.custodian.process.take());
    for folder in ["parent", "logs", "custodian", "nsm", "tls"] {
        nothing(folder, &needles.found_in_files(&system.layout.path(folder)));
    }
    sockets(&system, &needles);
}

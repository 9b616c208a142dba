//! The real image in virtual machines whose hypervisor measures it (`scripts/boot-test`): the program is process 1 there, with
//! `/dev/nsm`, vsock and a kernel of its own, and nothing of it is a double. What a test stands in for is the hypervisor's
//! side: the signature of the documents, under a root that the custodian's configuration names.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::path::Path;
use std::sync::{Arc, Mutex};

use holdfast_eif::image::Image as ImageFile;
use holdfast_eif::registers::Registers;
use holdfast_eif::signature::Signer as ImageSigner;
use holdfast_shared::attestation::{ParseError, ParsedDocument};
use holdfast_tests::system::{AAD, Image, KEY, Options, Signer, System};
use holdfast_tests::wait::{DEADLINE, until};
use http::StatusCode;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

fn booted() -> Options {
    Options { image: Some(Image::built()), ..Options::default() }
}

/// A variant of the built image, as a file of the test.
fn variant(system: &System, name: &str, change: impl FnOnce(&mut ImageFile)) -> Image {
    let built = Image::built();
    let mut image = ImageFile::parse(&std::fs::read(&built.file).unwrap()).unwrap();
    change(&mut image);
    let file = system.layout.path(&format!("{name}.eif"));
    std::fs::write(&file, image.to_bytes()).unwrap();
    Image { file, ..built }
}

/// The console speaks of no panic and no oops, and ends with why the machine ended.
fn console_ends_with(system: &System, last: &str) {
    let console = std::fs::read_to_string(system.layout.log("console")).unwrap();
    let last_line = console.lines().rev().find(|line| line.starts_with("holdfast-enclave: "));
    assert!(last_line.is_some_and(|line| line.contains(last)), "expected {last:?} at the end of:\n{console}");
    assert!(!console.contains("Kernel panic") && !console.contains("Oops"), "{console}");
}

/// The machine has ended by itself.
fn ended(system: &mut System) {
    let status = system.enclave.as_mut().unwrap().wait(DEADLINE);
    assert!(status.is_some_and(|status| status.success()), "the machine ends: {status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn boot_the_image_serves_through_every_restart_and_ends_in_order() {
    let mut system = System::start(booted()).await;
    let encrypted = system.round_trip(KEY).await;
    let boot = ["configuration measured, clock anchored to the NSM and counted by", "randomness from nsm-hwrng"];
    system.logged_after("parent", 0, &boot).await;

    system.custodian.kill();
    system.decrypt(&encrypted).await;
    system.custodian.start().await;
    // A parent that is told to end tells the enclave; one that is killed leaves it to the next.
    system.parent.take().unwrap().kill();
    system.start_parent().await;
    system.serving().await;
    system.decrypt(&encrypted).await;
    // Power is cut; the next boot is another enclave of the same image, and unseals what was there.
    system.start_enclave().await;
    system.serving().await;
    system.decrypt(&encrypted).await;

    system.order(&["block", "--store"]);
    until("the block is seen", || async {
        let answer = system.client().decrypt(KEY, &encrypted.body, Some(AAD)).await.unwrap();
        (answer.text("errorName") == Some("InvalidStateException")).then_some(())
    })
    .await;
    system.order(&["unblock", "--store"]);
    until("the block is lifted", || async {
        let answer = system.client().decrypt(KEY, &encrypted.body, Some(AAD)).await.unwrap();
        (answer.status == StatusCode::OK).then_some(())
    })
    .await;
    system.round_trip(KEY).await;

    // Policies are evaluated there: what they permit is served, and what they do not is not.
    for (account, status) in [("123456789012", StatusCode::OK), ("999999999999", StatusCode::FORBIDDEN)] {
        system.order(&["policy", "set", "--preset", "account-only", "--account", account]);
        until("the policy is in force", || async {
            let shown = system.order(&["policy", "show"])["policy"].to_string();
            let answer = system.client().decrypt(KEY, &encrypted.body, Some(AAD)).await.unwrap();
            (shown.contains(account) && answer.status == status).then_some(())
        })
        .await;
    }

    let secret = system.credential.secret_access_key.clone();
    system.parent.take().unwrap().terminate();
    ended(&mut system);
    console_ends_with(&system, "drained");
    let console = std::fs::read_to_string(system.layout.log("console")).unwrap();
    assert!(!console.contains(&secret), "the console shows no secret");
    system.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn boot_an_image_with_one_byte_changed_gets_nothing() {
    let mut system = System::enrolled(booted()).await;
    let untouched = Registers::of(&ImageFile::parse(&std::fs::read(Image::built().file).unwrap()).unwrap()).unwrap();
    let in_the_command_line = variant(&system, "command-line", |image| {
        image.command_line = image.command_line.replace("loglevel=4", "loglevel=5");
    });
    let in_the_program = variant(&system, "program", |image| {
        // A letter of a message that says nothing here.
        let program = image.ramdisks.last_mut().unwrap();
        let text = b"runs in a Nitro Enclave only";
        let at = program.windows(text.len()).position(|window| window == text).unwrap();
        program[at] = b'R';
    });
    for changed in [in_the_command_line, in_the_program] {
        let measured = Registers::of(&ImageFile::parse(&std::fs::read(&changed.file).unwrap()).unwrap()).unwrap();
        assert_ne!(measured.pcr0, untouched.pcr0);
        system.surroundings.as_mut().unwrap().set_image(changed);
        let start = system.log_length("parent");
        system.start_enclave().await;
        system.logged_after("parent", start, &["Refused", "measurements"]).await;
    }
    system.surroundings.as_mut().unwrap().set_image(Image::built());
    system.start_enclave().await;
    system.prepare().await;
    system.round_trip(KEY).await;

    // Without a new checksum, the changed file is not even an image.
    let mut bytes = std::fs::read(Image::built().file).unwrap();
    let last = bytes.len() - 200;
    bytes[last] ^= 1;
    let file = system.layout.path("damaged.eif");
    std::fs::write(&file, bytes).unwrap();
    system.surroundings.as_mut().unwrap().set_image(Image { file, ..Image::built() });
    system.start_enclave().await;
    let status = system.enclave.as_mut().unwrap().wait(DEADLINE);
    assert!(status.is_some_and(|status| !status.success()), "{status:?}");
}

/// QEMU's documents as it makes them are taken by nobody: not by the enclave itself, and not by a verifier.
#[tokio::test(flavor = "multi_thread")]
async fn boot_unsigned_documents_are_refused() {
    let mut system = System::enrolled(booted()).await;
    system.surroundings.as_mut().unwrap().set_signer(Signer::Nobody);
    system.start_enclave().await;
    system.logged("parent", "not serving: boot failed: the NSM's document cannot be read").await;
    ended(&mut system);
    console_ends_with(&system, "the NSM's document cannot be read");

    let seen = Arc::new(Mutex::new(Vec::new()));
    let socket = system.layout.path("seen.sock");
    let passing = tokio::spawn(pass_on(UnixListener::bind(&socket).unwrap(), Arc::clone(&seen)));
    system.surroundings.as_mut().unwrap().set_signer(Signer::At(socket));
    system.start_enclave().await;
    ended(&mut system);
    passing.abort();
    let seen = seen.lock().unwrap();
    assert!(!seen.is_empty());
    for document in seen.iter() {
        assert_eq!(document[document.len() - 64..], [0; 64], "the signature of a machine that signs nothing");
        let refused = ParsedDocument::parse(document).unwrap_err();
        assert!(matches!(refused, ParseError::ProtectedHeader), "{refused:?}");
    }
}

/// Gives every document back as it came, and keeps a copy.
async fn pass_on(listener: UnixListener, seen: Arc<Mutex<Vec<Vec<u8>>>>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let length = stream.read_u32().await.unwrap();
        let mut document = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut document).await.unwrap();
        stream.write_u32(length).await.unwrap();
        stream.write_all(&document).await.unwrap();
        seen.lock().unwrap().push(document);
    }
}

/// The hypervisor computes the same PCR 8 of a signed image as we do, or the policy would refuse it.
#[tokio::test(flavor = "multi_thread")]
async fn boot_a_signed_image_shows_its_certificate_in_pcr_8() {
    let mut system = System::enrolled(booted()).await;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let certificate =
        CertificateParams::new(vec!["image.holdfast.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    let signing = ImageSigner::new(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap();
    let signed = variant(&system, "signed", |image| {
        image.signature = Some(signing.sign(&Registers::of(image).unwrap().pcr0).unwrap());
    });
    let registers = Registers::of(&ImageFile::parse(&std::fs::read(&signed.file).unwrap()).unwrap()).unwrap();
    let mut described = serde_json::to_value(signed.described()).unwrap();
    described["pcr8"] = json!(hex::encode(registers.pcr8.unwrap()));
    let measurements = system.layout.path("signed.json");
    std::fs::write(&measurements, described.to_string()).unwrap();
    let (file, configuration) = (text(&measurements), text(&system.layout.path("parent/static.json")));
    // From now on this image alone, with the certificate in PCR 8.
    system.order(&["release-policy", "set", "--measurements", &file, "--configuration", &configuration]);

    let start = system.log_length("parent");
    system.start_enclave().await;
    system.logged_after("parent", start, &["Refused", "measurements"]).await;
    system.surroundings.as_mut().unwrap().set_image(signed);
    system.start_enclave().await;
    system.prepare().await;
    system.round_trip(KEY).await;
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Whoever answers the heartbeat otherwise is not Nitro's side of an enclave.
#[tokio::test(flavor = "multi_thread")]
async fn boot_a_wrong_heartbeat_ends_the_machine() {
    let mut system = System::enrolled(Options { heartbeat: 0x00, ..booted() }).await;
    system.start_enclave().await;
    ended(&mut system);
    console_ends_with(&system, "heartbeat: the parent answered 0x00");
}

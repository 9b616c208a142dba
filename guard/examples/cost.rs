//! What a decision costs: `cargo run --release -p holdfast-guard --example cost`.
//!
//! Figures of the machine and the run; ADR 0025 has those of one.

#![expect(clippy::print_stdout, reason = "it prints figures")]

use std::time::Instant;

use holdfast_guard::{Attributes, Policy, Preset, PresetSettings};
use holdfast_shared::limits::{
    USE_POLICY_COMMAS_MAX, USE_POLICY_LIKES_MAX, USE_POLICY_MAX, USE_POLICY_PATTERN_MAX, USE_POLICY_PATTERNS_MAX,
    USE_POLICY_PRINCIPAL_MAX,
};
use holdfast_shared::xks::Operation;

/// Copies that memory is measured with.
const COPIES: u64 = 16;
/// Decisions in one figure.
const ROUNDS: u32 = 20_000;

fn request(principal: &str) -> Attributes<'_> {
    Attributes {
        operation: Operation::Decrypt,
        external_key_id: "payments-1",
        principal,
        kms_operation: "Decrypt",
        kms_key_arn: Some("arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"),
        via_service: Some("ebs"),
        source_vpc: None,
        source_vpce: None,
        access_key_id: "AAAAABBBBBCCCCCDDDDD",
        time_ms: 1_795_429_800_000,
    }
}

/// Memory of this process that is in use (proc(5), `statm`), in pages of 4 KiB.
fn resident_kib() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or_default() * 4
}

fn measure(name: &str, text: &str, principal: &str, rounds: u32) {
    let before = Instant::now();
    let policy = match Policy::parse(text) {
        Ok(policy) => policy,
        Err(invalid) => return println!("{name:<44} refused: {invalid}"),
    };
    let parsed = before.elapsed();
    let before_kib = resident_kib();
    let copies: Vec<_> = (0..COPIES).map(|_| Policy::parse(text)).collect();
    let kib = resident_kib().saturating_sub(before_kib) / COPIES;
    drop(copies);
    let request = request(principal);
    let before = Instant::now();
    let permitted = (0..rounds).filter(|_| policy.decide(&request).is_permitted()).count();
    let each = before.elapsed() / rounds.max(1);
    println!(
        "{name:<44} parse {parsed:>10.1?}  {kib:>6} KiB  decide {each:>10.1?}  ({permitted} of {rounds} permitted)"
    );
}

fn main() {
    let role = "arn:aws:iam::123456789012:role/payments-eu-writer";
    let settings = PresetSettings { regions: vec!["eu-central-1".to_owned()], ..PresetSettings::default() };
    if let Ok(text) = Preset::RegionPin.text(&settings) {
        measure("preset region-pin", &text, role, ROUNDS);
    }
    let roles = |count: usize| -> String {
        let one = |number| {
            format!(
                "permit (principal, action, resource == Holdfast::Key::\"key-{number}\") when {{ principal has roleName && \
                 principal.roleName like \"team-{number}-*\" }};\n"
            )
        };
        (0..count).map(one).collect()
    };
    for count in [10, 100, 256] {
        measure(&format!("{count} policies, one key and one pattern each"), &roles(count), role, ROUNDS / 20);
    }
    let arns: Vec<_> =
        (0..700).map(|number| format!("\"arn:aws:iam::123456789012:role/team-{number:04}/payments\"")).collect();
    let set = format!("permit (principal, action, resource) when {{ [{}].contains(principal.arn) }};", arns.join(", "));
    measure("a set of 700 roles", &set, role, ROUNDS / 20);

    // The worst that passes the bounds.
    let long = format!("arn:aws:iam::123456789012:role/{}", "a".repeat(USE_POLICY_PRINCIPAL_MAX - 31));
    let pattern = format!("*{}b", "a".repeat(USE_POLICY_PATTERN_MAX - 2));
    let like = |count: usize, pattern: &str| {
        format!("permit (principal, action, resource) when {{ principal.arn like \"{pattern}\" }};\n").repeat(count)
    };
    measure(
        "longest ARN, longest patterns",
        &like(USE_POLICY_PATTERNS_MAX / USE_POLICY_PATTERN_MAX, &pattern),
        &long,
        100,
    );
    let alternatives = vec!["principal.arn like \"*b\""; USE_POLICY_LIKES_MAX / 4].join(" || ");
    let many = format!("permit (principal, action, resource) when {{ {alternatives} }};\n").repeat(4);
    measure("longest ARN, as many short patterns as there may be", &many, &long, 100);
    let sums = format!("forbid (principal, action, resource) when {{ {}0 > 1 }};\n", "0 + ".repeat(500));
    measure("64 KiB of sums", &sums.repeat(USE_POLICY_MAX / sums.len()), role, 100);
    let sets = format!(
        "forbid (principal, action, resource) when {{ [{0}].containsAll([{0}]) && context.hour > 24 }};\n",
        (0..2_000).map(|number| number.to_string()).collect::<Vec<_>>().join(",")
    );
    let words = format!(
        "forbid (principal, action, resource) when {{ [{}].contains(context.hour) }};\n",
        vec!["1"; USE_POLICY_COMMAS_MAX].join(",")
    );
    measure("a set of as many numbers as there may be", &words, role, 100);
    let comparisons = vec!["a<1"; 170].join("||").replace('a', "context.hour");
    let compared = format!("forbid(principal,action,resource)when{{{comparisons}}};");
    measure("64 KiB of comparisons", &compared.repeat(USE_POLICY_MAX / compared.len()), role, 100);
    measure("two sets of 2,000 numbers", &sets, role, 100);
}

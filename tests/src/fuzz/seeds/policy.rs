//! Policies of use.

use holdfast_guard::{Preset, PresetSettings};

use super::Seeds;

/// One that asks about everything.
const FULL: &str = r#"@id("full") // with everything that there is
permit (principal is Holdfast::Principal, action in [Holdfast::Action::"Encrypt", Holdfast::Action::"Decrypt"],
        resource == Holdfast::Key::"payments-1")
when {
    if principal has roleName then principal.roleName like "*r\\*it*" || principal.roleName == "Writer"
    else (principal.kind == "service" && ["ec2.amazonaws.com"].contains(principal.arn))
}
when { context.hour * 2 - 1 >= 0 && !(context.weekday == 7) }
unless { context has viaService && {a: context.viaService} == {a: "s3"} };
"#;

pub(super) fn policies(seeds: &mut Seeds) {
    let all = "permit(principal, action, resource);";
    seeds.add("use_policy", "all", all);
    seeds.add("use_policy", "full", FULL);
    seeds.add("use_policy", "forbid", format!("{all} @id(\"no\") forbid(principal, action, resource);"));
    seeds.add(
        "use_policy",
        "overflow",
        "permit(principal, action, resource) when { context.hour + 9223372036854775807 > 0 };",
    );
    let text = |text: &str| vec![text.to_owned()];
    let settings = [
        PresetSettings { regions: text("eu-central-1"), ..PresetSettings::default() },
        PresetSettings { accounts: text("123456789012"), ..PresetSettings::default() },
        PresetSettings { services: text("ebs"), ..PresetSettings::default() },
        PresetSettings { hours: Some((8, 18)), ..PresetSettings::default() },
    ];
    for (preset, settings) in Preset::ALL.into_iter().zip(settings) {
        seeds.add("use_policy", preset.name(), preset.text(&settings).unwrap());
    }
    seeds.refuse("use_policy", "empty", "// nothing");
    seeds.refuse("use_policy", "template", "permit(principal == ?principal, action, resource);");
    seeds.refuse(
        "use_policy",
        "unknown-attribute",
        "permit(principal, action, resource) when { principal.name == \"a\" };",
    );
    seeds.refuse("use_policy", "unguarded", "permit(principal, action, resource) when { principal.account == \"a\" };");
    seeds.refuse("use_policy", "same-names", format!("@id(\"a\") {all} @id(\"a\") {all}"));
    seeds.refuse("use_policy", "deep", format!("permit(principal, action, resource) when {{ {}true", "(".repeat(40)));
    seeds.refuse("use_policy", "hidden-deep", format!("{all} // \"\n{}", "[".repeat(40)));
    seeds.refuse("use_policy", "open-string", "permit(principal, action, resource) when { \"\\\" };");
}

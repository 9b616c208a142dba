use holdfast_shared::limits::{
    USE_POLICIES_MAX, USE_POLICY_COMMAS_MAX, USE_POLICY_DEPTH_MAX, USE_POLICY_MAX, USE_POLICY_OPERATORS_MAX,
    USE_POLICY_PRINCIPAL_MAX,
};
use holdfast_shared::xks::Operation;
use proptest::prelude::*;

use super::*;

const KEY_ARN: &str = "arn:aws:kms:eu-central-1:123456789012:key/1";

const fn attributes(principal: &str) -> Attributes<'_> {
    Attributes {
        operation: Operation::Decrypt,
        external_key_id: "payments-1",
        principal,
        kms_operation: "Decrypt",
        kms_key_arn: Some(KEY_ARN),
        via_service: None,
        source_vpc: None,
        source_vpce: None,
        access_key_id: "AAAAABBBBBCCCCCDDDDD",
        time_ms: 0,
    }
}

const ALICE: Attributes<'_> = attributes("arn:aws:iam::123456789012:user/Alice");

fn decide(text: &str, attributes: &Attributes<'_>) -> (Ground, Option<String>) {
    let decision = Policy::parse(text).unwrap().decide(attributes);
    (decision.ground, decision.rule.map(|rule| rule.to_string()))
}

#[test]
fn permits_forbids_and_their_names() {
    use Ground::{Failed, Forbidden, NothingPermits, Permitted};
    let all = "permit(principal, action, resource);";
    let table: &[(String, Ground, Option<&str>)] = &[
        (all.to_owned(), Permitted, Some("policy0")),
        (format!("@id(\"all\") {all}"), Permitted, Some("all")),
        ("forbid(principal, action, resource);".to_owned(), Forbidden, Some("policy0")),
        (format!("{all} @id(\"never\") forbid(principal, action, resource);"), Forbidden, Some("never")),
        (format!("{all} @id(\"second\") {all}"), Permitted, Some("policy0")),
        ("permit(principal, action, resource) when { principal.kind == \"root\" };".to_owned(), NothingPermits, None),
        ("permit(principal, action == Holdfast::Action::\"Encrypt\", resource);".to_owned(), NothingPermits, None),
        (
            "permit(principal, action, resource == Holdfast::Key::\"payments-1\");".to_owned(),
            Permitted,
            Some("policy0"),
        ),
        ("permit(principal, action, resource == Holdfast::Key::\"payments-2\");".to_owned(), NothingPermits, None),
        (
            "permit(principal == Holdfast::Principal::\"arn:aws:iam::123456789012:user/Alice\", action, resource);"
                .to_owned(),
            Permitted,
            Some("policy0"),
        ),
        (
            "permit(principal, action, resource) when { principal has userName && principal.userName like \"Al*\" };"
                .to_owned(),
            Permitted,
            Some("policy0"),
        ),
        (
            "permit(principal, action, resource) when { context.hour == 0 && context.weekday == 4 };".to_owned(),
            Permitted,
            Some("policy0"),
        ),
        // A policy that fails denies, whatever others say: a forbid that is skipped must open nothing.
        (
            format!(
                "{all} @id(\"over\") forbid(principal, action, resource) when {{ context.hour + 9223372036854775807 + context.weekday > 0 }};"
            ),
            Failed,
            Some("over"),
        ),
    ];
    for (text, ground, rule) in table {
        assert_eq!(decide(text, &ALICE), (*ground, rule.map(str::to_owned)), "{text}");
    }
}

#[test]
fn roles_are_matched_by_patterns() {
    let text = r#"
        permit (principal, action, resource)
        when {
            principal has account && principal.account == "123456789012" &&
            principal has roleName && principal.roleName like "payments-*-writer"
        }
        unless { principal has path && principal.path like "/sandbox/*" };
    "#;
    let policy = Policy::parse(text).unwrap();
    for (principal, permitted) in [
        ("arn:aws:iam::123456789012:role/payments-eu-writer", true),
        ("arn:aws:iam::123456789012:role/team/payments-eu-writer", true),
        ("arn:aws:sts::123456789012:assumed-role/payments-us-writer/i-1", true),
        ("arn:aws:iam::123456789012:role/sandbox/payments-eu-writer", false),
        ("arn:aws:iam::123456789012:role/payments-eu-reader", false),
        ("arn:aws:iam::999999999999:role/payments-eu-writer", false),
        ("arn:aws:iam::123456789012:user/payments-eu-writer", false),
        ("ec2.amazonaws.com", false),
    ] {
        assert_eq!(policy.decide(&attributes(principal)).is_permitted(), permitted, "{principal}");
    }
}

#[test]
fn what_is_no_policy_is_refused_with_its_place() {
    let table = [
        ("", "there is no policy in it"),
        ("// nothing", "there is no policy in it"),
        ("permit(principal, action, resource)", "line 1, column 36: "),
        ("permit(principal, action,\n resource) when { principal.acount == \"1\" };", "line 2, column 19: "),
        ("permit(principal, action, resource) when { principal.account == \"1\" };", "line 1, column 44: "),
        ("permit(principal, action, resource) when { context.hour == \"8\" };", "line 1, column 44: "),
        ("permit(principal, action, resource) when { context.hour };", "line 1, column 44: "),
        ("permit(principal, action == Holdfast::Action::\"Delete\", resource);", ""),
        ("permit(principal is User, action, resource);", ""),
        ("permit(principal == ?principal, action, resource);", "templates"),
        ("@id(\"\") permit(principal, action, resource);", "the @id of policy0"),
        ("@id(\"a b\") permit(principal, action, resource);", "the @id of policy0"),
        ("@id(\"policy1\") permit(principal, action, resource); permit(principal, action, resource);", "two policies"),
        (
            "permit(principal, action, resource) when { ip(\"10.0.0.1\").isLoopback() };",
            "line 1, column 44: ip is an extension",
        ),
        ("{\"staticPolicies\":{}}", ""),
    ];
    for (text, expected) in table {
        let problem = Policy::parse(text).map(|policy| policy.names()).expect_err(text).summary();
        assert!(problem.starts_with(expected), "{text}: {problem}");
    }
}

#[test]
fn what_looks_like_a_mistake_is_a_warning() {
    let text = "permit(principal, action, resource) when { principal.kind == \"root\" && false };";
    let warnings = Policy::parse(text).unwrap().warnings().to_vec();
    assert!(warnings.iter().any(|warning| warning.message.contains("impossible")), "{warnings:?}");
}

#[test]
fn every_request_that_is_made_fits_the_schema() {
    let policy = Policy::parse("permit(principal, action, resource);").unwrap();
    let schema = VALIDATOR.as_ref().unwrap().schema();
    for principal in [
        "arn:aws:iam::123456789012:user/a/Alice",
        "arn:aws:iam::123456789012:role/a/b",
        "arn:aws:sts::123456789012:assumed-role/a/b",
        "arn:aws:iam::123456789012:root",
        "arn:aws:sts::123456789012:federated-user/a",
        "ec2.amazonaws.com",
        "AWS Internal",
        "",
        "\u{0}\"\\*",
    ] {
        for operation in [Operation::Encrypt, Operation::Decrypt, Operation::GetKeyMetadata] {
            for text in [None, Some(KEY_ARN), Some("")] {
                let full = Attributes {
                    operation,
                    kms_key_arn: text,
                    via_service: text,
                    source_vpc: text,
                    source_vpce: text,
                    ..attributes(principal)
                };
                let (_, entities) = policy.request(&full, Some(schema)).unwrap();
                let entities: Vec<Entity> = entities.iter().cloned().collect();
                Entities::from_entities(entities, Some(schema)).unwrap();
            }
        }
    }
    let health = Attributes { operation: Operation::GetHealthStatus, ..ALICE };
    assert!(policy.request(&health, Some(schema)).is_none(), "health requests are never asked about");
}

/// Runs in a thread with half of the stack that threads have.
fn on_a_small_stack(run: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(1024 * 1024).spawn(run).unwrap().join().unwrap();
}

/// The worst that passes the bounds, and a little more.
fn hostile() -> Vec<String> {
    let policy = |condition: &str| format!("permit(principal, action, resource) when {{ {condition} }};");
    let mut texts = Vec::new();
    for depth in [USE_POLICY_DEPTH_MAX - 1, USE_POLICY_DEPTH_MAX, 10_000] {
        for (open, close) in [
            ("(", ")"),
            ("[", "]"),
            ("{a: ", "}"),
            ("!(", ")"),
            ("if true then ", " else false"),
            ("[1].contains(", ")"),
        ] {
            texts.push(policy(&format!("{}true{}", open.repeat(depth), close.repeat(depth))));
            texts.push(open.repeat(depth));
        }
        texts.push(policy(&format!("{}true", "if true then true else ".repeat(depth))));
        texts.push(policy(&format!("{}true{} true else true", "if ".repeat(depth), " then true else".repeat(depth))));
    }
    for width in [USE_POLICY_OPERATORS_MAX / 2 - 4, USE_POLICY_OPERATORS_MAX - 4, 20_000] {
        for (unit, last) in [
            ("true && ", "true"),
            ("true || ", "true"),
            ("false || ", "true"),
            ("1 + ", "1 > 0"),
            ("1 - ", "1 > 0"),
            ("2 * ", "1 > 0"),
            ("!", "true"),
            ("-", "1 > 0"),
            ("1 == ", "1"),
            ("context.", "hour"),
            ("context has a.", "b"),
            ("context.hour == 1 || ", "true"),
            ("context has viaService && ", "context.viaService like \"*\""),
            ("if true then true else true && ", "true"),
        ] {
            texts.push(policy(&format!("{}{last}", unit.repeat(width))));
            // As many policies of that kind as the text holds.
            let one = policy(&format!("{}{last}", unit.repeat(width.min(USE_POLICY_MAX / 64))));
            texts.push(one.repeat((USE_POLICY_MAX / one.len()).max(1)));
        }
        texts.push(policy(&format!("context{}", "(1)".repeat(width))));
        texts.push(policy(&format!("context{}", "[\"a\"]".repeat(width))));
        texts.push(policy(&format!("principal{} == 1", ".contains(1)".repeat(width))));
    }
    for commas in [USE_POLICY_COMMAS_MAX - 8, 60_000] {
        for element in ["1,", "\"a\",", "=,", "*,", ",", "context.hour,"] {
            texts.push(policy(&format!("[{}].contains(1)", element.repeat(commas))));
            texts.push(format!("permit({}", element.repeat(commas)));
        }
    }
    for unit in [
        ";",
        "@",
        "@id(\"a\")",
        "permit",
        "permit(principal, action, resource);",
        "\"",
        "\u{feff}",
        "é",
        "?principal",
        "a::",
        "//\n",
    ] {
        texts.push(unit.repeat(USE_POLICY_MAX / unit.len()));
        texts.push(unit.repeat(USE_POLICIES_MAX));
    }
    texts
}

/// Nothing panics, overflows the stack or fills the memory; what passes decides.
#[test]
fn hostile_text_is_refused_or_decides() {
    on_a_small_stack(|| {
        let mut accepted = 0;
        for text in hostile() {
            if let Ok(policy) = Policy::parse(&text) {
                accepted += 1;
                let _ = policy.decide(&ALICE);
            }
        }
        assert!(accepted > 10, "the bounds let something through: {accepted}");
    });
}

#[test]
fn patterns_at_their_bound_decide() {
    let principal = format!("arn:aws:iam::123456789012:role/{}", "a".repeat(USE_POLICY_PRINCIPAL_MAX - 31));
    let pattern = format!("*{}b", "a".repeat(126));
    let one = format!("permit(principal, action, resource) when {{ principal.arn like \"{pattern}\" }};");
    let text = one.repeat(32);
    assert_eq!(decide(&text, &attributes(&principal)), (Ground::NothingPermits, None));
    let longer = format!("{principal}a");
    let all = "permit(principal, action, resource);";
    assert_eq!(decide(all, &attributes(&principal)).0, Ground::Permitted);
    assert_eq!(decide(all, &attributes(&longer)), (Ground::Failed, None));
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused(text in "\\PC{0,200}") {
        let _ = Policy::parse(&text);
    }

    #[test]
    fn any_arrangement_of_words_is_parsed_or_refused(words in prop::collection::vec(
        prop::sample::select(vec![
            "permit", "forbid", "(", ")", "principal", "action", "resource", ",", ";", "when", "unless", "{", "}", "context", ".", "hour",
            "has", "like", "\"a*\"", "==", "in", "[", "]", "if", "then", "else", "!", "&&", "||", "+", "-", "1", "@id", "(\"x\")", "is",
            "Holdfast::Key::\"k\"", "?principal", "//", "\n", "\"", "account", "true",
        ]), 0..60))
    {
        let _ = Policy::parse(&words.join(" "));
        let tail = words.join(" ");
        let _ = Policy::parse(&format!("permit(principal, action, resource) when {{ {tail} }};"));
    }

    /// Once a forbid holds, nothing that is added to a request opens it again.
    #[test]
    fn a_forbid_holds_whatever_else_is_said(
        via_service in prop::option::of("[a-z.]{0,20}"),
        source_vpc in prop::option::of("vpc-[0-9a-f]{8}"),
        source_vpce in prop::option::of("vpce-[0-9a-f]{8}"),
        kms_operation in "[A-Za-z]{0,20}",
        time_ms in any::<u64>(),
        path in "(/[a-z]{1,5}){0,3}",
    ) {
        let text = r#"
            permit (principal, action, resource);
            permit (principal, action, resource) when { context has sourceVpc || context has viaService };
            @id("not-here") forbid (principal, action, resource) when { principal has account && principal.account == "999999999999" };
        "#;
        let policy = Policy::parse(text).unwrap();
        let principal = format!("arn:aws:iam::999999999999:role{path}/Name");
        for operation in [Operation::Encrypt, Operation::Decrypt, Operation::GetKeyMetadata] {
            let request = Attributes {
                operation,
                kms_operation: &kms_operation,
                via_service: via_service.as_deref(),
                source_vpc: source_vpc.as_deref(),
                source_vpce: source_vpce.as_deref(),
                time_ms,
                ..attributes(&principal)
            };
            let decision = policy.decide(&request);
            prop_assert_eq!((decision.ground, decision.rule.as_deref()), (Ground::Forbidden, Some("not-here")));
        }
    }
}

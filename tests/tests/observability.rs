//! Metrics, alerts and dashboard: what is deployed fits what a real parent tells, judged by Debian's Prometheus.

use holdfast_shared::alarm::AlarmKind;
use holdfast_tests::prometheus::{Prometheus, dashboard_expressions, deployed, is_installed, metric_names, promtool};
use holdfast_tests::system::{HOST_NAME, KEY, Options, System};
use holdfast_tests::wait::until;

#[test]
fn the_alerts_fire_when_they_must_and_are_silent_otherwise() {
    if is_installed() {
        promtool(&["check", "rules", "holdfast-alerts.yml"], "");
        promtool(&["test", "rules", "holdfast-alerts.test.yml"], "");
        promtool(&["check", "config", "prometheus.example.yml"], "");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_deployed_reads_what_a_serving_parent_tells() {
    let system = System::start(Options::default()).await;
    system.round_trip(KEY).await;
    let body = system.encrypt(KEY).await.body;
    let refused = system.client().decrypt("nobody-knows", &body, None).await.unwrap();
    assert_eq!(refused.text("errorName"), Some("KeyNotFoundException"));
    system.logged_after("parent", 0, &["a request was refused", "kmsRequestId", "KeyNotFoundException"]).await;
    let label: String = system.key_store_id().to_string().chars().take(8).collect();
    let counted = |operation: &str, outcome: &str| {
        format!("{{slot=\"first\",key_store=\"{label}\",operation=\"{operation}\",outcome=\"{outcome}\"}} ")
    };
    let wanted = [counted("Decrypt", "success") + "1", counted("Decrypt", "KeyNotFoundException") + "1"];
    let page = until("the metrics have the requests", || async {
        let page = system.parent_metrics().await;
        wanted.iter().all(|wanted| page.contains(wanted)).then_some(page)
    })
    .await;
    // Of each kind, so that an alert sees the first alarm as growth.
    for kind in AlarmKind::ALL {
        let none = format!("alarms_total{{slot=\"first\",key_store=\"{label}\",kind=\"{}\"}} 0\n", kind.name());
        assert!(page.contains(&none), "{none} in {page}");
    }
    for secret in ["arn:", "nobody-knows", KEY, HOST_NAME, "key_store=\"\""] {
        assert!(!page.contains(secret), "{secret} in {page}");
    }

    let told = metric_names(&page);
    let rules = std::fs::read_to_string(deployed("holdfast-alerts.yml")).unwrap();
    let expressions = dashboard_expressions();
    assert!(expressions.len() > 20);
    let read = metric_names(&(rules.clone() + &expressions.join("\n")));
    let dead: Vec<_> = read.difference(&told).collect();
    assert!(dead.is_empty(), "nobody tells {dead:?}");

    if !is_installed() {
        return;
    }
    promtool(&["check", "metrics"], &page);
    let prometheus = Prometheus::start(&system.layout.path("prometheus"), system.ready_listen);
    prometheus.answers("holdfast_parent_info").await;
    // What grows while somebody looks: rates above zero.
    system.round_trip(KEY).await;
    for expression in &expressions {
        prometheus.answers(expression).await;
    }
    let recorded = rules.lines().filter_map(|line| line.trim().strip_prefix("- record: "));
    for record in recorded {
        prometheus.answers(record).await;
    }
    let alerts = prometheus.alerts().await;
    let firing: Vec<_> = alerts.as_array().unwrap().iter().filter(|alert| alert["state"] == "firing").collect();
    let expected = |name: &serde_json::Value| name == "HoldfastCertificateEnds";
    assert!(firing.iter().all(|alert| expected(&alert["labels"]["alertname"])), "{firing:?}");
    system.assert_no_panic();
}

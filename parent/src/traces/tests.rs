use std::collections::BTreeSet;

use holdfast_link::{Address, KeyStoreId};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;
use crate::config::Collector;

const UUID: &str = "4112F4D6-db54-4af4-ae30-c55a22a8dfae";

fn told(kms_request_id: Option<&str>, outcome: &str) -> Told {
    let trace = RequestTrace {
        key_store_id: KeyStoreId::from([0xab; 32]),
        operation: "Decrypt".into(),
        outcome: outcome.into(),
        kms_request_id: kms_request_id.map(Into::into),
        began_us: 1_700_000_000_000_000,
        stages_us: [Some(10), Some(20), Some(30), None, None, Some(5), Some(70)],
    };
    Told { slot: Slot::Second, boot_id: BootId::from([7; 16]), trace }
}

fn encoded(batch: &[Told]) -> Value {
    let labels = metrics::labels(batch.iter().map(|told| told.trace.key_store_id));
    let export = otlp::encode(batch, &mut Ids::default(), &labels);
    assert_eq!(export.spans, batch.iter().map(|told| otlp::spans_of(&told.trace)).sum::<u64>());
    serde_json::from_slice(&export.json).unwrap()
}

fn spans(request: &Value) -> Vec<Value> {
    request["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().clone()
}

#[test]
fn a_trace_is_a_span_with_a_child_for_each_stage() {
    let request = encoded(&[told(Some(UUID), "InvalidCiphertextException")]);
    let text = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
    assert_eq!(
        request["resourceSpans"][0]["resource"]["attributes"],
        json!([text("service.name", "holdfast"), text("service.instance.id", &"07".repeat(16))])
    );
    let spans = spans(&request);
    let trace_id = "4112f4d6db544af4ae30c55a22a8dfae";
    let id = spans[0]["spanId"].as_str().unwrap().to_owned();
    assert_eq!(
        spans[0],
        json!({
            "traceId": trace_id, "spanId": id, "name": "Decrypt", "kind": 2,
            "startTimeUnixNano": "1700000000000000000", "endTimeUnixNano": "1700000000000070000",
            "attributes": [
                text("holdfast.slot", "second"),
                text("holdfast.key_store", "abababab"),
                text("holdfast.outcome", "InvalidCiphertextException"),
                text("holdfast.kms_request_id", UUID),
                text("error.type", "InvalidCiphertextException"),
            ],
        })
    );
    let children: Vec<_> = spans[1..]
        .iter()
        .map(|span| {
            assert_eq!((&span["traceId"], &span["parentSpanId"]), (&json!(trace_id), &json!(id)));
            let end = |name: &str| span[name].as_str().unwrap().strip_prefix("17000000000000").unwrap().to_owned();
            (span["name"].as_str().unwrap(), end("startTimeUnixNano"), end("endTimeUnixNano"))
        })
        .collect();
    let expected = [
        ("body", "00000", "10000"),
        ("signature", "10000", "30000"),
        ("parse", "30000", "60000"),
        ("audit", "60000", "65000"),
    ];
    assert_eq!(children, expected.map(|(name, start, end)| (name, start.to_owned(), end.to_owned())));
}

#[test]
fn ids_are_of_their_form_and_differ_and_faults_are_errors() {
    let zero = "00000000-0000-0000-0000-000000000000";
    let batch: Vec<_> = [None, Some("no uuid"), Some(zero), Some("4112f4d6_db54_4af4_ae30_c55a22a8dfae")]
        .into_iter()
        .flat_map(|id| [told(id, "success"), told(id, "InternalException")])
        .collect();
    let request = encoded(&batch);
    let (mut traces, mut ids) = (BTreeSet::new(), BTreeSet::new());
    for span in spans(&request) {
        let id = |name: &str| span[name].as_str().unwrap().to_owned();
        for (id, len) in [(id("traceId"), 32), (id("spanId"), 16)] {
            assert!(id.len() == len && id.bytes().all(|byte| b"0123456789abcdef".contains(&byte)), "{id}");
        }
        traces.insert(id("traceId"));
        assert!(ids.insert(id("spanId")));
        let is_fault = span["attributes"].to_string().contains("InternalException");
        assert_eq!(span["status"]["code"] == json!(2), is_fault);
    }
    assert_eq!((traces.len(), ids.len()), (8, 40));
}

#[test]
fn numbers_beyond_all_bounds_are_cut() {
    let mut told = told(None, "success");
    (told.trace.began_us, told.trace.stages_us) = (u64::MAX, [Some(u64::MAX); 7]);
    let end = u64::MAX.to_string();
    assert!(spans(&encoded(&[told])).iter().all(|span| span["endTimeUnixNano"] == json!(end)));
}

#[test]
fn the_queue_is_bounded_and_there_is_none_without_a_collector() {
    let traces = Traces::default();
    traces.take(told(None, "success"));
    assert!(traces.batch().is_empty());
    traces.is_on.store(true, Ordering::Relaxed);
    (0..TRACES_WAITING_MAX + 2).for_each(|_| traces.take(told(None, "success")));
    assert_eq!(traces.spans.dropped.count(), 2 * 5);
    assert_eq!((traces.batch().len(), traces.lock().len()), (TRACES_BATCH, TRACES_WAITING_MAX - TRACES_BATCH));
}

/// Answers one request after the other with these, and shows what it got.
async fn collector(answers: Vec<&'static str>) -> (Collector, mpsc::UnboundedReceiver<(String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (got, requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        for answer in answers {
            let (stream, _) = listener.accept().await.unwrap();
            got.send(serve(stream, answer).await).unwrap();
        }
    });
    (Collector::Http(address), requests)
}

/// Takes one request, and answers it.
async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, answer: &str) -> (String, Value) {
    let mut stream = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    while !head.ends_with("\r\n\r\n") {
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        head += &line;
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    let (answer, content) = answer.split_once('|').unwrap_or((answer, ""));
    let answer = format!("HTTP/1.1 {answer}\r\nContent-Length: {}\r\n\r\n{content}", content.len());
    stream.write_all(answer.as_bytes()).await.unwrap();
    (head.to_ascii_lowercase(), serde_json::from_slice(&body).unwrap())
}

/// Exports traces of five spans each to a collector that answers so; gives what became of the spans, and how many requests there were.
async fn exported(count: usize, answers: Vec<&'static str>, collected: Option<Collector>) -> ([u64; 4], usize) {
    let expected = answers.len();
    let (collector, mut requests) = collector(answers).await;
    let config = TracingConfig {
        collector: collected.unwrap_or(collector),
        one_in: 1,
        per_second: 1,
        slow: Duration::from_millis(1),
        timeout: Duration::from_secs(5),
    };
    let state = Arc::new(State::new(1, 1));
    let short = Duration::from_millis(5);
    let pauses = Pauses { gather: Duration::ZERO, retry: (short, 4 * short) };
    let exporting = tokio::spawn(export(Some(config), pauses, Arc::clone(&state)));
    while !state.traces.is_on.load(Ordering::Relaxed) {
        tokio::task::yield_now().await;
    }
    (0..count).for_each(|_| state.traces.take(told(Some(UUID), "success")));
    let counts = || {
        let SpanCounts { exported, rejected, failed, dropped } = &state.traces.spans;
        [exported, rejected, failed, dropped].map(Counter::count)
    };
    let settled = async {
        while counts() == [0; 4] {
            sleep(short).await;
        }
    };
    timeout(Duration::from_secs(30), settled).await.unwrap();
    exporting.abort();
    let mut seen = 0;
    while let Ok((head, body)) = requests.try_recv() {
        seen += 1;
        assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
        assert!(head.contains("\r\ncontent-type: application/json\r\n"), "{head}");
        assert_eq!(spans(&body).len(), 5 * count);
    }
    assert!(seen <= expected);
    (counts(), seen)
}

#[tokio::test]
async fn what_the_collector_says_decides() {
    const BUSY: &str = "503 Busy";
    let rejected = "200 OK|{\"partialSuccess\":{\"rejectedSpans\":\"2\",\"errorMessage\":\"no\"}}";
    for (answers, counts, requests) in [
        (vec!["200 OK|{}"], [5, 0, 0, 0], 1),
        (vec!["200 OK"], [5, 0, 0, 0], 1),
        (vec!["200 OK|no JSON"], [5, 0, 0, 0], 1),
        (vec![rejected], [3, 2, 0, 0], 1),
        (vec!["200 OK|{\"partialSuccess\":{\"rejectedSpans\":99}}"], [0, 5, 0, 0], 1),
        (vec!["400 Bad"], [0, 5, 0, 0], 1),
        (vec!["302 Found\r\nLocation: http://127.0.0.1:1/"], [0, 5, 0, 0], 1),
        (vec!["429 Slow\r\nRetry-After: 0", "503 Busy\r\nRetry-After: 3600", "200 OK|{}"], [5, 0, 0, 0], 3),
        (vec![BUSY, "400 Bad"], [0, 5, 0, 0], 2),
        (vec![BUSY, BUSY, BUSY, BUSY, BUSY, "200 OK"], [0, 0, 5, 0], 5),
    ] {
        let what = format!("{answers:?}");
        assert_eq!(exported(1, answers, None).await, (counts, requests), "{what}");
    }
}

#[tokio::test]
async fn a_full_batch_arrives_whole() {
    let spans = 5 * u64::try_from(TRACES_BATCH).unwrap();
    assert_eq!(exported(TRACES_BATCH, vec!["200 OK|{}"], None).await, ([spans, 0, 0, 0], 1));
}

#[tokio::test]
async fn a_collector_may_be_behind_a_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("otlp.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let serving = tokio::spawn(async move { serve(listener.accept().await.unwrap().0, "200 OK|{}").await });
    let collector = Collector::Unix(Address::unix(&path).unwrap());
    assert_eq!(exported(1, vec![], Some(collector)).await, ([5, 0, 0, 0], 0));
    let (head, body) = serving.await.unwrap();
    assert!(head.contains("\r\nhost: localhost\r\n"), "{head}");
    assert_eq!(spans(&body).len(), 5);
}

#[tokio::test]
async fn a_collector_that_is_away_is_tried_a_few_times() {
    let nobody = Collector::Http("127.0.0.1:1".parse().unwrap());
    assert_eq!(exported(1, vec![], Some(nobody)).await, ([0, 0, 5, 0], 0));
    let nowhere = Collector::Unix("unix:///nowhere/otlp.sock".parse().unwrap());
    assert_eq!(exported(1, vec![], Some(nowhere)).await, ([0, 0, 5, 0], 0));
}

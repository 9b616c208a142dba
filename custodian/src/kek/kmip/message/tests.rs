use super::*;

/// An answer of one item to `operation`.
fn answer(fields: Vec<Item>) -> Vec<u8> {
    with_header(version(1, 4), fields)
}

fn version(major: i32, minor: i32) -> Item {
    let numbers =
        vec![Item::integer(tag::PROTOCOL_VERSION_MAJOR, major), Item::integer(tag::PROTOCOL_VERSION_MINOR, minor)];
    Item::structure(tag::PROTOCOL_VERSION, numbers)
}

fn with_header(version: Item, fields: Vec<Item>) -> Vec<u8> {
    let time = Item { tag: Tag(0x42_0092), value: Value::DateTime(1) };
    let header = Item::structure(tag::RESPONSE_HEADER, vec![version, time, Item::integer(tag::BATCH_COUNT, 1)]);
    message(vec![header, Item::structure(tag::BATCH_ITEM, fields)])
}

fn message(items: Vec<Item>) -> Vec<u8> {
    ttlv::encode(&Item::structure(tag::RESPONSE_MESSAGE, items)).unwrap().expose().to_vec()
}

fn status(code: u32) -> Item {
    Item::enumeration(tag::RESULT_STATUS, code)
}

fn success(operation: Operation, payload: Vec<Item>) -> Vec<u8> {
    let operation = Item::enumeration(tag::OPERATION, operation.code());
    answer(vec![operation, status(0), Item::structure(tag::RESPONSE_PAYLOAD, payload)])
}

fn identifier(text: &str) -> Item {
    Item::text(tag::UNIQUE_IDENTIFIER, text)
}

#[test]
fn an_answer_brings_its_payload() {
    let payload =
        vec![identifier("key"), Item::bytes(tag::DATA, b"data"), Item::bytes(tag::AUTHENTICATION_TAG, b"tag")];
    let bytes = success(Operation::Encrypt, payload);
    let encrypted = Payload::of(&bytes, Operation::Encrypt).unwrap().data("key").unwrap();
    assert_eq!(encrypted.data.expose(), b"data");
    assert_eq!(encrypted.tag.unwrap().expose(), b"tag");
    assert!(encrypted.nonce.is_none());
}

#[test]
fn an_answer_to_something_else_is_refused() {
    let operation = || Item::enumeration(tag::OPERATION, Operation::Encrypt.code());
    let payload = || Item::structure(tag::RESPONSE_PAYLOAD, vec![]);
    let header = || Item::structure(tag::RESPONSE_HEADER, vec![version(1, 4)]);
    let item = || Item::structure(tag::BATCH_ITEM, vec![operation(), status(0), payload()]);
    assert!(Payload::of(&message(vec![header(), item()]), Operation::Encrypt).is_ok());
    let table = [
        ("another operation", success(Operation::Decrypt, vec![])),
        ("no operation", answer(vec![status(0), payload()])),
        ("two operations", answer(vec![operation(), operation(), status(0), payload()])),
        ("no status", answer(vec![operation(), payload()])),
        ("two statuses", answer(vec![operation(), status(0), status(1), payload()])),
        ("pending", answer(vec![operation(), status(2), payload()])),
        ("no payload", answer(vec![operation(), status(0)])),
        ("two payloads", answer(vec![operation(), status(0), payload(), payload()])),
        ("an older version", with_header(version(1, 3), vec![operation(), status(0), payload()])),
        ("a newer version", with_header(version(2, 0), vec![operation(), status(0), payload()])),
        ("no header", message(vec![item()])),
        ("two items", message(vec![header(), item(), item()])),
        ("nothing", message(vec![])),
        ("a request", request(Operation::Encrypt, vec![]).unwrap().expose().to_vec()),
    ];
    for (what, bytes) in table {
        let error = Payload::of(&bytes, Operation::Encrypt).unwrap_err();
        assert!(matches!(error, AnswerError::Malformed(_)), "{what}: {error:?}");
    }
    assert!(matches!(Payload::of(b"HTTP/1.1 400 Bad Request\r\n\r\n", Operation::Encrypt), Err(AnswerError::Ttlv(_))));
}

#[test]
fn an_answer_about_another_key_is_refused() {
    let data = || Item::bytes(tag::DATA, b"data");
    let table = [
        ("another key", vec![identifier("other"), data()]),
        ("no key", vec![data()]),
        ("two keys", vec![identifier("key"), identifier("key"), data()]),
        ("no data", vec![identifier("key")]),
        ("two data", vec![identifier("key"), data(), data()]),
        ("a text", vec![identifier("key"), Item::text(tag::DATA, "data")]),
    ];
    for (what, payload) in table {
        let bytes = success(Operation::Decrypt, payload);
        let error = Payload::of(&bytes, Operation::Decrypt).unwrap().data("key").unwrap_err();
        assert!(matches!(error, AnswerError::Malformed(_)), "{what}: {error:?}");
    }
}

#[test]
fn a_refusal_keeps_its_reason_and_short_words() {
    let table = [
        (0x01, Reason::NotFound),
        (0x03, Reason::Authentication),
        (0x04, Reason::Unsupported),
        (0x05, Reason::Unsupported),
        (0x08, Reason::Unsupported),
        (0x0A, Reason::Cryptographic),
        (0x0C, Reason::Permission),
        (0x100, Reason::Other(0x100)),
    ];
    for (code, reason) in table {
        let said = format!("no\n\u{1b}[31m {}", "x".repeat(1000));
        let fields =
            vec![status(1), Item::enumeration(tag::RESULT_REASON, code), Item::text(tag::RESULT_MESSAGE, &said)];
        // Servers answer with a version of their own when they do not know ours.
        let bytes = with_header(version(1, 0), fields);
        let Err(AnswerError::Refused { reason: found, words }) = Payload::of(&bytes, Operation::Encrypt) else {
            panic!("{code} is no refusal");
        };
        assert_eq!(found, reason);
        assert!(words.starts_with("no [31m xxx") && words.len() <= WORDS_MAX, "{words}");
    }
    let silent = answer(vec![status(1)]);
    assert!(matches!(
        Payload::of(&silent, Operation::Encrypt),
        Err(AnswerError::Refused { reason: Reason::Other(0), .. })
    ));
}

fn named(name: &str, value: Value) -> Item {
    let fields = vec![Item::text(tag::ATTRIBUTE_NAME, name), Item { tag: tag::ATTRIBUTE_VALUE, value }];
    Item::structure(tag::ATTRIBUTE, fields)
}

fn good() -> Vec<(&'static str, Value)> {
    vec![
        ("Object Type", Value::Enumeration(2)),
        ("Cryptographic Algorithm", Value::Enumeration(3)),
        ("Cryptographic Length", Value::Integer(256)),
        ("Cryptographic Usage Mask", Value::Integer(12)),
        ("State", Value::Enumeration(2)),
        ("Sensitive", Value::Boolean(true)),
        ("Extractable", Value::Boolean(false)),
    ]
}

fn read(attributes: Vec<(&str, Value)>) -> Result<Attributes, AnswerError> {
    let mut payload = vec![identifier("key")];
    payload.extend(attributes.into_iter().map(|(name, value)| named(name, value)));
    Payload::of(&success(Operation::GetAttributes, payload), Operation::GetAttributes).unwrap().attributes("key")
}

#[test]
fn a_key_that_may_leave_or_cannot_serve_has_a_fault() {
    let attributes = read(good()).unwrap();
    assert_eq!((attributes.fault(), attributes.is_silent()), (None, false));
    let table = [
        ("Object Type", Some(Value::Enumeration(7)), "no symmetric key"),
        ("Object Type", None, "no symmetric key"),
        ("Cryptographic Algorithm", Some(Value::Enumeration(2)), "not of AES"),
        ("Cryptographic Algorithm", None, "not of AES"),
        ("Cryptographic Length", Some(Value::Integer(128)), "not of AES with 256"),
        ("Cryptographic Length", None, "not of AES with 256"),
        ("Cryptographic Usage Mask", Some(Value::Integer(4)), "lacks"),
        ("Cryptographic Usage Mask", Some(Value::Integer(8)), "lacks"),
        ("Cryptographic Usage Mask", Some(Value::Integer(0x4C)), "Export"),
        ("Cryptographic Usage Mask", None, "lacks"),
        ("State", Some(Value::Enumeration(1)), "not active"),
        ("State", Some(Value::Enumeration(3)), "not active"),
        ("State", Some(Value::Enumeration(4)), "not active"),
        ("State", None, "not active"),
        ("Sensitive", Some(Value::Boolean(false)), "not sensitive"),
        ("Extractable", Some(Value::Boolean(true)), "extractable"),
    ];
    for (name, value, expected) in table {
        let mut changed: Vec<_> = good().into_iter().filter(|(other, _)| *other != name).collect();
        changed.extend(value.map(|value| (name, value)));
        let fault = read(changed).unwrap().fault().unwrap();
        assert!(fault.what.contains(expected), "{name}: {}", fault.what);
    }
}

#[test]
fn what_a_server_does_not_say_is_known_as_such() {
    for name in ["Sensitive", "Extractable"] {
        let attributes = read(good().into_iter().filter(|(other, _)| *other != name).collect()).unwrap();
        assert_eq!((attributes.fault(), attributes.is_silent()), (None, true), "{name}");
    }
}

#[test]
fn attributes_are_there_once_and_of_their_type() {
    for (name, value) in good() {
        let mut twice = good();
        twice.push((name, value));
        assert!(matches!(read(twice), Err(AnswerError::Malformed(_))), "{name}");
        let mut other: Vec<_> = good().into_iter().filter(|(found, _)| *found != name).collect();
        other.push((name, Value::TextString("x".to_owned())));
        assert!(matches!(read(other), Err(AnswerError::Malformed(_))), "{name}");
    }
    let mut more = good();
    more.push(("x-Owner", Value::TextString("somebody".to_owned())));
    assert_eq!(read(more).unwrap().fault(), None);
}

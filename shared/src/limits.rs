//! Every bound on input, each with its source.

// --- XKS Proxy API specification 1.0.3 -------------------------------------------------------------------------------

/// Characters in `XksProxyUriPath` (section "API operations").
pub const XKS_URI_PATH_MAX: usize = 128;
/// Characters in the whole URI (section "API operations").
pub const XKS_URI_MAX: usize = 256;
/// Characters in `externalKeyId` (section "API operations").
pub const EXTERNAL_KEY_ID_MAX: usize = 128;
/// Characters in an ARN (section "API operations").
pub const ARN_MAX: usize = 2048;
/// Characters in the other `requestMetadata` strings. The specification sets none; ours is generous against UUIDs of 36.
pub const METADATA_TEXT_MAX: usize = 2048;
/// Plaintext and ciphertext bytes that we process; the specification asks for at least 4,300.
pub const PLAINTEXT_MAX: usize = 8192;
/// AAD bytes: the two-byte length in the AAD framing ends here; the specification asks for at least 8,192.
pub const AAD_MAX: usize = 65_535;
/// Bytes of `ciphertextMetadata` (section "Encrypt").
pub const CIPHERTEXT_METADATA_MAX: usize = 20;
/// `keyUsage` values in one answer (section `GetKeyMetadata`).
pub const KEY_USAGE_MAX: usize = 10;
/// `ekmFleetDetails` entries (section `GetHealthStatus`).
pub const EKM_FLEET_MAX: usize = 10;
/// Characters of `errorMessage`: "less than 512" (section "Error codes").
pub const ERROR_MESSAGE_MAX: usize = 511;
/// Bytes of a request body. What the largest one of KMS needs, an Encrypt with everything at its maximum (ADR 0014):
///
/// ```text
/// base64 of 8,192 bytes of AAD (section "Encrypt")                  10,924
/// base64 of PLAINTEXT_MAX bytes, 8,192 (4,300 would be 5,736)       10,924
/// seven strings of requestMetadata, ARN_MAX or METADATA_TEXT_MAX    14,336
/// base64 of ciphertextMetadata, IV and tag in a Decrypt                 76
/// names of the fields, algorithms, punctuation, at most                400
///                                                              sum  36,660 ≤ 36 KiB = 36,864
/// ```
///
/// With the 4,300 bytes that the specification asks for, more than 5 KiB are left for fields that KMS may add (Appendix B).
pub const XKS_BODY_MAX: usize = 36 * 1024;
/// Characters of an access key id, at least and at most (Appendix A).
pub const ACCESS_KEY_ID_LEN: core::ops::RangeInclusive<usize> = 20..=30;
/// Characters of a secret access key (section "XKS proxy configuration in AWS KMS console").
pub const SECRET_ACCESS_KEY_LEN: core::ops::RangeInclusive<usize> = 43..=64;
/// How far a signed request's time may lie from ours, in milliseconds (Appendix A, Task 4: five minutes).
pub const SIGV4_SKEW_MS: u64 = 300_000;

// --- Nitro attestation document (design, section 6; AWS's Nitro Enclaves NSM API) ---------------------------------------

/// Bytes of the signed payload.
pub const ATTESTATION_PAYLOAD_MAX: usize = 16 * 1024;
/// Bytes of the whole document: payload and envelope (headers, signature, CBOR framing).
pub const ATTESTATION_DOCUMENT_MAX: usize = ATTESTATION_PAYLOAD_MAX + 512;
/// Bytes of `public_key`, `user_data` and `nonce` each.
pub const ATTESTATION_FIELD_MAX: usize = 1024;
/// Bytes of one certificate.
pub const ATTESTATION_CERTIFICATE_MAX: usize = 1024;
/// Entries in `cabundle`. AWS sends four; the budget stops a path that only burns signature checks.
pub const ATTESTATION_CABUNDLE_MAX: usize = 8;
/// Entries in `pcrs`, and one more than the highest index.
pub const PCR_MAX: usize = 32;
/// Clock difference tolerated between the NSM and the verifier, in milliseconds.
pub const ATTESTATION_SKEW_MS: u64 = 60_000;

// --- Holdfast's own formats ---------------------------------------------------------------------------------------------

/// Bytes of a signed manifest.
pub const MANIFEST_MAX: usize = 64 * 1024;
/// Manifests of one key store, the first and its successors: all of them travel in one release.
pub const MANIFEST_CHAIN_MAX: usize = 12;
/// Bytes of a ciphertext that AWS KMS makes or takes (AWS KMS API Reference, `Decrypt`: at most 6144).
pub const KMS_CIPHERTEXT_MAX: usize = 6144;
/// Bytes of a share's ciphertext by AWS KMS, in a share set; for 64 bytes it writes about 250.
pub const KMS_SHARE_MAX: usize = 1024;
/// Share sets of one generation that a custodian keeps before a version names one of them: so many ceremonies, or changes of the root
/// key, may run at once, or have broken off, without harm to each other.
pub const PROVISIONAL_SETS_MAX: usize = 4;
/// Shares in one release: that of the generation in force, and those of the next.
pub const RELEASED_SHARES_MAX: usize = 1 + PROVISIONAL_SETS_MAX;
/// Administrators in a manifest.
pub const ADMINISTRATORS_MAX: usize = 16;
/// Custodians in a manifest.
pub const CUSTODIANS_MAX: usize = 16;
/// Accepted measurement sets in a release policy.
pub const MEASUREMENTS_MAX: usize = 16;
/// Bytes of an image's description, `measurements.json`; one has about 1 KiB.
pub const IMAGE_MEASUREMENTS_MAX: usize = 64 * 1024;
/// Characters of a version in it: with a short commit and a remark it fits into [`NAME_MAX`].
pub const IMAGE_VERSION_MAX: usize = 32;
/// Characters of a compiler's or a package's name in it.
pub const IMAGE_TEXT_MAX: usize = 128;
/// Characters of a kernel's command line in it (`COMMAND_LINE_SIZE` of Linux on x86-64).
pub const IMAGE_COMMAND_LINE_MAX: usize = 2048;
/// Characters of a display name (administrator, custodian, key store).
pub const NAME_MAX: usize = 64;
/// Characters of a DNS host name (RFC 1035, section 2.3.4).
pub const HOST_NAME_MAX: usize = 253;
/// Bytes of one DER certificate in our own formats; public CA certificates stay below 4 KiB.
pub const CERTIFICATE_DER_MAX: usize = 8 * 1024;
/// Certificates in one chain.
pub const CERTIFICATE_CHAIN_MAX: usize = 6;
/// Bytes of a sealed key store.
pub const BLOB_MAX: usize = 4 * 1024 * 1024;
/// External keys in one key store.
pub const EXTERNAL_KEYS_MAX: usize = 4096;
/// Versions of one external key.
pub const KEY_VERSIONS_MAX: usize = 1024;
/// Runs of versions in one list of keys; with as many keys as there may be, the list fits into one result.
pub const LISTED_RUNS_MAX: usize = 8192;
/// Requests per second, and requests at once, in a quota: from one to far more than one enclave serves. KMS itself asks at most
/// 1,800 times per second unless AWS raised that limit.
pub const QUOTA: core::ops::RangeInclusive<u32> = 1..=1_000_000;
/// Keys with rate limits of their own; all of them must fit into one command of [`COMMAND_MAX`].
pub const LIMITED_KEYS_MAX: usize = 256;
/// Uses in a window of a budget: 1,800 per second, the default limit of KMS, are 156 million in a day.
pub const BUDGET_USES: core::ops::RangeInclusive<u32> = 1..=1_000_000_000;
/// Keys with budgets of their own; all of them must fit into one command of [`COMMAND_MAX`].
pub const BUDGETED_KEYS_MAX: usize = 256;
/// Uses that an enclave has debited at once: what it loses in a crash. At 1,800 uses per second a debit lasts for half a second.
pub const BUDGET_SLICE_MAX: u32 = 1_000;
/// Parts of a budget that make a slice, below that: one in a hundred.
pub const BUDGET_SLICES: u32 = 100;
/// Counts in one answer about budgets: an hour and a day of each key.
pub const BUDGET_COUNTS_MAX: usize = 2 * EXTERNAL_KEYS_MAX;
/// Keys of which a custodian counts uses in one window. With the windows that are kept ([`BUDGET_WINDOWS_KEPT`]) 24,576 rows of some 200
/// bytes for each key store.
pub const BUDGET_KEYS_MAX: usize = EXTERNAL_KEYS_MAX;
/// Windows of a span whose counts a custodian keeps, the newest among them.
pub const BUDGET_WINDOWS_KEPT: u32 = 3;
/// Part of a budget, in hundredths, from which on it is said that it is nearly spent.
pub const BUDGET_NEARLY_SPENT_PERCENT: u64 = 80;
/// How long before a window begins an enclave has a slice of it debited, in milliseconds: 4,096 keys at some 5 ms each are 20 s.
pub const BUDGET_AHEAD_MS: u64 = 30_000;
/// Users of whom one tally tells apart, and bytes of one's texts; those beyond are counted together.
pub const TALLY_USES_MAX: usize = 64;
/// Bytes of a principal, a service or a VPC in a tally and an alarm; longer ones are cut.
pub const TALLY_TEXT_MAX: usize = 1024;
/// Bytes of the texts of all users in one tally.
pub const TALLY_TEXTS_MAX: usize = 32 * 1024;
/// Bytes of a tally: the texts, as many keys' ids and numbers, and a lease of each custodian.
pub const TALLY_MAX: usize = 64 * 1024;
/// Time between two tallies of one key store, in milliseconds.
pub const TALLY_INTERVAL_MS: u64 = 10_000;
/// Time after which an enclave tells its clock though there is nothing else to tell, in milliseconds.
pub const TALLY_SILENCE_MAX_MS: u64 = 60_000;
/// Bytes of an alarm's text: two callers' texts of 256 characters, each shown in at most eleven bytes, and words.
pub const ALARM_TEXT_MAX: usize = 4096;
/// Bytes of an alarm.
pub const ALARM_MAX: usize = 8 * 1024;
/// Days of a principal's use that are remembered.
pub const ALARM_DAYS_MAX: usize = 14;
/// Principals with keys, and principals, services and VPCs, that a custodian remembers of one key store: some 400 bytes each.
pub const ALARM_USERS_MAX: usize = 16 * 1024;
/// Alarms of one key store that a custodian keeps; the oldest are forgotten first.
pub const ALARMS_KEPT_MAX: u32 = 4096;
/// Alarms in one answer.
pub const ALARMS_PAGE_MAX: usize = 64;
/// Alarms that one tally may raise: five for each user, and a few of the enclave.
pub const TALLY_ALARMS_MAX: usize = 512;
/// Principals whose requests are counted apart in one enclave and key store, on average: as many buckets, dealt by a hash (ADR 0026).
pub const PRINCIPAL_BUCKETS: usize = 16 * 1024;
/// Trust anchors of client certificates; all of them must fit into one command of [`COMMAND_MAX`].
pub const CLIENT_AUTHORITIES_MAX: usize = 8;
/// Subject common names of client certificates; the specification names one.
pub const CLIENT_NAMES_MAX: usize = 8;
/// Live SigV4 credentials of one key store; the specification asks for at least two.
pub const CREDENTIALS_MAX: usize = 8;
/// Executed command ids kept until they expire.
pub const EXECUTED_COMMANDS_MAX: usize = 4096;
/// Bytes of one signed command: the largest policy of use, and 4 KiB for everything else.
pub const COMMAND_MAX: usize = USE_POLICY_MAX + 4 * 1024;
/// Commands waiting at a custodian for one key store.
pub const PENDING_COMMANDS_MAX: usize = 64;
/// Longest validity of a command, in milliseconds (31 days).
pub const COMMAND_LIFE_MAX_MS: u64 = 31 * 24 * 3_600_000;
/// How far one block overlay's epoch may be above the one before at a custodian: one that missed some orders takes the next, and
/// nobody can use up the epochs.
pub const BLOCK_EPOCH_STEP_MAX: u64 = 1_000;
/// Keys named in one block overlay.
pub const BLOCKED_KEYS_MAX: usize = EXTERNAL_KEYS_MAX;
/// Bytes of a signed block overlay: 4,096 key ids of 128 characters and framing.
pub const BLOCK_OVERLAY_MAX: usize = 640 * 1024;
/// Signatures on one envelope.
pub const SIGNATURES_MAX: usize = ADMINISTRATORS_MAX;
/// Bytes of a result that an enclave encrypts for an administrator.
pub const RESULT_MAX: usize = 1024 * 1024;
/// Bytes of a release request or answer: a block overlay, all manifests of a chain, and slack.
pub const RELEASE_MAX: usize = 2 * 1024 * 1024;
/// How long a custodian does not speak of a version that was published and not yet committed, in milliseconds: the enclave that made it
/// commits it meanwhile, or has ended, and others finish its work.
pub const COMMIT_WAIT_MS: u64 = 2_000;
/// Waiting period of a key's destruction, in milliseconds: a day to a year.
pub const DESTRUCTION_WAIT_MS: core::ops::RangeInclusive<u64> = 24 * 3_600_000..=366 * 24 * 3_600_000;
/// Longest life of the approval of a boot's releases, in milliseconds (31 days).
pub const APPROVAL_LIFE_MAX_MS: u64 = 31 * 24 * 3_600_000;
/// Boots that wait for approval, of which a custodian keeps a record, for one key store.
pub const WAITING_RELEASES_MAX: usize = 64;
/// Versions in one answer about a key store's history.
pub const HISTORY_PAGE_MAX: usize = 64;
/// Entries in one answer about releases and refusals.
pub const RECORDS_PAGE_MAX: usize = 256;
/// Bytes of one message on the sealed channel: a blob, its results, and slack.
pub const CHANNEL_MESSAGE_MAX: usize = BLOB_MAX + 2 * RESULT_MAX;
/// Life of a challenge, in milliseconds (design, section 5).
pub const CHALLENGE_LIFE_MS: u64 = 60_000;
/// Age at which the answer to a request on the sealed channel is refused, in milliseconds (design, section 5).
pub const ANSWER_AGE_MAX_MS: u64 = 60_000;
/// Shortest and longest lease, in milliseconds.
pub const LEASE_MS: core::ops::RangeInclusive<u64> = 10_000..=31 * 24 * 3_600_000;
/// How long a custodian holds a `watch` request open, in milliseconds: well below [`ANSWER_AGE_MAX_MS`].
pub const WATCH_HOLD_MS: u64 = 25_000;
/// An enclave that has asked a custodian nothing for this long, in milliseconds, is not counted as part of the fleet: more than
/// [`WATCH_HOLD_MS`], and with it less than [`HEALTH_AGE_MAX_MS`].
pub const ENCLAVE_SILENT_MS: u64 = 30_000;
/// Age of what `GetHealthStatus` says of others, in milliseconds (specification, "`GetHealthStatus`": one minute).
pub const HEALTH_AGE_MAX_MS: u64 = 60_000;
/// Age of a document that proves where a TLS connection ends, in milliseconds, [`ATTESTATION_SKEW_MS`] aside: it is asked for and made
/// within one exchange.
pub const PROOF_AGE_MAX_MS: u64 = 60_000;
/// Documents per second that an enclave makes for strangers, all host names together, and at once. The device takes some
/// milliseconds for each, and whoever releases a key is served first.
pub const PROOFS_PER_SECOND: u32 = 10;
/// The same for one host name, so that one that is flooded leaves the others their part.
pub const PROOFS_PER_SECOND_AND_HOST: u32 = 2;
/// Strangers' documents that may wait for the device.
pub const PROOFS_WAITING_MAX: usize = 8;
/// How long a stranger waits for a document, in milliseconds.
pub const PROOF_WAIT_MS: u64 = 2_000;
/// Age of an administrator's signed query, in milliseconds.
pub const QUERY_AGE_MAX_MS: u64 = 300_000;

// --- Audit log (ours) -------------------------------------------------------------------------------------------------------

/// Bytes of a record: seven texts of [`METADATA_TEXT_MAX`] are 14,336, and a key's id, a rule's name and the rest fit into 2 KiB.
pub const AUDIT_RECORD_MAX: usize = 16 * 1024;
/// Bytes of an entry of the log: a record, its 16-byte tag, and framing.
pub const AUDIT_ENTRY_MAX: usize = AUDIT_RECORD_MAX + 64;
/// Bytes of a checkpoint; ours have about 430.
pub const AUDIT_CHECKPOINT_MAX: usize = 1024;
/// Characters of the name of the rule that decided; Cedar sets no bound.
pub const AUDIT_RULE_MAX: usize = 128;
/// Blocked keys that are named in one record; 64 of [`EXTERNAL_KEY_ID_MAX`] characters are 8 KiB.
pub const AUDIT_OVERLAY_KEYS_MAX: usize = 64;
/// Auditors of a key store.
pub const AUDITORS_MAX: usize = 8;
/// Readers of one segment: all auditors and all administrators.
pub const AUDIT_READERS_MAX: usize = AUDITORS_MAX + ADMINISTRATORS_MAX;
/// Heads of earlier boots that a custodian hands over with a release, and that an opening names: at 64 bytes each, a quarter of
/// [`AUDIT_ENTRY_MAX`]. A fleet of ten that starts anew each day brings 70 a week.
pub const AUDIT_HEADS_MAX: usize = 64;
/// Heads in one answer to an administrator; with an attestation document each, 1.1 MiB.
pub const AUDIT_HEADS_PAGE_MAX: usize = 64;
/// Age of the oldest unwitnessed record at which a key store is no longer served, in seconds: checkpoints are witnessed each second, and
/// after a day nobody would notice.
pub const AUDIT_UNWITNESSED_SECONDS: core::ops::RangeInclusive<u32> = 2..=86_400;
/// Number of unwitnessed records at which it is no longer served: a dozen requests at once must not stop it, and a day at the default
/// limit of KMS (1,800 per second) has 155 million.
pub const AUDIT_UNWITNESSED_RECORDS: core::ops::RangeInclusive<u64> = 10..=100_000_000;
/// Bytes of entries that an enclave keeps for a parent that has not stored them, for all key stores together, those that left included;
/// each that is served has an equal share. The ends of logs, at a boot's end, have 70 bytes each beyond it. At 1,800 requests per second of 400 bytes each, one key store fills it in a minute and a half.
pub const AUDIT_QUEUE_MAX: usize = 64 * 1024 * 1024;
/// The part of each key store's share that is kept for records of what cannot be refused: two of the largest. With 1,024 key stores
/// 24 KiB of a share are left for requests.
pub const AUDIT_QUEUE_RESERVE: usize = 40 * 1024;
/// Custodians whose newest lease is remembered while its record has no room: twice [`CUSTODIANS_MAX`], since successors of a manifest may
/// exchange them.
pub const AUDIT_ASIDE_LEASES_MAX: usize = 2 * CUSTODIANS_MAX;
/// Kinds of refusals of a key store whose repetitions are counted together; with a principal each, 40 KiB.
pub const AUDIT_REPEATS_MAX: usize = 16;
/// Logs of one boot, those of key stores that have left included: twice as many key stores as are served at once.
pub const AUDIT_LOGS_MAX: usize = 2048;
/// How long a request in mode strict waits for the parent's disk, in milliseconds. KMS gives a proxy 250 ms (section "Encrypt").
pub const AUDIT_DURABLE_WAIT_MS: u64 = 1_000;
/// How long an enclave that ends waits for the parent and the custodians to know the ends of its logs, in milliseconds: less than
/// most orchestrators give a process to end.
pub const AUDIT_CLOSING_WAIT_MS: u64 = 5_000;

// --- SigV4 and the XKS listener (ours; the specification sets none) -------------------------------------------------------

/// Bytes of the `Authorization` header: 200 for scheme, credential and signature, the rest for names of signed headers.
pub const AUTHORIZATION_MAX: usize = 2048;
/// Headers named in `SignedHeaders`; KMS signs two, `curl` three or four.
pub const SIGNED_HEADERS_MAX: usize = 32;
/// Characters of one header name in `SignedHeaders`.
pub const SIGNED_HEADER_NAME_MAX: usize = 64;
/// Pairs of day and region whose signing keys a key store keeps: two days meet at midnight, in four regions.
pub const DERIVED_KEYS_MAX: usize = 8;
/// Characters of an AWS Region name; the longest today has 14.
pub const REGION_MAX: usize = 32;
/// Headers of one HTTP request; KMS sends fewer than ten.
pub const HTTP_HEADERS_MAX: usize = 64;
/// Bytes of all headers of one HTTP request together.
pub const HTTP_HEADER_BYTES_MAX: usize = 16 * 1024;
/// Concurrent requests on one HTTP/2 connection.
pub const HTTP2_STREAMS_MAX: u32 = 64;
/// Time for a TLS handshake, in milliseconds; KMS gives up on the whole request after 250.
pub const TLS_HANDSHAKE_MS: u64 = 5_000;
/// How long a connection that is over goes on reading, in milliseconds, so that no reset overtakes our last bytes; a round trip
/// around the earth takes less than half of it.
pub const TLS_LINGER_MS: u64 = 1_000;
/// Bytes that are read and thrown away in that time: more than a client has in flight before it can have seen our alert.
pub const TLS_LINGER_BYTES_MAX: usize = 256 * 1024;
/// Time for the headers of an HTTP/1.1 request, idle time before them included, in milliseconds.
pub const HTTP_HEADERS_MS: u64 = 60_000;
/// Time for the body of a request, in milliseconds.
pub const HTTP_BODY_MS: u64 = 5_000;
/// Time that a drain leaves to clients of HTTP/1.1 for one more request, in milliseconds: closing an idle connection at once would
/// fail those that are about to send. KMS gives up on a request after 250 ms; this is ten times that.
pub const HTTP_FAREWELL_MS: u64 = 2_500;
/// Time from the handshake to the first valid signature, in milliseconds: KMS connects in order to send.
pub const HTTP_STRANGER_MS: u64 = 10_000;
/// Time from one valid signature to the next, in milliseconds; as long as HTTP/1.1 may idle.
pub const HTTP_SILENCE_MS: u64 = HTTP_HEADERS_MS;
/// Bytes that requests of proven connections hold, all together. 1,800 requests per second (the default limit of KMS) of 32 KiB
/// for the 250 ms after which KMS gives up are 14 MiB, and one host alone may have half; the smallest enclave has 512 MiB.
pub const HTTP_REQUESTS_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes that the requests of one connection hold before its first valid signature: the largest head and body, and a burst of
/// a dozen ordinary requests over HTTP/2 besides.
pub const STRANGER_BYTES_MAX: usize = 128 * 1024;
/// Bytes that a request is counted for besides what it sent: its task, its entry in the HTTP/2 connection, its answer.
pub const REQUEST_OVERHEAD_BYTES: usize = 4 * 1024;
/// Requests without a valid signature after which a connection that never brought one is closed: each costs a hash.
pub const STRANGER_REQUESTS_MAX: usize = 32;
/// One connection in so many is kept for those who have not signed yet.
pub const STRANGERS_SHARE: usize = 4;
/// Streams of one HTTP/2 connection that we may have had to reset for what the client sent (CVE-2025-8671), those refused
/// for being too many included: a client may send a hundred before it knows our settings (RFC 9113, section 6.5.2).
pub const HTTP2_ERROR_RESETS_MAX: usize = 256;
/// Connections served at once.
pub const CONNECTIONS_MAX: usize = 4096;
/// Bytes of a `kmsRequestId` that are logged; a UUID has 36.
pub const LOGGED_REQUEST_ID_MAX: usize = 64;

// --- Policy of use (ours; Cedar sets none) ------------------------------------------------------------------------------------

/// Bytes of a policy set's text: about 700 role ARNs in full, and far more by patterns.
pub const USE_POLICY_MAX: usize = 64 * 1024;
/// Policies in one set.
pub const USE_POLICIES_MAX: usize = 256;
/// Brackets and conditionals inside each other. Cedar's parser recurses ten functions deep for each; threads have 2 MiB of stack.
pub const USE_POLICY_DEPTH_MAX: usize = 24;
/// Operators, accesses and calls in one policy: a chain of them is as deep as it is long once it is parsed.
pub const USE_POLICY_OPERATORS_MAX: usize = 512;
/// Commas in a policy set: elements of its sets, mostly.
pub const USE_POLICY_COMMAS_MAX: usize = 4096;
/// Dots in a row, `a.b.c`: the schema is two deep, and Cedar's `has` grows with the square.
pub const USE_POLICY_PATH_MAX: usize = 4;
/// Characters of one `like` pattern, and of all of a policy set. Matching costs up to the product of pattern and text, of which the
/// longest is a principal's, with [`USE_POLICY_PRINCIPAL_MAX`] characters.
pub const USE_POLICY_PATTERN_MAX: usize = 128;
/// See [`USE_POLICY_PATTERN_MAX`].
pub const USE_POLICY_PATTERNS_MAX: usize = 4096;
/// `like`s of a policy set: even a pattern of one character costs a look at the whole text.
pub const USE_POLICY_LIKES_MAX: usize = 512;
/// Characters of a principal that a policy decides about. IAM's longest are of roles: a path of 512, a name of 64, a session of 64 (IAM
/// User Guide, "IAM and AWS STS quotas") and an ARN around them. Where there is a policy, a longer one is denied.
pub const USE_POLICY_PRINCIPAL_MAX: usize = 1024;
/// Decisions of a policy that are remembered: as many callers, keys and operations as are in use at one time in most accounts.
pub const DECISIONS_MAX: usize = 256;
/// Bytes of text that one of them is about; about 350 are usual.
pub const DECISION_TEXT_MAX: usize = 1024;
/// One microsecond in so many is there for a key store's policy: a quarter of a processor. At 1,800 requests a second, the most that
/// AWS KMS sends by default, that is 139 µs for each.
pub const POLICY_TIME_SHARE: u64 = 4;
/// How far ahead a policy may spend that time, in microseconds of the clock.
pub const POLICY_TIME_BURST_US: u64 = 1_000_000;
/// Characters of a policy's name, in records.
pub const USE_POLICY_NAME_MAX: usize = 64;

// --- Renewal of certificates (RFC 8555 sets no bounds) ---------------------------------------------------------------------

/// Characters of a URL of an ACME server; those of today's authorities have at most 120.
pub const ACME_URL_MAX: usize = 512;
/// Roots of the directory's HTTPS certificate, and as many under which certificates are issued; all of them must fit into one command of [`COMMAND_MAX`].
pub const ACME_ROOTS_MAX: usize = 4;
/// Contacts of an account.
pub const ACME_CONTACTS_MAX: usize = 4;
/// Bytes of an answer of an ACME server: a chain of [`CERTIFICATE_CHAIN_MAX`] certificates of [`CERTIFICATE_DER_MAX`] in PEM, and
/// slack.
pub const ACME_ANSWER_MAX: usize = 80 * 1024;
/// Longest pause that an ACME server's `Retry-After` makes us keep, in seconds: a day.
pub const ACME_RETRY_AFTER_MAX_S: u64 = 24 * 3_600;
/// Characters of the reason of a failed renewal.
pub const ACME_FAILURE_MAX: usize = 300;
/// How long others leave an attempt to renew a certificate to the enclave that began it, in milliseconds.
pub const RENEWAL_ATTEMPT_MS: u64 = 10 * 60_000;
/// First and longest pause after a failed renewal, in milliseconds. Let's Encrypt allows five failed validations per hour.
pub const RENEWAL_PAUSE_MS: core::ops::RangeInclusive<u64> = 5 * 60_000..=6 * 3_600_000;
/// Least time between the installation of a renewed certificate and the moment when it is due itself, in milliseconds. Short-lived
/// certificates of public authorities live for six days.
pub const RENEWAL_DISTANCE_MIN_MS: u64 = 3_600_000;
/// Longest life of a standing order to renew, in milliseconds: two years.
pub const RENEWAL_ORDER_LIFE_MAX_MS: u64 = 731 * 24 * 3_600_000;

// --- Custodian (ours) -----------------------------------------------------------------------------------------------------

/// Leases of one key store at one custodian; beyond it the one that was silent longest ends. With their documents they fit
/// into one query answer.
pub const LEASES_MAX: usize = 256;
/// Refusals that a custodian keeps on record for one key store, and for unknown key stores together.
pub const REFUSALS_KEPT_MAX: u32 = 10_000;
/// Boots whose newest audit checkpoint a custodian keeps for one key store, with an attestation document each some 400 MiB: a fleet of 10
/// that starts anew each day takes 18 years, and whoever makes an accepted enclave start all the time, a week.
pub const AUDIT_HEADS_KEPT_MAX: u32 = 65_536;
/// Releases that a custodian keeps on record for one key store: some years of a fleet of 10 that starts anew each day.
pub const RELEASES_KEPT_MAX: u32 = 10_000;
/// How far behind the newest counter of a lease a message may arrive: concurrent requests overtake each other.
pub const COUNTER_WINDOW: u64 = 64;
/// How long a custodian keeps an expired command and its result for the administrator, in milliseconds (31 days).
pub const COMMAND_KEPT_MS: u64 = 31 * 24 * 3_600_000;
/// Life of a connection to a custodian, in milliseconds, in which every request has its own limits already: it ends those who do not
/// read their answers. Clients that keep a connection leave it before.
pub const CUSTODIAN_CONNECTION_LIFE_MS: u64 = 120_000;
/// How long a connection to a custodian may wait for a request's head, in milliseconds, the pause before it included. Clients that
/// keep a connection leave it before.
pub const CUSTODIAN_CONNECTION_IDLE_MS: u64 = 30_000;
/// Concurrent connections to a custodian: those of two addresses. A fleet of larger ones needs custodians of its own.
pub const CUSTODIAN_CONNECTIONS_MAX: usize = 2 * CUSTODIAN_CONNECTIONS_PER_ADDRESS_MAX;
/// Concurrent connections to a custodian from one address: an enclave holds two for each of its 1,024 key stores, one that waits for news
/// and one that tells of the audit log, and while an image changes there are two enclaves behind one relay.
pub const CUSTODIAN_CONNECTIONS_PER_ADDRESS_MAX: usize = 2 * 2 * 1024;
/// Heads of audit logs that a custodian keeps with one commit. A database server has room for some 6,400 locks unless told otherwise
/// (`max_locks_per_transaction` × `max_connections`), and each head takes one.
pub const AUDIT_HEADS_GROUP_MAX: usize = 128;
/// Bodies above [`CUSTODIAN_SMALL_BODY_MAX`] that a custodian reads at once: times [`CHANNEL_MESSAGE_MAX`] this bounds memory.
pub const CUSTODIAN_LARGE_BODIES_MAX: usize = 16;
/// Bytes of a body that needs no place among the large ones.
pub const CUSTODIAN_SMALL_BODY_MAX: usize = 64 * 1024;
/// Time for a body, in milliseconds.
pub const CUSTODIAN_BODY_MS: u64 = 30_000;
/// Challenges that a custodian answers per second; what an honest fleet needs is a few per minute.
pub const CHALLENGES_PER_SECOND: u32 = 500;
/// Attestation documents per second whose signatures a custodian verifies.
pub const VERIFICATIONS_PER_SECOND: u32 = 50;
/// Manifests, release policies and approvals per second whose signatures a custodian verifies; administrators send a few a day.
pub const ORDERS_PER_SECOND: u32 = 50;
/// Refusals per second that a custodian records when nothing about the sender was proven: anybody can cause them.
pub const UNPROVEN_REFUSALS_PER_SECOND: u32 = 50;

// --- AWS KMS as the keeper of a share (API reference of AWS KMS) ------------------------------------------------------------

/// Bytes of `CiphertextForRecipient` (`Decrypt`, response elements).
pub const CIPHERTEXT_FOR_RECIPIENT_MAX: usize = 6144;
/// Bytes of `Plaintext` (`Encrypt`, request parameters).
pub const KMS_PLAINTEXT_MAX: usize = 4096;
/// Bytes of the key identifier of a recipient; KMS sends 32 (ours).
pub const KMS_RECIPIENT_ID_MAX: usize = 64;
/// Bytes of an answer of KMS: the largest `CiphertextForRecipient` in base64, an ARN, and slack (ours).
pub const KMS_ANSWER_MAX: usize = 16 * 1024;
/// Bytes of an access key id of AWS (`AccessKeyId`, API reference of IAM).
pub const AWS_ACCESS_KEY_ID_LEN: core::ops::RangeInclusive<usize> = 16..=128;
/// Bytes of a secret access key of AWS; all that are known have 40 (ours).
pub const AWS_SECRET_ACCESS_KEY_LEN: core::ops::RangeInclusive<usize> = 16..=128;
/// Bytes of a session token. AWS sets no bound ("the size of the security token that STS API operations return is not fixed");
/// headers of a request must hold it (ours).
pub const AWS_SESSION_TOKEN_MAX: usize = 8 * 1024;

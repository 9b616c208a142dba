//! What is wrong with the answers: of the API as a whole, and of single operations.

use super::causes;

causes! { SERVE:
    // What the proxy answers.
    NOT_HTTP = "not-http" Refused ["XKS_PROXY_INVALID_RESPONSE", "XksProxyInvalidResponseException"]
        title: "the answer is not HTTP/1.1",
        why: "KMS speaks HTTP and cannot read anything else.",
        remedy: "Check that the port belongs to the proxy, and that nothing between speaks another protocol.";
    CLOSED = "closed" Refused ["XKS_PROXY_INVALID_RESPONSE", "XksProxyInvalidResponseException"]
        title: "the connection ends before the answer",
        why: "KMS gets nothing or half an answer.",
        remedy: "Look at the proxy's log for crashes and at idle timeouts of load balancers.";
    TIMED_OUT = "timed-out" Refused ["XKS_PROXY_TIMED_OUT", "XksProxyUriUnreachableException"]
        title: "there is no answer in time",
        why: "KMS gives up after 250 ms, for every operation.",
        remedy: "Find what is slow: the key manager behind the proxy, the network, or too little capacity.";
    OVERSIZED = "oversized" Refused ["XKS_PROXY_INVALID_RESPONSE", "XksProxyInvalidResponseException"]
        title: "the answer is far larger than any that the API has",
        why: "KMS bounds what it reads.",
        remedy: "Look at what answers: it is hardly an XKS proxy.";
    REDIRECT = "redirect" Refused ["XKS_PROXY_INVALID_RESPONSE", "XksProxyInvalidResponseException"]
        title: "the answer is a redirect",
        why: "KMS follows none: requests are signed for their host and path.",
        remedy: "Answer at the address itself; switch off redirects of the web server or load balancer.";
    PATH_NOT_FOUND = "path-not-found" Refused ["XKS_PROXY_INVALID_CONFIGURATION", "XksProxyInvalidConfigurationException"]
        title: "the API is not under this path",
        why: "KMS appends /health and /keys/… to XksProxyUriPath and finds nothing.",
        remedy: "Correct the path prefix in XksProxyUriPath, or in the proxy.";
    SIGNATURE_REFUSED = "signature-refused" Refused ["INVALID_CREDENTIALS", "XksProxyIncorrectAuthenticationCredentialException"]
        title: "the proxy does not accept the signature",
        why: "The access key id is unknown there, the secret differs, the region or host in the scope is not what the proxy expects, \
             or its clock is wrong.",
        remedy: "Compare both halves of the credential; `holdfast explain-signature` shows which part differs. Check the proxy's clock, \
             and that nothing in between rewrites Host or path.";
    CLOCK_SKEW = "clock-skew" Refused ["INVALID_CREDENTIALS", "XksProxyIncorrectAuthenticationCredentialException"]
        title: "the clocks differ by more than five minutes",
        why: "The proxy takes every request of KMS for an old or a future one and refuses its signature.",
        remedy: "Set the proxy's clock by NTP, or this machine's if it is the one that is wrong.";
    CLOCK_DRIFT = "clock-drift" Warning ["INVALID_CREDENTIALS", "XksProxyIncorrectAuthenticationCredentialException"]
        title: "the clocks differ",
        why: "Signatures are refused once the difference reaches five minutes.",
        remedy: "Set the proxy's clock by NTP, or this machine's if it is the one that is wrong.";
    ACCESS_DENIED = "access-denied" Refused ["XKS_PROXY_ACCESS_DENIED", "KMSInvalidStateException"]
        title: "the proxy denies access",
        why: "Its own rules do not allow this principal, key or operation. GetHealthStatus must be outside such rules.",
        remedy: "Look at the proxy's policy; it must allow KMS's requests for the principals that use the keys.";
    THROTTLED = "throttled" Warning ["XKS_PROXY_NOT_REACHABLE", "XksProxyUriUnreachableException"]
        title: "the proxy throttles requests",
        why: "Requests over its limit fail in KMS.",
        remedy: "Raise the limit or add capacity; repeat this when there is less load.";
    INTERNAL_ERROR = "internal-error" Refused ["XKS_PROXY_INVALID_RESPONSE", "XksProxyInvalidResponseException"]
        title: "the proxy reports an internal error",
        why: "It cannot reach or use its key manager.",
        remedy: "Look at the proxy's log and at the key manager.";
    DEPENDENCY_TIMEOUT = "dependency-timeout" Refused ["XKS_PROXY_TIMED_OUT", "XksProxyUriUnreachableException"]
        title: "what the proxy depends on does not answer it",
        why: "The key manager behind the proxy is too slow, or not there.",
        remedy: "Check the key manager and the way to it.";
    STATE_INVALID = "state-invalid" Refused ["XKS_PROXY_INVALID_CONFIGURATION", "XksKeyInvalidConfigurationException"]
        title: "the key or the key store is disabled or blocked",
        why: "The proxy refuses to use it until that is lifted.",
        remedy: "Enable it in the key manager; in Holdfast see `holdfast status` for blocks and leases.";
    STATUS_UNEXPECTED = "status-unexpected" Refused ["XKS_PROXY_INVALID_RESPONSE", "XksProxyInvalidResponseException"]
        title: "the status is none that belongs there",
        why: "KMS cannot interpret the answer.",
        remedy: "Correct the proxy: success is 200, and each error has the status of the specification's table.";
    NOT_JSON = "not-json" Refused ["XKS_PROXY_INVALID_RESPONSE", "XksProxyInvalidResponseException"]
        title: "the body is not a JSON object",
        why: "KMS cannot interpret the answer.",
        remedy: "Answer with one JSON object; look for error pages of load balancers and web servers.";
    FIELD_INVALID = "field-invalid" Refused ["XKS_PROXY_INVALID_RESPONSE", "XksProxyInvalidResponseException"]
        title: "a required field is missing or not of its type",
        why: "KMS cannot interpret the answer.",
        remedy: "Answer with every field that the specification requires, in its form.";
    CONTENT_TYPE = "content-type" Warning ["XKS_PROXY_INVALID_RESPONSE", "XksProxyInvalidResponseException"]
        title: "the content type is not application/json",
        why: "The specification requires it, for errors too.",
        remedy: "Send `Content-Type: application/json` with every answer.";
    EKM_UNAVAILABLE = "ekm-unavailable" Refused ["XKS_PROXY_NOT_REACHABLE", "XksProxyUriUnreachableException"]
        title: "all external key managers are unavailable",
        why: "KMS takes the key store for unreachable when GetHealthStatus reports no usable key manager.",
        remedy: "Bring the key manager back, or correct what the proxy reports.";
    EKM_DEGRADED = "ekm-degraded" Warning [-, "XksExternalKeyManagerStates"]
        title: "some external key managers are not active",
        why: "One more that fails may stop the key store.",
        remedy: "Look at the key managers that are named.";
    // Keys and messages.
    KEY_NOT_FOUND = "key-not-found" Refused [-, "XksKeyNotFoundException"]
        title: "the proxy does not know the key",
        why: "CreateKey fails, and so does every use of a KMS key with this XksKeyId.",
        remedy: "Create the key in the key manager, or correct the id; ids are case-sensitive.";
    METADATA_UNSUPPORTED = "metadata-unsupported" Refused [-, "XksKeyInvalidResponseException"]
        title: "the proxy does not implement GetKeyMetadata",
        why: "CreateKey asks for the key's metadata first, and fails without them.",
        remedy: "Implement the operation; look whether a web server or load balancer in front answers 501 instead of the proxy.";
    KEY_DISABLED = "key-disabled" Refused [-, "XksKeyInvalidConfigurationException"]
        title: "the key is not ENABLED",
        why: "CreateKey and every use fail.",
        remedy: "Enable the key in the key manager.";
    KEY_SPEC = "key-spec" Refused [-, "XksKeyInvalidConfigurationException"]
        title: "the key is not AES_256",
        why: "KMS takes 256-bit AES keys alone.",
        remedy: "Make an AES key of 256 bits.";
    KEY_USAGE = "key-usage" Refused [-, "XksKeyInvalidConfigurationException"]
        title: "the key cannot both encrypt and decrypt",
        why: "KMS needs ENCRYPT and DECRYPT in keyUsage, and at most ten values.",
        remedy: "Allow both operations for the key in the key manager.";
    ENCRYPTION_FIELD = "encryption-field" Refused [-, "KMSInvalidStateException"]
        title: "a field of Encrypt's answer has a length that is not allowed",
        why: "The ciphertext is as long as the plaintext, the initialization vector has 12 or 16 bytes, the tag 16, \
             ciphertextMetadata at most 20.",
        remedy: "Correct the proxy: part the tag from the ciphertext, and shorten the metadata.";
    CDIV_MISSING = "cdiv-missing" Refused [-, "KMSInvalidStateException"]
        title: "ciphertextDataIntegrityValue is missing",
        why: "KMS asks for it, and then it must be there.",
        remedy: "Compute it whenever the request names SHA_256 (specification, Appendix C).";
    CDIV_WRONG = "cdiv-wrong" Refused [-, "KMSInvalidStateException"]
        title: "ciphertextDataIntegrityValue is wrong",
        why: "KMS computes the same hash and discards what was encrypted when they differ.",
        remedy: "Hash AAD, ciphertextMetadata, initialization vector, ciphertext and tag, decoded, in this order (specification, \
             Appendix C).";
    PLAINTEXT_DIFFERS = "plaintext-differs" Danger [-, "KMSInvalidStateException"]
        title: "Decrypt does not give back what was encrypted",
        why: "Everything encrypted with this key may be lost.",
        remedy: "Stop using the key. Look whether several versions of the key or several key managers answer.";
    AAD_NOT_BOUND = "aad-not-bound" Danger [-, -]
        title: "Decrypt succeeds with another AAD",
        why: "The encryption context of KMS protects nothing: a ciphertext can be passed off for another's.",
        remedy: "Use the additionalAuthenticatedData, with its length, as AAD of AES-GCM.";
    METADATA_NOT_BOUND = "metadata-not-bound" Danger [-, -]
        title: "Decrypt succeeds with other ciphertextMetadata",
        why: "The specification requires that a change be detected.",
        remedy: "Append the metadata with its length to the AAD of AES-GCM.";
    TAG_NOT_CHECKED = "tag-not-checked" Danger [-, -]
        title: "Decrypt succeeds with a changed ciphertext or tag",
        why: "Nothing protects the data from being changed.",
        remedy: "Verify the tag before anything is returned.";
    SIZE_NOT_SUPPORTED = "size-not-supported" Refused [-, "KMSInvalidStateException"]
        title: "a size that must be supported is refused",
        why: "A proxy must take plaintexts and ciphertexts of 4300 bytes, and AAD of 8192.",
        remedy: "Raise the limits of the proxy, and of bodies in load balancers and web servers.";
}

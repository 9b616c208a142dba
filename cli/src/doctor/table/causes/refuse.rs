//! What should be refused and is not, what is slow, and what only KMS sees.

use super::causes;

causes! { REFUSE:
    // What must be refused, and how.
    UNSIGNED_ACCEPTED = "unsigned-accepted" Danger [-, -]
        title: "a request without a signature is answered",
        why: "Anybody who reaches the proxy can decrypt with its keys.",
        remedy: "Take it off the network now. Verify the signature of every request before anything else.";
    SIGNATURE_NOT_CHECKED = "signature-not-checked" Danger [-, -]
        title: "a request with a wrong signature is answered",
        why: "Anybody who reaches the proxy can decrypt with its keys.",
        remedy: "Take it off the network now. Verify each signature, over method, path, headers and body, with the secret of the access \
             key id.";
    OLD_ACCEPTED = "old-accepted" Danger [-, -]
        title: "a request signed long ago is answered",
        why: "Whoever recorded a request can repeat it for ever. The proxy must check that the date is recent, within five minutes.",
        remedy: "Compare x-amz-date with a clock that is right, and refuse what is more than five minutes away.";
    ERROR_STATUS = "error-status" Refused ["XKS_PROXY_INVALID_RESPONSE", "KMSInvalidStateException"]
        title: "an error comes with another status or name than the specification's",
        why: "KMS chooses its message by errorName; with a wrong one people look for the wrong thing, and some errors are repeated \
             for nothing.",
        remedy: "Answer with the status and errorName of the specification's table of error codes.";
    GET_ACCEPTED = "get-accepted" Warning [-, -]
        title: "GET is not refused with 405",
        why: "The specification requires 405 Method Not Allowed at the addresses of the API.",
        remedy: "Refuse GET there; have load balancers probe another address.";
    ERROR_MESSAGE = "error-message" Warning [-, -]
        title: "errorMessage breaks its rules",
        why: "It has less than 512 characters, all printable ASCII; KMS writes it into the account's logs.",
        remedy: "Shorten it, and keep it to printable ASCII.";
    // Time.
    SLOW_PROXY = "slow-proxy" Refused ["XKS_PROXY_TIMED_OUT", "XksProxyUriUnreachableException"]
        title: "the proxy takes longer than 250 ms",
        why: "Even without the network's part KMS would have given up.",
        remedy: "Find what is slow: the key manager, a missing pool of connections, too little capacity.";
    SLOW_HERE = "slow-here" Warning ["XKS_PROXY_TIMED_OUT", "XksProxyUriUnreachableException"]
        title: "an answer takes longer than 250 ms as seen from here",
        why: "The network's part is large; from the region of the key store it may be less.",
        remedy: "Repeat it from a machine in the region of the key store.";
    SLOW_COLD = "slow-cold" Warning ["XKS_PROXY_TIMED_OUT", "XksProxyUriUnreachableException"]
        title: "a first request, with a new connection, takes longer than 250 ms",
        why: "KMS opens connections now and then; those requests fail.",
        remedy: "Allow resumption of TLS sessions and keep connections open; repeat it from a machine in the region.";
    // The proof of an enclave.
    ATTESTATION_FAILED = "attestation-failed" Danger [-, -]
        title: "the endpoint does not prove that it is the expected enclave",
        why: "KMS does not look at it. But whoever ends this connection reads what KMS sends.",
        remedy: "`holdfast attest` shows each check and the first that fails; docs/attest.md says what each means.";
    // What only KMS sees.
    STORE_NOT_CONNECTED = "store-not-connected" Refused [-, "CustomKeyStoreInvalidStateException"]
        title: "the key store is not connected",
        why: "Keys of a store work while its connection state is CONNECTED.",
        remedy: "Look at the state with DescribeCustomKeyStores, correct what its ConnectionErrorCode says, and call \
             ConnectCustomKeyStore.";
    URI_IN_USE = "uri-in-use" Refused [-, "XksProxyUriInUseException"]
        title: "another key store uses this endpoint and path",
        why: "Endpoint and path together may belong to one key store of a region.",
        remedy: "Use another path prefix, or the key store that is there.";
    ENDPOINT_IN_USE = "endpoint-in-use" Refused [-, "XksProxyUriEndpointInUseException"]
        title: "another key store uses this endpoint in a way that excludes this one",
        why: "A host name may be shared under conditions alone: the same connectivity and, with a VPC endpoint service, the same \
             service.",
        remedy: "Use another host name, or the same connectivity as the other key store.";
    KEY_IN_USE = "key-in-use" Refused [-, "XksKeyAlreadyInUseException"]
        title: "another KMS key of this key store uses the external key",
        why: "Each external key belongs to one KMS key of a store, even while that one is scheduled for deletion.",
        remedy: "Create another external key, or use the KMS key that is there.";
    VPC_NOT_FOUND = "vpc-not-found" Refused ["XKS_VPC_ENDPOINT_SERVICE_NOT_FOUND", "XksProxyVpcEndpointServiceNotFoundException"]
        title: "KMS does not find the VPC endpoint service",
        why: "The name or the region is wrong, or the service does not allow KMS as principal.",
        remedy: "Check the service's name, and allow cks.kms.REGION.amazonaws.com as principal.";
    VPC_CONFIGURATION = "vpc-configuration" Refused ["XKS_VPC_ENDPOINT_SERVICE_INVALID_CONFIGURATION", "XksProxyVpcEndpointServiceInvalidConfigurationException"]
        title: "the VPC endpoint service does not meet the requirements",
        why: "It needs a network load balancer in at least two availability zones, acceptance that is not required, KMS as \
             principal, and a verified private DNS name.",
        remedy: "Go through AWS's requirements for VPC endpoint service connectivity one by one.";
    VPC_IN_USE = "vpc-in-use" Refused [-, "XksProxyVpcEndpointServiceInUseException"]
        title: "another key store uses the VPC endpoint service",
        why: "A service belongs to one external key store of a region and account.",
        remedy: "Make another VPC endpoint service, or remove the other key store.";
    NAME_IN_USE = "name-in-use" Refused [-, "CustomKeyStoreNameInUseException"]
        title: "another custom key store has this name",
        why: "Names are unique in an account and region.",
        remedy: "Choose another name for the key store.";
    TRANSIENT = "transient" Warning ["NETWORK_ERRORS", -]
        title: "the network between KMS and the proxy fails now and then",
        why: "Nothing may be wrong at the proxy at the moment.",
        remedy: "Repeat it; run `holdfast doctor` for a while and watch XksProxyErrors in CloudWatch.";
    KMS_INTERNAL = "kms-internal" Warning ["INTERNAL_ERROR", -]
        title: "KMS itself failed",
        why: "The cause is on the side of KMS.",
        remedy: "Disconnect the key store, connect it again, and ask AWS if it stays.";
}

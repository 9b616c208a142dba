//! What KMS and CloudWatch say, and what is behind it, likeliest first.

use super::{Symptom, causes};

/// Declares symptoms: `"Name" [phrases] meaning => causes`, with `generic` in front of those that say little.
macro_rules! symptoms {
    (@generic generic) => { true };
    (@generic) => { false };
    ($($($generic:ident)? $name:literal [$($phrase:literal),*] $meaning:literal => $($cause:ident)+;)+) => {
        /// All of them.
        pub static ALL: &[Symptom] = &[$(Symptom {
            name: $name,
            phrases: &[$($phrase),*],
            is_generic: symptoms!(@generic $($generic)?),
            meaning: $meaning,
            causes: &[$(&causes::$cause),+],
        }),+];
    };
}

symptoms! {
    "XKS_PROXY_NOT_REACHABLE" ["cannot communicate with the external key store proxy"]
        "KMS could not reach the proxy, or the proxy said that all its key managers are unavailable."
        => TCP_TIMEOUT TCP_REFUSED NAME_UNRESOLVED EKM_UNAVAILABLE NO_IPV4 ADDRESS_NOT_PUBLIC THROTTLED;
    "XKS_PROXY_INVALID_TLS_CONFIGURATION" ["cannot establish a tls connection"]
        "KMS reached the proxy and got no TLS session that it trusts."
        => CERTIFICATE_EXPIRED CERTIFICATE_INCOMPLETE AUTHORITY_NOT_KMS CERTIFICATE_NAME AUTHORITY_GIVEN
           CERTIFICATE_SELF_SIGNED TLS_NO_SUITE TLS_CLOSED TLS_NOT_SPOKEN TLS_REFUSED CERTIFICATE_NOT_YET
           CERTIFICATE_UNUSABLE CERTIFICATE_SOON CERTIFICATE_COMMON_NAME HTTP11_MISSING;
    "XKS_PROXY_INVALID_RESPONSE" ["cannot interpret the response from the external key store proxy"]
        "KMS got an answer that is not what the specification says."
        => NOT_JSON FIELD_INVALID STATUS_UNEXPECTED ERROR_STATUS INTERNAL_ERROR CLOSED NOT_HTTP REDIRECT CONTENT_TYPE
           OVERSIZED;
    "XKS_PROXY_INVALID_CONFIGURATION" ["because of an invalid uri path", "invalid uri path"]
        "The path or another setting of the key store does not fit the proxy."
        => PATH_NOT_FOUND STATE_INVALID;
    "XKS_PROXY_ACCESS_DENIED" ["denied access to the operation"]
        "The proxy's own rules deny what KMS asked for."
        => ACCESS_DENIED TLS_CLIENT_CERTIFICATE;
    "XKS_PROXY_TIMED_OUT" ["did not respond in time", "did not respond to the request in the time allotted"]
        "The connection stands and the proxy does not answer within 250 ms."
        => SLOW_PROXY TIMED_OUT DEPENDENCY_TIMEOUT NETWORK_FAR SLOW_COLD SLOW_HERE TLS_TIMEOUT;
    "INVALID_CREDENTIALS" ["could not authenticate aws kms"]
        "The proxy did not accept KMS's signature: access key id, secret, region or clock."
        => SIGNATURE_REFUSED CLOCK_SKEW CLOCK_DRIFT;
    "XKS_VPC_ENDPOINT_SERVICE_NOT_FOUND" []
        "KMS does not find the VPC endpoint service that the key store names."
        => VPC_NOT_FOUND;
    "XKS_VPC_ENDPOINT_SERVICE_INVALID_CONFIGURATION" []
        "The VPC endpoint service is there and does not meet KMS's requirements."
        => VPC_CONFIGURATION ADDRESS_NOT_PUBLIC;
    "NETWORK_ERRORS" ["transient network issue"]
        "The network keeps KMS from the proxy at the moment."
        => TRANSIENT TCP_TIMEOUT NAME_UNRESOLVED;
    "INTERNAL_ERROR" []
        "KMS could not complete the request."
        => KMS_INTERNAL;
    "healthStatus UNAVAILABLE" ["all instances of its external key manager are unavailable"]
        "The proxy answered GetHealthStatus, and every key manager in its answer is UNAVAILABLE."
        => EKM_UNAVAILABLE;
    "XksProxyUriUnreachableException" []
        "KMS could not reach the path of the proxy, while a key store was made or changed; or all key managers were reported \
         unavailable."
        => TCP_TIMEOUT TCP_REFUSED NAME_UNRESOLVED CERTIFICATE_INCOMPLETE CERTIFICATE_EXPIRED AUTHORITY_NOT_KMS
           CERTIFICATE_NAME SLOW_PROXY TIMED_OUT EKM_UNAVAILABLE NO_IPV4 ADDRESS_NOT_PUBLIC TLS_NO_SUITE TLS_CLOSED
           TLS_NOT_SPOKEN TLS_REFUSED TLS_TIMEOUT CERTIFICATE_SELF_SIGNED CERTIFICATE_NOT_YET CERTIFICATE_UNUSABLE
           AUTHORITY_GIVEN CERTIFICATE_SOON CERTIFICATE_COMMON_NAME HTTP11_MISSING DEPENDENCY_TIMEOUT THROTTLED
           NETWORK_FAR SLOW_COLD SLOW_HERE;
    "XksProxyInvalidResponseException" []
        "The proxy's answer to GetHealthStatus is not what the specification says."
        => NOT_JSON FIELD_INVALID STATUS_UNEXPECTED INTERNAL_ERROR CLOSED NOT_HTTP REDIRECT CONTENT_TYPE OVERSIZED;
    "XksProxyInvalidConfigurationException" []
        "The proxy is not configured as the key store says; the message names what."
        => PATH_NOT_FOUND;
    "XksProxyIncorrectAuthenticationCredentialException" []
        "The proxy did not accept the credential."
        => SIGNATURE_REFUSED CLOCK_SKEW CLOCK_DRIFT;
    "XksKeyNotFoundException" ["was not found in its external key manager"]
        "The proxy does not know the external key."
        => KEY_NOT_FOUND;
    "XksKeyInvalidConfigurationException" [
        "is not enabled in the external key manager", "does not support the requested operation. enable the operation",
        "is not a 256-bit aes key", "is not configured for both encryption and decryption"
    ]
        "The external key is not an enabled AES key of 256 bits for encryption and decryption."
        => KEY_DISABLED KEY_USAGE KEY_SPEC STATE_INVALID;
    "XksKeyInvalidResponseException" []
        "The proxy answered UnsupportedOperationException (501) when KMS asked for the metadata of the external key."
        => METADATA_UNSUPPORTED;
    "XksKeyAlreadyInUseException" []
        "The external key belongs to another KMS key."
        => KEY_IN_USE;
    "XksProxyUriInUseException" []
        "Another key store has the same endpoint and path."
        => URI_IN_USE;
    "XksProxyUriEndpointInUseException" []
        "Another key store has the same endpoint."
        => ENDPOINT_IN_USE;
    "XksProxyVpcEndpointServiceNotFoundException" []
        "KMS does not find the VPC endpoint service."
        => VPC_NOT_FOUND;
    "XksProxyVpcEndpointServiceInvalidConfigurationException" []
        "The VPC endpoint service does not meet the requirements."
        => VPC_CONFIGURATION;
    "XksProxyVpcEndpointServiceInUseException" []
        "Another key store has the VPC endpoint service."
        => VPC_IN_USE;
    "CustomKeyStoreNameInUseException" []
        "Another custom key store has this name."
        => NAME_IN_USE;
    "CustomKeyStoreInvalidStateException" ["is not connected to its external key store proxy"]
        "The key store is not connected, or not in the state that the operation needs."
        => STORE_NOT_CONNECTED;
    "InvalidCiphertextException" ["ciphertext or encryption context is corrupted", "the ciphertext that the external key store proxy submitted for decryption"]
        "The proxy could not decrypt: ciphertext, encryption context or key version is another than when it was encrypted."
        => PLAINTEXT_DIFFERS ENCRYPTION_FIELD CDIV_WRONG;
    "AuthenticationFailedException" []
        "The proxy's answer (401) to a signature that it does not accept."
        => SIGNATURE_REFUSED CLOCK_SKEW;
    "AccessDeniedException" []
        "The proxy's answer (403) to what its own rules deny; or KMS's, to what the policies of AWS deny."
        => ACCESS_DENIED;
    "KeyNotFoundException" []
        "The proxy's answer (404) for a key that it does not know."
        => KEY_NOT_FOUND;
    "InvalidUriPathException" []
        "The proxy's answer (404) for a path that it does not serve."
        => PATH_NOT_FOUND;
    "InvalidStateException" []
        "The proxy's answer (400) for a key or key store that is disabled or blocked."
        => STATE_INVALID KEY_DISABLED;
    "InvalidKeyUsageException" ["does not support the requested operation"]
        "The proxy's answer (400) for a key that may not be used for this operation."
        => KEY_USAGE;
    "ThrottlingException" ["very high request rate"]
        "The proxy, or KMS itself, turned requests away because there are too many."
        => THROTTLED;
    "UnsupportedOperationException" ["because it does not support the requested operation"]
        "The proxy's answer (501) to an operation or a size that it does not support."
        => SIZE_NOT_SUPPORTED;
    "DependencyTimeoutException" []
        "The proxy's answer (503) when its key manager does not answer it."
        => DEPENDENCY_TIMEOUT;
    "InternalException" ["cannot communicate with the external key manager"]
        "The proxy's answer (500) when something failed in it or in its key manager."
        => INTERNAL_ERROR DEPENDENCY_TIMEOUT;
    "ValidationException" []
        "KMS refuses a parameter before it asks the proxy; or the proxy (400) one of KMS's."
        => HOST_NOT_FQDN PORT_NOT_443 PATH_NOT_ALLOWED ENDPOINT_LENGTH;
    "XksExternalKeyManagerStates" []
        "CloudWatch metric: how many key managers the proxy reported as ACTIVE, DEGRADED and UNAVAILABLE."
        => EKM_DEGRADED EKM_UNAVAILABLE;
    "XksProxyCertificateDaysToExpire" []
        "CloudWatch metric: days until the certificate of the endpoint expires."
        => CERTIFICATE_SOON CERTIFICATE_EXPIRED;
    "XksProxyLatency" []
        "CloudWatch metric: how long the proxy took, in milliseconds; KMS gives up at 250."
        => SLOW_PROXY NETWORK_FAR SLOW_COLD DEPENDENCY_TIMEOUT;
    generic "XksProxyErrors" []
        "CloudWatch metric: requests that failed; its dimensions ErrorType and ExceptionName say more, and those names can be \
         explained in turn."
        => TIMED_OUT TCP_TIMEOUT INTERNAL_ERROR SIGNATURE_REFUSED KEY_NOT_FOUND;
    generic "KMSInvalidStateException" []
        "What every operation with a key says when its key store or its key fails; only the text that comes with it says why."
        => STORE_NOT_CONNECTED TIMED_OUT TCP_TIMEOUT KEY_DISABLED ACCESS_DENIED CDIV_MISSING CDIV_WRONG
           SIZE_NOT_SUPPORTED;
}

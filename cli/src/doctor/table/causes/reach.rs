//! What stops KMS on its way to the proxy: name, port, network, TLS, certificate.

use super::causes;

causes! { REACH:
    // The name, the port and the path.
    HOST_NOT_FQDN = "host-not-fqdn" Refused [-, "ValidationException"]
        title: "the endpoint is not a fully qualified domain name",
        why: "KMS takes `https://` and a fully qualified domain name as XksProxyUriEndpoint, never an IP address or a bare name.",
        remedy: "Give the proxy a DNS name under a public domain and a certificate for it, and use that name.";
    PORT_NOT_443 = "port-not-443" Refused [-, "ValidationException"]
        title: "the port is not 443",
        why: "XksProxyUriEndpoint has no place for a port: KMS always connects to 443.",
        remedy: "Let the proxy, or the load balancer in front of it, listen on 443, and name the endpoint without a port.";
    PATH_NOT_ALLOWED = "path-not-allowed" Refused [-, "ValidationException"]
        title: "the path is none that KMS takes",
        why: "XksProxyUriPath is `/kms/xks/v1` with an optional prefix of letters, digits, `/`, `-` and `_` before it, 10 to 128 \
             characters in all.",
        remedy: "Serve the API under a prefix of those characters, and shorten it if it is too long.";
    ENDPOINT_LENGTH = "endpoint-length" Refused [-, "ValidationException"]
        title: "the endpoint's address is too long",
        why: "XksProxyUriEndpoint has at most 128 characters with `https://`, and a whole URI at most 256.",
        remedy: "Use a shorter host name or path prefix, or shorter key ids.";
    // The DNS.
    NAME_UNRESOLVED = "name-unresolved" Refused ["XKS_PROXY_NOT_REACHABLE", "XksProxyUriUnreachableException"]
        title: "the DNS gives no address for the name",
        why: "KMS cannot connect to a name that does not resolve.",
        remedy: "Check the spelling of XksProxyUriEndpoint, the record in the zone, and that the zone is delegated; wait for the time \
             to live of a negative answer.";
    NO_IPV4 = "no-ipv4" Refused ["XKS_PROXY_NOT_REACHABLE", "XksProxyUriUnreachableException"]
        title: "the name has no IPv4 address",
        why: "KMS connects over IPv4 unless the key store is set up otherwise; a name with AAAA records alone is not reached.",
        remedy: "Add an A record with a public IPv4 address.";
    ADDRESS_NOT_PUBLIC = "address-not-public" Warning ["XKS_PROXY_NOT_REACHABLE", "XksProxyUriUnreachableException"]
        title: "the name leads to an address that is not public",
        why: "Over public connectivity KMS reaches public addresses only. A private address is right for a VPC endpoint service \
             alone, where KMS resolves the private DNS name itself.",
        remedy: "Publish a public address, or use VPC endpoint service connectivity.";
    CAA_MISSING = "caa-missing" Warning [-, -]
        title: "no CAA record says who may issue certificates for the name",
        why: "Any public authority may then issue one; whoever gets it can stand in the proxy's place and receive what KMS sends.",
        remedy: "Publish CAA records with `issue`, the authority and `accounturi` of your own account there (RFC 8657).";
    CAA_WITHOUT_ACCOUNT = "caa-without-account" Warning [-, -]
        title: "the CAA records name an authority but no account there",
        why: "Everybody who controls the name for a moment gets a certificate with an account of his own at the same authority.",
        remedy: "Add `accounturi=…` with your account to the `issue` and `issuewild` records (RFC 8657).";
    CAA_UNKNOWN = "caa-unknown" Warning [-, -]
        title: "the CAA records could not be looked up",
        why: "An authority that cannot read them issues nothing (RFC 8659), so the certificate may not be renewed.",
        remedy: "Check that the zone's name servers answer queries of type CAA; name a resolver that answers with --resolver.";
    // The way to the proxy.
    TCP_REFUSED = "tcp-refused" Refused ["XKS_PROXY_NOT_REACHABLE", "XksProxyUriUnreachableException"]
        title: "nothing takes connections there",
        why: "KMS cannot open a TCP connection.",
        remedy: "Start the proxy, check that it or the load balancer listens on this address and port, and that targets are healthy.";
    TCP_TIMEOUT = "tcp-timeout" Refused ["XKS_PROXY_NOT_REACHABLE", "XksProxyUriUnreachableException"]
        title: "connections are not answered",
        why: "Packets are dropped on the way: a firewall, a security group, a missing route, or a wrong address.",
        remedy: "Allow port 443 from everywhere or from the addresses of KMS in your region; check security groups, network ACLs and \
             routes.";
    NETWORK_FAR = "network-far" Warning ["XKS_PROXY_TIMED_OUT", "XksProxyUriUnreachableException"]
        title: "the network's round trip takes over 35 ms",
        why: "AWS asks for at most 35 ms between its data centre and the key manager; each new connection costs several round trips \
             of the 250 ms.",
        remedy: "Move the proxy closer to the region. Measured from here: repeat it from a machine in the region of the key store.";
    // TLS and the certificate.
    TLS_NOT_SPOKEN = "tls-not-spoken" Refused ["XKS_PROXY_INVALID_TLS_CONFIGURATION", "XksProxyUriUnreachableException"]
        title: "what answers does not speak TLS",
        why: "KMS speaks HTTPS only.",
        remedy: "Point the endpoint to the port where the proxy ends TLS; a load balancer in TCP mode must pass TLS through.";
    TLS_CLOSED = "tls-closed" Refused ["XKS_PROXY_INVALID_TLS_CONFIGURATION", "XksProxyUriUnreachableException"]
        title: "the connection is closed during the TLS handshake",
        why: "No TLS session comes about. Behind a load balancer this is often a listener without healthy targets.",
        remedy: "Look at the log of whatever ends TLS; check the health of the load balancer's targets and that the host name (SNI) is \
             one that is served.";
    TLS_TIMEOUT = "tls-timeout" Refused ["XKS_PROXY_TIMED_OUT", "XksProxyUriUnreachableException"]
        title: "the TLS handshake is not answered in time",
        why: "KMS gives up after 250 ms.",
        remedy: "Look for overload or for a middle box that holds connections.";
    TLS_REFUSED = "tls-refused" Refused ["XKS_PROXY_INVALID_TLS_CONFIGURATION", "XksProxyUriUnreachableException"]
        title: "the TLS handshake fails",
        why: "KMS offers TLS 1.2 and 1.3; the other side refused.",
        remedy: "Look at the log of whatever ends TLS, and compare versions, cipher suites and the host name that it serves.";
    TLS_NO_SUITE = "tls-no-suite" Refused ["XKS_PROXY_INVALID_TLS_CONFIGURATION", "XksProxyUriUnreachableException"]
        title: "none of the specification's cipher suites is accepted",
        why: "KMS offers TLS_AES_256_GCM_SHA384 and TLS_CHACHA20_POLY1305_SHA256 for TLS 1.3, and ECDHE with AES_256_GCM_SHA384, for \
             RSA and ECDSA, for TLS 1.2.",
        remedy: "Enable at least one of them; on a load balancer choose a security policy with TLS 1.3.";
    TLS_CLIENT_CERTIFICATE = "tls-client-certificate" Warning ["XKS_PROXY_ACCESS_DENIED", "KMSInvalidStateException"]
        title: "the proxy asks for a client certificate",
        why: "KMS shows one with the name cks.kms.REGION.amazonaws.com; AWS deprecated this in March 2026. Here none was shown, so \
             what follows may fail for that reason.",
        remedy: "Accept that name under Amazon Trust Services, or turn client certificates off: each request is signed anyway.";
    CERTIFICATE_EXPIRED = "certificate-expired" Refused ["XKS_PROXY_INVALID_TLS_CONFIGURATION", "XksProxyUriUnreachableException"]
        title: "the certificate has expired",
        why: "KMS refuses expired certificates at once.",
        remedy: "Renew it, load it into the proxy or the load balancer, and set an alarm on XksProxyCertificateDaysToExpire.";
    CERTIFICATE_NOT_YET = "certificate-not-yet" Refused ["XKS_PROXY_INVALID_TLS_CONFIGURATION", "XksProxyUriUnreachableException"]
        title: "the certificate is not valid yet",
        why: "KMS refuses certificates before their time.",
        remedy: "Check the clock of the machine that issued it, and of this one; wait, or issue it again.";
    CERTIFICATE_NAME = "certificate-name" Refused ["XKS_PROXY_INVALID_TLS_CONFIGURATION", "XksProxyUriUnreachableException"]
        title: "the certificate is for another name",
        why: "KMS requires the host name of XksProxyUriEndpoint in the certificate.",
        remedy: "Issue a certificate with this name as subject alternative name and common name, or correct the endpoint.";
    CERTIFICATE_SELF_SIGNED = "certificate-self-signed" Refused ["XKS_PROXY_INVALID_TLS_CONFIGURATION", "XksProxyUriUnreachableException"]
        title: "the certificate is signed by itself",
        why: "KMS accepts public authorities of its list only.",
        remedy: "Get a certificate from an authority of the list; for development name it with --ca.";
    CERTIFICATE_INCOMPLETE = "certificate-incomplete" Refused ["XKS_PROXY_INVALID_TLS_CONFIGURATION", "XksProxyUriUnreachableException"]
        title: "the chain is incomplete, or of an unknown authority",
        why: "KMS fetches no missing certificates: the server must send every one between its own and the root.",
        remedy: "Configure the full chain (leaf and intermediates), from an authority of the list that KMS trusts.";
    CERTIFICATE_UNUSABLE = "certificate-unusable" Refused ["XKS_PROXY_INVALID_TLS_CONFIGURATION", "XksProxyUriUnreachableException"]
        title: "the certificate is not usable",
        why: "It or its chain breaks a rule of X.509 that KMS's library holds to as well.",
        remedy: "Issue it again as a server certificate with the key usage of one.";
    AUTHORITY_NOT_KMS = "authority-not-kms" Refused ["XKS_PROXY_INVALID_TLS_CONFIGURATION", "XksProxyUriUnreachableException"]
        title: "no authority that KMS trusts vouches for the certificate",
        why: "KMS has a list of its own, shorter than that of operating systems and browsers.",
        remedy: "Get a certificate from an authority of TrustedCertificateAuthorities in the XKS proxy API specification's repository.";
    AUTHORITY_GIVEN = "authority-given" Warning ["XKS_PROXY_INVALID_TLS_CONFIGURATION", "XksProxyUriUnreachableException"]
        title: "only the authorities given with --ca vouch for the certificate",
        why: "KMS would not trust it: this is good for development and no more.",
        remedy: "Before KMS connects, get a certificate from a public authority of the list that KMS trusts.";
    CERTIFICATE_SOON = "certificate-soon" Warning ["XKS_PROXY_INVALID_TLS_CONFIGURATION", "XksProxyUriUnreachableException"]
        title: "the certificate expires soon",
        why: "On the day when it expires every key of the store stops.",
        remedy: "Renew it now, and have renewal run by itself.";
    CERTIFICATE_COMMON_NAME = "certificate-common-name" Warning ["XKS_PROXY_INVALID_TLS_CONFIGURATION", "XksProxyUriUnreachableException"]
        title: "the certificate's common name is not the host name",
        why: "AWS's guide asks that the subject's common name match; the alternative name does here, which TLS libraries go by.",
        remedy: "Have the host name in the common name as well where the authority allows it.";
    HTTP11_MISSING = "http11-missing" Refused ["XKS_PROXY_INVALID_TLS_CONFIGURATION", "XksProxyUriUnreachableException"]
        title: "there is no way back to HTTP/1.1",
        why: "The specification requires that the proxy fall back to HTTP/1.1; a client that offers it alone is turned away here.",
        remedy: "Offer `http/1.1` in ALPN beside `h2`, and answer HTTP/1.1 where no ALPN is sent.";
}

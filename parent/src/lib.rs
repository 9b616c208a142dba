//! The untrusted relay beside the enclave.

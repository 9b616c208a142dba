//! Everything needed to run Holdfast without AWS: an emulated NSM, a local enclave process, a client that signs like KMS, a double
//! of KMS as the keeper of a share, a vsock for virtual machines, a simulation of alarms, a load generator, and `up`, which puts the processes together.
//!
//! Guarantees: the local enclave is the same library as in the image, given other sockets and the emulated NSM: no check is
//! turned off. Assumes: a machine on which nothing needs protection. Refuses: nothing here can be part of the image, which
//! links none of it.

pub mod alarms;
pub mod app;
pub mod aws_json;
pub mod enclave;
pub mod kms;
pub mod kms_share;
pub mod load;
pub mod nsm;
pub mod unix_socket;
pub mod up;
pub mod vsock;
pub mod xks_client;

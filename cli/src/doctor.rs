//! `holdfast doctor` and `holdfast explain`: whether AWS KMS can work with an external key store proxy, and what it means when it
//! says that it cannot.

pub mod explain;
pub mod table;

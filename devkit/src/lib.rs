//! Everything needed to run Holdfast without AWS.

pub mod nsm;

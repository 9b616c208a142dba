//! Everything needed to run Holdfast without AWS.

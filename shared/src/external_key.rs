//! external_key.

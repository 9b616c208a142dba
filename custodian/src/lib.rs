//! The external key custodian: releases key shares to attested enclaves.

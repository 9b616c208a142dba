//! HTTPS client of the custodian's API, over any byte stream.

//! AWS Signature Version 4, verifier's side, for the service `kms-xks-proxy` (specification, Appendix A).

use crate::limits::ACCESS_KEY_ID_LEN;
use crate::xks::names::{NameError, validated_text};

validated_text! {
    /// An access key id: 20 to 30 characters of `A-Z 2-7` (specification, Appendix A).
    AccessKeyId, NameError, check_access_key_id
}

fn check_access_key_id(text: &str) -> Result<(), NameError> {
    if !ACCESS_KEY_ID_LEN.contains(&text.len()) {
        return Err(NameError::Length);
    }
    if !text.bytes().all(|byte| byte.is_ascii_uppercase() || matches!(byte, b'2'..=b'7')) {
        return Err(NameError::Character);
    }
    Ok(())
}

//! `/dev/nsm`, through AWS's driver.

use aws_nitro_enclaves_nsm_api::api::{Request, Response};
use aws_nitro_enclaves_nsm_api::driver::{nsm_exit, nsm_init, nsm_process_request};

use super::NsmDevice;

/// The device of a Nitro Enclave.
#[derive(Debug)]
pub struct NitroDevice {
    descriptor: i32,
}

/// There is no `/dev/nsm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("/dev/nsm cannot be opened: this program runs in a Nitro Enclave only")]
pub struct NoDevice;

impl NitroDevice {
    /// Opens the device.
    ///
    /// # Errors
    /// [`NoDevice`].
    pub fn open() -> Result<Self, NoDevice> {
        let descriptor = nsm_init();
        if descriptor < 0 { Err(NoDevice) } else { Ok(Self { descriptor }) }
    }
}

impl NsmDevice for NitroDevice {
    fn process_request(&mut self, request: Request) -> Response {
        nsm_process_request(self.descriptor, request)
    }
}

impl Drop for NitroDevice {
    fn drop(&mut self) {
        nsm_exit(self.descriptor);
    }
}

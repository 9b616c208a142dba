//! `holdfast admin`: an administrator's keys.

use core::fmt;

use serde::Serialize;

use crate::home::{AdministratorFile, Home, HomeError};

/// An administrator, as others may see him.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct AdministratorReport(pub AdministratorFile);

impl fmt::Display for AdministratorReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "administrator {}\nid {}", self.0.name, self.0.id)
    }
}

/// Makes keys.
///
/// # Errors
/// [`HomeError::AdministratorExists`], a bad name, or a file.
pub fn init(home: &Home, name: &str) -> Result<AdministratorReport, HomeError> {
    home.create_administrator(name).map(|made| AdministratorReport((&made).into()))
}

/// Shows the public part of the keys.
///
/// # Errors
/// [`HomeError::NoAdministrator`], or what is wrong with a file.
pub fn show(home: &Home) -> Result<AdministratorReport, HomeError> {
    home.administrator().map(|keys| AdministratorReport((&keys.administrator).into()))
}

//! Files that say which images are accepted.
//!
//! Guarantees: whichever form a file has, what is read of it names PCR 0, 1, 2 and 16. Refuses: a description of an image without
//! the static configuration that its enclaves get, since PCR 16 is not the image's to know; two answers about PCR 16.

use std::path::{Path, PathBuf};

use holdfast_shared::attestation::measurements::PCR_LEN;
use holdfast_shared::attestation::{ImageMeasurements, ImageMeasurementsError, Measurements, pcr_of_content};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::files::{self, FILE_MAX, FileError};
use crate::kind::{self, Kind};

/// Bytes of a static configuration that a parent hands over.
const STATIC_CONFIGURATION_MAX: usize = 256 * 1024;

/// What a file accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedSets {
    /// The sets, one at least.
    pub sets: Vec<Measurements>,
    /// The image's own name, where the file has one.
    pub name: Option<String>,
}

/// Where PCR 16 comes from, where the file does not name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Configuration {
    /// The static configuration that parents hand over.
    File(PathBuf),
    /// The register itself.
    Pcr16([u8; PCR_LEN]),
}

/// Why a file of measurements is refused.
#[derive(Debug, thiserror::Error)]
pub enum MeasurementsError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A description of an image.
    #[error("{path}: {source}", path = path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ImageMeasurementsError,
    },
    /// Sets of registers that cannot be read.
    #[error(
        "{path}: {source}; expected what a build of the image wrote, or registers: {{\"pcr0\": …, \"pcr1\": …, \"pcr2\": …, \"pcr16\": …}}, or a \
         list of such{guess}",
        path = path.display()
    )]
    Sets {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
        /// What the file seems to be, where it is something else; empty or a part of a sentence.
        guess: String,
    },
    /// An empty list.
    #[error("{path}: names no measurements", path = path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Nothing says PCR 16.
    #[error(
        "{path} describes an image, and PCR 16 is not the image's: say with --configuration FILE which static configuration its enclaves \
         get",
        path = path.display()
    )]
    NoConfiguration {
        /// The file.
        path: PathBuf,
    },
    /// Two places say PCR 16.
    #[error("{path} names PCR 16 itself: leave --configuration and --pcr16 out", path = path.display())]
    TwoConfigurations {
        /// The file.
        path: PathBuf,
    },
}

/// Only what tells the forms apart.
#[derive(Deserialize)]
struct Form {
    format: Option<IgnoredAny>,
}

/// Reads what a build of the image wrote, one set of registers, or a list of sets.
///
/// # Errors
/// [`MeasurementsError`].
pub fn read(path: &Path, configuration: Option<&Configuration>) -> Result<AcceptedSets, MeasurementsError> {
    let bytes = files::read(path, FILE_MAX)?;
    let is_image = serde_json::from_slice::<Form>(&bytes).is_ok_and(|form| form.format.is_some());
    if !is_image {
        let sets = read_sets(path, &bytes)?;
        if configuration.is_some() {
            return Err(MeasurementsError::TwoConfigurations { path: path.to_owned() });
        }
        return Ok(AcceptedSets { sets, name: None });
    }
    let image = ImageMeasurements::parse(&bytes)
        .map_err(|source| MeasurementsError::Image { path: path.to_owned(), source })?;
    let pcr16 = match configuration {
        None => return Err(MeasurementsError::NoConfiguration { path: path.to_owned() }),
        Some(Configuration::File(file)) => pcr_of_content(&files::read(file, STATIC_CONFIGURATION_MAX)?),
        Some(Configuration::Pcr16(value)) => *value,
    };
    Ok(AcceptedSets { sets: vec![image.with_pcr16(pcr16)], name: Some(image.name()) })
}

fn read_sets(path: &Path, bytes: &[u8]) -> Result<Vec<Measurements>, MeasurementsError> {
    // Read as what it looks like, so that the error is about the field and not about the alternatives.
    let is_list = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    let read = if is_list { serde_json::from_slice(bytes) } else { serde_json::from_slice(bytes).map(|one| vec![one]) };
    let sets: Vec<_> = read.map_err(|source| {
        let guess = kind::guess(bytes, Kind::Measurements);
        MeasurementsError::Sets { path: path.to_owned(), source, guess }
    })?;
    if sets.is_empty() {
        return Err(MeasurementsError::Empty { path: path.to_owned() });
    }
    Ok(sets)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: &str = include_str!("../../../tests/vectors/attestation/measurements.json");

    #[test]
    fn registers_are_read_as_one_set_or_a_list() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("measurements.json");
        let pcr = [7; PCR_LEN];
        let set = Measurements { pcr0: pcr, pcr1: pcr, pcr2: pcr, pcr16: pcr, pcr3: None, pcr4: None, pcr8: None };
        std::fs::write(&path, serde_json::to_vec(&set).unwrap()).unwrap();
        assert_eq!(read(&path, None).unwrap(), AcceptedSets { sets: vec![set.clone()], name: None });
        let configuration = Configuration::Pcr16(pcr);
        assert!(matches!(read(&path, Some(&configuration)), Err(MeasurementsError::TwoConfigurations { .. })));
        std::fs::write(&path, serde_json::to_vec(&[&set, &set]).unwrap()).unwrap();
        assert_eq!(read(&path, None).unwrap().sets.len(), 2);
        std::fs::write(&path, "[]").unwrap();
        assert!(matches!(read(&path, None), Err(MeasurementsError::Empty { .. })));
        std::fs::write(&path, "{}").unwrap();
        assert!(read(&path, None).unwrap_err().to_string().contains("missing field `pcr0`"));
    }

    #[test]
    fn an_image_needs_its_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let (path, file) = (folder.path().join("measurements.json"), folder.path().join("static.json"));
        std::fs::write(&path, IMAGE).unwrap();
        std::fs::write(&file, "{\"regions\":[\"eu-central-1\"]}\n").unwrap();
        assert!(read(&path, None).unwrap_err().to_string().contains("--configuration FILE"));
        let image = ImageMeasurements::parse(IMAGE.as_bytes()).unwrap();
        let found = read(&path, Some(&Configuration::File(file))).unwrap();
        let expected = image.with_configuration(b"{\"regions\":[\"eu-central-1\"]}\n");
        assert_eq!(found, AcceptedSets { sets: vec![expected], name: Some("0.1.0+3f786850e387".to_owned()) });
        let found = read(&path, Some(&Configuration::Pcr16([9; PCR_LEN]))).unwrap();
        assert_eq!(found.sets, [image.with_pcr16([9; PCR_LEN])]);
        std::fs::write(&path, IMAGE.replace("\"pcr1\"", "\"pcr16\"")).unwrap();
        assert!(read(&path, None).unwrap_err().to_string().contains("unknown field `pcr16`"));
    }
}

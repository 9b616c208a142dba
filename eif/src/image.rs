//! The enclave image file (EIF), version 4: a header, then sections, all numbers big endian.
//!
//! ```text
//! header  548 bytes: ".eif", version u16, flags u16, default memory u64, default processors u64, reserved u16,
//!                    number of sections u16, offsets 32 × u64, sizes 32 × u64, unused u32, CRC-32 u32
//! section  12 bytes: type u16, flags u16, size u64; then its bytes
//! ```
//!
//! The CRC-32 (IEEE) covers the whole file but the four bytes that hold it. Source: the definitions of AWS's
//! `aws-nitro-enclaves-image-format` 0.8, and the loader of QEMU's machine `nitro-enclave` (`hw/core/eif.c`).
//!
//! Guarantees: one [`Image`] has one encoding, and [`Image::parse`] followed by [`Image::to_bytes`] gives back every image
//! that this module wrote. Refuses: what any loader would read in another way than we (gaps, overlaps, bytes after the last
//! section, two kernels, a wrong CRC), since a measurement is worth nothing if somebody boots other bytes.

use crc::{CRC_32_ISO_HDLC, Crc};

/// The longest image that is read, in bytes: enough for any kernel and application, little enough for memory.
pub const IMAGE_MAX: u64 = 1 << 30;

const MAGIC: &[u8; 4] = b".eif";
const VERSION: u16 = 4;
const SECTIONS_MAX: usize = 32;
const HEADER_LEN: usize = 548;
const SECTION_HEADER_LEN: usize = 12;
const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// What the hypervisor gives an enclave that says nothing itself: 512 MiB. `nitro-cli` always says something.
const DEFAULT_MEMORY: u64 = 512 << 20;
/// The same for processors.
const DEFAULT_PROCESSORS: u64 = 2;

/// What an image is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The kernel (bzImage).
    pub kernel: Vec<u8>,
    /// The kernel's command line, without a zero at its end.
    pub command_line: String,
    /// Ramdisks, in the order in which the kernel unpacks them: at least one. The first belongs to the boot (PCR 1), the others are the application (PCR 2).
    pub ramdisks: Vec<Vec<u8>>,
    /// What the image says about itself, in JSON. Nothing measures it.
    pub metadata: Vec<u8>,
    /// The signature section of a signed image ([`crate::signature`]).
    pub signature: Option<Vec<u8>>,
}

/// Why bytes are not an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// It does not begin as one.
    #[error("not an enclave image file: it does not begin with .eif")]
    Magic,
    /// An unknown version.
    #[error("version {0} of the format is not known; 4 is")]
    Version(u16),
    /// It ends too early.
    #[error("it ends within {0}")]
    Truncated(&'static str),
    /// Made for another architecture or with flags of the future.
    #[error("the header's flags are {0:#06x}; only 0, an x86-64 image, is known here")]
    Flags(u16),
    /// A section is not where the header says, or not as long.
    #[error("section {0}: the header and the section disagree, or there is a gap")]
    Layout(usize),
    /// A section of an unknown type.
    #[error("section {index}: type {kind} is not known")]
    Kind {
        /// Which section.
        index: usize,
        /// Its type.
        kind: u16,
    },
    /// There must be exactly one, and is not.
    #[error("there must be one {0}, and there are none or several")]
    Count(&'static str),
    /// The command line is not text.
    #[error("the command line is not printable ASCII")]
    CommandLine,
    /// Bytes after the last section.
    #[error("{0} bytes follow the last section")]
    Trailing(usize),
    /// The checksum is wrong.
    #[error("the CRC-32 is {found:08x}, and should be {computed:08x}")]
    Crc {
        /// What the file says.
        found: u32,
        /// What it is.
        computed: u32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
enum Kind {
    Kernel = 1,
    CommandLine = 2,
    Ramdisk = 3,
    Signature = 4,
    Metadata = 5,
}

impl Kind {
    const fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Kernel,
            2 => Self::CommandLine,
            3 => Self::Ramdisk,
            4 => Self::Signature,
            5 => Self::Metadata,
            _ => return None,
        })
    }

    const fn number(self) -> u16 {
        match self {
            Self::Kernel => 1,
            Self::CommandLine => 2,
            Self::Ramdisk => 3,
            Self::Signature => 4,
            Self::Metadata => 5,
        }
    }
}

impl Image {
    /// The sections in the order in which AWS's builder writes them.
    fn sections(&self) -> Vec<(Kind, &[u8])> {
        let mut sections = vec![
            (Kind::Kernel, self.kernel.as_slice()),
            (Kind::CommandLine, self.command_line.as_bytes()),
            (Kind::Metadata, self.metadata.as_slice()),
        ];
        sections.extend(self.ramdisks.iter().map(|ramdisk| (Kind::Ramdisk, ramdisk.as_slice())));
        sections.extend(self.signature.iter().map(|signature| (Kind::Signature, signature.as_slice())));
        sections
    }

    /// The file. At most 28 ramdisks fit.
    pub fn to_bytes(&self) -> Vec<u8> {
        let sections = self.sections();
        let mut offsets = [0_u64; SECTIONS_MAX];
        let mut sizes = [0_u64; SECTIONS_MAX];
        let mut body = Vec::new();
        for ((kind, content), (offset, size)) in sections.iter().zip(offsets.iter_mut().zip(&mut sizes)) {
            *offset = length(HEADER_LEN + body.len());
            *size = length(content.len());
            body.extend(kind.number().to_be_bytes());
            body.extend(0_u16.to_be_bytes());
            body.extend(size.to_be_bytes());
            body.extend_from_slice(content);
        }
        let mut file = Vec::with_capacity(HEADER_LEN + body.len());
        file.extend(MAGIC);
        file.extend(VERSION.to_be_bytes());
        file.extend(0_u16.to_be_bytes());
        file.extend(DEFAULT_MEMORY.to_be_bytes());
        file.extend(DEFAULT_PROCESSORS.to_be_bytes());
        file.extend(0_u16.to_be_bytes());
        file.extend(u16::try_from(sections.len()).unwrap_or(u16::MAX).to_be_bytes());
        file.extend(offsets.iter().chain(&sizes).flat_map(|number| number.to_be_bytes()));
        file.extend(0_u32.to_be_bytes());
        let crc = checksum(&file, &body);
        file.extend(crc.to_be_bytes());
        file.extend(body);
        file
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`ParseError`].
    pub fn parse(file: &[u8]) -> Result<Self, ParseError> {
        let header = Header::read(file)?;
        let mut parts = Parts::default();
        let mut position = HEADER_LEN;
        for (index, (offset, size)) in header.sections.iter().enumerate() {
            let section = Section::read(file, index, position, *offset, *size)?;
            position += SECTION_HEADER_LEN + section.content.len();
            parts.take(section.kind, section.content)?;
        }
        if position != file.len() {
            return Err(ParseError::Trailing(file.len() - position));
        }
        let (before, after) = file
            .split_at_checked(HEADER_LEN - 4)
            .and_then(|(head, rest)| Some((head, rest.get(4..)?)))
            .unwrap_or_default();
        let computed = checksum(before, after);
        if header.crc != computed {
            return Err(ParseError::Crc { found: header.crc, computed });
        }
        parts.into_image()
    }
}

struct Header {
    sections: Vec<(u64, u64)>,
    crc: u32,
}

impl Header {
    fn read(file: &[u8]) -> Result<Self, ParseError> {
        let mut reader = Reader(file);
        let cut = ParseError::Truncated("the header");
        if reader.take(MAGIC.len()) != Some(MAGIC) {
            return Err(ParseError::Magic);
        }
        let version = reader.u16().ok_or_else(|| cut.clone())?;
        if version != VERSION {
            return Err(ParseError::Version(version));
        }
        let flags = reader.u16().ok_or_else(|| cut.clone())?;
        if flags != 0 {
            return Err(ParseError::Flags(flags));
        }
        // Default memory, default processors and a reserved field say nothing about what boots.
        reader.take(8 + 8 + 2).ok_or_else(|| cut.clone())?;
        let count = usize::from(reader.u16().ok_or_else(|| cut.clone())?);
        let mut numbers = Vec::with_capacity(2 * SECTIONS_MAX);
        for _ in 0..2 * SECTIONS_MAX {
            numbers.push(reader.u64().ok_or_else(|| cut.clone())?);
        }
        reader.take(4).ok_or_else(|| cut.clone())?;
        let crc = reader.u32().ok_or(cut)?;
        let (offsets, sizes) = numbers.split_at(SECTIONS_MAX);
        if count > SECTIONS_MAX {
            return Err(ParseError::Count("number of sections up to 32"));
        }
        let sections = offsets.iter().copied().zip(sizes.iter().copied()).take(count).collect();
        Ok(Self { sections, crc })
    }
}

struct Section<'a> {
    kind: Kind,
    content: &'a [u8],
}

impl<'a> Section<'a> {
    /// The section that must begin at `position`: loaders that go by the header and loaders that walk the file see the same.
    fn read(file: &'a [u8], index: usize, position: usize, offset: u64, size: u64) -> Result<Self, ParseError> {
        if length(position) != offset {
            return Err(ParseError::Layout(index));
        }
        let cut = ParseError::Truncated("a section");
        let mut reader = Reader(file.get(position..).ok_or_else(|| cut.clone())?);
        let number = reader.u16().ok_or_else(|| cut.clone())?;
        let flags = reader.u16().ok_or_else(|| cut.clone())?;
        let said = reader.u64().ok_or_else(|| cut.clone())?;
        if said != size || flags != 0 {
            return Err(ParseError::Layout(index));
        }
        let kind = Kind::from_number(number).ok_or(ParseError::Kind { index, kind: number })?;
        let content = usize::try_from(size).ok().and_then(|size| reader.take(size)).ok_or(cut)?;
        Ok(Self { kind, content })
    }
}

#[derive(Default)]
struct Parts {
    kernel: Vec<Vec<u8>>,
    command_line: Vec<Vec<u8>>,
    ramdisks: Vec<Vec<u8>>,
    metadata: Vec<Vec<u8>>,
    signature: Vec<Vec<u8>>,
}

impl Parts {
    fn take(&mut self, kind: Kind, content: &[u8]) -> Result<(), ParseError> {
        let (place, most, name) = match kind {
            Kind::Kernel => (&mut self.kernel, 1, "kernel"),
            Kind::CommandLine => (&mut self.command_line, 1, "command line"),
            Kind::Ramdisk => (&mut self.ramdisks, SECTIONS_MAX, "ramdisk"),
            Kind::Metadata => (&mut self.metadata, 1, "metadata section"),
            Kind::Signature => (&mut self.signature, 1, "signature section"),
        };
        if place.len() >= most {
            return Err(ParseError::Count(name));
        }
        place.push(content.to_vec());
        Ok(())
    }

    fn into_image(mut self) -> Result<Image, ParseError> {
        let kernel = self.kernel.pop().ok_or(ParseError::Count("kernel"))?;
        let command_line = self.command_line.pop().ok_or(ParseError::Count("command line"))?;
        let command_line = String::from_utf8(command_line).map_err(|_| ParseError::CommandLine)?;
        if !command_line.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
            return Err(ParseError::CommandLine);
        }
        if self.ramdisks.is_empty() {
            return Err(ParseError::Count("ramdisk or more"));
        }
        let metadata = self.metadata.pop().unwrap_or_default();
        Ok(Image { kernel, command_line, ramdisks: self.ramdisks, metadata, signature: self.signature.pop() })
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }
}

fn checksum(header: &[u8], body: &[u8]) -> u32 {
    let mut digest = CRC.digest();
    digest.update(header);
    digest.update(body);
    digest.finalize()
}

fn length(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

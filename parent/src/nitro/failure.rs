//! From the error codes of `nitro-cli` to what is missing and what to do about it.
//!
//! Source: Nitro Enclaves User Guide, "Nitro Enclaves CLI error codes", and `src/common/document_errors.rs` of
//! aws-nitro-enclaves-cli. One fault brings several codes: that of the fault comes first, then those of what it broke (E39,
//! E11), which alone say little.

/// Text of `nitro-cli` that goes into a log line.
const QUOTED_MAX: usize = 300;

const ALLOCATOR: &str = "/etc/nitro_enclaves/allocator.yaml";
const RESTART: &str = "systemctl restart nitro-enclaves-allocator.service (no enclave may run meanwhile)";
const DRIVER: &str = "the driver is not there: the instance needs Nitro Enclaves enabled (EnclaveOptions in its launch \
                      template) and the module nitro_enclaves (modprobe nitro_enclaves)";

/// What is known of an error code: what it needs in the text to apply, what is missing, what to do.
struct Known {
    code: &'static str,
    with: &'static str,
    missing: &'static str,
    remedy: &'static str,
}

const fn known(code: &'static str, with: &'static str, missing: &'static str, remedy: &'static str) -> Known {
    Known { code, with, missing, remedy }
}

/// In the order in which they are tried.
const KNOWN: [Known; 18] = [
    known("E19", "/dev/nitro_enclaves", DRIVER, "check ls -l /dev/nitro_enclaves"),
    known("E19", "/sys/module/nitro_enclaves", DRIVER, "check ls /sys/module/nitro_enclaves"),
    known("E19", ".eif", "the image cannot be read", "check that nitro.eif is there and this user may read it"),
    known("E19", "", "a file cannot be opened", "check nitro.eif, /dev/nitro_enclaves and /var/log/nitro_enclaves"),
    known(
        "E21",
        "",
        "a CPU of nitro.cpu_ids is not in the allocator's pool",
        "raise cpu_pool in ALLOCATOR, then RESTART",
    ),
    known(
        "E22",
        "",
        "the allocator's pool has fewer free CPUs than nitro.cpu_count",
        "raise cpu_count in ALLOCATOR, then RESTART",
    ),
    known("E20", "", "nitro.cpu_ids names a CPU twice", "name each once"),
    known(
        "E26",
        "",
        "nitro.memory_mib is too little for this image",
        "raise it to four times the size of the image or more",
    ),
    known(
        "E27",
        "",
        "too few free hugepages for nitro.memory_mib",
        "raise memory_mib in ALLOCATOR, then RESTART; see HugePages_Free in /proc/meminfo",
    ),
    known(
        "E35",
        "",
        "the image cannot be loaded, mostly for want of free hugepages",
        "raise memory_mib in ALLOCATOR, then RESTART; see HugePages_Free in /proc/meminfo",
    ),
    known("E42", "", "the memory cannot be allocated", "raise memory_mib in ALLOCATOR, then RESTART"),
    known(
        "E31",
        "",
        "the memory is refused by the driver: hugepages on another NUMA node than the CPUs, or too many small ones",
        "restart the instance, so that the allocator finds memory in one piece",
    ),
    known(
        "E32",
        "",
        "a CPU is refused: in use, or half of a core",
        "give whole cores: an even nitro.cpu_count where cores have two threads",
    ),
    known(
        "E29",
        "",
        "the driver refused",
        "nitro.cpu_count and memory must fit the allocator's pool; see the log that the text names",
    ),
    known(
        "E36",
        "",
        "the enclave did not boot: an image that is no enclave image, too little memory for it, a signature whose certificate has ended, or another enclave being started at the same time",
        "nitro-cli describe-eif --eif-path IMAGE; raise nitro.memory_mib",
    ),
    known(
        "E18",
        "",
        "this user may not write the log of nitro-cli",
        "add the user to the group ne, and let it write /var/log/nitro_enclaves",
    ),
    known("E58", "", "the enclave's name is not accepted", "change nitro.name"),
    known(
        "E39",
        "",
        "an enclave's process does not answer",
        "nitro-cli describe-enclaves; end what it shows and does not answer",
    ),
];

/// One line: what is missing, what to do, which codes.
pub(crate) fn explain(stderr: &str, status: &str) -> String {
    let codes = codes(stderr);
    // Codes stand in the order in which the faults came up; the first that is known is the cause.
    let found = codes
        .iter()
        .find_map(|code| KNOWN.iter().find(|known| known.code == code.as_str() && stderr.contains(known.with)));
    let text = quoted(stderr);
    match found {
        Some(Known { missing, remedy, .. }) => {
            let remedy = remedy.replace("ALLOCATOR", ALLOCATOR).replace("RESTART", RESTART);
            format!("{}: {missing}: {remedy} ({text})", codes.join(", "))
        }
        None if text.is_empty() => status.to_owned(),
        None => format!("{status}: {text}"),
    }
}

/// Each `[ Enn ]`, once.
fn codes(text: &str) -> Vec<String> {
    let mut codes: Vec<String> = Vec::new();
    for part in text.split("[ E").skip(1) {
        let digits: String = part.chars().take(2).collect();
        let is_code = part.get(2..4) == Some(" ]") && digits.bytes().all(|byte| byte.is_ascii_digit());
        let code = format!("E{digits}");
        if is_code && !codes.contains(&code) {
            codes.push(code);
        }
    }
    codes
}

/// The first line with a code (or the first at all), printable and bounded.
fn quoted(text: &str) -> String {
    let line = text.lines().find(|line| line.starts_with("[ E")).or_else(|| text.lines().next()).unwrap_or_default();
    line.chars().filter(|character| !character.is_control()).take(QUOTED_MAX).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As nitro-cli prints them (issues 516, 644 of aws-nitro-enclaves-cli and others).
    fn printed(code: &str, text: &str) -> String {
        let more = |code: &str| {
            format!(
                "For more details, please visit https://docs.aws.amazon.com/enclaves/latest/user/cli-errors.html#{code}\n\n\
                 If you open a support ticket, please provide the error log found at \
                 \"/var/log/nitro_enclaves/err2023-07-25T17:09:51.827350506+00:00.log\"\n"
            )
        };
        format!(
            "Start allocating memory...\n[ {code} ] {text}\n\n{}Failed connections: 1\n[ E39 ] Enclave process connection \
             failure.\n\n{}",
            more(code),
            more("E39")
        )
    }

    #[test]
    fn each_code_says_what_is_missing_and_what_to_do() {
        for (code, text, expected) in [
            (
                "E19",
                "File operation failure.\nFile: '/dev/nitro_enclaves', failing operation: 'Open'.",
                "modprobe nitro_enclaves",
            ),
            (
                "E19",
                "File operation failure.\nFile: '/sys/module/nitro_enclaves/parameters/ne_cpus', failing operation: 'Open'.",
                "EnclaveOptions",
            ),
            (
                "E19",
                "File operation failure.\nFile: '/opt/holdfast.eif', failing operation: 'Open'.",
                "the image cannot be read",
            ),
            ("E20", "Invalid CPU configuration.", "names a CPU twice"),
            ("E21", "No such CPU available in the pool.", "cpu_pool in /etc/nitro_enclaves/allocator.yaml"),
            (
                "E22",
                "Insufficient CPUs available in the pool.",
                "cpu_count in /etc/nitro_enclaves/allocator.yaml, then systemctl restart nitro-enclaves-allocator.service",
            ),
            ("E26", "Insufficient memory requested.", "four times the size of the image"),
            (
                "E27",
                "Insufficient memory available.",
                "memory_mib in /etc/nitro_enclaves/allocator.yaml, then systemctl restart nitro-enclaves-allocator.service",
            ),
            ("E29", "Ioctl failure.", "allocator's pool"),
            ("E31", "Ioctl set memory region failure.", "NUMA"),
            ("E32", "Ioctl add vCPU failure.", "whole cores"),
            ("E35", "EIF file parsing error.", "HugePages_Free"),
            ("E36", "Enclave boot failure.", "did not boot"),
            ("E42", "Enclave mmap error.", "memory_mib in /etc/nitro_enclaves/allocator.yaml"),
            ("E58", "Naming error.", "nitro.name"),
        ] {
            let line = explain(&printed(code, text), "exit status: 1");
            assert!(line.starts_with(&format!("{code}, E39: ")) && line.contains(expected), "{line}");
            assert!(!line.contains('\n') && line.len() < 1000, "{line}");
        }
        assert!(explain(&printed("E39", "x"), "exit status: 1").contains("does not answer"));
        assert!(explain("[ E18 ] File permissions error.", "x").contains("group ne"));
    }

    #[test]
    fn an_unknown_failure_is_quoted_in_one_bounded_line() {
        assert_eq!(explain("", "exit status: 7"), "exit status: 7");
        assert_eq!(explain("error: no\nmore\n", "exit status: 7"), "exit status: 7: error: no");
        let long = explain(&"x\u{1b}".repeat(10_000), "exit status: 7");
        assert!(long.len() < QUOTED_MAX + 50 && !long.contains('\u{1b}'));
        assert_eq!(codes("[ E99 ] [ E1 ] [ Exx ] [ E99 ] [ E12"), ["E99"]);
    }
}

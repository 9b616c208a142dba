//! Whether this instance can run what the configuration says: `--check-instance`.
//!
//! Guarantees: looks, and changes nothing; each finding that fails says what to do.

use std::fs;
use std::path::{Path, PathBuf};

use crate::audit::look;
use crate::config::{Config, NitroConfig, read_bounded};
use crate::limits::SYSTEM_FILE_MAX;
use crate::nitro::Cli;

/// MiB in a byte count's KiB.
const KIB_PER_MIB: u64 = 1024;

/// How something was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// As needed.
    Good,
    /// Enough to serve, not for a second enclave beside the first.
    Tight,
    /// The enclave cannot start.
    Bad,
}

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) what: &'static str,
    pub(crate) verdict: Verdict,
    pub(crate) text: String,
}

impl Finding {
    fn of(what: &'static str, found: Result<String, String>) -> Self {
        match found {
            Ok(text) => Self { what, verdict: Verdict::Good, text },
            Err(text) => Self { what, verdict: Verdict::Bad, text },
        }
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        let verdict = match self.verdict {
            Verdict::Good => "ok",
            Verdict::Tight => "tight",
            Verdict::Bad => "FAILED",
        };
        format!("{:<18} {verdict:<7} {}", self.what, self.text)
    }
}

/// Looks at everything. `root` is `/`, but in tests.
pub(crate) async fn check(config: &Config, root: &Path) -> Vec<Finding> {
    let Some(nitro) = &config.nitro else {
        let text = "[nitro] is not in the configuration: this program runs no enclave with nitro-cli".to_owned();
        return vec![Finding::of("configuration", Err(text))];
    };
    let cli = Cli::new(&nitro.cli);
    let running = cli.describe_enclaves().await;
    // Ours, if one runs already, has what it needs.
    let ours = running.as_ref().map_or(0, |found| {
        let names: Vec<String> = config.cids().iter().map(|cid| nitro.enclave_name(*cid)).collect();
        found.iter().filter(|enclave| enclave.name.as_ref().is_some_and(|name| names.contains(name))).count()
    });
    let image = cli.describe_eif(&nitro.eif).await;
    let instance = Instance { root: root.to_owned() };
    let missing = config.cids().len().saturating_sub(ours);
    let space = Room { needed: usize::from(ours == 0), wished: missing };
    vec![
        Finding::of("driver", instance.driver()),
        Finding::of(
            "nitro-cli",
            running.map(|found| format!("{} enclaves run", found.len())).map_err(|e| e.to_string()),
        ),
        instance.cpus(nitro, space),
        instance.memory(nitro, space),
        Finding::of("allocator.yaml", instance.allocator(nitro)),
        Finding::of(
            "image",
            image
                .map(|image| format!("PCR0 {}, PCR1 {}, PCR2 {}", image.pcr0, image.pcr1, image.pcr2))
                .map_err(|error| error.to_string()),
        ),
        Finding::of("audit folder", look(&config.audit.folder)),
    ]
}

/// For how many enclaves there must be space, and for how many there should.
#[derive(Debug, Clone, Copy)]
struct Room {
    needed: usize,
    wished: usize,
}

impl Room {
    fn judge(self, what: &'static str, enclaves: u64, text: String, remedy: &str) -> Finding {
        let at_least = |count: usize| enclaves >= u64::try_from(count).unwrap_or(u64::MAX);
        let verdict = match (at_least(self.needed), at_least(self.wished)) {
            (false, _) => Verdict::Bad,
            (true, false) => Verdict::Tight,
            (true, true) => Verdict::Good,
        };
        let text = match verdict {
            Verdict::Good => text,
            Verdict::Tight => format!(
                "{text}: no space for a second enclave, so a new image needs a new instance (docs/ec2.md); for one beside the other: {remedy}"
            ),
            Verdict::Bad => format!("{text}: {remedy}"),
        };
        Finding { what, verdict, text }
    }
}

#[derive(Debug)]
struct Instance {
    root: PathBuf,
}

impl Instance {
    fn driver(&self) -> Result<String, String> {
        let device = self.root.join("dev/nitro_enclaves");
        if device.exists() {
            return Ok("/dev/nitro_enclaves is there".to_owned());
        }
        Err("/dev/nitro_enclaves is missing: the instance needs Nitro Enclaves enabled (EnclaveOptions) and the module \
             nitro_enclaves (modprobe nitro_enclaves)"
            .to_owned())
    }

    fn text(&self, file: &str) -> Option<String> {
        let bytes = read_bounded(&self.root.join(file), SYSTEM_FILE_MAX).ok()??;
        String::from_utf8(bytes).ok()
    }

    /// The allocator's pool. It holds the CPUs of running enclaves as well; those of ours count as taken.
    fn cpus(&self, nitro: &NitroConfig, space: Room) -> Finding {
        let pool = self.text("sys/module/nitro_enclaves/parameters/ne_cpus").unwrap_or_default();
        let pool = listed(pool.trim()).unwrap_or_default();
        if let Some(missing) = nitro.cpu_ids.iter().flatten().find(|id| !pool.contains(id)) {
            let text = format!(
                "CPU {missing} of nitro.cpu_ids is not in the allocator's pool: put it into cpu_pool in \
                 /etc/nitro_enclaves/allocator.yaml, then systemctl restart nitro-enclaves-allocator.service"
            );
            return Finding { what: "CPUs", verdict: Verdict::Bad, text };
        }
        let each = nitro.cpus().max(1);
        let total = Room { needed: 1, wished: space.wished.saturating_add(usize::from(space.needed == 0)) };
        let fits = u64::try_from(pool.len() / each).unwrap_or(u64::MAX);
        let text = format!("the pool has {}, each enclave takes {each}", pool.len());
        total.judge(
            "CPUs",
            fits,
            text,
            "raise cpu_count in /etc/nitro_enclaves/allocator.yaml, then systemctl restart nitro-enclaves-allocator.service",
        )
    }

    /// Free hugepages of every size.
    fn memory(&self, nitro: &NitroConfig, space: Room) -> Finding {
        let free = self.free_hugepages_kib() / KIB_PER_MIB;
        let text = format!("{free} MiB in free hugepages, each enclave takes {} MiB", nitro.memory_mib);
        space.judge(
            "hugepages",
            free / nitro.memory_mib.max(1),
            text,
            "raise memory_mib in /etc/nitro_enclaves/allocator.yaml, then systemctl restart nitro-enclaves-allocator.service",
        )
    }

    fn free_hugepages_kib(&self) -> u64 {
        let folder = "sys/kernel/mm/hugepages";
        let Ok(sizes) = fs::read_dir(self.root.join(folder)) else { return 0 };
        let mut total = 0u64;
        for entry in sizes.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let size = name.strip_prefix("hugepages-").and_then(|rest| rest.strip_suffix("kB")?.parse::<u64>().ok());
            let free = self.text(&format!("{folder}/{name}/free_hugepages")).and_then(|text| text.trim().parse().ok());
            if let (Some(size), Some(free)) = (size, free) {
                total = total.saturating_add(size.saturating_mul(free));
            }
        }
        total
    }

    /// What the allocator was told. What it could do stands in the other lines.
    fn allocator(&self, nitro: &NitroConfig) -> Result<String, String> {
        let Some(text) = self.text("etc/nitro_enclaves/allocator.yaml") else {
            return Err(
                "/etc/nitro_enclaves/allocator.yaml is missing: install the package aws-nitro-enclaves-cli".to_owned()
            );
        };
        let memory: u64 = values(&text, "memory_mib").filter_map(|value| value.parse::<u64>().ok()).sum();
        let counted: usize = values(&text, "cpu_count").filter_map(|value| value.parse::<usize>().ok()).sum();
        let pooled: usize = values(&text, "cpu_pool").filter_map(listed).map(|cpus| cpus.len()).sum();
        let cpus = counted.saturating_add(pooled);
        let line = format!("memory_mib {memory}, CPUs {cpus}");
        if memory < nitro.memory_mib || cpus < nitro.cpus() {
            return Err(format!(
                "{line}: needs memory_mib {} and {} CPUs at least; then systemctl restart nitro-enclaves-allocator.service",
                nitro.memory_mib,
                nitro.cpus()
            ));
        }
        Ok(line)
    }
}

/// The values of a key, wherever it stands in a list of plain `key: value` lines.
fn values<'a>(yaml: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    yaml.lines().filter_map(move |line| {
        let line = line.trim_start().trim_start_matches("- ").trim_start();
        let value = line.strip_prefix(key)?.trim_start().strip_prefix(':')?;
        Some(value.split('#').next().unwrap_or_default().trim().trim_matches('"'))
    })
}

/// `1,3-5` as numbers; nothing is listed by an empty text.
fn listed(text: &str) -> Option<Vec<u32>> {
    let mut numbers = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        if last.checked_sub(first)? > crate::limits::ENCLAVE_CPUS_MAX {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake {
        folder: tempfile::TempDir,
    }

    impl Fake {
        fn new(allocator: &str, pool: &str, hugepages: &[(u64, u64)]) -> Self {
            let fake = Self { folder: tempfile::tempdir().unwrap() };
            fake.write("dev/nitro_enclaves", "");
            fake.write("etc/nitro_enclaves/allocator.yaml", allocator);
            fake.write("sys/module/nitro_enclaves/parameters/ne_cpus", pool);
            for (size, free) in hugepages {
                let file = format!("sys/kernel/mm/hugepages/hugepages-{size}kB/free_hugepages");
                fake.write(&file, &format!("{free}\n"));
            }
            fake
        }

        fn write(&self, file: &str, text: &str) {
            let path = self.folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn instance(&self) -> Instance {
            Instance { root: self.folder.path().to_owned() }
        }
    }

    fn nitro(cpus: &str, memory_mib: u64) -> NitroConfig {
        toml::from_str(&format!("eif = \"x\"\n{cpus}\nmemory_mib = {memory_mib}")).unwrap()
    }

    const BEFORE: Room = Room { needed: 1, wished: 2 };
    /// As the package puts it there.
    const ALLOCATOR: &str = "---\n# Enclave configuration file.\n#\n# memory_mib: 9999\nmemory_mib: 2048\n#\ncpu_count: 4\n# cpu_pool: 2,3,6-9\n";

    #[test]
    fn room_for_two_for_one_and_for_none() {
        let fake = Fake::new(ALLOCATOR, "1,3,5,7\n", &[(2048, 512), (1_048_576, 1)]);
        for (config, cpus, memory) in [
            (nitro("cpu_count = 2", 1024), Verdict::Good, Verdict::Good),
            (nitro("cpu_count = 3", 1025), Verdict::Tight, Verdict::Tight),
            (nitro("cpu_count = 5", 2049), Verdict::Bad, Verdict::Bad),
        ] {
            let found = (fake.instance().cpus(&config, BEFORE), fake.instance().memory(&config, BEFORE));
            assert_eq!((found.0.verdict, found.1.verdict), (cpus, memory), "{found:?}");
            for finding in [found.0, found.1] {
                let says = finding.text.contains("systemctl restart nitro-enclaves-allocator.service");
                assert_eq!(says, finding.verdict != Verdict::Good, "{finding:?}");
            }
        }
        // One of ours runs: its CPUs are in the pool still, its hugepages are not free any more.
        let beside = Room { needed: 0, wished: 1 };
        assert_eq!(fake.instance().cpus(&nitro("cpu_count = 2", 2048), beside).verdict, Verdict::Good);
        assert_eq!(fake.instance().cpus(&nitro("cpu_count = 3", 2048), beside).verdict, Verdict::Tight);
        assert_eq!(fake.instance().memory(&nitro("cpu_count = 2", 2048), beside).verdict, Verdict::Good);
        assert_eq!(fake.instance().memory(&nitro("cpu_count = 2", 2049), beside).verdict, Verdict::Tight);
    }

    #[test]
    fn named_cpus_must_be_in_the_pool() {
        let fake = Fake::new(ALLOCATOR, "1,3-5", &[]);
        let alone = Room { needed: 1, wished: 1 };
        assert_eq!(fake.instance().cpus(&nitro("cpu_ids = [3, 4]", 1), alone).verdict, Verdict::Good);
        let finding = fake.instance().cpus(&nitro("cpu_ids = [3, 6]", 1), alone);
        assert!(finding.verdict == Verdict::Bad && finding.text.contains("CPU 6"), "{finding:?}");
    }

    #[test]
    fn what_the_allocator_was_told() {
        let told = |allocator: &str, config: &NitroConfig| Fake::new(allocator, "", &[]).instance().allocator(config);
        assert_eq!(told(ALLOCATOR, &nitro("cpu_count = 2", 2048)).unwrap(), "memory_mib 2048, CPUs 4");
        let several = "---\n- memory_mib: 512\n  cpu_count: 2\n- memory_mib: 512\n  cpu_pool: 2,3,6-9\n";
        assert_eq!(told(several, &nitro("cpu_count = 8", 1024)).unwrap(), "memory_mib 1024, CPUs 8");
        for config in [nitro("cpu_count = 2", 2049), nitro("cpu_count = 5", 1)] {
            assert!(told(ALLOCATOR, &config).unwrap_err().contains("systemctl restart"));
        }
        let fake = Fake::new(ALLOCATOR, "", &[]);
        assert!(fake.instance().driver().is_ok());
        fs::remove_file(fake.folder.path().join("dev/nitro_enclaves")).unwrap();
        assert!(fake.instance().driver().unwrap_err().contains("modprobe nitro_enclaves"));
        fs::remove_file(fake.folder.path().join("etc/nitro_enclaves/allocator.yaml")).unwrap();
        assert!(fake.instance().allocator(&nitro("cpu_count = 2", 1)).unwrap_err().contains("aws-nitro-enclaves-cli"));
    }

    #[test]
    fn lists_of_cpus() {
        assert_eq!(listed("1,3-5"), Some(vec![1, 3, 4, 5]));
        assert_eq!(listed(""), Some(vec![]));
        for wrong in ["a", "3-1", "0-4294967295", "1-"] {
            assert_eq!(listed(wrong), None, "{wrong}");
        }
    }
}

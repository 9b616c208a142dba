//! Loads named after what they are like, and how flags override them.

use std::time::Duration;

use serde::Serialize;

use super::mix::{Mix, Operation};
use super::pace::{Phase, Spacing};
use super::request::Sizes;
use super::settings::ShapeSettings;
use super::wire::{Http, Reuse};

/// After which AWS KMS gives up (specification, section "Encrypt" and others).
const KMS_PATIENCE: Duration = Duration::from_millis(250);

/// What a load is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// 1,800 requests a second, the most that KMS sends to a key store unless told otherwise
    Steady,
    /// A sixth of the rate, then all of it (6,000 a second) for a third of the time, then a sixth
    TopOfHour,
    /// Everybody opens a connection within one second and sends one request
    ColdReconnect,
    /// 1,000 connections that stay idle beside a few that work
    IdleHerd,
    /// One is measured while another floods (--neighbour)
    NoisyNeighbour,
    /// As many requests as are answered: 85 in a hundred decrypt, 10 encrypt, 5 ask for metadata
    #[value(name = "decrypt-85")]
    #[serde(rename = "decrypt-85")]
    Decrypt85,
}

/// A load.
#[derive(Clone, Debug, Serialize)]
pub struct Shape {
    /// The profile that it began with.
    pub profile: Option<Profile>,
    /// What is asked.
    pub mix: Mix,
    /// How much of it.
    pub sizes: Sizes,
    /// Over which HTTP.
    pub http: Http,
    /// How long a connection is used.
    pub reuse: Reuse,
    /// How many there are, or requests at once.
    pub connections: usize,
    /// Requests at once over each of HTTP/2.
    pub streams: usize,
    /// Rates one after the other; none is the closed loop.
    pub phases: Vec<Phase>,
    /// How their moments lie.
    pub spacing: Spacing,
    /// How long is measured, in seconds.
    pub duration_s: f64,
    /// How long is sent before that, in seconds.
    pub warm_up_s: f64,
    /// After how many requests it ends, if that comes first.
    pub requests: Option<u64>,
    /// Idle connections beside.
    pub idle: usize,
    /// Whether the client gives up and tries again as KMS does.
    pub kms: bool,
    /// How long an answer is waited for, in milliseconds.
    pub patience_ms: u64,
    /// Seed of what is random.
    pub seed: u64,
}

/// What a profile sets.
struct Defaults {
    mix: &'static str,
    reuse: Reuse,
    connections: usize,
    rate: f64,
    seconds: u64,
    warm_up_seconds: u64,
    idle: usize,
}

impl Profile {
    /// What it is called.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::TopOfHour => "top-of-hour",
            Self::ColdReconnect => "cold-reconnect",
            Self::IdleHerd => "idle-herd",
            Self::NoisyNeighbour => "noisy-neighbour",
            Self::Decrypt85 => "decrypt-85",
        }
    }

    const fn defaults(profile: Option<Self>) -> Defaults {
        let common = Defaults {
            mix: "decrypt",
            reuse: Reuse::Kept,
            connections: 16,
            rate: 0.0,
            seconds: 10,
            warm_up_seconds: 1,
            idle: 0,
        };
        let usual = "decrypt=85,encrypt=10,metadata=5";
        match profile {
            None => common,
            Some(Self::Steady) => Defaults { mix: usual, connections: 32, rate: 1_800.0, seconds: 30, ..common },
            Some(Self::TopOfHour) => Defaults { mix: usual, connections: 128, rate: 6_000.0, seconds: 30, ..common },
            Some(Self::ColdReconnect) => Defaults {
                reuse: Reuse::Held,
                connections: 1_000,
                rate: 1_000.0,
                seconds: 1,
                warm_up_seconds: 0,
                ..common
            },
            Some(Self::IdleHerd) => {
                Defaults { mix: usual, connections: 8, rate: 200.0, seconds: 20, idle: 1_000, ..common }
            }
            Some(Self::NoisyNeighbour) => Defaults { mix: usual, connections: 32, rate: 500.0, seconds: 20, ..common },
            Some(Self::Decrypt85) => Defaults { mix: usual, ..common },
        }
    }

    /// The phases of a rate over a time.
    fn phases(profile: Option<Self>, rate: f64, seconds: f64) -> Vec<Phase> {
        let phase = |rate, seconds| Phase { rate, seconds };
        match profile {
            _ if rate <= 0.0 => Vec::new(),
            Some(Self::TopOfHour) => {
                let third = seconds / 3.0;
                vec![phase(rate / 6.0, third), phase(rate, third), phase(rate / 6.0, third)]
            }
            _ => vec![phase(rate, seconds)],
        }
    }
}

impl Shape {
    /// What the flags say, over what the profile says.
    #[must_use]
    pub fn from_settings(settings: &ShapeSettings) -> Self {
        let defaults = Profile::defaults(settings.profile);
        let number = |flag: Option<u32>, default| flag.map_or(default, |flag| usize::try_from(flag).unwrap_or(default));
        let duration = settings.duration.unwrap_or(Duration::from_secs(defaults.seconds));
        let warm_up = settings.warm_up.unwrap_or(Duration::from_secs(defaults.warm_up_seconds));
        let patience = if settings.kms { KMS_PATIENCE } else { settings.timeout };
        let mix = settings.mix.clone().or_else(|| defaults.mix.parse().ok());
        Self {
            profile: settings.profile,
            mix: mix.unwrap_or_else(|| Mix::only(Operation::Decrypt)),
            sizes: Sizes {
                plaintext: settings.plaintext.unwrap_or(32),
                aad: settings.aad.unwrap_or(100),
                cdiv: settings.cdiv.unwrap_or(true),
            },
            http: settings.http.unwrap_or_default(),
            reuse: settings.reuse.unwrap_or(defaults.reuse),
            connections: number(settings.connections, defaults.connections),
            streams: number(settings.streams, 1),
            phases: Profile::phases(settings.profile, settings.rate.unwrap_or(defaults.rate), duration.as_secs_f64()),
            spacing: settings.spacing.unwrap_or_default(),
            duration_s: duration.as_secs_f64(),
            warm_up_s: warm_up.as_secs_f64(),
            requests: settings.requests,
            idle: number(settings.idle, defaults.idle),
            kms: settings.kms,
            patience_ms: u64::try_from(patience.as_millis()).unwrap_or(u64::MAX),
            seed: settings.seed,
        }
    }

    /// File descriptors that it may need.
    #[must_use]
    pub fn files(&self) -> u64 {
        let held = if self.reuse == Reuse::Held {
            self.phases.iter().map(|phase| phase.rate * phase.seconds).sum()
        } else {
            0.0
        };
        let open = u64::try_from(self.connections + self.idle).unwrap_or(u64::MAX);
        open + Duration::try_from_secs_f64(held).map_or(0, |held| held.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use clap::{Parser, ValueEnum};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        settings: ShapeSettings,
    }

    fn shape(words: &[&str]) -> Shape {
        Shape::from_settings(&Line::try_parse_from(["load"].iter().chain(words)).map(|line| line.settings).unwrap())
    }

    #[test]
    fn a_profile_is_what_its_name_says_and_flags_override_it() {
        let steady = shape(&["--profile", "steady"]);
        assert_eq!(steady.phases, [Phase { rate: 1_800.0, seconds: 30.0 }]);
        let spike = shape(&["--profile", "top-of-hour", "--rate", "60", "--duration", "3s"]);
        assert_eq!(spike.phases.iter().map(|phase| phase.rate).collect::<Vec<_>>(), [10.0, 60.0, 10.0]);
        let cold = shape(&["--profile", "cold-reconnect"]);
        assert_eq!((cold.connections, cold.reuse, cold.duration_s), (1_000, Reuse::Held, 1.0));
        assert!(cold.files() >= 1_000);
        assert_eq!(shape(&["--profile", "idle-herd"]).idle, 1_000);
        let mixed = shape(&["--profile", "decrypt-85", "--http", "2", "--cdiv", "false"]);
        assert_eq!((mixed.mix.to_string().as_str(), mixed.http), ("encrypt=10,decrypt=85,metadata=5", Http::Two));
        assert!(mixed.phases.is_empty() && !mixed.sizes.cdiv);
        let plain = shape(&["--mix", "encrypt", "--plaintext", "4300", "--aad", "8192", "--kms"]);
        assert_eq!((plain.sizes.plaintext, plain.sizes.aad, plain.patience_ms), (4300, 8192, 250));
        for profile in Profile::value_variants() {
            let name = profile.to_possible_value().unwrap();
            assert_eq!(name.get_name(), profile.name());
            assert_eq!(shape(&["--profile", name.get_name()]).profile, Some(*profile));
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for words in [
            &["--rate", "-1"][..],
            &["--rate", "fast"],
            &["--mix", "sign"],
            &["--http", "3"],
            &["--connections", "0"],
            &["--duration", "10"],
            &["--profile", "calm"],
            &["--requests", "0"],
        ] {
            assert!(Line::try_parse_from(["load"].iter().chain(words)).is_err(), "{words:?}");
        }
    }
}

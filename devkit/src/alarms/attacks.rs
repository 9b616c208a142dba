//! What an attacker does who can send requests that are permitted, or would like to.

use holdfast_shared::alarm::{Alarm, AlarmKind, Rules, TalliedUse, Tally, UseCount, User};
use serde::Serialize;

use super::memory::Memory;
use super::random::Random;
use super::traffic::{COARSE_MS, DAY_MS, HOUR_MS, World};

/// Time between two tallies of an enclave.
const FINE_MS: u64 = holdfast_shared::limits::TALLY_INTERVAL_MS;
/// The busy roles, of which one is attacked.
const TARGETS: u64 = 3;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attack {
    /// A known role from its own VPC uses more and more, 30 % more in the end.
    SlowExfiltration,
    /// A known role from its own VPC uses twenty times as much as in its busy hours.
    MassDecrypt,
    /// A known role's credential, as much as the role itself in its busy hours, from another VPC.
    StolenNewVpc,
    /// A known role's credential, from its own VPC, at night: with the role's own uses twice as many as usual then.
    StolenAtNight,
    /// Somebody new in a known VPC, a few uses each minute.
    NewPrincipal,
    /// A known role is refused, between 20 and 300 times in ten minutes.
    Probing,
}

impl Attack {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::SlowExfiltration,
        Self::MassDecrypt,
        Self::StolenNewVpc,
        Self::StolenAtNight,
        Self::NewPrincipal,
        Self::Probing,
    ];

    /// What is done, for people.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::SlowExfiltration => "slow exfiltration: known role and VPC, rising to +30 % in three weeks",
            Self::MassDecrypt => "mass decrypt: known role and VPC, 20 times its busy hours, 12 h",
            Self::StolenNewVpc => "stolen credential, from a new VPC, as much as the role itself, 12 h",
            Self::StolenAtNight => "stolen credential, known VPC, twice the role's use of 22:00 to 06:00",
            Self::NewPrincipal => "new principal, known VPC, five uses in a minute, 12 h",
            Self::Probing => "probing: known role, 20 to 300 refused requests in ten minutes, 6 h",
        }
    }

    const fn length_ms(self) -> u64 {
        match self {
            Self::SlowExfiltration => 21 * DAY_MS,
            Self::StolenAtNight => 8 * HOUR_MS,
            Self::Probing => 6 * HOUR_MS,
            Self::MassDecrypt | Self::StolenNewVpc | Self::NewPrincipal => 12 * HOUR_MS,
        }
    }

    const fn step_ms(self) -> u64 {
        match self {
            Self::SlowExfiltration => COARSE_MS,
            _ => FINE_MS,
        }
    }
}

/// When an attack was seen first, and by what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Detection {
    pub(super) after_ms: u64,
    pub(super) kinds: Vec<AlarmKind>,
}

/// Attacks one of the busy roles of a world. Nothing if it was missed.
pub(super) fn play(
    attack: Attack,
    world: &World,
    memory: &Memory,
    rules: &Rules,
    random: &mut Random,
) -> Option<Detection> {
    let (mut world, mut memory) = (world.clone(), memory.clone());
    // Somewhere in the week after what was learned, at any tally of an enclave.
    let wait_ms = random.between(0, 7 * DAY_MS / COARSE_MS) * COARSE_MS;
    let start_ms = world.now_ms + wait_ms;
    let start_ms = match attack {
        Attack::StolenAtNight => start_ms.next_multiple_of(DAY_MS) + 22 * HOUR_MS,
        _ => start_ms,
    };
    while world.now_ms < start_ms {
        let tally = world.tally(COARSE_MS);
        memory.take(&tally, rules);
    }
    if attack.step_ms() == FINE_MS && attack != Attack::StolenAtNight {
        for _ in 0..random.between(0, COARSE_MS / FINE_MS - 1) {
            let tally = world.tally(FINE_MS);
            memory.take(&tally, rules);
        }
    }
    let intruder = Intruder::new(attack, &world, random)?;
    let start_ms = world.now_ms;
    while world.now_ms < start_ms + attack.length_ms() {
        let doing = intruder.count(&world, world.now_ms - start_ms, random);
        let mut tally = world.tally(attack.step_ms());
        merge(&mut tally, &intruder.user, doing);
        let kinds: Vec<AlarmKind> = memory
            .take(&tally, rules)
            .into_iter()
            .filter(|alarm| intruder.is_meant(alarm))
            .map(|alarm| alarm.kind)
            .collect();
        if !kinds.is_empty() {
            return Some(Detection { after_ms: world.now_ms - start_ms, kinds });
        }
    }
    None
}

/// Who attacks, and how fast.
struct Intruder {
    attack: Attack,
    user: User,
    /// The place of the role that is attacked.
    role: usize,
    /// Refused requests in ten minutes.
    probes: u64,
}

impl Intruder {
    fn new(attack: Attack, world: &World, random: &mut Random) -> Option<Self> {
        let role = usize::try_from(random.between(0, TARGETS - 1)).ok()?;
        let mut user = world.roles.get(role)?.user.clone();
        match attack {
            Attack::StolenNewVpc => user.vpc = Some("vpc-0ffffffffffffffff".to_owned()),
            Attack::NewPrincipal => {
                user.principal = Some("arn:aws:sts::111122223333:assumed-role/intruder".to_owned());
            }
            _ => {}
        }
        Some(Self { attack, user, role, probes: random.between(20, 300) })
    }

    /// What it does in the next tally.
    fn count(&self, world: &World, elapsed_ms: u64, random: &mut Random) -> UseCount {
        let Some(role) = world.roles.get(self.role) else { return UseCount::default() };
        let step_ms = self.attack.step_ms();
        let busy_milli = role.busy_hour * 1_000 * step_ms / HOUR_MS;
        let usual_milli = busy_milli * role.usual_percent(world.now_ms) / 100;
        let (used_milli, refused_milli) = match self.attack {
            Attack::SlowExfiltration => (usual_milli * 30 * elapsed_ms / self.attack.length_ms() / 100, 0),
            Attack::MassDecrypt => (20 * busy_milli, 0),
            Attack::StolenAtNight => (usual_milli, 0),
            // They begin with their first use.
            Attack::NewPrincipal | Attack::StolenNewVpc if elapsed_ms == 0 => return UseCount { used: 1, refused: 0 },
            Attack::StolenNewVpc => (busy_milli, 0),
            Attack::NewPrincipal => (5_000 * step_ms / 60_000, 0),
            Attack::Probing => (0, self.probes * 1_000 * step_ms / COARSE_MS),
        };
        UseCount { used: random.count(used_milli), refused: random.count(refused_milli) }
    }

    /// Whether an alarm leads to this attack: to its principal at its key, to its VPC, or to what was refused.
    fn is_meant(&self, alarm: &Alarm) -> bool {
        let is_who = |who: &Option<String>| who.as_deref() == Some(alarm.who.as_str());
        match alarm.kind {
            AlarmKind::FirstSeen => is_who(&self.user.principal) || is_who(&self.user.vpc),
            AlarmKind::UnusualRate | AlarmKind::OffHours => {
                is_who(&self.user.principal) && alarm.key.as_ref() == Some(&self.user.key)
            }
            AlarmKind::RefusedBurst => self.attack == Attack::Probing,
            _ => false,
        }
    }
}

/// Adds what somebody did to a tally, which stays sorted with each user once.
fn merge(tally: &mut Tally, user: &User, count: UseCount) {
    if count.is_zero() {
        return;
    }
    match tally.uses.binary_search_by(|tallied| tallied.user.cmp(user)) {
        Ok(place) => {
            if let Some(tallied) = tally.uses.get_mut(place) {
                tallied.count.add(count);
            }
        }
        Err(place) => tally.uses.insert(place, TalliedUse { user: user.clone(), count }),
    }
}

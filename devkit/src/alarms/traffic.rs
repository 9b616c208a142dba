//! Normal traffic of a key store, made up: roles with days and weeks, ends of months, new roles, mistakes.
//!
//! Guarantees: the same seed gives the same world; integers only. Assumes: fewer than 64 users within ten seconds, so that all are told
//! apart; tallies judged together come to what they come to one by one, but for the time.

use std::collections::HashSet;

use holdfast_shared::alarm::{TalliedUse, Tally, UseCount, User, principal_of};

use super::random::Random;

/// A step of normal traffic.
pub(super) const COARSE_MS: u64 = 600_000;
/// An hour.
pub(super) const HOUR_MS: u64 = 3_600_000;
/// A day.
pub(super) const DAY_MS: u64 = 24 * HOUR_MS;
/// A Monday.
const START_MS: u64 = 20_777 * DAY_MS;

/// Roles at the beginning.
const ROLES: u64 = 200;
/// The first ones are used much, day and night.
const BUSY: u64 = 3;
const KEYS: u64 = 8;
const VPCS: u64 = 3;
const SERVICES: [&str; 5] = ["s3", "ec2", "rds", "dynamodb", "secretsmanager"];
/// Uses of a common role in its busy hours, by how common that is.
const BUSY_HOURS: [u64; 8] = [2, 5, 10, 10, 20, 40, 80, 150];
/// One use of so many is refused.
const REFUSED_OF: u64 = 2_000;
/// One role of so many is a batch at the end of the month, with ten times as much.
const BATCH_OF: u64 = 50;
const BATCH_TIMES: u64 = 10;
const MONTH_DAYS: u64 = 30;

/// For what numbers are drawn.
mod what {
    pub(super) const ROLE: u64 = 1;
    pub(super) const USES: u64 = 2;
    pub(super) const DAY: u64 = 3;
    pub(super) const REFUSED: u64 = 4;
    pub(super) const NEW_ROLE: u64 = 5;
    pub(super) const MISTAKE: u64 = 6;
}

/// What happens beside days and weeks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Events {
    pub(super) month_ends: bool,
    /// One in a week, on average.
    pub(super) new_roles: bool,
    /// A role that is refused again and again for ten minutes, one in a week on average.
    pub(super) mistakes: bool,
}

impl Events {
    pub(super) const ALL: Self = Self { month_ends: true, new_roles: true, mistakes: true };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rhythm {
    Always,
    Office,
    /// All of an hour in its first minutes.
    TopOfHour,
    /// In one hour of the night.
    Nightly(u64),
}

/// Somebody who uses a key.
#[derive(Clone, Debug)]
pub(super) struct Role {
    pub(super) user: User,
    /// Uses in its busy hours.
    pub(super) busy_hour: u64,
    rhythm: Rhythm,
    is_batch: bool,
}

impl Role {
    fn new(seed: u64, number: u64) -> Option<Self> {
        let mut random = Random::of(seed, what::ROLE, number);
        // Sessions are made up anew each time, and left out by the enclave.
        let session = format!("arn:aws:sts::111122223333:assumed-role/role-{number}/i-{:016x}", random.next());
        let service = usize::try_from(random.between(0, 7)).ok().and_then(|place| SERVICES.get(place));
        let service = service.filter(|_| number >= BUSY).map(|name| format!("{name}.eu-central-1.amazonaws.com"));
        let user = User {
            key: format!("key-{}", number % KEYS).parse().ok()?,
            principal: Some(principal_of(&session).to_owned()),
            vpc: service.is_none().then(|| format!("vpc-{}", number % VPCS)),
            service,
        };
        let common = usize::try_from(random.between(0, 7)).ok().and_then(|place| BUSY_HOURS.get(place));
        let busy_hour = if number < BUSY { random.between(200, 2_000) } else { *common? };
        let rhythm = match random.between(0, 19) {
            _ if number < BUSY => Rhythm::Always,
            0..11 => Rhythm::Office,
            11..16 => Rhythm::Always,
            16..18 => Rhythm::TopOfHour,
            _ => Rhythm::Nightly(random.between(0, 5)),
        };
        Some(Self { user, busy_hour, rhythm, is_batch: number >= BUSY && number.is_multiple_of(BATCH_OF) })
    }

    /// What it uses at a time, in hundredths of its busy hours, on average.
    pub(super) fn usual_percent(&self, now_ms: u64) -> u64 {
        let since_ms = now_ms.saturating_sub(START_MS);
        let (day, hour) = (since_ms / DAY_MS, since_ms % DAY_MS / HOUR_MS);
        let is_weekend = day % 7 >= 5;
        match self.rhythm {
            Rhythm::Always if is_weekend || !(7..19).contains(&hour) => 60,
            Rhythm::Always => 100,
            Rhythm::Office if is_weekend => 5,
            Rhythm::Office => match hour {
                9..17 => 100,
                7 | 8 | 17 | 18 => 50,
                _ => 5,
            },
            Rhythm::TopOfHour if since_ms % HOUR_MS < COARSE_MS => 600,
            Rhythm::Nightly(at) if hour == at => 100,
            _ => 0,
        }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct World {
    /// Up to when it was told, milliseconds since 1970.
    pub(super) now_ms: u64,
    /// The busy ones first.
    pub(super) roles: Vec<Role>,
    /// Roles, and VPCs, that came later and rightly.
    pub(super) newcomers: HashSet<String>,
    seed: u64,
    events: Events,
}

impl World {
    pub(super) fn new(seed: u64, events: Events) -> Self {
        let roles = (0..ROLES).filter_map(|number| Role::new(seed, number)).collect();
        Self { now_ms: START_MS, roles, newcomers: HashSet::new(), seed, events }
    }

    /// What comes to pass in the next `step_ms`, as one tally at its end.
    pub(super) fn tally(&mut self, step_ms: u64) -> Tally {
        if self.events.new_roles {
            self.deploy(step_ms);
        }
        let mut uses: Vec<TalliedUse> = (0..)
            .zip(&self.roles)
            .map(|(number, role)| TalliedUse { user: role.user.clone(), count: self.count(number, role, step_ms) })
            .filter(|tallied| !tallied.count.is_zero())
            .collect();
        uses.sort_by(|a, b| a.user.cmp(&b.user));
        self.now_ms += step_ms;
        // Within the hour in which it was; what took longer stands for as many tallies that came in time.
        let at_ms = self.now_ms - 1;
        Tally { number: at_ms, at_ms, since_ms: at_ms, uses, ..Tally::default() }
    }

    fn count(&self, number: u64, role: &Role, step_ms: u64) -> UseCount {
        let percent = role.usual_percent(self.now_ms) * self.batch_times(role);
        let day = self.now_ms / DAY_MS;
        // Days differ; one of a hundred is twice as busy.
        let mut random = Random::of(self.seed, what::DAY, (number << 32) | day);
        let of_day = if random.one_in(100) { 200 } else { random.between(80, 120) };
        let mean_milli = role.busy_hour * 1_000 * step_ms / HOUR_MS * percent / 100 * of_day / 100;
        let place = (number << 40) | (self.now_ms / 10_000);
        let used = Random::of(self.seed, what::USES, place).count(mean_milli);
        let refused = Random::of(self.seed, what::REFUSED, place).count(mean_milli / REFUSED_OF);
        UseCount { used, refused: refused.saturating_add(self.mistake(number, step_ms)) }
    }

    /// At the end of the month, in the evening.
    fn batch_times(&self, role: &Role) -> u64 {
        let since_ms = self.now_ms.saturating_sub(START_MS);
        let is_month_end = since_ms / DAY_MS % MONTH_DAYS == MONTH_DAYS - 1 && since_ms % DAY_MS >= 9 * HOUR_MS;
        if self.events.month_ends && role.is_batch && is_month_end { BATCH_TIMES } else { 1 }
    }

    /// Requests of a role that is refused for some time, in the week in which that is.
    fn mistake(&self, number: u64, step_ms: u64) -> u32 {
        let week_ms = 7 * DAY_MS;
        let mut random = Random::of(self.seed, what::MISTAKE, self.now_ms.saturating_sub(START_MS) / week_ms);
        let (who, at) = (random.between(0, ROLES - 1), random.between(0, week_ms / COARSE_MS - 1));
        let is_now = self.now_ms.saturating_sub(START_MS) % week_ms / COARSE_MS == at;
        if !self.events.mistakes || who != number || !is_now {
            return 0;
        }
        // One of five is tried again often enough to be taken for a probe.
        let most = if random.one_in(5) { 300 } else { 40 };
        let milli = random.between(1, most) * 1_000 * step_ms / COARSE_MS;
        Random::of(self.seed, what::MISTAKE, self.now_ms).count(milli)
    }

    fn deploy(&mut self, step_ms: u64) {
        let slot = self.now_ms / COARSE_MS;
        // At the first step within a slot.
        if !self.now_ms.is_multiple_of(COARSE_MS.max(step_ms)) {
            return;
        }
        let mut random = Random::of(self.seed, what::NEW_ROLE, slot);
        if !random.one_in(7 * DAY_MS / COARSE_MS) {
            return;
        }
        let number = ROLES + slot;
        let Some(mut role) = Role::new(self.seed, number) else { return };
        if role.user.vpc.is_some() && random.one_in(4) {
            let vpc = format!("vpc-new-{number}");
            self.newcomers.insert(vpc.clone());
            role.user.vpc = Some(vpc);
        }
        self.newcomers.extend(role.user.principal.clone());
        self.roles.push(role);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_world() {
        let world = |seed| {
            let mut world = World::new(seed, Events::ALL);
            (0..144).map(|_| world.tally(COARSE_MS)).collect::<Vec<_>>()
        };
        assert_eq!(world(1), world(1));
        assert_ne!(world(1), world(2));
        assert!(world(1).iter().all(|tally| tally.uses.is_sorted_by(|a, b| a.user < b.user)));
    }

    #[test]
    fn roles_have_days_and_weeks() {
        let mut world = World::new(1, Events { month_ends: false, new_roles: false, mistakes: false });
        let mut of_days = [0_u64; 7];
        for day in &mut of_days {
            for _ in 0..DAY_MS / COARSE_MS {
                *day += world.tally(COARSE_MS).uses.iter().map(|tallied| u64::from(tallied.count.used)).sum::<u64>();
            }
        }
        assert!(of_days[5] < of_days[2] && of_days[6] < of_days[2], "{of_days:?}");
        let office = Role { rhythm: Rhythm::Office, ..world.roles[0].clone() };
        for (hour, expected) in [(3, 5), (8, 50), (12, 100), (5 * 24 + 12, 5)] {
            assert_eq!(office.usual_percent(START_MS + hour * HOUR_MS), expected, "{hour}");
        }
    }
}

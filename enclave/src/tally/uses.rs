//! Users and how often each used a key: sorted, within the bounds of a tally.

use holdfast_shared::alarm::{TalliedUse, UseCount, User, principal_of};
use holdfast_shared::audit::{RequestRecord, cut};
use holdfast_shared::external_key::ExternalKeyId;
use holdfast_shared::limits::{TALLY_TEXT_MAX, TALLY_TEXTS_MAX, TALLY_USES_MAX};

/// A [`User`], borrowed. The order of the fields, and so that of two of them, is the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Who<'w> {
    key: &'w ExternalKeyId,
    principal: Option<&'w str>,
    service: Option<&'w str>,
    vpc: Option<&'w str>,
}

impl<'w> Who<'w> {
    /// Nobody where no key is named, or where the body, in which KMS says who it is, could not be read.
    pub(super) fn of(record: &'w RequestRecord) -> Option<Self> {
        record.kms_request_id.as_ref()?;
        let text = |text: &'w str| cut(text, TALLY_TEXT_MAX);
        Some(Self {
            key: record.key.as_ref()?,
            principal: record.principal.as_deref().map(principal_of).map(text),
            service: record.via_service.as_deref().map(text),
            vpc: record.source_vpc.as_deref().map(text),
        })
    }

    pub(super) fn of_user(user: &'w User) -> Self {
        let User { key, principal, service, vpc } = user;
        Self { key, principal: principal.as_deref(), service: service.as_deref(), vpc: vpc.as_deref() }
    }

    fn text_len(self) -> usize {
        [self.principal, self.service, self.vpc].into_iter().flatten().map(str::len).sum()
    }

    fn to_user(self) -> User {
        let Self { key, principal, service, vpc } = self;
        let [principal, service, vpc] = [principal, service, vpc].map(|text| text.map(str::to_owned));
        User { key: key.clone(), principal, service, vpc }
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Uses {
    known: Vec<TalliedUse>,
    /// Bytes of the texts of those who are known.
    text_len: usize,
    others: UseCount,
}

impl Uses {
    /// Counts for a user, or for the others where there is no room for one more.
    pub(super) fn add(&mut self, who: Who<'_>, count: UseCount) {
        match self.known.binary_search_by(|known| Who::of_user(&known.user).cmp(&who)) {
            Ok(place) => {
                if let Some(known) = self.known.get_mut(place) {
                    known.count.add(count);
                }
            }
            Err(place) => {
                let text_len = self.text_len.saturating_add(who.text_len());
                if self.known.len() >= TALLY_USES_MAX || text_len > TALLY_TEXTS_MAX {
                    return self.others.add(count);
                }
                self.text_len = text_len;
                self.known.insert(place, TalliedUse { user: who.to_user(), count });
            }
        }
    }

    pub(super) fn told(self) -> (Vec<TalliedUse>, UseCount) {
        (self.known, self.others)
    }
}

//! The enclave's side of a lease, as the tests play it.

use holdfast_custodian::service::ServiceError;
use holdfast_shared::cbor;
use holdfast_shared::channel::{self, Ask, ChannelMessage, Direction, Reply, Seen};
use holdfast_shared::ids::LeaseId;
use holdfast_shared::keystore::SealedKeyStore;
use holdfast_shared::release::{ChannelKeys, ReleaseContent};

use crate::world::{World, rng};

/// An enclave that holds a lease.
pub(crate) struct Enclave {
    pub(crate) content: ReleaseContent,
    pub(crate) policy_epoch: u64,
    pub(crate) keys: ChannelKeys,
    pub(crate) counter: u64,
    pub(crate) document: Vec<u8>,
}

impl Enclave {
    pub(crate) fn lease_id(&self) -> LeaseId {
        self.content.lease_id
    }

    pub(crate) fn seal(&self, ask: &Ask, counter: u64) -> Vec<u8> {
        channel::seal(ask, Direction::Ask, &self.keys.ask, self.lease_id(), counter, &rng()).unwrap()
    }

    pub(crate) fn next(&mut self, ask: &Ask) -> Vec<u8> {
        self.counter += 1;
        self.seal(ask, self.counter)
    }

    pub(crate) fn open(&self, sealed: &[u8], counter: u64) -> Reply {
        let message: ChannelMessage = cbor::decode(sealed).unwrap();
        assert_eq!((message.lease_id, message.counter), (self.lease_id(), counter));
        channel::open(&message, Direction::Reply, &self.keys.reply).unwrap()
    }

    pub(crate) async fn ask(&mut self, world: &World, ask: &Ask) -> Result<Reply, ServiceError> {
        let message = self.next(ask);
        let answer = world.custodian.channel(&message).await?;
        Ok(self.open(&answer, self.counter))
    }

    pub(crate) async fn publish(
        &mut self,
        world: &World,
        blob: &SealedKeyStore,
        version: u64,
        previous: Option<&SealedKeyStore>,
    ) -> Reply {
        let Ask::Publish { evidence, .. } = world.publish(blob, Vec::new()) else { unreachable!() };
        let (previous, blob) = (previous.map(|blob| blob.id), blob.bytes.clone());
        let ask = Ask::Publish { version, previous, blob, results: Vec::new(), evidence };
        self.ask(world, &ask).await.unwrap()
    }

    pub(crate) async fn renew(&mut self, world: &World, seen: Seen) -> Result<Reply, ServiceError> {
        self.ask(world, &Ask::Watch { seen, renew: true }).await
    }
}

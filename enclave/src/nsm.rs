//! The Nitro Secure Module (NSM), behind one thread and a bounded queue.
//!
//! Guarantees: calls are made one after the other, on a thread of their own, so that a slow device stalls no task; the queue
//! is bounded, and a full one is an error at once. Key stores stand in line for a few places in that queue, in order of arrival,
//! so that they delay, but never exclude, each other, and hardly delay the clock, which stands in no line. Strangers have a queue of their
//! own, from which the device takes only while the other is empty: whatever they ask for, a release and the clock wait for at most
//! the one document of theirs that the device is making. Assumes: the device is what the platform says it is; the image's `main`
//! names `/dev/nsm` and nothing else. Refuses: answers of another kind than the question's.

use std::sync::Arc;

use aws_nitro_enclaves_nsm_api::api::{ErrorCode, Request, Response};
use holdfast_shared::limits::PROOFS_WAITING_MAX;
use serde_bytes::ByteBuf;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use zeroize::Zeroizing;

pub mod device;

/// A device that answers the NSM's requests: `/dev/nsm`, or whatever speaks for it.
pub trait NsmDevice: Send + 'static {
    /// Carries out one request.
    fn process_request(&mut self, request: Request) -> Response;
}

/// Requests that may wait. Each takes the device some milliseconds; more waiting ones than this come from a fault.
const QUEUE_LEN: usize = 32;
/// Places in the queue for those who stand in line.
const LINE_PLACES: usize = 4;

/// Why the NSM gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum NsmError {
    /// The device refused.
    #[error("the NSM refused {request}: {code:?}")]
    Refused {
        /// What was asked.
        request: &'static str,
        /// The device's code.
        code: ErrorCode,
    },
    /// The device answered another question.
    #[error("the NSM's answer to {request} is of another kind")]
    OtherAnswer {
        /// What was asked.
        request: &'static str,
    },
    /// Too many requests wait.
    #[error("too many requests wait for the NSM")]
    Busy,
    /// The thread is gone.
    #[error("the NSM thread has ended")]
    Gone,
}

struct Job {
    request: Request,
    answer: oneshot::Sender<Response>,
    /// Given back when the device has answered, whether or not anybody still waits for that.
    _place: Option<OwnedSemaphorePermit>,
}

/// A handle to the NSM's thread.
#[derive(Clone)]
pub struct Nsm {
    jobs: mpsc::Sender<Job>,
    /// The queue of strangers.
    idle: mpsc::Sender<Job>,
    /// Where those who use this handle stand in line, if they do.
    line: Option<Arc<Semaphore>>,
}

impl Nsm {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(mut device: Box<dyn NsmDevice>) -> std::io::Result<Self> {
        let (jobs, urgent) = mpsc::channel(QUEUE_LEN);
        let (idle, strangers) = mpsc::channel(PROOFS_WAITING_MAX);
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        std::thread::Builder::new().name("nsm".to_owned()).spawn(move || {
            runtime.block_on(work(&mut *device, urgent, strangers));
        })?;
        Ok(Self { jobs, idle, line: None })
    }

    /// A handle for what strangers ask: its requests are carried out while nothing else waits, and not at all once nobody waits for
    /// them any more.
    #[must_use]
    pub fn for_strangers(&self) -> Self {
        Self { jobs: self.idle.clone(), idle: self.idle.clone(), line: None }
    }

    /// A handle whose users, and those of its clones, wait for a place in order of arrival instead of being told that too many
    /// wait. A key store has one request at a time, so each waits for at most one of each other.
    #[must_use]
    pub fn in_line(&self) -> Self {
        let line = Some(Arc::new(Semaphore::new(LINE_PLACES)));
        Self { jobs: self.jobs.clone(), idle: self.idle.clone(), line }
    }

    /// Requests that wait: those of the enclave, and those of strangers.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        let waiting = |queue: &mpsc::Sender<Job>| queue.max_capacity().saturating_sub(queue.capacity());
        (waiting(&self.jobs), waiting(&self.idle))
    }

    /// An attestation document over the three fields.
    ///
    /// # Errors
    /// [`NsmError`].
    pub async fn attest(
        &self,
        nonce: Option<&[u8]>,
        user_data: Option<&[u8]>,
        public_key: Option<&[u8]>,
    ) -> Result<Vec<u8>, NsmError> {
        let field = |bytes: Option<&[u8]>| bytes.map(|bytes| ByteBuf::from(bytes.to_vec()));
        let request =
            Request::Attestation { nonce: field(nonce), user_data: field(user_data), public_key: field(public_key) };
        match self.call("Attestation", request).await? {
            Response::Attestation { document } => Ok(document),
            _ => Err(NsmError::OtherAnswer { request: "Attestation" }),
        }
    }

    /// Extends a PCR and returns its new value.
    ///
    /// # Errors
    /// [`NsmError`].
    pub async fn extend_pcr(&self, index: u16, data: &[u8]) -> Result<Vec<u8>, NsmError> {
        match self.call("ExtendPCR", Request::ExtendPCR { index, data: data.to_vec() }).await? {
            Response::ExtendPCR { data } => Ok(data),
            _ => Err(NsmError::OtherAnswer { request: "ExtendPCR" }),
        }
    }

    /// Locks a PCR against further changes.
    ///
    /// # Errors
    /// [`NsmError`].
    pub async fn lock_pcr(&self, index: u16) -> Result<(), NsmError> {
        match self.call("LockPCR", Request::LockPCR { index }).await? {
            Response::LockPCR => Ok(()),
            _ => Err(NsmError::OtherAnswer { request: "LockPCR" }),
        }
    }

    /// A PCR's lock and value.
    ///
    /// # Errors
    /// [`NsmError`].
    pub async fn describe_pcr(&self, index: u16) -> Result<(bool, Vec<u8>), NsmError> {
        match self.call("DescribePCR", Request::DescribePCR { index }).await? {
            Response::DescribePCR { lock, data } => Ok((lock, data)),
            _ => Err(NsmError::OtherAnswer { request: "DescribePCR" }),
        }
    }

    /// Random bytes of the device's choice of length (up to 256).
    ///
    /// # Errors
    /// [`NsmError`].
    pub async fn random(&self) -> Result<Zeroizing<Vec<u8>>, NsmError> {
        match self.call("GetRandom", Request::GetRandom).await? {
            Response::GetRandom { random } => Ok(Zeroizing::new(random)),
            _ => Err(NsmError::OtherAnswer { request: "GetRandom" }),
        }
    }

    async fn call(&self, name: &'static str, request: Request) -> Result<Response, NsmError> {
        let place = match &self.line {
            Some(line) => Some(Arc::clone(line).acquire_owned().await.map_err(|_| NsmError::Gone)?),
            None => None,
        };
        let (answer, waiting) = oneshot::channel();
        self.jobs.try_send(Job { request, answer, _place: place }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => NsmError::Busy,
            mpsc::error::TrySendError::Closed(_) => NsmError::Gone,
        })?;
        match waiting.await.map_err(|_| NsmError::Gone)? {
            Response::Error(code) => Err(NsmError::Refused { request: name, code }),
            response => Ok(response),
        }
    }
}

/// Carries out one request after the other until nobody can ask any more.
async fn work(device: &mut dyn NsmDevice, mut urgent: mpsc::Receiver<Job>, mut strangers: mpsc::Receiver<Job>) {
    loop {
        let job = tokio::select! {
            biased;
            Some(job) = urgent.recv() => job,
            Some(job) = strangers.recv() => {
                if job.answer.is_closed() {
                    continue;
                }
                job
            }
            else => return,
        };
        // Whoever asked may have given up; the answer is dropped then.
        let _ = job.answer.send(device.process_request(job.request));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc as blocking;

    use super::*;

    /// Tells what it is asked, and answers when it is let.
    struct SlowDevice {
        asked: blocking::Sender<u16>,
        go: blocking::Receiver<()>,
    }

    impl NsmDevice for SlowDevice {
        fn process_request(&mut self, request: Request) -> Response {
            if let Request::LockPCR { index } = request {
                self.asked.send(index).unwrap();
            }
            self.go.recv().unwrap();
            Response::LockPCR
        }
    }

    /// `request`, which waits in its queue when this returns.
    async fn queued(nsm: &Nsm, index: u16) -> tokio::task::JoinHandle<Result<(), NsmError>> {
        let before = nsm.jobs.capacity();
        let asking = nsm.clone();
        let task = tokio::spawn(async move { asking.lock_pcr(index).await });
        while nsm.jobs.capacity() == before && !task.is_finished() {
            tokio::task::yield_now().await;
        }
        task
    }

    #[tokio::test]
    async fn strangers_wait_for_everybody_and_nobody_for_more_than_one_of_them() {
        let (asked, order) = blocking::channel();
        let (go, let_go) = blocking::channel();
        let nsm = Nsm::start(Box::new(SlowDevice { asked, go: let_go })).unwrap();
        let strangers = nsm.for_strangers();
        let first = tokio::spawn({
            let strangers = strangers.clone();
            async move { strangers.lock_pcr(100).await }
        });
        tokio::task::yield_now().await;
        assert_eq!(order.recv().unwrap(), 100, "the device makes a stranger's document");
        let mut waiting = Vec::new();
        for index in 101..=108 {
            waiting.push(queued(&strangers, index).await);
        }
        let refused = queued(&strangers, 109).await;
        assert!(matches!(refused.await.unwrap(), Err(NsmError::Busy)), "their queue is bounded");
        // One gave up meanwhile, and the device never hears of it.
        waiting.remove(1).abort();
        let urgent = [queued(&nsm, 1).await, queued(&nsm, 2).await];
        // More than there is to do, so that whatever is done too much is seen.
        for _ in 0..20 {
            go.send(()).unwrap();
        }
        for task in urgent.into_iter().chain(waiting).chain([first]) {
            task.await.unwrap().unwrap();
        }
        let rest: Vec<_> = order.try_iter().collect();
        assert_eq!(rest, [1, 2, 101, 103, 104, 105, 106, 107, 108]);
    }
}

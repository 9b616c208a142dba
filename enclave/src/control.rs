//! The control connection to the parent: configuration and key stores in, state and log lines out.
//!
//! Guarantees: nothing that arrives here can reveal a secret, change what was measured, or lengthen a lease; the worst that a
//! parent can do is to stop the service. The connection may break and is made anew; a parent that then hands over another static
//! configuration than the measured one is not listened to.

use std::sync::Arc;
use std::time::Duration;

use holdfast_link::control::{
    AwsCredentials as HandedCredentials, Hello, Level, Metrics, SignedManifest, Status, ToEnclave, ToParent,
    receive_configuration,
};
use holdfast_link::limits::{HANDSHAKE_TIMEOUT, METRICS_INTERVAL, STATUS_INTERVAL};
use holdfast_link::text::PrintableText;
use holdfast_link::{Address, FrameReader, Stream, connect, write_frame};
use holdfast_shared::ids::BootId;
use holdfast_shared::secrets::SecretBytes;
use tokio::io::{AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};

use crate::kms::{AwsCredentials, CredentialsError};
use crate::report::Reporter;
use crate::traces::Tracer;

const PAUSE: Duration = Duration::from_millis(500);

/// What the control connection is for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// The connection failed.
    #[error("the control connection failed: {0}")]
    Failed(String),
}

fn failed(error: impl core::fmt::Display) -> ControlError {
    ControlError::Failed(error.to_string())
}

/// A control connection after the greeting.
pub(crate) struct Connection {
    reader: FrameReader<ReadHalf<Stream>>,
    writer: WriteHalf<Stream>,
    pub(crate) static_configuration: String,
}

/// Connects, greets, and receives the static configuration.
pub(crate) async fn greet(parent: &Address, boot_id: BootId) -> Result<Connection, ControlError> {
    let greeting = async {
        let (reader, mut writer) = tokio::io::split(connect(parent).await.map_err(failed)?);
        let mut reader = FrameReader::new(reader);
        let hello = Hello::new((*boot_id.as_bytes()).into());
        write_frame(&mut writer, &ToParent::Hello(hello)).await.map_err(failed)?;
        let static_configuration = receive_configuration(&mut reader).await.map_err(failed)?;
        Ok(Connection { reader, writer, static_configuration })
    };
    tokio::time::timeout(HANDSHAKE_TIMEOUT, greeting).await.unwrap_or_else(|_| Err(failed("no greeting in time")))
}

/// Waits for a parent that greets, for as long as it takes.
pub(crate) async fn greet_patiently(parent: &Address, boot_id: BootId) -> Connection {
    loop {
        match greet(parent, boot_id).await {
            Ok(connection) => return connection,
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Tells a parent why this enclave does not serve, as the last it says. A parent that does not listen in time learns nothing.
pub async fn refuse(parent: &Address, why: &str) {
    let telling = async {
        // It never got as far as to draw an id of its own.
        let Connection { mut reader, mut writer, .. } = greet_patiently(parent, BootId([0; 16])).await;
        let line = ToParent::Log { level: Level::Error, text: PrintableText::new(&format!("not serving: {why}")) };
        write_frame(&mut writer, &line).await.map_err(failed)?;
        writer.shutdown().await.map_err(failed)?;
        // The machine ends after this, and with it what the transport still holds. The parent closes once it has read all.
        while reader.next::<ToEnclave>().await.map_err(failed)?.is_some() {}
        Ok::<(), ControlError>(())
    };
    // Nothing is left to be done with a failure.
    let _ = tokio::time::timeout(HANDSHAKE_TIMEOUT, telling).await;
}

/// What the rest of the enclave gives and takes.
pub(crate) struct Desk {
    pub(crate) parent: Address,
    pub(crate) boot_id: BootId,
    pub(crate) reporter: Reporter,
    pub(crate) lines: mpsc::Receiver<ToParent>,
    pub(crate) key_stores: watch::Sender<Vec<SignedManifest>>,
    pub(crate) aws_credentials: watch::Sender<Option<Arc<AwsCredentials>>>,
    pub(crate) drain: watch::Sender<bool>,
    pub(crate) tracer: Arc<Tracer>,
    pub(crate) status: Arc<dyn Fn() -> Status + Send + Sync>,
    pub(crate) metrics: Arc<dyn Fn() -> Metrics + Send + Sync>,
    pub(crate) drained: watch::Receiver<bool>,
}

impl Desk {
    /// Serves the connection and its successors until the task is dropped.
    pub(crate) async fn run(mut self, mut connection: Connection) {
        let measured = connection.static_configuration.clone();
        loop {
            let ended = self.serve(connection).await;
            // The next parent may want none.
            self.tracer.stop();
            self.reporter.log(Level::Warn, &format!("{ended}; connecting again"));
            connection = loop {
                // Whatever broke the connection may break the next one, too: never in a tight loop.
                tokio::time::sleep(PAUSE).await;
                let next = greet_patiently(&self.parent, self.boot_id).await;
                if next.static_configuration == measured {
                    break next;
                }
                self.reporter.log(Level::Error, "the parent has another static configuration than the measured one");
            };
        }
    }

    async fn serve(&mut self, connection: Connection) -> ControlError {
        let Connection { mut reader, mut writer, .. } = connection;
        let mut tick = tokio::time::interval(STATUS_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut measuring = tokio::time::interval(METRICS_INTERVAL);
        measuring.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut told_drained = false;
        loop {
            let drained = *self.drained.borrow() && !told_drained;
            let message = tokio::select! {
                received = reader.next::<ToEnclave>() => match received {
                    Ok(Some(message)) => {
                        self.take(message);
                        continue;
                    }
                    Ok(None) => return failed("the parent closed it"),
                    Err(error) => return failed(error),
                },
                Some(line) = self.lines.recv() => line,
                _ = tick.tick() => ToParent::Status((self.status)()),
                _ = measuring.tick() => ToParent::Metrics(Box::new((self.metrics)())),
                () = core::future::ready(()), if drained => {
                    told_drained = true;
                    ToParent::Drained
                }
            };
            if let Err(error) = write_frame(&mut writer, &message).await {
                return failed(error);
            }
        }
    }

    fn take(&self, message: ToEnclave) {
        match message {
            ToEnclave::KeyStores { manifests } => {
                self.key_stores.send_replace(manifests);
            }
            ToEnclave::AwsCredentials(handed) => match taken(handed) {
                Ok(credentials) => {
                    self.aws_credentials.send_replace(Some(Arc::new(credentials)));
                }
                Err(error) => self.reporter.log(Level::Warn, &format!("AWS credentials of the parent: {error}")),
            },
            ToEnclave::Tracing(order) => self.tracer.follow(order),
            ToEnclave::Drain => {
                self.drain.send_replace(true);
            }
            // Handed over once for each connection, in the greeting.
            ToEnclave::Configuration { .. } | ToEnclave::Refused { .. } => {
                self.reporter.log(Level::Warn, "the parent repeated its greeting; ignored");
            }
        }
    }
}

fn taken(handed: HandedCredentials) -> Result<AwsCredentials, CredentialsError> {
    let secret = |text: String| SecretBytes::new(text.into_bytes());
    AwsCredentials::new(
        &handed.access_key_id,
        secret(handed.secret_access_key),
        handed.session_token.map(secret),
        handed.expires_ms,
    )
}

//! Events into a stream of NATS JetStream, which says of each that it has it, and drops a second one by its uid.
//!
//! The client would connect again by itself, and send then what waits in it: those behind an event that was lost with the old
//! connection would arrive before it. So a connection that breaks is not made anew but by us, who know which events were answered for.

use std::{
    collections::HashSet,
    error::Error as _,
    fs, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use async_nats::{
    ConnectErrorKind, ConnectOptions, Event,
    jetstream::{
        ErrorCode,
        context::{Context, ContextBuilder, PublishError, PublishErrorKind},
        message::PublishMessage,
    },
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    settings::Nats,
    transport::{Message, NotSent, Sent, Transport, harmless, secret},
};

/// How long a server may keep us waiting.
const PATIENCE: Duration = Duration::from_secs(10);
/// Before the client connects again by itself: longer than anybody has one that is not connected.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// What the client holds at most that it has not written yet.
const UNWRITTEN: usize = 64;
/// How long the client has, now and then, to answer the server while there is nothing to send.
const TURN: Duration = Duration::from_millis(1);

pub(super) struct NatsTransport {
    settings: Nats,
    open: Option<Link>,
    /// Of a batch that was not taken as a whole: what was.
    taken: HashSet<String>,
}

impl NatsTransport {
    pub(super) fn new(settings: Nats) -> Self {
        Self { settings, open: None, taken: HashSet::new() }
    }
}

impl Transport for NatsTransport {
    fn send(&mut self, batch: &[Message]) -> Result<Sent, NotSent> {
        let mut link = match self.open.take() {
            Some(link) if link.why_broken().is_none() => link,
            _ => Link::open(&self.settings)?,
        };
        // One that fails is not kept.
        link.publish(&self.settings.subject, batch, &mut self.taken)?;
        self.open = Some(link);
        for message in batch {
            self.taken.remove(&message.uid);
        }
        Ok(Sent::Taken)
    }

    fn check(&mut self) -> Result<(), NotSent> {
        if let Some(link) = &mut self.open {
            link.turn();
            if link.why_broken().is_some() {
                // Nothing is on its way: it is noticed when there is something to send.
                self.open = None;
            }
        }
        Ok(())
    }
}

/// A connection, and what runs it.
struct Link {
    thread: ThisThread,
    context: Context,
    broken: watch::Receiver<Option<String>>,
}

impl Link {
    fn open(settings: &Nats) -> Result<Self, NotSent> {
        let thread = ThisThread::new()?;
        let (said, broken) = watch::channel(None);
        let connected = AtomicBool::new(false);
        let options = credentials(settings)?
            .name("enforcer")
            .add_root_certificates(settings.ca.clone())
            .connection_timeout(PATIENCE)
            .client_capacity(UNWRITTEN)
            // What a server names is nobody that was configured.
            .ignore_discovered_servers()
            .reconnect_delay_callback(
                move |_| {
                    if connected.swap(true, Relaxed) { NEVER } else { Duration::ZERO }
                },
            )
            .event_callback({
                let said = Arc::new(said);
                move |event| {
                    let said = Arc::clone(&said);
                    async move { note(&said, &event) }
                }
            });
        let connect = async { timeout(PATIENCE, options.connect(settings.url.as_str())).await };
        let connected = thread.run(connect);
        let client = match connected {
            Ok(Ok(client)) => client,
            Ok(Err(error)) if error.kind() == ConnectErrorKind::AuthorizationViolation => {
                return Err(NotSent::later("the server does not let us in: authorization violation"));
            }
            Ok(Err(error)) => {
                let why = error.source().map_or_else(|| error.to_string(), ToString::to_string);
                return Err(NotSent::later(harmless(&format!("connect: {why}"))));
            }
            Err(_) => return Err(NotSent::later("connect: no answer in time")),
        };
        let context = {
            // What is not waited for any more is waited for there.
            let _inside = thread.runtime().enter();
            ContextBuilder::new().timeout(PATIENCE).backpressure_on_inflight(true).build(client)
        };
        Ok(Self { thread, context, broken })
    }

    fn why_broken(&self) -> Option<String> {
        self.broken.borrow().clone()
    }

    fn turn(&self) {
        self.thread.run(async { sleep(TURN).await });
    }

    fn publish(
        &mut self,
        subject: &str,
        batch: &[Message],
        taken: &mut HashSet<String>,
    ) -> Result<(), NotSent> {
        let left: Vec<&Message> = batch.iter().filter(|message| !taken.contains(&message.uid)).collect();
        // The first one alone: where a stream takes none, or is not there, none of the others gets ahead of it.
        let (first, others) = left.split_at(left.len().min(1));
        [first, others].into_iter().try_for_each(|part| {
            let published = publish_all(&self.context, &mut self.broken, subject, part, taken);
            self.thread.run(published)
        })
    }
}

/// What the client does, it does on this thread, while that waits for it.
struct ThisThread(Option<Runtime>);

impl ThisThread {
    fn new() -> io::Result<Self> {
        Ok(Self(Some(Builder::new_current_thread().enable_all().build()?)))
    }

    fn runtime(&self) -> &Runtime {
        self.0.as_ref().expect("only dropping takes it")
    }

    fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime().block_on(work)
    }
}

impl Drop for ThisThread {
    fn drop(&mut self) {
        // An address may still be asked for, which cannot be broken off, and is not waited for.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Sends all of these, and then waits for what the server says of each, in order.
async fn publish_all(
    context: &Context,
    broken: &mut watch::Receiver<Option<String>>,
    subject: &str,
    messages: &[&Message],
    taken: &mut HashSet<String>,
) -> Result<(), NotSent> {
    let (mut answers, mut unsent) = (Vec::with_capacity(messages.len()), None);
    for message in messages {
        let published = PublishMessage::build().message_id(&message.uid).payload(message.text.clone().into());
        match context.send_publish(subject.to_owned(), published).await {
            Ok(answer) => answers.push((message, answer.into_future())),
            // What was sent before it is answered for.
            Err(error) => {
                unsent = Some(not_sent(&error, subject));
                break;
            }
        }
    }
    for (message, answer) in answers {
        let answer = tokio::select! {
            biased;
            answer = answer => answer,
            why = broken.wait_for(Option::is_some) => {
                let why = why.map_or(None, |why| why.clone());
                return Err(NotSent::later(why.unwrap_or_else(|| "the connection has broken".to_owned())));
            }
        };
        // The server says the stream, and the event's number there.
        answer.map_err(|error| not_sent(&error, subject))?;
        taken.insert(message.uid.clone());
    }
    unsent.map_or(Ok(()), Err)
}

/// Why an event was not taken.
fn not_sent(error: &PublishError, subject: &str) -> NotSent {
    let why = match error.kind() {
        PublishErrorKind::StreamNotFound => {
            format!("no stream takes `{subject}`, or the server has no JetStream")
        }
        PublishErrorKind::TimedOut => "the server has not answered for an event in time".to_owned(),
        _ => harmless(&error.to_string()),
    };
    let by_stream = error
        .source()
        .and_then(|source| source.downcast_ref::<async_nats::jetstream::Error>())
        .map(async_nats::jetstream::Error::error_code);
    let is_too_long = error.kind() == PublishErrorKind::MaxPayloadExceeded
        || by_stream == Some(ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM);
    if is_too_long { NotSent::Never { why } } else { NotSent::later(why) }
}

/// What breaks a connection: a server that objects answers no event any more.
fn note(broken: &watch::Sender<Option<String>>, event: &Event) {
    let why = match event {
        Event::Disconnected | Event::Closed => "the connection has broken".to_owned(),
        Event::ServerError(error) => harmless(&format!("the server says: {error}")),
        Event::ClientError(error) => harmless(&error.to_string()),
        _ => return,
    };
    // The first one is why.
    broken.send_if_modified(|known| {
        let is_first = known.is_none();
        if is_first {
            *known = Some(why);
        }
        is_first
    });
}

/// Who we are, as the files say it. Read each time: they may have been changed.
fn credentials(settings: &Nats) -> Result<ConnectOptions, NotSent> {
    let options = ConnectOptions::new();
    let Nats { credentials_file, token_file, user, password_file, .. } = settings;
    if let Some(path) = credentials_file {
        // What is wrong with it may quote it.
        let invalid = |_| NotSent::later(format!("`{}` holds no NATS credentials", path.display()));
        let text = fs::read_to_string(path)
            .map_err(|error| NotSent::later(format!("read `{}`: {error}", path.display())))?;
        return options.credentials(&text).map_err(invalid);
    }
    if let Some(path) = token_file {
        return Ok(options.token(secret(path)?));
    }
    match (user, password_file) {
        (Some(user), Some(path)) => Ok(options.user_and_password(user.clone(), secret(path)?)),
        _ => Ok(options),
    }
}

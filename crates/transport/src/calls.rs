//! The calling side of many calls over one stream.
//!
//! A call of its own costs HTTP/2 headers, trailers and half a dozen wake-ups on each side, far more than a small request
//! is worth. Here requests queue; whenever the wire takes a message, everything queued goes into it. Nothing waits for
//! company: the first request leaves at once, and while its message is on the way to the wire the next ones gather.
//! Answers come in any order.
//!
//! Invariants:
//! 1. A request is in the queue, or it was handed to a stream, never both: [`Outgoing`] moves it in one step. So when a
//!    stream breaks, exactly what was handed to it may have reached the peer ([`Failed::Lost`]); what is still queued has
//!    not ([`Failed::NotSent`]).
//! 2. A call that is dropped leaves nothing behind: out of the queue it is taken, and of a request that was sent the peer
//!    is told that nobody waits.
//! 3. Requests that are queued or unanswered are bounded, in number and bytes: further calls wait for room.

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::{ConnectError, Status};

/// Most requests in one message.
const MESSAGE_CALLS_MAX: usize = 512;
/// Bytes after which no more requests are put into a message.
const MESSAGE_BYTES: usize = 256 << 10;
/// One unit of room; a request takes one, and one more for each of these many bytes.
const UNIT_BYTES: usize = 1 << 10;
/// Units of room in all: at most this many requests, or this many KiB.
const UNITS_MAX: u32 = 32 << 10;
/// How long a stream may take to be answered at all.
const OPEN_LIMIT: Duration = Duration::from_secs(6);
/// Time between looks for a stall.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Why a call has no answer.
#[derive(Clone, Debug)]
pub enum Failed {
    /// The request never left this process, or no connection was made: the peer has not seen it.
    NotSent(Status),
    /// The request was handed to a stream that broke: the peer may have seen it, and may still be at it.
    Lost(Status),
}

impl Failed {
    /// The status that describes it. That of a request which was not sent has a [`ConnectError`] as its source.
    pub fn into_status(self) -> Status {
        match self {
            Self::Lost(status) => status,
            Self::NotSent(status) if connect_error(&status) => status,
            Self::NotSent(status) => {
                let why = format!("the stream broke before the request was sent: {}", status.message());
                Status::from_error(Box::new(ConnectError(why.into())))
            }
        }
    }
}

/// Whether no connection was made.
fn connect_error(status: &Status) -> bool {
    let first = std::error::Error::source(status);
    std::iter::successors(first, |e| e.source()).any(|e| e.is::<ConnectError>())
}

/// What the wire takes next.
#[derive(Debug)]
pub struct Sending<Q> {
    /// The first message of its stream.
    pub first: bool,
    /// Requests with the numbers that their answers will name.
    pub requests: Vec<(u64, Q)>,
    /// Numbers of requests sent earlier, on this stream, that nobody waits for any more.
    pub dropped: Vec<u64>,
}

/// Answers as they come in: each with the number of its request.
pub type Incoming<R> = BoxStream<'static, Result<Vec<(u64, R)>, Status>>;

/// Opens a stream.
type Open<Q, R> = Box<dyn Fn(Outgoing<Q, R>) -> BoxFuture<'static, Result<Incoming<R>, Status>> + Send + Sync>;

type Reply<R> = oneshot::Sender<Result<R, Failed>>;

struct Queued<Q, R> {
    number: u64,
    request: Q,
    bytes: usize,
    reply: Reply<R>,
}

struct State<Q, R> {
    next: u64,
    /// In the order of their numbers.
    queue: VecDeque<Queued<Q, R>>,
    /// Handed to the present stream.
    sent: BTreeMap<u64, Reply<R>>,
    dropped: Vec<u64>,
    /// The present stream's number; what an earlier one asks for it does not get. Even: none is open.
    stream: u64,
    writer: Option<Waker>,
    /// While something is unanswered: when something was heard last, or the first of it was sent.
    unheard_since: Option<Instant>,
}

struct Shared<Q, R> {
    state: Mutex<State<Q, R>>,
    room: Semaphore,
    /// Something is queued and no stream is open.
    wanted: Notify,
}

impl<Q, R> Shared<Q, R> {
    fn lock(&self) -> MutexGuard<'_, State<Q, R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enqueue(&self, request: Q, bytes: usize) -> (u64, oneshot::Receiver<Result<R, Failed>>) {
        let (reply, answer) = oneshot::channel();
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        state.queue.push_back(Queued { number, request, bytes, reply });
        let (writer, idle) = (state.writer.take(), state.stream.is_multiple_of(2));
        drop(state);
        match writer {
            Some(writer) => writer.wake(),
            None if idle => self.wanted.notify_one(),
            None => {}
        }
        (number, answer)
    }

    /// Nobody waits for this request any more.
    fn forget(&self, number: u64) {
        let mut state = self.lock();
        if state.sent.remove(&number).is_some() {
            state.dropped.push(number);
            let writer = state.writer.take();
            drop(state);
            if let Some(writer) = writer {
                writer.wake();
            }
        } else if let Ok(at) = state.queue.binary_search_by_key(&number, |q| q.number) {
            let removed = state.queue.remove(at);
            drop(state);
            drop(removed);
        }
    }

    /// A new stream begins; returns its number.
    fn begin(&self) -> u64 {
        let mut state = self.lock();
        state.stream += 1;
        state.unheard_since = None;
        state.stream
    }

    /// The stream is over: everybody is told what that means for his request.
    fn end(&self, why: &Status) {
        let mut state = self.lock();
        state.stream += 1;
        state.dropped.clear();
        let (sent, queue) = (std::mem::take(&mut state.sent), std::mem::take(&mut state.queue));
        let writer = state.writer.take();
        drop(state);
        // It ends when it finds that it is not the present stream any more.
        if let Some(writer) = writer {
            writer.wake();
        }
        // Without a connection nothing can have been sent, whatever was taken to be.
        let sent_nothing = connect_error(why);
        for reply in sent.into_values() {
            let failed = if sent_nothing { Failed::NotSent(why.clone()) } else { Failed::Lost(why.clone()) };
            let _ = reply.send(Err(failed));
        }
        for queued in queue {
            let _ = queued.reply.send(Err(Failed::NotSent(why.clone())));
        }
    }

    fn answered(&self, answers: Vec<(u64, R)>) {
        let mut state = self.lock();
        let replies: Vec<_> = answers.into_iter().filter_map(|(n, a)| Some((state.sent.remove(&n)?, a))).collect();
        // Silence counts from here again.
        state.unheard_since = if state.sent.is_empty() { None } else { Some(Instant::now()) };
        drop(state);
        for (reply, answer) in replies {
            let _ = reply.send(Ok(answer));
        }
    }

    fn is_silent(&self, limit: Duration) -> bool {
        let state = self.lock();
        !state.sent.is_empty() && state.unheard_since.is_some_and(|at| at.elapsed() > limit)
    }

    fn has_queued(&self) -> bool {
        !self.lock().queue.is_empty()
    }
}

/// What one stream sends. Ends when its stream is not the present one any more.
pub struct Outgoing<Q, R> {
    shared: Arc<Shared<Q, R>>,
    stream: u64,
    first: bool,
    /// It has let others run since it last waited.
    yielded: bool,
}

impl<Q, R> Stream for Outgoing<Q, R> {
    type Item = Sending<Q>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Sending<Q>>> {
        let this = &mut *self;
        let sending = {
            let mut state = this.shared.lock();
            if state.stream != this.stream {
                return Poll::Ready(None);
            }
            if state.queue.is_empty() && state.dropped.is_empty() {
                state.writer = Some(cx.waker().clone());
                this.yielded = false;
                return Poll::Pending;
            }
            if !this.yielded {
                // Whoever is about to make a call gets to run before the message is closed.
                drop(state);
                this.yielded = true;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if state.sent.is_empty() {
                state.unheard_since = Some(Instant::now());
            }
            let mut bytes = 0;
            let mut requests = Vec::with_capacity(state.queue.len().min(MESSAGE_CALLS_MAX));
            while requests.len() < MESSAGE_CALLS_MAX && bytes < MESSAGE_BYTES {
                let Some(queued) = state.queue.pop_front() else { break };
                bytes += queued.bytes;
                state.sent.insert(queued.number, queued.reply);
                requests.push((queued.number, queued.request));
            }
            Sending { first: this.first, requests, dropped: std::mem::take(&mut state.dropped) }
        };
        this.first = false;
        Poll::Ready(Some(sending))
    }
}

/// Many calls to one peer over one stream, opened by the first call and again after it broke. See the module's
/// documentation.
pub struct Calls<Q, R> {
    shared: Arc<Shared<Q, R>>,
    keeper: JoinHandle<()>,
}

impl<Q, R> std::fmt::Debug for Calls<Q, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Calls").finish_non_exhaustive()
    }
}

impl<Q, R> Drop for Calls<Q, R> {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl<Q: Send + 'static, R: Send + 'static> Calls<Q, R> {
    /// Calls over streams that `open` makes. A stream on which something is unanswered is given up when nothing at all was
    /// heard for `silence`: longer than any one call waits, or `None` where the connection's own keepalive is enough.
    /// Must be called inside a runtime: a task keeps the stream.
    pub fn new<F>(silence: Option<Duration>, open: impl Fn(Outgoing<Q, R>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Incoming<R>, Status>> + Send + 'static,
    {
        let state = State {
            next: 1,
            queue: VecDeque::new(),
            sent: BTreeMap::new(),
            dropped: Vec::new(),
            stream: 0,
            writer: None,
            unheard_since: None,
        };
        let room = Semaphore::new(UNITS_MAX as usize);
        let shared = Arc::new(Shared { state: Mutex::new(state), room, wanted: Notify::new() });
        let open: Open<Q, R> = Box::new(move |outgoing| Box::pin(open(outgoing)));
        let keeper = tokio::spawn(keep(shared.clone(), silence, open));
        Self { shared, keeper }
    }

    /// Makes one call of about `bytes`. Has no time limit of its own; dropping it gives the call up.
    pub async fn call(&self, request: Q, bytes: usize) -> Result<R, Failed> {
        let units = u32::try_from(bytes / UNIT_BYTES).unwrap_or(UNITS_MAX).saturating_add(1).min(UNITS_MAX);
        // The semaphore is never closed.
        let _room = self.shared.room.acquire_many(units).await;
        let (number, answer) = self.shared.enqueue(request, bytes);
        let mut waiting = Waiting { shared: &self.shared, number, answered: false };
        let answer = answer.await;
        waiting.answered = true;
        answer.unwrap_or_else(|_| Err(Failed::Lost(Status::unavailable("the stream's keeper is gone"))))
    }
}

/// A call whose answer is awaited.
struct Waiting<'a, Q, R> {
    shared: &'a Shared<Q, R>,
    number: u64,
    answered: bool,
}

impl<Q, R> Drop for Waiting<'_, Q, R> {
    fn drop(&mut self) {
        if !self.answered {
            self.shared.forget(self.number);
        }
    }
}

/// Keeps a stream open while there is something to call.
async fn keep<Q, R>(shared: Arc<Shared<Q, R>>, silence: Option<Duration>, open: Open<Q, R>) {
    loop {
        while !shared.has_queued() {
            shared.wanted.notified().await;
        }
        let stream = shared.begin();
        let outgoing = Outgoing { shared: shared.clone(), stream, first: true, yielded: false };
        let why = match tokio::time::timeout(OPEN_LIMIT, open(outgoing)).await {
            Ok(Ok(incoming)) => receive(&shared, silence, incoming).await,
            Ok(Err(status)) => status,
            Err(_) => Status::unavailable("the peer did not answer"),
        };
        tracing::debug!("a stream of calls has ended: {why}");
        shared.end(&why);
    }
}

/// Takes in answers until the stream is over; why it is.
async fn receive<Q, R>(shared: &Shared<Q, R>, silence: Option<Duration>, mut incoming: Incoming<R>) -> Status {
    let mut look = tokio::time::interval(LOOK_INTERVAL);
    loop {
        tokio::select! {
            biased;
            next = incoming.next() => match next {
                Some(Ok(answers)) => shared.answered(answers),
                Some(Err(status)) => return status,
                None => return Status::unavailable("the peer has ended the stream"),
            },
            _ = look.tick(), if silence.is_some() => if silence.is_some_and(|limit| shared.is_silent(limit)) {
                return Status::unavailable("the peer answers nothing");
            },
        }
    }
}

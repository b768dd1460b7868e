//! The answering side of many calls over one stream: see [`Calls`](crate::Calls).
//!
//! Requests are worked on side by side, inside the task that serves the stream; whatever is done when the wire takes a
//! message goes into it. Work that may hold up others, because it blocks or is long, belongs into a task of its own, whose
//! handle is the work.
//!
//! Requests that are worked on are bounded, in number and bytes: beyond that the stream is not read, and HTTP/2 flow
//! control holds the other side back. When the stream goes away, so does the work on it. When the server stops, no further
//! requests are read, and what is under way is finished.

use futures::future::{AbortHandle, Abortable, BoxFuture};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, Stream, StreamExt};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::Status;

/// What one stream may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests worked on at once.
    pub requests: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Answers in one message.
    pub message_answers: usize,
    /// Bytes of answers after which no more are put into a message.
    pub message_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { requests: 4 << 10, bytes: 32 << 20, message_answers: 512, message_bytes: 256 << 10 }
    }
}

/// What one message asks for.
#[derive(Debug)]
pub struct Begun<W> {
    /// Work, by the number that a later message may name to have it dropped, with its size in bytes.
    pub work: Vec<(u64, usize, W)>,
    /// Numbers of earlier requests that nobody waits for any more.
    pub dropped: Vec<u64>,
}

/// What one request's work came to.
#[derive(Debug)]
pub struct Done<A> {
    /// The number that the work was begun under.
    pub number: u64,
    /// Size of the answer in bytes.
    pub bytes: usize,
    /// The answer.
    pub answer: A,
}

/// The answers to one stream of requests, as they are ready.
pub struct Answers<S, B, W: Future, E> {
    /// `None`: no more are read.
    incoming: Option<S>,
    begin: B,
    encode: E,
    stop: BoxFuture<'static, ()>,
    limits: Limits,
    working: FuturesUnordered<Abortable<W>>,
    /// Of what is worked on: how to end it, and its bytes.
    handles: BTreeMap<u64, (AbortHandle, usize)>,
    /// Sum of these bytes.
    bytes: usize,
    /// Why reading ended, once everything is answered.
    broken: Option<Status>,
}

impl<S, B, W, E, M, A> Answers<S, B, W, E>
where
    S: Stream<Item = Result<M, Status>> + Unpin,
    B: FnMut(M) -> Begun<W>,
    W: Future<Output = Done<A>>,
{
    /// Answers what comes in: `begin` makes work of a message, `encode` a message of answers. After `stop` no more is read.
    pub fn new(incoming: S, limits: Limits, begin: B, encode: E, stop: BoxFuture<'static, ()>) -> Self {
        let (working, handles) = (FuturesUnordered::new(), BTreeMap::new());
        Self { incoming: Some(incoming), begin, encode, stop, limits, working, handles, bytes: 0, broken: None }
    }

    fn take_in(&mut self, message: M) {
        let Begun { work, dropped } = (self.begin)(message);
        for (number, bytes, work) in work {
            let (handle, registration) = AbortHandle::new_pair();
            self.handles.insert(number, (handle, bytes));
            self.bytes += bytes;
            self.working.push(Abortable::new(work, registration));
        }
        for number in dropped {
            if let Some(handle) = self.ended(number) {
                handle.abort();
            }
        }
    }

    /// Nothing is to come of this request any more.
    fn ended(&mut self, number: u64) -> Option<AbortHandle> {
        let (handle, bytes) = self.handles.remove(&number)?;
        self.bytes -= bytes;
        Some(handle)
    }

    /// Reads while there is room.
    fn read(&mut self, cx: &mut Context<'_>) {
        if self.incoming.is_some() && self.stop.poll_unpin(cx).is_ready() {
            self.incoming = None;
        }
        while self.working.len() < self.limits.requests && self.bytes < self.limits.bytes {
            let Some(incoming) = &mut self.incoming else { return };
            match incoming.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(message))) => self.take_in(message),
                Poll::Ready(Some(Err(status))) => {
                    self.broken = Some(status);
                    self.incoming = None;
                }
                Poll::Ready(None) => self.incoming = None,
                Poll::Pending => return,
            }
        }
    }

    /// Collects what is done, as much as one message holds.
    fn collect(&mut self, cx: &mut Context<'_>) -> Vec<A> {
        let (mut answers, mut bytes) = (Vec::new(), 0);
        while answers.len() < self.limits.message_answers && bytes < self.limits.message_bytes {
            let Poll::Ready(Some(done)) = self.working.poll_next_unpin(cx) else { break };
            // What was dropped has no answer.
            let Ok(Done { number, bytes: size, answer }) = done else { continue };
            self.ended(number);
            bytes += size;
            answers.push(answer);
        }
        answers
    }
}

impl<S, B, W, E, M, A, N> Stream for Answers<S, B, W, E>
where
    S: Stream<Item = Result<M, Status>> + Unpin,
    B: FnMut(M) -> Begun<W> + Unpin,
    W: Future<Output = Done<A>>,
    E: FnMut(Vec<A>) -> N + Unpin,
{
    type Item = Result<N, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            let full = this.working.len() >= this.limits.requests || this.bytes >= this.limits.bytes;
            this.read(cx);
            let answers = this.collect(cx);
            if !answers.is_empty() {
                return Poll::Ready(Some(Ok((this.encode)(answers))));
            }
            if this.incoming.is_none() && this.working.is_empty() {
                return Poll::Ready(this.broken.take().map(Err));
            }
            // Room that has just come free has to be offered: nobody else asks for it.
            let has_room = this.working.len() < this.limits.requests && this.bytes < this.limits.bytes;
            if !(full && has_room) {
                return Poll::Pending;
            }
        }
    }
}

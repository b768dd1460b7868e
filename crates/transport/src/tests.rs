//! Calls and answers against one another, and each against a hand-driven other side.

use crate::{Answers, Begun, Calls, Done, Failed, Incoming, Limits, Outgoing, Sending};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, Stream, StreamExt as _};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tonic::{ConnectError, Status};

type Numbers = Calls<u32, u32>;
/// What one stream sends, and where its answers come from.
type Opened = (Outgoing<u32, u32>, mpsc::UnboundedSender<Result<Vec<(u64, u32)>, Status>>);

/// Calls whose streams are handed to the test.
fn by_hand() -> (Arc<Numbers>, mpsc::UnboundedReceiver<Opened>) {
    let (streams, opened) = mpsc::unbounded_channel();
    let calls = Calls::new(None, move |outgoing| {
        let (answers, incoming) = mpsc::unbounded_channel();
        let _ = streams.send((outgoing, answers));
        let incoming: Incoming<u32> = tokio_stream::wrappers::UnboundedReceiverStream::new(incoming).boxed();
        std::future::ready(Ok(incoming))
    });
    (Arc::new(calls), opened)
}

fn start(calls: &Arc<Numbers>, n: u32) -> tokio::task::JoinHandle<Result<u32, Failed>> {
    let calls = calls.clone();
    tokio::spawn(async move { calls.call(n, 1).await })
}

/// Lets everything run that can.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_is_queued_goes_into_one_message_and_answers_come_in_any_order() {
    let (calls, mut opened) = by_hand();
    let waiting: Vec<_> = (0..5).map(|n| start(&calls, n)).collect();
    let (mut outgoing, answers) = opened.recv().await.unwrap();
    settle().await;
    let Sending { first, requests, dropped } = outgoing.next().await.unwrap();
    assert!(first && dropped.is_empty());
    assert_eq!(requests.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    answers.send(Ok(requests.into_iter().rev().map(|(number, n)| (number, 10 * n)).collect())).unwrap();
    for (n, call) in (0..).zip(waiting) {
        assert_eq!(call.await.unwrap().unwrap(), 10 * n);
    }
}

#[tokio::test]
async fn only_what_was_handed_to_a_stream_that_broke_may_have_arrived() {
    let (calls, mut opened) = by_hand();
    let sent = start(&calls, 1);
    let (mut outgoing, answers) = opened.recv().await.unwrap();
    assert_eq!(outgoing.next().await.unwrap().requests.len(), 1);
    let queued = start(&calls, 2);
    settle().await;
    answers.send(Err(Status::unavailable("cut"))).unwrap();
    assert!(matches!(sent.await.unwrap(), Err(Failed::Lost(_))));
    let failed = queued.await.unwrap().unwrap_err();
    assert!(matches!(failed, Failed::NotSent(_)));
    let status = failed.into_status();
    assert!(std::error::Error::source(&status).is_some_and(|e| e.is::<ConnectError>()), "{status:?}");
    // The half of a broken stream that sends gets nothing more, and the next call has a stream of its own.
    let next = start(&calls, 3);
    assert!(outgoing.next().await.is_none());
    let (mut outgoing, answers) = opened.recv().await.unwrap();
    let sending = outgoing.next().await.unwrap();
    assert!(sending.first);
    answers.send(Ok(vec![(sending.requests[0].0, 30)])).unwrap();
    assert_eq!(next.await.unwrap().unwrap(), 30);
}

#[tokio::test]
async fn without_a_connection_nothing_was_sent() {
    let refused = |mut outgoing: Outgoing<u32, u32>| async move {
        // Somebody has read ahead, although no connection was made.
        outgoing.next().await;
        Err(Status::from_error(Box::new(ConnectError("refused".into()))))
    };
    let calls: Numbers = Calls::new(None, refused);
    assert!(matches!(calls.call(1, 1).await, Err(Failed::NotSent(_))));
}

#[tokio::test]
async fn a_dropped_call_is_not_sent_or_its_peer_is_told() {
    let (calls, mut opened) = by_hand();
    let sent = start(&calls, 1);
    let (mut outgoing, answers) = opened.recv().await.unwrap();
    let number = outgoing.next().await.unwrap().requests[0].0;
    let queued = start(&calls, 2);
    settle().await;
    queued.abort();
    sent.abort();
    settle().await;
    let last = start(&calls, 3);
    settle().await;
    let Sending { requests, dropped, .. } = outgoing.next().await.unwrap();
    assert_eq!(requests.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [3]);
    assert_eq!(dropped, [number]);
    // An answer that nobody waits for does no harm.
    answers.send(Ok(vec![(number, 0), (requests[0].0, 30)])).unwrap();
    assert_eq!(last.await.unwrap().unwrap(), 30);
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_is_given_up_while_something_is_unanswered() {
    let opened = Arc::new(Mutex::new(0));
    let count = opened.clone();
    let silence = Some(Duration::from_secs(5));
    let calls: Numbers = Calls::new(silence, move |mut outgoing| {
        *count.lock().unwrap() += 1;
        async move {
            tokio::spawn(async move { while outgoing.next().await.is_some() {} });
            Ok(futures::stream::pending().boxed())
        }
    });
    let first = tokio::time::timeout(Duration::from_secs(3), calls.call(1, 1)).await;
    assert!(first.is_err());
    // The one before has left: its silence does not count.
    let second = tokio::time::timeout(Duration::from_secs(4), calls.call(2, 1)).await;
    assert!(second.is_err());
    assert_eq!(*opened.lock().unwrap(), 1);
    assert!(matches!(calls.call(3, 1).await, Err(Failed::Lost(_))));
}

#[tokio::test]
async fn calls_wait_for_room() {
    let (calls, mut opened) = by_hand();
    let large = calls.clone();
    let large = tokio::spawn(async move { large.call(1, usize::MAX).await });
    let (mut outgoing, answers) = opened.recv().await.unwrap();
    let number = outgoing.next().await.unwrap().requests[0].0;
    let second = start(&calls, 2);
    settle().await;
    assert!(outgoing.next().now_or_never().is_none(), "there is no room for a second one");
    answers.send(Ok(vec![(number, 10)])).unwrap();
    assert_eq!(large.await.unwrap().unwrap(), 10);
    let number = outgoing.next().await.unwrap().requests[0].0;
    answers.send(Ok(vec![(number, 20)])).unwrap();
    assert_eq!(second.await.unwrap().unwrap(), 20);
}

/// A message to the answering side: requests, each a number and what to wait for, and what was dropped.
type Message = (Vec<(u64, BoxFuture<'static, u32>)>, Vec<u64>);

fn serve(
    messages: BoxStream<'static, Result<Message, Status>>,
    limits: Limits,
    stop: BoxFuture<'static, ()>,
) -> impl Stream<Item = Result<Vec<(u64, u32)>, Status>> {
    let begin = |(requests, dropped): Message| {
        let work = requests.into_iter().map(|(number, work)| {
            let work = async move { Done { number, bytes: 1, answer: (number, work.await) } };
            (number, 1, Box::pin(work) as Pin<Box<dyn Future<Output = Done<(u64, u32)>> + Send>>)
        });
        Begun { work: work.collect(), dropped }
    };
    Answers::new(messages, limits, begin, |answers: Vec<(u64, u32)>| answers, stop)
}

fn pending() -> BoxFuture<'static, ()> {
    futures::future::pending().boxed()
}

fn ready(n: u32) -> BoxFuture<'static, u32> {
    std::future::ready(n).boxed()
}

#[tokio::test]
async fn what_is_done_goes_into_one_message_whatever_is_still_under_way() {
    let (slow, done) = oneshot::channel();
    let slow_work = async { done.await.unwrap() }.boxed();
    let message = (vec![(1, slow_work), (2, ready(2)), (3, ready(3))], vec![]);
    let mut answers = serve(futures::stream::iter([Ok(message)]).boxed(), Limits::default(), pending());
    let mut first = answers.next().await.unwrap().unwrap();
    first.sort_unstable();
    assert_eq!(first, [(2, 2), (3, 3)]);
    assert!(answers.next().now_or_never().is_none());
    slow.send(1).unwrap();
    assert_eq!(answers.next().await.unwrap().unwrap(), [(1, 1)]);
    assert!(answers.next().await.is_none());
}

#[tokio::test]
async fn a_full_stream_is_not_read_until_there_is_room() {
    let (slow, done) = oneshot::channel();
    let slow_work = async { done.await.unwrap() }.boxed();
    let messages = [Ok((vec![(1, slow_work)], vec![])), Ok((vec![(2, ready(2))], vec![]))];
    let limits = Limits { requests: 1, ..Limits::default() };
    let mut answers = serve(futures::stream::iter(messages).boxed(), limits, pending());
    assert!(answers.next().now_or_never().is_none(), "the second one was read");
    slow.send(1).unwrap();
    assert_eq!(answers.next().await.unwrap().unwrap(), [(1, 1)]);
    assert_eq!(answers.next().await.unwrap().unwrap(), [(2, 2)]);
    assert!(answers.next().await.is_none());
}

#[tokio::test]
async fn what_nobody_waits_for_is_dropped_and_makes_room() {
    let (kept, dropped) = oneshot::channel::<u32>();
    let work = async { dropped.await.unwrap_or(0) }.boxed();
    let (tx, rx) = mpsc::unbounded_channel();
    let messages = tokio_stream::wrappers::UnboundedReceiverStream::new(rx).boxed();
    let mut answers = serve(messages, Limits::default(), pending());
    tx.send(Ok((vec![(1, work)], vec![]))).unwrap();
    assert!(answers.next().now_or_never().is_none());
    tx.send(Ok((vec![(2, ready(2))], vec![1]))).unwrap();
    assert_eq!(answers.next().await.unwrap().unwrap(), [(2, 2)]);
    assert!(answers.next().now_or_never().is_none());
    assert!(kept.is_closed(), "the work goes on");
}

#[tokio::test]
async fn a_server_that_stops_finishes_what_it_has_read() {
    let (slow, done) = oneshot::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let slow_work = async { done.await.unwrap() }.boxed();
    let (tx, rx) = mpsc::unbounded_channel();
    let messages = tokio_stream::wrappers::UnboundedReceiverStream::new(rx).boxed();
    let mut answers = serve(messages, Limits::default(), stopped.map(|_| ()).boxed());
    tx.send(Ok((vec![(1, slow_work)], vec![]))).unwrap();
    assert!(answers.next().now_or_never().is_none());
    stop.send(()).unwrap();
    assert!(answers.next().now_or_never().is_none());
    tx.send(Ok((vec![(2, ready(2))], vec![]))).unwrap_or_default();
    slow.send(1).unwrap();
    assert_eq!(answers.next().await.unwrap().unwrap(), [(1, 1)]);
    assert!(answers.next().await.is_none(), "nothing more is read");
}

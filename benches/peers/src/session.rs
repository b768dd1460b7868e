//! Sessions of either system, checked and counted the same way.

use crate::etcd::{EtcdSession, KvClient};
use meridian_bench::{Answer, ClientSession, Failure, Request, Session};
use meridian_client::Client;
use meridian_types::CausalityToken;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// A connection to one member. Clones share it.
#[derive(Clone, Debug)]
pub(crate) enum Connection {
    /// To etcd.
    Etcd(KvClient),
    /// To Meridian.
    Meridian(Client),
}

/// What all sessions of one run have done.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// Operations that succeeded, in the warm-up and while it is measured.
    pub(crate) operations: AtomicU64,
    /// Answers that cannot be right.
    pub(crate) wrong: AtomicU64,
}

/// Makes sessions, one after the other on the next connection.
#[derive(Clone, Debug)]
pub(crate) struct Sessions {
    connections: Arc<[Connection]>,
    next: Arc<AtomicUsize>,
    done: Arc<Done>,
    value_bytes: usize,
}

impl Sessions {
    /// Over these connections; the table that is read has a value of `value_bytes` for every key.
    pub(crate) fn new(connections: Vec<Connection>, value_bytes: usize) -> Self {
        Self { connections: connections.into(), next: Arc::default(), done: Arc::default(), value_bytes }
    }

    /// What they have done so far.
    pub(crate) fn done(&self) -> &Done {
        &self.done
    }

    /// A new session.
    pub(crate) fn open(&self) -> CheckedSession {
        let place = self.next.fetch_add(1, Ordering::Relaxed) % self.connections.len();
        let inner = match &self.connections[place] {
            Connection::Etcd(client) => Conversation::Etcd(EtcdSession::new(client.clone())),
            Connection::Meridian(client) => Conversation::Meridian(ClientSession::new(client.session())),
        };
        CheckedSession { inner, done: self.done.clone(), value_bytes: self.value_bytes }
    }
}

/// The connections of all members in turn, so that consecutive sessions go to different members.
pub(crate) fn spread(members: &[Vec<Connection>]) -> Vec<Connection> {
    let most = members.iter().map(Vec::len).max().unwrap_or(0);
    (0..most).flat_map(|i| members.iter().filter_map(move |of_member| of_member.get(i).cloned())).collect()
}

/// A session that counts, and looks at what it is told.
#[derive(Debug)]
pub(crate) struct CheckedSession {
    inner: Conversation,
    done: Arc<Done>,
    value_bytes: usize,
}

#[derive(Debug)]
enum Conversation {
    Etcd(EtcdSession),
    Meridian(ClientSession),
}

impl Session for CheckedSession {
    fn token(&self) -> CausalityToken {
        match &self.inner {
            Conversation::Etcd(session) => session.token(),
            Conversation::Meridian(session) => session.token(),
        }
    }

    async fn call(&mut self, table: &str, request: Request) -> Result<Answer, Failure> {
        let asked = request.clone();
        let answer = match &mut self.inner {
            Conversation::Etcd(session) => session.call(table, request).await,
            Conversation::Meridian(session) => session.call(table, request).await,
        }?;
        self.done.operations.fetch_add(1, Ordering::Relaxed);
        if !is_sound(&asked, &answer, self.value_bytes) {
            self.done.wrong.fetch_add(1, Ordering::Relaxed);
        }
        Ok(answer)
    }
}

/// Whether a get found the key that it asked for, with a whole value. Every key is written before the first round.
fn is_sound(request: &Request, answer: &Answer, value_bytes: usize) -> bool {
    match (request, &answer.rows[..]) {
        (Request::Get { key, .. }, [row]) => row.key == *key && row.value.len() == value_bytes,
        (Request::Get { .. }, _) => false,
        (_, rows) => rows.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_bench::Row;
    use meridian_types::{Consistency, Timestamp};

    #[test]
    fn answers_that_cannot_be_right_are_noticed() {
        let get = Request::Get { key: "k".into(), consistency: Consistency::Linearizable };
        let row = |key: &'static str, value: &'static str| Row {
            key: key.into(),
            value: value.into(),
            version: Timestamp::ZERO,
        };
        let sound = |rows| is_sound(&get, &Answer { rows, ..Answer::default() }, 3);
        assert!(sound(vec![row("k", "abc")]));
        assert!(!sound(vec![]));
        assert!(!sound(vec![row("k", "ab")]));
        assert!(!sound(vec![row("j", "abc")]));
        assert!(!sound(vec![row("k", "abc"), row("k", "abc")]));
        let put = Request::Put { key: "k".into(), value: "abc".into() };
        assert!(is_sound(&put, &Answer::default(), 3));
    }

    #[tokio::test]
    async fn sessions_go_to_the_members_in_turn() {
        let to = |port: u16| {
            let endpoint = tonic::transport::Endpoint::from_shared(format!("http://127.0.0.1:{port}")).unwrap();
            Connection::Etcd(KvClient::new(endpoint.connect_lazy()))
        };
        let members = [vec![to(1), to(2)], vec![to(3), to(4)], vec![to(5)]];
        assert_eq!(spread(&members).len(), 5);
        assert!(spread(&[]).is_empty());
        let sessions = Sessions::new(spread(&members), 3);
        for _ in 0..12 {
            sessions.open();
        }
        assert_eq!(sessions.next.load(Ordering::Relaxed), 12);
    }
}
